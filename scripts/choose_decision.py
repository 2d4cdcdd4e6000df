"""How probabilities should become masks, chosen on out-of-fold predictions: calibration, threshold, components, holes.

    python scripts/choose_decision.py CROSSVAL --data DIR -o OUT [--apply]

CROSSVAL is the output of ``monai-lgg crossval``. Each patient is segmented by the one network that has not seen it; its
logits are kept in OUT, so that a second call is quick. The calibration is the rising line, bent at POINTS, that makes
the voxels most likely; the rule is the one with the highest mean Dice over the patients. Because a choice flatters the
patients that it was made on, both are made with each fold left out too, and for the patients left out their Dice is
printed, and what their calibrated probabilities say beside the share of voxels that are tumour. --apply writes the
choice into the configurations of the folds, for ``monai-lgg evaluate`` and ``predict``; for a bundle that ships, put
the printed section into its recipe.json.
"""

import argparse
import itertools
import json
import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from monai_lgg.bundle import workflow
from monai_lgg.components import label_components
from monai_lgg.decision import decide
from monai_lgg.experiments import TRAINED
from monai_lgg.io.atomic import atomic_text, atomic_write
from monai_lgg.metrics.surface import bounding_box
from monai_lgg.saving import weights_sha256
from monai_lgg.splits import read_split

NEUTRAL: dict[str, Any] = {
    "calibration": {"logits": [0.0, 1.0], "calibrated": [0.0, 1.0]},
    "threshold": 0.5,
    "component_share": 0.0,
    "fill_holes": False,
}
#: Logits as the network gives them.
THRESHOLDS = (-2.0, -1.5, -1.25, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
FILLS = (False, True)
#: Logits beyond are kept as this: a probability of 6e-6.
LARGEST = 12.0
BINS = 2400
#: Logits at which the line of the calibration may bend, and the slopes that its pieces may have.
POINTS = (-12.0, -9.0, -6.0, 0.0, 6.0, 12.0)
SLOPES = (0.05, 5.0)
Case = tuple[np.ndarray, np.ndarray]  # logits and truth
Rule = tuple[float, float, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crossval", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("-o", "--output", type=Path, required=True, help="keeps the logits")
    parser.add_argument("--mirror", action="store_true", help="with the mirrored image, as predict --tta")
    parser.add_argument("--apply", action="store_true", help="write the choice into the folds' configurations")
    args = parser.parse_args()
    split = read_split(args.crossval / "split.json")
    runs = [args.crossval / "folds" / str(fold) for fold in range(len(split.folds))]
    trained = [fold for fold, run in enumerate(runs) if (run / TRAINED).is_file()]
    if not trained:
        parser.error(f"{args.crossval}: no fold has been trained to its end")
    for fold in trained:
        keep_logits(runs[fold], args.data, fold, args.output, split.part("test", fold), args.mirror)
    folds = [[load(args.output / f"{name}.npz") for name in split.part("test", fold)] for fold in trained]
    print(f"{sum(map(len, folds))} patients of folds {trained}")
    decision = choose(folds)
    print(json.dumps({"decision": decision}, indent=4))
    if args.apply:
        for run in [*(runs[fold] for fold in trained), args.crossval / "ensemble"]:
            if run.is_dir():
                apply(run, decision)


def keep_logits(run: Path, data: Path, fold: int, output: Path, names: Collection[str], mirror: bool) -> None:
    """``output/<patient>.npz`` with ``logits`` float16 and ``truth`` bool, both (H, W, D), of the fold's test part.

    They are made again when they came from other weights, or without (with) the mirrored image.
    """
    made_from = f"{weights_sha256(run)}, mirror {mirror}"
    if all(_was_made_from(output / f"{name}.npz", made_from) for name in names):
        return
    output.mkdir(parents=True, exist_ok=True)
    settings = {
        **NEUTRAL,
        "dataset_dir": str(data.resolve()),
        "split_file": str(run / "eval" / "split.json"),
        "fold": fold,
        "part": "test",
        "mirror": mirror,
        "validate#handlers": [],
        "show_progress": False,
    }
    flow = workflow(run, ["train.json", "evaluate.json"], "train", "evaluating", settings)
    evaluator = flow.parser.get_parsed_content("validate#evaluator")

    def keep(engine: Any) -> None:
        for item, record in zip(engine.state.output, engine.state.batch, strict=True):
            probability = item["prob"][0].double().cpu().numpy().clip(1e-9, 1 - 1e-9)
            logits = np.log(probability / (1 - probability)).clip(-LARGEST, LARGEST).astype(np.float16)
            kept = {"logits": logits, "truth": item["label"][0].cpu().numpy() > 0.5, "made_from": made_from}
            path = output / f"{record['case']}.npz"
            atomic_write(path, partial(np.savez_compressed, **kept))
            print(f"fold {fold}: {record['case']}", flush=True)

    evaluator.add_event_handler("ITERATION_COMPLETED", keep)
    evaluator.run()


def _was_made_from(path: Path, made_from: str) -> bool:
    if not path.is_file():
        return False
    with np.load(path) as file:
        return str(file["made_from"]) == made_from


def load(path: Path) -> Case:
    with np.load(path) as file:
        logits, truth = file["logits"].astype(np.float32), file["truth"]
    return logits, truth


def choose(folds: list[list[Case]]) -> dict[str, Any]:
    """Calibration and rule from all folds; prints what each rule gives, and the same with each fold left out."""
    counts = np.array([np.sum([histogram(*case) for case in cases], axis=0) for cases in folds])
    calibrated = calibrate(counts.sum(axis=0))
    known = rules()
    table = [np.array([dice_by_rule(*case) for case in cases]) for cases in folds]  # of each: (patients, rules)
    everyone = np.concatenate(table)
    print(f"plain: {_figures(everyone[:, known.index((0.0, 0.0, False))])}")
    order = np.argsort(-np.nanmean(everyone, axis=0))
    for k in order[:8]:
        print(f"  {_named(known[k])}: {_figures(everyone[:, k])}")
    print(f"chosen on all: {_named(known[order[0]])}: {_figures(everyone[:, order[0]])}")
    if len(folds) > 1:
        left = [rows[:, _best(table[:fold] + table[fold + 1 :])] for fold, rows in enumerate(table)]
        print(f"chosen without the fold it is used on: {_figures(np.concatenate(left))}")
        print("calibrated without the fold it is used on:")
        print(reliability_table([(of, calibrate(counts.sum(axis=0) - of)) for of in counts]))
    threshold, share, fill = known[order[0]]
    return {
        "calibration": {"logits": list(POINTS), "calibrated": [round(float(value), 4) for value in calibrated]},
        "threshold": round(float(expit(np.interp(threshold, POINTS, calibrated))), 4),
        "component_share": share,
        "fill_holes": fill,
    }


def _best(table: list[np.ndarray]) -> int:
    return int(np.nanmean(np.concatenate(table), axis=0).argmax())


def dice_by_rule(logits: np.ndarray, truth: np.ndarray) -> list[float]:
    """Dice of a patient by each of :func:`rules`, NaN where there is nothing to find and nothing found.

    Components are counted once for all shares.
    """
    found = []
    for threshold, fill in itertools.product(THRESHOLDS, FILLS):
        box = bounding_box(logits >= threshold)
        if box is None:
            found += [0.0 if truth.any() else math.nan] * len(SHARES)
            continue
        labels, _ = label_components(decide(logits[box], threshold, fill=fill))
        sizes = np.bincount(labels.ravel())[1:]
        right = np.bincount(labels[truth[box]], minlength=len(sizes) + 1)[1:]
        for share in SHARES:
            kept = sizes >= share * sizes.max()
            found.append(2 * right[kept].sum() / (sizes[kept].sum() + truth.sum()))
    return found


def rules() -> list[Rule]:
    """(least logit of tumour, share, fill), in the order of :func:`dice_by_rule`."""
    return [(threshold, share, fill) for threshold, fill in itertools.product(THRESHOLDS, FILLS) for share in SHARES]


def histogram(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(2, BINS): how many voxels outside and inside the true mask have each logit."""
    edges = np.linspace(-LARGEST, LARGEST, BINS + 1)
    return np.stack([np.histogram(logits[truth == kind], edges)[0] for kind in (False, True)])


def calibrate(counts: np.ndarray) -> np.ndarray:
    """What each of :data:`POINTS` becomes: the rising line of greatest likelihood; counts as of :func:`histogram`."""
    widths = np.diff(POINTS)
    along = np.clip((_middles()[:, None] - np.array(POINTS[:-1])) / widths, 0, 1)  # share of each piece that lies below
    design = np.column_stack([np.ones(BINS), along])  # the score is the first point's value and the rises up to there
    share = counts / counts.sum()

    def loss(rises: np.ndarray) -> tuple[float, np.ndarray]:
        score = design @ rises
        value = (share[0] * np.logaddexp(0, score) + share[1] * np.logaddexp(0, -score)).sum()
        return 1e3 * float(value), 1e3 * design.T @ (share.sum(axis=0) * expit(score) - share[1])

    bounds = [(None, None), *((SLOPES[0] * width, SLOPES[1] * width) for width in widths)]
    found = minimize(loss, [POINTS[0], *widths], jac=True, bounds=bounds, options={"maxiter": 5000, "ftol": 1e-14})
    return np.cumsum(found.x)


def reliability_table(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """Lines of voxels, mean probability and share of tumour, by tenths of the probability.

    Args:
        parts: counts of :func:`histogram` and the calibration, of :func:`calibrate`, that they get.
    """
    sums = np.zeros((10, 3))
    for counts, calibrated in parts:
        probability = expit(np.interp(_middles(), POINTS, calibrated))
        tenth = np.minimum((10 * probability).astype(int), 9)
        np.add.at(sums, tenth, np.column_stack([counts.sum(axis=0), counts.sum(axis=0) * probability, counts[1]]))
    return "\n".join(
        f"  {voxels:>11,.0f} voxels: said {said / voxels:.3f}, is {tumour / voxels:.3f}"
        for voxels, said, tumour in sums
        if voxels
    )


def _middles() -> np.ndarray:
    """Of the bins of :func:`histogram`."""
    return (np.arange(BINS) + 0.5) * 2 * LARGEST / BINS - LARGEST


def apply(run: Path, decision: dict[str, Any]) -> None:
    for name in ("evaluate.json", "inference.json"):
        path = run / "configs" / name
        atomic_text(path, json.dumps({**json.loads(path.read_text()), **decision}, indent=4) + "\n")


def _named(rule: Rule) -> str:
    return f"logit {rule[0]:5.2f}, share {rule[1]:.2f}, {'filled' if rule[2] else 'as is'}"


def _figures(values: np.ndarray) -> str:
    tenth, median = np.nanpercentile(values, [10, 50])
    return f"Dice mean {np.nanmean(values):.4f}, median {median:.4f}, 10th percentile {tenth:.4f}"


if __name__ == "__main__":
    main()
