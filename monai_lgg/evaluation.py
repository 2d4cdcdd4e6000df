"""Per-patient and per-slice results of an evaluation, written as tables."""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_lgg.cases import institution_of
from monai_lgg.io.atomic import atomic_text
from monai_lgg.metrics.overlap import COUNTS, dice, iou, slice_counts
from monai_lgg.metrics.summary import summarise
from monai_lgg.splits import leakage_in_words, read_split

_log = logging.getLogger(__name__)

NO_SPLIT = "No split was used: nothing here shows that these patients were kept out of the training."


class EvaluationWriter:
    """Collects each case's counts and writes ``patients.csv``, ``slices.csv`` and ``summary.json`` at the end.

    Attach to an evaluator over volumes (batch 1) whose outputs have ``pred`` and ``label`` (1, H, W, D) and whose
    records have ``case`` and ``slices``.

    Args:
        output_dir: created when missing.
        context: facts about the evaluation that the summary repeats (part, split file, weights).
        split_file: its level and leakage go into the summary; None when no split was used.
        warning: goes into the summary beside what the split itself warns of.
    """

    def __init__(
        self, output_dir: str, context: Mapping[str, Any], split_file: str | None = None, warning: str | None = None
    ) -> None:
        self.output_dir = Path(output_dir)
        self.context = dict(context)
        self.split_file = split_file
        self.warning = warning
        self.counts: dict[str, np.ndarray] = {}
        self.numbers: dict[str, list[int]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        self.counts, self.numbers = {}, {}

    def collect(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, record in zip(state.output, state.batch, strict=True):
            prediction, truth = (item[key][0].cpu().numpy() > 0.5 for key in ("pred", "label"))
            self.counts[record["case"]] = slice_counts(prediction, truth)
            self.numbers[record["case"]] = [int(number) for number in record["slices"]]

    def write(self, engine: Engine) -> None:
        facts = split_facts(self.split_file)
        facts["warning"] = " ".join(text for text in (facts["warning"], self.warning) if text) or None
        write_results(self.output_dir, self.counts, self.numbers, {**self.context, **facts})
        _log.info(f"wrote {self.output_dir}/summary.json, patients.csv, slices.csv")


def split_facts(split_file: str | None) -> dict[str, Any]:
    """What a summary says about the split it was made from, its leaks in words included."""
    if split_file is None:
        return {"split_level": "none", "warning": NO_SPLIT}
    split = read_split(split_file)
    facts: dict[str, Any] = {"split_level": split.level, "split_seed": split.seed, "fingerprint": split.fingerprint}
    return {**facts, "warning": leakage_in_words(split) or None, "leakage": split.leakage}


def write_results(
    folder: Path, counts: Mapping[str, np.ndarray], numbers: Mapping[str, list[int]], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the three files and return the summary."""
    patient_rows = [
        {"patient": name, "institution": institution_of(name), "slices": len(of), **_scores(of.sum(axis=0))}
        for name, of in counts.items()
    ]
    slice_rows = [
        {"patient": name, "slice": number, **_scores(row)}
        for name, of in counts.items()
        for number, row in zip(numbers[name], of, strict=True)
    ]
    summary = {**context, **summarise(counts)}
    atomic_text(folder / "patients.csv", _csv(patient_rows))
    atomic_text(folder / "slices.csv", _csv(slice_rows))
    atomic_text(folder / "summary.json", json.dumps(without_nan(summary), indent=1) + "\n")
    return summary


def _scores(counts: np.ndarray) -> dict[str, Any]:
    scores = {"dice": float(dice(counts)), "iou": float(iou(counts))}
    named = {name: int(value) for name, value in zip(COUNTS, counts, strict=True)}
    return {key: "" if math.isnan(value) else round(value, 6) for key, value in scores.items()} | named


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def without_nan(value: Any) -> Any:
    """The same structure with NaN as None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def summary_text(summary: Mapping[str, Any]) -> str:
    """The figures that people look at first, as lines of text."""
    patient, iou_, slices = summary["per_patient_dice"], summary["per_patient_iou"], summary["slice_dice"]
    empty, found = summary["always_empty"], summary["detection"]
    lines = [
        f"{summary['part']} part: {summary['patients']} patients, {summary['slices']} slices; split by "
        f"{summary['split_level']}",
        f"per-patient Dice  mean {_f(patient['mean'])} (95 % CI {_f(patient['mean_ci95'][0])} to "
        f"{_f(patient['mean_ci95'][1])}), median {_f(patient['median'])}, IQR {_f(patient['q1'])} to "
        f"{_f(patient['q3'])}; always empty: {_f(empty['per_patient_dice_mean'])}",
        f"per-patient IoU   mean {_f(iou_['mean'])}, median {_f(iou_['median'])}",
        f"undefined         {patient['undefined']} patient(s) without tumour and without prediction",
        f"{'slice Dice':34s}{'model':>8s}{'always empty':>14s}",
        *(f"  {name:32s}{_f(value):>8s}{_f(empty['slice_dice'][name]):>14s}" for name, value in slices.items()),
        *(
            f"{unit:9s} sensitivity {_f(found[unit]['sensitivity'])}, false-positive rate "
            f"{_f(found[unit]['false_positive_rate'])}"
            for unit in ("patients", "slices", "pixels")
        ),
    ]
    return "\n".join(lines + ([f"WARNING: {summary['warning']}"] if summary.get("warning") else []))


def _f(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
