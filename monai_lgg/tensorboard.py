"""What people watch of a training in TensorBoard; MONAI's own handler writes the loss and the metrics.

Steps are epochs, except those of ``train_loss``, which are iterations.
"""

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from monai_lgg.handlers import BestModelSaver
from monai_lgg.report.overlay import paint, with_legend
from monai_lgg.transforms import flair_channel

_log = logging.getLogger(__name__)

#: Ends of the names of event files: of a training, and of the figures of its evaluation.
TRAINING, EVALUATION = ".train", ".test"
EVENT_FILES = "events.out.tfevents.*"
#: Thresholds of the PR curve, 0 to 1; TensorBoard shows no more.
THRESHOLDS = 127
#: Bins of the histogram of Dice.
DICE_BINS = 20
#: Of every bundle's name.
_COMMON_PURPOSE = " for lower-grade glioma"
#: Settings that are no hyperparameters: of the data, and what the machine decides unless it is set.
_NOT_TUNED = ("dataset_dir", "split_file", "split_fractions", "device", "amp")
#: Tag -> where a summary of an evaluation has it. HPARAMS shows five metrics at first, those of the first names.
TEST_FIGURES = {
    "kept_model/dice_test": ("per_patient_dice", "mean"),
    "kept_model/hd95_test": ("per_patient", "hd95", "median"),
    "kept_model/iou_test": ("per_patient_iou", "mean"),
    "kept_model/median_dice_test": ("per_patient_dice", "median"),
    "kept_model/pr_auc_test": ("pooled", "pr_auc"),
    "kept_model/surface_dice_test": ("per_patient", "surface_dice", "mean"),
}


class RunEvents:
    """The TensorBoard events of a run, which go on without a gap or a double point when its training resumes.

    The checkpoint remembers how long each event file was (``state_dict``). A resumed training cuts the files to that
    length, because what came after belongs to an epoch that is trained again, and removes files of starts that never
    came to a checkpoint. Attach after :class:`monai_lgg.handlers.TrainingState`, with this among its objects.

    Args:
        log_dir: of one run alone; files of others (another end of the name) are left as they are.
        bundle_root: whose configuration files are shown as text.
        settings: in force, by name.
        enabled: False for ranks other than 0, which write nothing.
    """

    def __init__(self, log_dir: str, bundle_root: str, settings: Mapping[str, Any], enabled: bool = True) -> None:
        self.folder = Path(log_dir)
        self.bundle_root = bundle_root
        self.settings = settings
        self._earlier = self._files() if enabled else []
        self._lengths: dict[str, int] = {}
        self.writer = SummaryWriter(log_dir, filename_suffix=TRAINING) if enabled else None

    def attach(self, engine: Engine) -> None:
        if self.writer is not None:
            engine.add_event_handler(Events.STARTED, self.begin)
            engine.add_event_handler(Events.COMPLETED, self.end)

    def begin(self, engine: Engine) -> None:
        for path in self._earlier:
            if path.name not in self._lengths:
                path.unlink()
            elif path.stat().st_size > self._lengths[path.name]:
                with path.open("r+b") as file:
                    file.truncate(self._lengths[path.name])
        if self.writer is not None and engine.state.epoch == 0:  # else an earlier file says it
            log_config(self.writer, self.bundle_root, dict(self.settings))
            _add_hparams(self.writer, hyperparameters(self.bundle_root, self.settings), "start")

    def end(self, engine: Engine) -> None:
        if self.writer is not None:
            _add_hparams(self.writer, {}, "end")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def state_dict(self) -> dict[str, int]:
        if self.writer is None:
            return {}
        self.writer.flush()
        return {path.name: path.stat().st_size for path in self._files()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._lengths = dict(state)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(EVENT_FILES + TRAINING))


def log_config(writer: SummaryWriter, bundle_root: str, settings: dict[str, Any]) -> None:
    """Put the settings in force and the bundle's configuration files into TensorBoard as text."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")
    for path in sorted((Path(bundle_root) / "configs").glob("*.json")):
        if path.stem in ("train", "overrides"):
            writer.add_text(f"config/{path.name}", "".join(f"    {line}\n" for line in path.read_text().splitlines()))


def hyperparameters(bundle_root: str, settings: Mapping[str, Any]) -> dict[str, str | float]:
    """The bundle's name, ``settings`` and what was set for this run by ``--set``; no paths, nothing of the machine.

    Numbers stay numbers; all else becomes text.
    """
    configs = Path(bundle_root) / "configs"
    stored = configs / "overrides.json"
    given = json.loads(stored.read_text()) if stored.is_file() else {}
    chosen = {key: value for key, value in settings.items() if key not in _NOT_TUNED}
    chosen |= {key: value for key, value in given.items() if key not in ("dataset_dir", "split_file")}
    name = json.loads((configs / "metadata.json").read_text()).get("name", Path(bundle_root).name)
    return {"bundle": name.removesuffix(_COMMON_PURPOSE), **{key: _plain(value) for key, value in chosen.items()}}


def _plain(value: Any) -> str | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _add_hparams(writer: SummaryWriter, values: dict[str, str | float], which: str) -> None:
    """The start or the end of a run in the tab HPARAMS.

    ``SummaryWriter.add_hparams`` would put both into a folder of their own, which is another run to TensorBoard; its
    list of names, of which TensorBoard takes the first run's for all, would hide settings that only others have.
    """
    _, start, end = hparams(values, {})
    writer._get_file_writer().add_summary(start if which == "start" else end)


class LearningRate:
    """Writes the learning rate that an epoch was trained with. Attach before the schedule."""

    def __init__(self, writer: SummaryWriter, optimizer: torch.optim.Optimizer) -> None:
        self.writer = writer
        self.optimizer = optimizer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        state.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.writer.add_scalar("learning_rate", state.learning_rate, state.epoch)


class Throughput:
    """Writes how many slices were trained a second, reading and augmentation included. Attach before the validation."""

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self._slices = 0
        self._began = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        self._slices, self._began = 0, time.perf_counter()

    def count(self, engine: Engine) -> None:
        output: Any = engine.state.output
        # a list where the trainer takes batches apart, as in runs of earlier versions
        self._slices += len(output if isinstance(output, list) else output["image"])

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        state.slices_per_second = self._slices / max(time.perf_counter() - self._began, 1e-9)
        self.writer.add_scalar("slices_per_second", state.slices_per_second, state.epoch)


class EpochLine:
    """Logs one line an epoch: mean training loss, validation metrics, seconds. Attach after the validation."""

    def __init__(self, validator: Engine, writer: SummaryWriter) -> None:
        self.validator = validator
        self.writer = writer
        self._losses: list[float] = []
        self._began = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        self._losses, self._began = [], time.perf_counter()

    def collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._losses.append(float((output[0] if isinstance(output, list) else output)["loss"]))

    def __call__(self, engine: Engine) -> None:
        seconds = time.perf_counter() - self._began
        state: Any = engine.state
        state.train_loss_epoch = loss = sum(self._losses) / max(1, len(self._losses))
        self.writer.add_scalar("train_loss_epoch", loss, state.epoch)
        scores = self.validator.state.metrics if self.validator.state.epoch == state.epoch else {}
        figures = "".join(f" {name} {value:.4f}" for name, value in scores.items())
        _log.info(f"epoch {state.epoch}/{state.max_epochs}: loss {loss:.4f}{figures} ({seconds:.0f} s)")


class OutlineImages:
    """Writes, each epoch, the slice with the largest tumour of the first validation patients, always the same ones.

    FLAIR (or the only channel) with the truth in cyan and the prediction in orange; the tag names the patient. Attach
    to an evaluator whose outputs have ``image`` (3 or 1, H, W, D), ``pred`` and ``label`` (1, H, W, D) and whose
    records have ``case``.
    """

    def __init__(self, writer: SummaryWriter, cases: int = 4) -> None:
        self.writer = writer
        self.cases = cases
        self._seen = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        self._seen = 0

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, record in zip(state.output, state.batch, strict=True):
            if self._seen >= self.cases:
                return
            truth = item["label"][0].cpu().numpy() > 0
            k = int(truth.sum(axis=(0, 1)).argmax())
            picture = paint(
                flair_channel(item["image"])[..., k], item["pred"][0, ..., k].cpu().numpy() > 0, truth[..., k]
            )
            name = record.get("case", self._seen)
            self.writer.add_image(f"outlines/{name}", with_legend(picture), state.epoch, dataformats="HWC")
            self._seen += 1


class PrecisionRecall:
    """Writes the precision-recall curve over all voxels of the validation.

    Counts of voxels by probability are all it keeps. Attach to an evaluator whose outputs have ``prob`` (0 to 1) and
    ``label`` of the same shape.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self._counts = torch.zeros(2, THRESHOLDS, dtype=torch.int64)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: Engine) -> None:
        self._counts.zero_()

    def collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            level = (item["prob"].float() * (THRESHOLDS - 1)).clamp_(0, THRESHOLDS - 1).to(torch.int32)
            level += THRESHOLDS * (item["label"] > 0.5)
            self._counts += torch.bincount(level.flatten(), minlength=2 * THRESHOLDS).cpu().view(2, THRESHOLDS)

    def __call__(self, engine: Engine) -> None:
        # at or above each threshold
        false, true = self._counts.flip(1).cumsum(1).flip(1).double().numpy()
        self.writer.add_pr_curve_raw(
            "validation",
            true,
            false,
            false[0] - false,
            true[0] - true,
            true / np.maximum(true + false, 1),
            true / max(true[0], 1),
            engine.state.epoch,
            THRESHOLDS,
        )


class DiceHistogram:
    """Writes how the patients' Dice is distributed. Attach to an evaluator whose key metric keeps its details."""

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        values = state.metric_details[state.key_metric_name].cpu().numpy().ravel()
        values = values[np.isfinite(values)]
        if len(values):
            bins: Any = np.linspace(0, 1, DICE_BINS + 1)  # "also an array", says NumPy, which bins it
            self.writer.add_histogram("dice_per_patient", values, state.epoch, bins)


class KeptModel:
    """Writes the epoch and the mean Dice of the model that is kept, so far. Attach after its saver."""

    def __init__(self, writer: SummaryWriter, saver: BestModelSaver) -> None:
        self.writer = writer
        self.saver = saver

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        if self.saver.best_epoch:
            self.writer.add_scalar("kept_model/dice_validation", self.saver.best, state.epoch)
            self.writer.add_scalar("kept_model/epoch", self.saver.best_epoch, state.epoch)


def write_test_figures(run: Path, summary: Mapping[str, Any]) -> None:
    """Put the figures of a run's evaluation beside its training, in place of those of an earlier one.

    Does nothing for a bundle that no training left events in; a run that cannot be written to is told of, no more.

    Args:
        summary: of the evaluation.
    """
    from monai_lgg.experiments import training_progress

    folder = run / "eval"
    if not any(folder.glob(EVENT_FILES + TRAINING)):
        return
    try:
        for path in folder.glob(EVENT_FILES + EVALUATION):
            path.unlink()
        writer = SummaryWriter(str(folder), filename_suffix=EVALUATION)
    except OSError as error:
        _log.warning(f"{run}: its test figures cannot be added to TensorBoard: {error}")
        return
    for tag, keys in TEST_FIGURES.items():
        value: Any = summary
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None and math.isfinite(value):
            writer.add_scalar(tag, value, training_progress(run).get("best_epoch") or 0)
    writer.close()
