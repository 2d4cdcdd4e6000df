"""Counts per slice and patient -> the figures of a report, each convention by its name."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_lgg.metrics.overlap import dice, iou

#: Resamples of the bootstrap over patients, and its seed.
RESAMPLES = 10_000
SEED = 0
#: Slices in a batch, and the smoothing constant, of the batch-wise convention of several public projects.
BATCH = 16
SMOOTH = 1.0


def bootstrap_interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> list[float]:
    """Percentile bootstrap 95 % interval of the mean; [NaN, NaN] for no values.

    Args:
        values: one a patient, no NaN.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if len(values) == 0:
        return [math.nan, math.nan]
    picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return [float(low), float(high)]


def describe(values: np.ndarray) -> dict[str, Any]:
    """Mean, 95 % interval, median, quartiles, extremes, and how many values are undefined (NaN)."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        empty = dict.fromkeys(("mean", "median", "q1", "q3", "min", "max"), math.nan)
        return {**empty, "mean_ci95": [math.nan, math.nan], "defined": 0, "undefined": len(values)}
    q1, median, q3 = np.quantile(defined, [0.25, 0.5, 0.75])
    return {
        "mean": float(defined.mean()),
        "mean_ci95": bootstrap_interval(defined),
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
        "min": float(defined.min()),
        "max": float(defined.max()),
        "defined": len(defined),
        "undefined": int(np.isnan(values).sum()),
    }


def slice_conventions(counts: np.ndarray) -> dict[str, float]:
    """The Dice score of one set of slices under each convention in use.

    Args:
        counts: (N, 4) of all slices, in the order of patients and slices.
    """
    scores = dice(counts)
    tumour = counts[:, 0] + counts[:, 2] > 0
    shuffled = np.random.default_rng(SEED).permutation(len(counts))
    return {
        "slices_empty_is_1": float(np.nan_to_num(scores, nan=1.0).mean()),
        "slices_empty_is_0": float(np.nan_to_num(scores, nan=0.0).mean()),
        "tumour_slices_only": float(scores[tumour].mean()) if tumour.any() else math.nan,
        "pooled": float(dice(counts.sum(axis=0))),
        "batches_of_16_smooth_1_shuffled": _batch_dice(counts[shuffled]),
        "batches_of_16_smooth_1_in_order": _batch_dice(counts),
    }


def _batch_dice(counts: np.ndarray) -> float:
    sums = np.add.reduceat(counts, np.arange(0, len(counts), BATCH), axis=0).astype(np.float64)
    tp, fp, fn, _ = sums.T
    return float(((2 * tp + SMOOTH) / (2 * tp + fp + fn + SMOOTH)).mean())


def detection(counts: np.ndarray) -> dict[str, Any]:
    """Sensitivity (share of positives that the prediction overlaps) and false-positive rate (share of negatives with
    any predicted pixel) over the rows of ``counts`` (N, 4); NaN where there is nothing to count."""
    positive = counts[:, 0] + counts[:, 2] > 0
    hit, alarm = counts[:, 0] > 0, counts[:, 1] > 0
    return {
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "sensitivity": float(hit[positive].mean()) if positive.any() else math.nan,
        "false_positive_rate": float(alarm[~positive].mean()) if (~positive).any() else math.nan,
    }


def always_empty(counts: np.ndarray) -> np.ndarray:
    """Counts of a prediction without any tumour on the same slices."""
    tp, fp, fn, tn = counts.T
    return np.stack([np.zeros_like(tp), np.zeros_like(fp), tp + fn, tn + fp], axis=-1)


def summarise(patients: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """All figures of one evaluation.

    Args:
        patients: name -> counts of its slices (D, 4).
    Raises:
        ValueError: no patients.
    """
    if not patients:
        raise ValueError("no patients to summarise; the part of the split is empty")
    slices = np.concatenate(list(patients.values()))
    volumes = np.stack([counts.sum(axis=0) for counts in patients.values()])
    empty = always_empty(slices)
    return {
        "patients": len(volumes),
        "slices": len(slices),
        "per_patient_dice": describe(dice(volumes)),
        "per_patient_iou": describe(iou(volumes)),
        "slice_dice": slice_conventions(slices),
        "slice_iou_empty_is_1": float(np.nan_to_num(iou(slices), nan=1.0).mean()),
        "detection": {"slices": detection(slices), "patients": detection(volumes), "pixels": _pixels(slices)},
        "always_empty": {
            "per_patient_dice_mean": describe(dice(always_empty(volumes)))["mean"],
            "slice_dice": slice_conventions(empty),
        },
    }


def _pixels(counts: np.ndarray) -> dict[str, float]:
    tp, fp, fn, tn = counts.sum(axis=0).astype(float)
    return {
        "sensitivity": tp / (tp + fn) if tp + fn else math.nan,
        "precision": tp / (tp + fp) if tp + fp else math.nan,
        "false_positive_rate": fp / (fp + tn) if fp + tn else math.nan,
    }
