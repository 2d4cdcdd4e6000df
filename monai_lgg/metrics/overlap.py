"""Dice, IoU and the counts they come from."""

import numpy as np

#: Columns of a count array: true positive, false positive, false negative, true negative pixels.
COUNTS = ("tp", "fp", "fn", "tn")


def slice_counts(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pixel counts of each slice.

    Args:
        prediction: bool, (H, W, D).
        truth: same shape.
    Returns:
        int64 (D, 4) in the order of :data:`COUNTS`.
    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape; compare on one grid")
    cells = [prediction & truth, prediction & ~truth, ~prediction & truth, ~prediction & ~truth]
    return np.stack([np.count_nonzero(cell, axis=(0, 1)) for cell in cells], axis=-1).astype(np.int64)


def dice(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) over the last axis of counts (..., 4); NaN where prediction and truth are empty."""
    tp, fp, fn, _ = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) over the last axis of counts (..., 4); NaN where prediction and truth are empty."""
    tp, fp, fn, _ = np.moveaxis(counts.astype(np.float64), -1, 0)
    return _ratio(tp, tp + fp + fn)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under > 0)
