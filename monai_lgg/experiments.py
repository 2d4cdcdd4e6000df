"""What comparison, cross-validation and tuning share: runs that are trained once and evaluated once.

A killed command is started again with the same arguments. What is finished is recognized by a marker that names the
weights, split and data (SHA-256) it was made from, and is not repeated; a training that was interrupted goes on from
its checkpoint.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from monai_lgg import bundle as bundles
from monai_lgg.cases import read_patients
from monai_lgg.io.atomic import atomic_text
from monai_lgg.io.stored import read_checkpoint, read_json
from monai_lgg.results import read_results
from monai_lgg.splits import Split, load_split, save_split, split_patients

_log = logging.getLogger(__name__)

#: Below a run: says that its training ended. Outside ``models``, so that it outlives lost weights.
TRAINED = Path("eval") / "trained.json"
#: Below a results folder: what the results were made from.
EVALUATED = "evaluated.json"


def agreed_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a settings file, which is begun with ``settings`` or must agree with them.

    Raises:
        ValueError: the folder was begun with another value of one of them.
    """
    if not path.is_file():
        write_settings(path, settings)
        return dict(settings)
    begun = read_json(path, "put a copy back, or choose another output folder")
    for key, value in settings.items():
        if begun.get(key) != value:
            raise ValueError(
                f"{path.parent} was begun with {key} {begun.get(key)!r}, now {value!r}; repeat the first to go on, or "
                "choose another output folder"
            )
    return dict(begun)


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    atomic_text(path, json.dumps(settings, indent=1) + "\n")


def own_split(output: Path, dataset_dir: Path, split_file: Path | None) -> Split:
    """The split of an output folder, ``output/split.json``: a copy of ``split_file`` or, without one, made by patient.

    Raises:
        ValueError: the folder was begun with another split; not of this data.
    """
    own = output / "split.json"
    given = None if split_file is None else load_split(split_file, dataset_dir)
    if not own.exists():
        save_split(given or split_patients(dataset_dir), own)
    split = load_split(own, dataset_dir)
    if given is not None and given != split:
        raise ValueError(
            f"{output} was begun with another split than {split_file}; leave --split out to go on, or choose another "
            "output folder"
        )
    return split


def split_hash(split: Split) -> str:
    """SHA-256 of all that a split says."""
    return hashlib.sha256(json.dumps(asdict(split), sort_keys=True).encode()).hexdigest()


def files_hash(dataset_dir: Path, names: Sequence[str] | None) -> str:
    """SHA-256 of the images and masks of the named patients, or of all."""
    found = hashlib.sha256()
    for patient in read_patients(dataset_dir, names):
        for item in patient.slices:
            for path in (item.image, item.label):
                found.update(f"{patient.name} {item.number}".encode(errors="surrogateescape"))
                found.update(b"" if path is None else path.read_bytes())
    return found.hexdigest()


def weights_hash(run: Path) -> str:
    """SHA-256 of a run's weights.

    Raises:
        FileNotFoundError: it has none.
    """
    weights = run / "models" / "model.pt"
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}; train {run.name} first, or give a trained run")
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_trained(run: Path) -> bool:
    """True when its training ended and its weights are there.

    Raises:
        FileNotFoundError: it has been trained, but the weights are gone. They are never replaced silently: another
            training may not give the same.
    """
    weights = run / "models" / "model.pt"
    ended = (run / TRAINED).is_file()
    if not weights.is_file() and (ended or training_progress(run).get("best_epoch")):
        raise FileNotFoundError(
            f"it has been trained, but its weights {weights} are gone; put the file back, or remove the folder {run} "
            "to have it, and only it, trained anew"
        )
    return ended


def train_once(
    bundle: Path,
    dataset_dir: Path,
    run: Path,
    *,
    split_file: Path,
    settings: tuple[str, ...],
    device: str,
    progress: bool,
) -> None:
    """Train ``bundle`` in ``run`` unless that has been done; one that was interrupted goes on.

    Raises:
        FileNotFoundError: the run lost its weights.
        ValueError: the folder was begun with other settings or another split.
    """
    if is_trained(run):
        bundles.check_recipe(bundle, run)
        _check_trained_with(run, bundles.run_settings(bundle, dataset_dir, settings))
        _log.info(f"{run.name}: trained already")
        return
    bundles.train(bundle, dataset_dir, run, split_file=split_file, settings=settings, device=device, progress=progress)
    gc.collect()  # a cached data set is in reference cycles, and the next one comes
    write_settings(run / TRAINED, {**training_progress(run), "weights_sha256": weights_hash(run)})


def _check_trained_with(run: Path, wanted: Mapping[str, Any]) -> None:
    stored = bundles.stored_settings(run)
    other = [key for key in {**stored, **wanted} if key != "dataset_dir" and stored.get(key) != wanted.get(key)]
    if other:
        was, now = ({key: of.get(key) for key in other} for of in (stored, wanted))
        raise ValueError(f"{run} was trained with {was}, now {now}; repeat those, or choose a new output folder")


def evaluate_once(
    run: Path,
    dataset_dir: Path,
    output: Path,
    *,
    split_file: Path | None = None,
    settings: tuple[str, ...] = (),
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """Evaluate a run on the test part unless the results in ``output`` were made from the same weights, split and data.

    Args:
        split_file: None takes the run's own.
    Returns:
        The summary.
    Raises:
        ValueError: the split is not of this data.
    """
    split = load_split(split_file or run / "eval" / "split.json", dataset_dir)
    chosen = bundles.parse_settings(settings, [run / "configs" / name for name in ("train.json", "evaluate.json")])
    fold = chosen.get("fold", bundles.stored_settings(run).get("fold", 0))
    names = sorted(split.part("test", fold))
    made_from = {
        "weights_sha256": weights_hash(run),
        "split_sha256": split_hash(split),
        "data_sha256": files_hash(dataset_dir, names),
        "decision_sha256": hashlib.sha256((run / "configs" / "evaluate.json").read_bytes()).hexdigest(),
        "settings": {**bundles.stored_settings(run), "given": list(settings)},
    }
    marker = output / EVALUATED
    if _was_made_from(output, made_from):
        _log.info(f"{run.name}: evaluated already")
        return read_results(output).summary
    marker.unlink(missing_ok=True)
    summary = bundles.evaluate(
        run, dataset_dir, output, split_file=split_file, settings=settings, device=device, progress=progress
    )
    gc.collect()
    write_settings(marker, made_from)
    return summary


def _was_made_from(output: Path, made_from: Mapping[str, Any]) -> bool:
    marker = output / EVALUATED
    if not marker.is_file():
        return False
    try:
        if read_json(marker, "it is evaluated again") != made_from:
            return False
        read_results(output)
    except (FileNotFoundError, ValueError):
        return False
    return True


def training_progress(run: Path) -> dict[str, Any]:
    """How far a run is; empty when nothing says so.

    Returns:
        ``epochs`` trained, ``max_epochs``, ``stopped_early``, ``best_epoch``, ``best``; ``pretrained``: whether it
        began from pretrained weights (None where the recipe has none, or an earlier version trained it);
        ``environments``: machine and versions it was trained with, several when it went on with others.
    """
    checkpoint = run / "models" / "checkpoint.pt"
    if checkpoint.is_file():
        state = read_checkpoint(checkpoint, mmap=True)
        progress, best = state["progress"], state.get("best_model", {})
        return {
            "epochs": progress["epoch"],
            "max_epochs": progress["max_epochs"],
            "stopped_early": progress.get("stopped_early", False),
            "pretrained": progress.get("pretrained"),
            "environments": progress.get("environments", []),
            "best_epoch": best.get("best_epoch"),
            "best": best.get("best"),
        }
    if (run / TRAINED).is_file():
        return read_json(run / TRAINED, f"remove the folder {run} to have it, and only it, trained anew")
    return {}


def training_seconds(run: Path) -> float | None:
    """Wall time of a run's training, interruptions left out, by its TensorBoard events; None without any.

    Each start of a training opens an event file of its own; the time before it was interrupted counts up to its last
    event.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    total = 0.0
    files = sorted((run / "eval").glob("events.out.tfevents.*"))
    for file in files:
        times = [event.wall_time for event in EventFileLoader(str(file)).Load()]
        total += max(times) - min(times) if times else 0.0
    return total if files else None


def parameter_count(run: Path) -> int:
    """Trainable weights of a bundle's network, with the run's own settings."""
    flow = bundles.workflow(run, ["train.json", "evaluate.json"], "train", "evaluating", {"initialize": []})
    network: torch.nn.Module = flow.parser.get_parsed_content("network_def")
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
