"""Counts per slice and patient -> the figures of a report, each convention by its name."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_lgg.metrics.overlap import dice, iou

#: Resamples of the bootstrap over patients, and its seed.
RESAMPLES = 10_000
SEED = 0
#: Resamples drawn at once, so that memory stays small for any number of patients.
_AT_ONCE = 500
#: Slices in a batch, and the smoothing constant, of the batch-wise convention of several public projects.
BATCH = 16
SMOOTH = 1.0
#: Key of the summary's ``slice_dice`` -> the convention in words.
CONVENTIONS = {
    "slices_empty_is_1": "mean over slices, empty and rightly empty counts 1",
    "slices_empty_is_0": "mean over slices, empty counts 0",
    "tumour_slices_only": "mean over tumour slices only",
    "pooled": "pooled over all slices",
    "batches_of_16_smooth_1_shuffled": "mean over batches of 16, smoothed by 1, shuffled",
    "batches_of_16_smooth_1_in_order": "mean over batches of 16, smoothed by 1, in order",
}


def bootstrap_interval(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> list[float]:
    """Percentile bootstrap 95 % interval of the mean; [NaN, NaN] for fewer than two values, which tell no spread.

    Args:
        values: one a patient, no NaN.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if len(values) < 2:
        return [math.nan, math.nan]
    rng = np.random.default_rng(seed)
    steps = [min(_AT_ONCE, resamples - start) for start in range(0, resamples, _AT_ONCE)]
    means = [values[rng.integers(len(values), size=(step, len(values)))].mean(axis=1) for step in steps]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return [float(low), float(high)]


def describe(values: np.ndarray, interval: bool = True) -> dict[str, Any]:
    """Mean, 95 % interval, 10th percentile, quartiles and extremes of the finite values; how many are not finite.

    Args:
        values: one a patient (or slice). NaN is undefined. inf is a distance to an empty mask, a failure that no mean
            can hold: it is counted apart, so read the mean together with ``infinite``.
        interval: False leaves ``mean_ci95`` out, for values that are not independent, such as slices of a patient.
    Returns:
        The figures, and the numbers of ``defined`` (finite), ``infinite`` and ``undefined`` values.
    """
    finite = values[np.isfinite(values)]
    shares = {"p10": 0.1, "q1": 0.25, "median": 0.5, "q3": 0.75}
    quantiles = np.quantile(finite, list(shares.values())) if len(finite) else [math.nan] * len(shares)
    return {
        "mean": float(finite.mean()) if len(finite) else math.nan,
        **({"mean_ci95": bootstrap_interval(finite)} if interval else {}),
        **{name: float(value) for name, value in zip(shares, quantiles, strict=True)},
        "min": float(finite.min()) if len(finite) else math.nan,
        "max": float(finite.max()) if len(finite) else math.nan,
        "defined": len(finite),
        "infinite": int(np.isinf(values).sum()),
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
