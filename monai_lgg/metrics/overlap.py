"""Dice, IoU and the other ratios of pixel counts, and the counts they come from."""

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
    pixels = truth.shape[0] * truth.shape[1]
    tp, predicted, true = (
        np.count_nonzero(mask, axis=(0, 1)).astype(np.int64) for mask in (prediction & truth, prediction, truth)
    )
    return np.stack([tp, predicted - tp, true - tp, pixels - predicted - true + tp], axis=-1)


def dice(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) over the last axis of counts (..., 4); NaN where prediction and truth are empty.

    F1, the harmonic mean of precision and recall, is the same number for binary masks.
    """
    tp, fp, fn, _ = _columns(counts)
    return ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) over the last axis of counts (..., 4); NaN where prediction and truth are empty."""
    tp, fp, fn, _ = _columns(counts)
    return ratio(tp, tp + fp + fn)


def precision(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP) over the last axis of counts (..., 4); NaN where the prediction is empty."""
    tp, fp, _, _ = _columns(counts)
    return ratio(tp, tp + fp)


def recall(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FN), also called sensitivity, over the last axis of counts (..., 4); NaN where the truth is empty."""
    tp, _, fn, _ = _columns(counts)
    return ratio(tp, tp + fn)


def specificity(counts: np.ndarray) -> np.ndarray:
    """TN / (TN + FP) over the last axis of counts (..., 4); NaN where every pixel is tumour."""
    _, fp, _, tn = _columns(counts)
    return ratio(tn, tn + fp)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of pixels that agree, over the last axis of counts (..., 4). About 0.99 for an empty prediction here."""
    tp, fp, fn, tn = _columns(counts)
    return ratio(tp + tn, tp + fp + fn + tn)


def volume_error(counts: np.ndarray) -> np.ndarray:
    """|predicted - true| / true volume over the last axis of counts (..., 4); NaN where the truth is empty."""
    tp, fp, fn, _ = _columns(counts)
    return ratio(np.abs(fp - fn), tp + fn)


#: What follows from the counts alone, by the name of the metric.
OVERLAP = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "accuracy": accuracy,
    "volume_error": volume_error,
}


def _columns(counts: np.ndarray) -> np.ndarray:
    return np.moveaxis(counts.astype(np.float64), -1, 0)


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """``over / under``, NaN where ``under`` is 0."""
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under > 0)
