"""Scores a network on whole patients and writes the results folder."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_lgg.io.nifti import mm_per_unit
from monai_lgg.leakage import leakage_in_words
from monai_lgg.metrics.case import UNKNOWN, CaseMeasures, measure_case
from monai_lgg.metrics.cohort import check_comparable
from monai_lgg.metrics.surface import TOLERANCE
from monai_lgg.results import Results, pool_results, read_results, save_masks, start_masks, write_results
from monai_lgg.splits import read_split

__all__ = ["EvaluationWriter", "Results", "pool_results", "read_results", "summary_text"]

_log = logging.getLogger(__name__)

NO_SPLIT = "No split was used: nothing here shows that these patients were kept out of the training."


class EvaluationWriter:
    """Measures each case and writes the results folder (:mod:`monai_lgg.results`) at the end.

    Attach to an evaluator over volumes (batch 1) whose outputs have ``pred`` and ``label`` (1, H, W, D) and whose
    records have ``case`` and ``slices``. Outputs may have ``prob`` (0 to 1, same shape): without it, areas under curves
    and calibration are undefined. Records may have ``missing_sequences``. Distances are in mm when the metadata of the
    label or image says that the spacing is known, else in pixels. No pixels are kept after a case.

    Args:
        output_dir: created when missing.
        context: facts about the evaluation that the summary repeats (part, split file, weights).
        split_file: its level and leakage go into the summary; None when no split was used.
        warning: goes into the summary beside what the split itself warns of.
        masks: whether to write the predicted masks too.
        surface_tolerance: of the surface Dice, in mm or pixels.
    """

    def __init__(
        self,
        output_dir: str,
        context: Mapping[str, Any],
        split_file: str | None = None,
        warning: str | None = None,
        masks: bool = True,
        surface_tolerance: float = TOLERANCE,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.context = dict(context)
        self.split_file = split_file
        self.warning = warning
        self.masks = masks
        self.surface_tolerance = surface_tolerance
        self.cases: list[CaseMeasures] = []
        self.mask_dir = self.output_dir

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        self.cases = []
        self.mask_dir = start_masks(self.output_dir)

    def collect(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, record in zip(state.output, state.batch, strict=True):
            prediction, truth = (item[key][0].cpu().numpy() > 0.5 for key in ("pred", "label"))
            case = measure_case(
                str(record["case"]),
                prediction,
                truth,
                item["prob"][0].float().cpu().numpy() if "prob" in item else None,
                numbers=[int(number) for number in record["slices"]],
                spacing_mm=known_spacing(record),
                tolerance=self.surface_tolerance,
                missing_sequences=record.get("missing_sequences", UNKNOWN),
            )
            check_comparable(self.cases[0] if self.cases else case, case)
            self.cases.append(case)
            if self.masks:
                save_masks(self.mask_dir, case.name, case.numbers, prediction)

    def write(self, engine: Engine) -> None:
        facts = split_facts(self.split_file)
        facts["warning"] = " ".join(text for text in (facts["warning"], self.warning) if text) or None
        write_results(self.output_dir, self.cases, {**self.context, **facts}, self.mask_dir)
        _log.info(f"wrote {self.output_dir}: summary.json, patients.csv, slices.csv")


def known_spacing(record: Mapping[str, Any]) -> list[float] | None:
    """Spacing in mm per axis from the metadata of the label, or else of the image; None where nothing states it."""
    for key in ("label", "image"):
        meta = getattr(record.get(key), "meta", None) or {}
        if bool(meta.get("spacing_known", False)):
            affine = np.asarray(meta["affine"], dtype=np.float64)
            lengths = np.linalg.norm(affine[:3, :3], axis=0) * mm_per_unit(int(meta.get("xyzt_units", 0)))
            return lengths.tolist()
    return None


def split_facts(split_file: str | None) -> dict[str, Any]:
    """What a summary says about the split it was made from, its leaks in words included."""
    if split_file is None:
        return {"split_level": "none", "warning": NO_SPLIT}
    split = read_split(split_file)
    facts: dict[str, Any] = {"split_level": split.level, "split_seed": split.seed, "fingerprint": split.fingerprint}
    return {**facts, "warning": leakage_in_words(split.leakage) or None, "leakage": split.leakage}


def summary_text(summary: Mapping[str, Any]) -> str:
    """The figures that people look at first, as lines of text."""
    patient, iou_, slices = summary["per_patient_dice"], summary["per_patient_iou"], summary["slice_dice"]
    empty, found = summary["always_empty"], summary["detection"]
    lines = [
        f"{summary['part']} part: {summary['patients']} patients, {summary['slices']} slices; split by "
        f"{summary['split_level']}",
        f"per-patient Dice  mean {_f(patient['mean'])} (95 % CI {_f(patient['mean_ci95'][0])} to "
        f"{_f(patient['mean_ci95'][1])}), median {_f(patient['median'])}, IQR {_f(patient['q1'])} to "
        f"{_f(patient['q3'])}",
        f"                  10th percentile {_f(patient.get('p10'))}, lowest {_f(patient['min'])}; always empty: "
        f"{_f(empty['per_patient_dice_mean'])}",
        f"per-patient IoU   mean {_f(iou_['mean'])}, median {_f(iou_['median'])}",
        *_more_lines(summary),
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


def _more_lines(summary: Mapping[str, Any]) -> list[str]:
    """Surfaces, volumes, lesions and calibration; absent from summaries of earlier versions."""
    if "per_patient" not in summary:
        return []
    patient, pooled = summary["per_patient"], summary["pooled"]
    distance, surface, error = patient["hd95"], patient["surface_dice"], patient["volume_error"]
    return [
        f"HD95              median {_f(distance['median'])} {summary['distance_unit']}, mean {_f(distance['mean'])}; "
        f"infinite (one mask is empty) for {distance['infinite']} patient(s)",
        f"surface Dice      mean {_f(surface['mean'])}, median {_f(surface['median'])} at a tolerance of "
        f"{summary['surface_tolerance']:g} {summary['distance_unit']}",
        f"volume            median error {_f(error['median'])} of the true volume; mean difference "
        f"{_f(patient['volume_difference']['mean'])} {summary['volume_unit']} (predicted - true)",
        f"lesions (3D)      {pooled['lesions_found']} of {pooled['lesions']} found, "
        f"{pooled['false_positive_lesions']} false-positive",
        f"all pixels        ROC-AUC {_f(pooled['roc_auc'])}, PR-AUC {_f(pooled['pr_auc'])}, calibration error "
        f"{_f(pooled['ece'], 5)}, Brier {_f(pooled['brier'], 5)}",
    ]


def _f(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
