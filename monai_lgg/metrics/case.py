"""Everything that is measured on one case, small enough to keep for a whole cohort: nothing of it is per pixel.

Counts, histograms and calibration sums add up, so cohorts can be pooled exactly; distances and lesions are kept as
figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_lgg.cases import institution_of
from monai_lgg.metrics.calibration import brier, calibration_sums, ece
from monai_lgg.metrics.lesions import lesion_counts, lesion_sensitivity
from monai_lgg.metrics.overlap import COUNTS, OVERLAP, slice_counts
from monai_lgg.metrics.ranking import histogram, pr_auc, roc_auc
from monai_lgg.metrics.surface import TOLERANCE, hd95, surface_dice, surface_distances

#: The ``missing_sequences`` of a case whose record does not say.
UNKNOWN = "unknown"
#: Figures of a patient that do not follow from sums.
PATIENT_FIGURES = ("hd95", "surface_dice", "lesions", "lesions_found", "false_positive_lesions")
#: Figures of a slice that do not follow from its counts.
SLICE_FIGURES = ("hd95", "surface_dice", "roc_auc", "pr_auc", "brier", "ece")


@dataclass(frozen=True)
class CaseMeasures:
    """What is kept of one case.

    Args:
        numbers: of the slices.
        missing_sequences: empty, ``pre``, ``post``, ``pre+post`` or :data:`UNKNOWN`.
        voxel_ml: volume of a voxel; None where the spacing is unknown, and then distances are in pixels.
        tolerance: of the surface Dice, mm or pixels.
        counts: int64 (D, 4), of each slice.
        histogram: int64 (2, bins) of the probabilities; None without probabilities.
        calibration: float64 (bins, 4); None without probabilities.
        figures: :data:`PATIENT_FIGURES` of the whole volume, in 3D.
        slice_figures: :data:`SLICE_FIGURES`, (D,) each, in 2D.
    """

    name: str
    numbers: list[int]
    missing_sequences: str
    voxel_ml: float | None
    tolerance: float
    counts: np.ndarray
    histogram: np.ndarray | None
    calibration: np.ndarray | None
    figures: Mapping[str, float]
    slice_figures: Mapping[str, np.ndarray]


def measure_case(
    name: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    probability: np.ndarray | None = None,
    *,
    numbers: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
    missing_sequences: str = UNKNOWN,
) -> CaseMeasures:
    """Measure one case.

    Args:
        prediction: bool, (H, W, D).
        truth: same shape.
        probability: same shape, 0 to 1; None leaves what needs it undefined.
        numbers: of the slices; None counts from 1.
        spacing_mm: per axis; None where unknown.
    Raises:
        ValueError: shapes differ, or the probabilities are none.
    """
    counts = slice_counts(prediction, truth)
    numbers = range(1, len(counts) + 1) if numbers is None else numbers
    if len(numbers) != len(counts):
        raise ValueError(f"{name}: {len(numbers)} slice numbers for {len(counts)} slices; give one a slice")
    distances = surface_distances(prediction, truth, spacing_mm)
    histograms, sums = (None, None) if probability is None else _probability_sums(name, probability, truth)
    return CaseMeasures(
        name,
        [int(number) for number in numbers],
        missing_sequences,
        None if spacing_mm is None else float(np.prod(spacing_mm)) / 1000,
        tolerance,
        counts,
        None if histograms is None else histograms.sum(axis=0),
        None if sums is None else sums.sum(axis=0),
        {"hd95": hd95(distances), "surface_dice": surface_dice(distances, tolerance)}
        | lesion_counts(prediction, truth),
        _slice_surfaces(prediction, truth, spacing_mm, tolerance) | _slice_probabilities(histograms, sums, len(counts)),
    )


def _probability_sums(name: str, probability: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histograms (D, 2, bins) and calibration sums (D, bins, 4), slice by slice to keep what is in memory small."""
    if probability.shape != truth.shape:
        raise ValueError(f"{name}: probabilities {probability.shape} and truth {truth.shape} differ in shape")
    if not (probability.min() >= 0 and probability.max() <= 1):  # False for NaN too
        raise ValueError(
            f"{name}: probabilities from {probability.min()} to {probability.max()}; give 0 to 1 (a sigmoid's output)"
        )
    pairs = [(probability[..., k], truth[..., k]) for k in range(truth.shape[-1])]
    return np.stack([histogram(*pair) for pair in pairs]), np.stack([calibration_sums(*pair) for pair in pairs])


def _slice_surfaces(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float] | None, tolerance: float
) -> dict[str, np.ndarray]:
    in_plane = None if spacing_mm is None else spacing_mm[:2]
    distances = [surface_distances(prediction[..., k], truth[..., k], in_plane) for k in range(truth.shape[-1])]  # (D,)
    return {
        "hd95": np.array([hd95(of) for of in distances]),
        "surface_dice": np.array([surface_dice(of, tolerance) for of in distances]),
    }


def _slice_probabilities(histograms: np.ndarray | None, sums: np.ndarray | None, depth: int) -> dict[str, np.ndarray]:
    if histograms is None or sums is None:
        return {name: np.full(depth, np.nan) for name in ("roc_auc", "pr_auc", "brier", "ece")}
    return {"roc_auc": roc_auc(histograms), "pr_auc": pr_auc(histograms), "brier": brier(sums), "ece": ece(sums)}


def probability_figures(histogram: np.ndarray | None, calibration: np.ndarray | None) -> dict[str, float]:
    """ROC-AUC, PR-AUC, Brier score and ECE of sums; NaN where there are none."""
    if histogram is None or calibration is None:
        return dict.fromkeys(("roc_auc", "pr_auc", "brier", "ece"), math.nan)
    return {
        "roc_auc": float(roc_auc(histogram)),
        "pr_auc": float(pr_auc(histogram)),
        "brier": float(brier(calibration)),
        "ece": float(ece(calibration)),
    }


def patient_row(case: CaseMeasures) -> dict[str, Any]:
    """One row of ``patients.csv``: every metric and what it was made from."""
    counts = case.counts.sum(axis=0)
    figures = case.figures
    return {
        "patient": case.name,
        "institution": institution_of(case.name),
        "missing_sequences": case.missing_sequences,
        "slices": len(case.counts),
        **{name: float(of(counts)) for name, of in OVERLAP.items()},
        **probability_figures(case.histogram, case.calibration),
        **{name: float(figures[name]) for name in ("hd95", "surface_dice")},
        **{name: float(value) for name, value in volumes(counts, case.voxel_ml).items()},
        **{name: int(figures[name]) for name in ("lesions", "lesions_found", "false_positive_lesions")},
        "lesion_sensitivity": lesion_sensitivity(figures["lesions"], figures["lesions_found"]),
        **{name: int(value) for name, value in zip(COUNTS, counts, strict=True)},
    }


def slice_rows(case: CaseMeasures) -> list[dict[str, Any]]:
    """The rows of ``slices.csv`` of one case."""
    columns: dict[str, np.ndarray] = {
        "slice": np.array(case.numbers),
        **{name: of(case.counts) for name, of in OVERLAP.items()},
        **{name: case.slice_figures[name] for name in SLICE_FIGURES},
        "volume_difference": volumes(case.counts, case.voxel_ml)["volume_difference"],
        **dict(zip(COUNTS, case.counts.T, strict=True)),
    }
    lists = [column.tolist() for column in columns.values()]
    return [{"patient": case.name, **dict(zip(columns, row, strict=True))} for row in zip(*lists, strict=True)]


def volumes(counts: np.ndarray, voxel_ml: float | None) -> dict[str, np.ndarray]:
    """Volumes of counts (..., 4) and predicted minus true, in ml, or in voxels where the voxel's size is unknown."""
    tp, fp, fn, _ = np.moveaxis(counts * float(voxel_ml or 1), -1, 0)
    return {"volume_truth": tp + fn, "volume_prediction": tp + fp, "volume_difference": fp - fn}
