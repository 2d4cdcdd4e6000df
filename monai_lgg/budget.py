"""An equal budget for unequal bundles: epochs, slices seen, or minutes of wall time."""

import itertools
import logging
import math
import re
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_lgg import bundle as bundles
from monai_lgg.errors import UsageError
from monai_lgg.splits import Split, read_split, save_split

_UNITS = {"epoch": "epochs", "epochs": "epochs", "slices": "slices", "min": "min", "minutes": "min"}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")
#: Iterations of the timing; the first is left out, because it warms up.
PROBE_ITERATIONS = 8
#: Patients of the timing's validation.
PROBE_PATIENTS = 2


@dataclass(frozen=True)
class Budget:
    """What each bundle may spend: ``amount`` of ``unit`` (``epochs``, ``slices`` or ``min``)."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


def parse_budget(text: str) -> Budget:
    """``3epochs``, ``50000slices`` or ``30min`` as a budget.

    Raises:
        ValueError: something else, nothing, or part of an epoch.
    """
    match = _PATTERN.fullmatch(text.strip().lower())
    unit = _UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise UsageError(f"budget {text!r} is not understood; give for example 3epochs, 50000slices or 30min")
    amount = float(match[1])
    if amount <= 0 or (unit == "epochs" and amount != int(amount)):
        raise UsageError(f"budget {text!r}: give more than 0, and whole epochs")
    return Budget(amount, unit)


def slices_of(split: Split, part: str, fold: int = 0) -> int:
    return sum(len(numbers) for numbers in split.part(part, fold).values())


def slices_an_epoch(config: Any, split: Split, fold: int = 0) -> int:
    """Slices of one epoch of training: all of the part, or as many as are drawn.

    Args:
        config: of the training, a dictionary or a ConfigParser; ``slices_per_epoch`` in it are drawn.
    """
    return int(config["slices_per_epoch"]) if "slices_per_epoch" in config else slices_of(split, "train", fold)


def budget_epochs(budget: Budget, training_slices: int, seconds_per_epoch: float | None = None) -> int:
    """Whole epochs of a budget, at least one: those that fit into minutes, the nearest number for slices.

    Args:
        training_slices: of one epoch.
        seconds_per_epoch: of :func:`time_epoch`; only a budget in minutes needs it.
    """
    if budget.unit == "epochs":
        return int(budget.amount)
    if budget.unit == "slices":
        return max(1, round(budget.amount / training_slices))
    if seconds_per_epoch is None:
        raise ValueError(f"budget {budget} needs the seconds of an epoch; measure them with time_epoch")
    return max(1, math.floor(budget.amount * 60 / seconds_per_epoch))


def time_epoch(bundle: Path, dataset_dir: Path, split_file: Path, settings: Mapping[str, Any], device: str) -> float:
    """Seconds of one epoch of ``bundle`` with its share of validation, estimated from a few iterations and patients.

    Loading and caching the data, once a training, is not part of it. Nothing is kept of the training.

    Args:
        settings: overrides of the configuration, checked.
    """
    split = read_split(split_file)
    with tempfile.TemporaryDirectory(prefix="monai-lgg-timing-") as folder:
        run = Path(folder) / "run"
        own = {**bundles.stored_settings(bundle), **settings, "dataset_dir": str(dataset_dir.resolve())}
        bundles.prepare_run(bundle, run, own)
        save_split(split, run / "eval" / "split.json")
        config = bundles.read_config([run / "configs" / "train.json", run / "configs" / bundles.OVERRIDES])
        batch, interval, fold = (int(config[key]) for key in ("batch_size", "val_interval", "fold"))
        drawn = {"slices_per_epoch": PROBE_ITERATIONS * batch} if "slices_per_epoch" in config else {}
        flow = bundles.workflow(
            run,
            ["train.json"],
            "train",
            "training",
            {
                "device_name": device,
                "show_progress": False,
                "val_interval": 1,
                "early_stopping_patience": 0,
                **drawn,
                "train#data": _first(config["train"]["data"], PROBE_ITERATIONS * batch),
                "validate#data": _first(config["validate"]["data"], PROBE_PATIENTS),
            },
        )
        lines = logging.getLogger("monai_lgg.handlers")  # what it says is about a training that is thrown away
        before = lines.level
        lines.setLevel(logging.WARNING)
        try:
            iteration, validation = _time_one_epoch(flow.parser)
            seen = sum(len(record["slices"]) for record in flow.parser.get_parsed_content("validate#data"))
        finally:
            lines.setLevel(before)
            flow.finalize()
    training = iteration * math.ceil(slices_an_epoch(config, split, fold) / batch)
    return training + validation * slices_of(split, "validation", fold) / seen / interval


def _first(expression: str, count: int) -> str:
    """A configuration's list of records, cut to the first ``count``."""
    return f"$list({expression.removeprefix('$')})[:{count}]"


def _time_one_epoch(parser: Any) -> tuple[float, float]:
    """(seconds an iteration, seconds of the whole validation) of one epoch."""
    trainer, evaluator = (parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator"))
    ends: list[float] = []
    validation: list[float] = []

    def clock(times: list[float]) -> Any:
        return lambda _: times.append(time.perf_counter())

    def stop(engine: Engine) -> None:
        engine.terminate()

    trainer.add_event_handler(Events.EPOCH_STARTED, clock(ends))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, clock(ends))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, stop)
    evaluator.add_event_handler(Events.STARTED, clock(validation))
    evaluator.add_event_handler(Events.COMPLETED, clock(validation))
    trainer.run()
    iterations = [after - before for before, after in itertools.pairwise(ends)]
    return statistics.median(iterations[1:] or iterations), validation[1] - validation[0]
