"""Training on corrected labels: the bundle's own training, begun from the version in use, on a copy of the bundle."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monai_lgg import bundle as bundles
from monai_lgg.bundle import REFERENCE, read_config
from monai_lgg.io.atomic import atomic_text
from monai_lgg.io.stored import read_checkpoint
from monai_lgg.label_app.studies import Pair, export_patients, patients_of
from monai_lgg.label_app.versions import FACTS, WEIGHTS, Versions

#: Two to learn from and one to validate on, who must be different patients.
MIN_PATIENTS = 3
#: Of the recipe's learning rate, for weights that are trained already.
FINE_TUNING = 0.1


@dataclass(frozen=True)
class Plan:
    """How to train.

    Args:
        epochs: over the labelled slices.
        validation: share of the patients that is validated on and not learnt from.
        learning_rate: None takes the recipe's, or :data:`FINE_TUNING` of it when begun from trained weights.
        pretrained: begin from the version in use; False begins as the recipe does.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
    Raises:
        ValueError: no epochs, or a share that is not above 0 and below 1.
    """

    epochs: int = 10
    validation: float = 0.2
    learning_rate: float | None = None
    pretrained: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"max_epochs {self.epochs} is not 1 or more")
        if not 0 < self.validation < 1:
            raise ValueError(f"val_split {self.validation} is not above 0 and below 1")
        rate = self.learning_rate
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
            raise ValueError(f"learning_rate {rate!r} is not a number above 0")


def check_labels(pairs: Sequence[Pair]) -> None:
    """That there are enough labelled patients to train on.

    Raises:
        ValueError: there are fewer than :data:`MIN_PATIENTS`.
    """
    found = len(patients_of(pairs))
    if found < MIN_PATIENTS:
        raise ValueError(
            f"{found} patient(s) with a final label; training needs at least {MIN_PATIENTS}, because one is kept for "
            f"validation: submit labels of {MIN_PATIENTS - found} more"
        )


def train_version(versions: Versions, pairs: Sequence[Pair], plan: Plan) -> dict[str, Any]:
    """Train the next version on labelled images. A label that cannot be used is left out and named.

    Returns:
        Facts of the new version, as in its ``version.json``.
    Raises:
        ValueError: too few labels that can be used.
    """
    check_labels(pairs)
    facts: dict[str, Any] = {}

    def make(run: Path) -> None:
        with versions.scans() as root:
            names, failed = export_patients(pairs, root)
            _check_usable(names, failed)
            facts.update(_train(versions, root, run, plan), left_out=failed)

    number = versions.add(make)
    folder = versions.folder(number)
    facts |= {"version": number, **json.loads((folder / FACTS).read_text())}
    atomic_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


def _check_usable(names: Sequence[str], failed: dict[str, str]) -> None:
    if len(names) < MIN_PATIENTS:
        reasons = "; ".join(failed.values())
        raise ValueError(f"{len(names)} patient(s) with a usable label; training needs {MIN_PATIENTS}. {reasons}")


def _train(versions: Versions, data: Path, run: Path, plan: Plan) -> dict[str, Any]:
    start = versions.latest() if plan.pretrained and versions.numbers() else None
    settings = _settings(versions, data, plan, start)
    bundles.train(
        versions.bundle,
        data,
        run,
        settings=tuple(f"{key}={json.dumps(value)}" for key, value in settings.items()),
        device=plan.device,
        progress=False,
    )
    checkpoint = run / "models" / "checkpoint.pt"
    best = read_checkpoint(checkpoint)["best_model"]
    checkpoint.unlink()  # a version is never gone on with, and the optimizer's state is twice the weights
    if start is not None:
        _keep_origin(versions.folder(start) / "models", run / "models")
    split = bundles.training_split(run)
    facts = {
        "model": versions.name,
        "started_from": start,
        "validation_dice": round(float(best["best"]), 4),
        "epoch": best["best_epoch"],
        "patients": {part: len(split.part(part)) for part in ("train", "validation")} if split else {},
        "plan": asdict(plan),
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    atomic_text(run / FACTS, json.dumps(facts, indent=1) + "\n")
    return facts


def _settings(versions: Versions, data: Path, plan: Plan, start: int | None) -> dict[str, Any]:
    config = read_config([versions.bundle / "configs" / "train.json"]).get()
    config = {**config, **bundles.stored_settings(versions.bundle)}
    rate = plan.learning_rate or float(config["learning_rate"]) * (1 if start is None else FINE_TUNING)
    settings: dict[str, Any] = {
        "max_epochs": plan.epochs,
        "learning_rate": rate,
        "split_fractions": [1 - plan.validation, plan.validation, 0.0],
        "early_stopping_patience": 0,
        "fold": 0,  # the bundle may be a run of one fold of several
    }
    if start is not None:
        weights = bundles.quoted((versions.folder(start) / WEIGHTS).resolve())
        settings["prepare_network"] = f"$bundle.load_weights(@network, {weights})"
    if config.get("slices_per_epoch"):  # the recipe's epoch is made for a hundred patients
        slices = sum(1 for path in data.glob("*/*.tif") if not path.stem.endswith("_mask"))
        settings["slices_per_epoch"] = min(int(config["slices_per_epoch"]), slices)
    return settings


def _keep_origin(source: Path, target: Path) -> None:
    """What the scans of the first training looked like, and the notice on its data, hold for a fine-tuned one too."""
    for name in (REFERENCE, "NOTICE"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
