"""Do the quality flags of ``predict`` mean something? Every patient, predicted by the network that has not seen it.

    python scripts/judge_flags.py CROSSVAL --data DIR -o OUT [--below 0.7]

CROSSVAL is the output of ``monai-lgg crossval``. OUT keeps a prediction a patient, so that a second call is quick. Dice
below --below is a bad mask; AUROC is the chance that a bad mask is ranked worse than a good one (0.5: says nothing).
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from monai_lgg.cases import patient_folders, read_labels, read_patients
from monai_lgg.inference import predict
from monai_lgg.prediction_inputs import prediction_records
from monai_lgg.quality import INFORMATIONAL
from monai_lgg.saving import RESULT
from monai_lgg.shape import read_mask_folder
from monai_lgg.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crossval", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("-o", "--output", type=Path, required=True, help="keeps the predictions")
    parser.add_argument("--below", type=float, default=0.7, help="Dice of a bad mask")
    args = parser.parse_args()
    split = read_split(args.crossval / "split.json")
    folders = {folder.name: folder for folder in patient_folders(args.data)}
    rows = []
    for fold in range(len(split.folds)):
        names = sorted(split.part("test", fold))
        records = prediction_records([folders[name] for name in names])
        for result in predict(records, args.crossval / "folds" / str(fold), args.output):
            if result.status == "failed":
                parser.error(f"{result.case}: {result.error}")
        rows += [row(args.output / name, args.data) for name in names]
    print(report(rows, args.below))


def row(case: Path, data: Path) -> dict[str, Any]:
    """A patient's Dice, its confidence (0 for an empty mask) and the names of its flags."""
    facts = json.loads((case / RESULT).read_text())
    mask = read_labels(read_mask_folder(case)) > 0
    truth = read_labels(read_patients(data, [case.name])[0]) > 0
    sizes = int(mask.sum() + truth.sum())
    return {
        "case": case.name,
        "dice": 2 * int((mask & truth).sum()) / sizes if sizes else math.nan,
        "confidence": facts["confidence"] or 0.0,
        "flags": {flag["name"] for flag in facts["flags"]} - INFORMATIONAL,
    }


def report(rows: Sequence[dict[str, Any]], below: float) -> str:
    rows = [row for row in rows if not math.isnan(row["dice"])]
    dice = np.array([row["dice"] for row in rows])
    bad = dice < below
    lines = [
        f"{len(rows)} patients, {bad.sum()} with a Dice below {below:g}",
        "",
        "| flag | patients | mean Dice with | without |",
    ]
    lines.append("| --- | ---: | ---: | ---: |")
    for name in [*sorted(set().union(*(row["flags"] for row in rows))), None]:
        has = np.array([name in row["flags"] if name else bool(row["flags"]) for row in rows])
        lines.append(f"| {name or 'any'} | {has.sum()} | {_mean(dice[has])} | {_mean(dice[~has])} |")
    ranks = {
        "any flag": np.array([bool(row["flags"]) for row in rows], float),
        "number of flags": np.array([len(row["flags"]) for row in rows], float),
        "low confidence (1 - expected Dice)": 1 - np.array([row["confidence"] for row in rows]),
    }
    lines += ["", *(f"AUROC of {name}: {auroc(score, bad)}" for name, score in ranks.items())]
    return "\n".join(lines)


def auroc(score: np.ndarray, bad: np.ndarray) -> str:
    """With a 95 % interval from 2000 resamples of the patients."""
    if bad.all() or not bad.any():
        return "undefined: all masks are alike"
    generator = np.random.default_rng(0)
    draws = [generator.integers(len(bad), size=len(bad)) for _ in range(2000)]
    values = [_area(score[draw], bad[draw]) for draw in draws if 0 < bad[draw].sum() < len(bad)]
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{_area(score, bad):.3f} (95 % interval {low:.3f} to {high:.3f})"


def _area(score: np.ndarray, bad: np.ndarray) -> float:
    return float(mannwhitneyu(score[bad], score[~bad]).statistic / (bad.sum() * (~bad).sum()))


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" if len(values) else "none"


if __name__ == "__main__":
    main()
