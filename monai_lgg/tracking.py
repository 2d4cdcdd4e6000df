"""Experiment tracking by MONAI's own MLflow handler; needs the extra ``mlflow``."""

import copy
import hashlib
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.utils import optional_import, path_to_sqlite_uri

from monai_lgg.experiments import training_progress
from monai_lgg.tensorboard import hyperparameters

TRACKERS = ("mlflow",)
EXPERIMENT = "monai-lgg"
#: What the handlers of :mod:`monai_lgg.tensorboard` leave in the trainer's state, once an epoch.
_OF_AN_EPOCH = ["train_loss_epoch", "learning_rate", "slices_per_second"]


def tracking_settings(run: Path, tracking: str) -> dict[str, Any] | None:
    """MONAI's settings of ``tracking="mlflow"`` with readable names and all runs of a folder side by side.

    Figures are written once an epoch, not once an iteration: a database takes longer than some iterations do. They go
    to ``mlruns.db`` beside the run's folder, or to the server of the environment variable MLFLOW_TRACKING_URI. MLflow's
    own usage statistics are not sent, unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Args:
        run: its folder's name is the name in MLflow; a run that was interrupted goes on under it.
        tracking: one of :data:`TRACKERS`.
    Returns:
        None for a training that is at its end: MLflow would get an empty run of the same name.
    Raises:
        ValueError: another tracker.
        ImportError: the packages are not installed.
    """
    if tracking not in TRACKERS:
        raise ValueError(f"tracking {tracking!r} is not known; use {' or '.join(TRACKERS)}")
    missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if not optional_import(name)[1]]
    if missing:
        raise ImportError(f'tracking by MLflow needs {", ".join(missing)}: pip install "monai-lgg[mlflow]"')
    done = training_progress(run)
    if done and (done["stopped_early"] or done["epochs"] >= done["max_epochs"]):
        return None
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every table that they make
    settings = copy.deepcopy(DEFAULT_MLFLOW_SETTINGS)
    configs: Any = settings["configs"]
    configs["tracking_uri"] = path_to_sqlite_uri(str(run.parent / "mlruns.db"))
    configs["experiment_name"] = EXPERIMENT
    configs["run_name"] = _run_name(run)
    configs["save_execute_config"] = str(run / "eval" / "executed.json")
    configs["trainer"] |= {
        "iteration_log": False,
        "state_attributes": _OF_AN_EPOCH,
        "experiment_param": {
            "_target_": "monai_lgg.tracking.parameters",
            "bundle_root": "@bundle_root",
            "settings": "@settings",
        },
    }
    return settings


def parameters(bundle_root: str, settings: Mapping[str, Any]) -> dict[str, str | float]:
    """Hyperparameters by names that MLflow takes: ``network_def/features`` for ``network_def#features``."""
    return {name.replace("#", "/"): value for name, value in hyperparameters(bundle_root, settings).items()}


def _run_name(run: Path) -> str:
    """The folder's name; on a server, which others may use too, with a mark of the machine and the path."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return run.name
    return f"{run.name} {hashlib.sha256(f'{socket.gethostname()}:{run}'.encode()).hexdigest()[:6]}"
