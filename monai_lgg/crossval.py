"""k-fold cross-validation by patient: a run a fold, pooled out-of-fold results, and the folds as one bundle."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monai_lgg import bundle as bundles
from monai_lgg.errors import UsageError, deepest
from monai_lgg.experiments import (
    TRAINED,
    agreed_settings,
    evaluate_once,
    split_hash,
    train_once,
    weights_hash,
    write_settings,
)
from monai_lgg.io.atomic import atomic_text, partial_folder, remove_leftovers, replace_folder
from monai_lgg.io.stored import read_json, save_torch
from monai_lgg.reference import write_reference
from monai_lgg.results import pool_results
from monai_lgg.splits import PARTS, Split, load_split, save_split, split_folds

_log = logging.getLogger(__name__)

SETTINGS = "crossval-settings.json"
#: Settings of a fold that the ensemble does not share.
_OF_A_FOLD = ("fold", "split_file", "dataset_dir")


@dataclass(frozen=True)
class CrossValidation:
    """Where the results are: the pooled summary, one summary a fold, and the folder of the ensemble."""

    summary: dict[str, Any]
    folds: list[dict[str, Any]]
    output: Path
    ensemble: Path


def cross_validate(
    bundle: Path,
    dataset_dir: Path,
    output: Path,
    *,
    folds: int | None = None,
    split_file: Path | None = None,
    settings: tuple[str, ...] = (),
    device: str = "auto",
    progress: bool = True,
) -> CrossValidation:
    """Train one run a fold in ``output/folds``, evaluate each on its test part, pool, and build the ensemble.

    A second call goes on where the first was stopped. A fold that has been trained and lost its weights is an error
    that names it: another training need not give the same, so that is left to the caller, who removes its folder.

    Args:
        folds: how many; may be left out when ``split_file`` says so.
        split_file: with folds by patient; None makes them, ``output/split.json``.
        settings: ``KEY=VALUE`` of the training.
    Raises:
        ValueError: no number of folds; a split of another number, or by slice, or with a patient tested twice; the
            output was begun with something else; a fold failed, or lost its weights.
    """
    chosen = bundles.parse_settings(settings, [bundle / "configs" / "train.json"])
    for key in ("fold", "split_file"):
        if key in chosen:
            raise UsageError(f"setting {key!r} is made by the cross-validation itself; leave it out")
    bundles.pick_device(device)
    split = _folds(output, dataset_dir, folds, split_file)
    wanted = {"bundle": bundle.name, "split_sha256": split_hash(split), "settings": list(settings)}
    agreed_settings(output / SETTINGS, wanted)
    remove_leftovers(output)  # of an ensemble that was being built when a call was killed
    runs = [(output / "folds" / str(fold)).resolve() for fold in range(len(split.folds))]
    summaries = []
    for fold, run in enumerate(runs):
        own = (*settings, f"fold={fold}")
        try:
            _log.info(f"fold {fold} of {len(runs)}: training in {run}")
            train_once(
                bundle,
                dataset_dir,
                run,
                split_file=output / "split.json",
                settings=own,
                device=device,
                progress=progress,
            )
            summaries.append(evaluate_once(run, dataset_dir, run / "eval" / "test", device=device, progress=progress))
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"fold {fold} ({run}): {deepest(error)}; finished folds are kept: when that is mended, run the same "
                "command again"
            ) from error
    context = {"part": "out-of-fold", "folds": len(runs), "split_file": str(output / "split.json")}
    pooled = pool_results([run / "eval" / "test" for run in runs], output / "oof", context)
    ensemble = build_ensemble(runs, split, output / "ensemble")
    everyone = sorted(_all_in_training(split).part("train"))
    if not (ensemble / "models" / bundles.REFERENCE).is_file():
        write_reference(ensemble / "models" / bundles.REFERENCE, dataset_dir, everyone)
    return CrossValidation(pooled, summaries, output, ensemble)


def _folds(output: Path, dataset_dir: Path, folds: int | None, split_file: Path | None) -> Split:
    """``output/split.json``, made when it is not there."""
    own = output / "split.json"
    source = split_file or (own if own.exists() else None)
    if source is None and folds is None:
        raise UsageError("no number of folds; give --folds K, or a split file with folds")
    split = split_folds(dataset_dir, folds or 0) if source is None else load_split(source, dataset_dir)
    _check_folds(split, source, folds)
    if not own.exists():
        save_split(split, own)
    elif load_split(own, dataset_dir) != split:
        raise ValueError(f"{output} was begun with another split than {split_file}; choose another output folder")
    return split


def _check_folds(split: Split, source: Path | None, folds: int | None) -> None:
    if split.level != "patient" or len(split.folds) < 2:
        raise ValueError(
            f"{source}: {len(split.folds)} fold(s) by {split.level}; give 2 or more folds by patient, as "
            "'monai-lgg data split --folds K' makes"
        )
    if folds is not None and folds != len(split.folds):
        raise ValueError(f"{source} has {len(split.folds)} folds, not {folds}; give that number, or another split")
    tested: dict[str, int] = {}
    for fold in range(len(split.folds)):
        for name in split.part("test", fold):
            if name in tested:
                raise ValueError(
                    f"{source}: {name} is a test patient of fold {tested[name]} and of fold {fold}; a patient may be "
                    "tested once"
                )
            tested[name] = fold


def build_ensemble(runs: list[Path], split: Split, output: Path) -> Path:
    """A bundle that averages the probabilities of the runs' networks; made again only from other weights.

    Its ``eval/split.json`` has every patient of every fold in training, so that an evaluation on them warns.

    Args:
        runs: of one bundle with the same settings except the fold.
        output: the bundle's folder.
    """
    made_from = {"weights_sha256": [weights_hash(run) for run in runs]}
    if (output / TRAINED).is_file() and read_json(output / TRAINED, f"remove {output}, and run again") == made_from:
        return output
    with partial_folder(output) as partial:
        _fill(partial, runs, split)
        write_settings(partial / TRAINED, made_from)
        replace_folder(partial, output)
    return output


def _fill(bundle: Path, runs: list[Path], split: Split) -> None:
    shutil.copytree(runs[0], bundle, ignore=bundles.NOT_COPIED, dirs_exist_ok=True)
    (bundle / "configs" / bundles.OVERRIDES).unlink()  # they go into the files, where MONAI's own runner sees them too
    settings = bundles.stored_settings(runs[0])
    for name in ("train.json", "inference.json"):
        parser = bundles.read_config([bundle / "configs" / name])
        for key, value in settings.items():
            if key in parser and key not in _OF_A_FOLD:
                parser[key] = value
        networks = [parser["network_def"] for _ in runs]
        parser["network_def"] = {"_target_": "monai_lgg.networks.ensemble.Ensemble", "networks": networks}
        config = {key: value for key, value in parser.get().items() if key != parser.meta_key}
        atomic_text(bundle / "configs" / name, json.dumps(config, indent=4) + "\n")
    _describe(bundle, len(runs), split)
    (bundle / "models").mkdir()
    save_torch(merged_weights(runs), bundle / "models" / "model.pt")
    save_split(_all_in_training(split), bundle / "eval" / "split.json")


def merged_weights(runs: list[Path]) -> dict[str, torch.Tensor]:
    """The runs' weights as one state_dict, ``networks.<n>.<name>``."""
    states = [torch.load(run / "models" / "model.pt", map_location="cpu", weights_only=True) for run in runs]
    return {f"networks.{n}.{name}": tensor for n, state in enumerate(states) for name, tensor in state.items()}


def _all_in_training(split: Split) -> Split:
    everyone: dict[str, list[int]] = {}
    for fold in split.folds:
        for part in PARTS:
            everyone |= fold[part]
    parts = {"train": dict(sorted(everyone.items())), "validation": {}, "test": {}}
    return Split(split.level, split.seed, [1.0, 0.0, 0.0], split.fingerprint, [parts])


def _describe(bundle: Path, folds: int, split: Split) -> None:
    """The ensemble's own metadata and model card."""
    path = bundle / "configs" / "metadata.json"
    metadata: Mapping[str, Any] = json.loads(path.read_text())
    patients = len(_all_in_training(split).part("train"))
    name = f"{metadata.get('name', 'bundle')}: ensemble of {folds} folds"
    text = (
        f"Ensemble of {folds} networks, one a fold of a cross-validation; their probabilities are averaged. Between "
        f"them they were trained on all {patients} patients of the data, so no patient of this data is a test patient "
        "for it."
    )
    atomic_text(path, json.dumps({**metadata, "name": name, "description": text}, indent=4, ensure_ascii=False) + "\n")
    atomic_text(
        bundle / "docs" / "README.md",
        f"# {name}\n\n{text}\n\nFor research use only; not a medical device.\n\n"
        "What can be said about new patients stands in the out-of-fold results beside it (`../oof`): there each "
        "patient was segmented by the one network that had not seen it. The ensemble itself can only be tested on "
        "other data (`monai-lgg evaluate ENSEMBLE --data OTHER --part all`).\n\n"
        "Recipe, limits and licence are those of the bundle that was cross-validated. Trained weights are derived from "
        "the training data and fall under its licence.\n",
    )
