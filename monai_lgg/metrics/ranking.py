"""ROC-AUC and PR-AUC (average precision) from histograms of the probabilities, in memory that no cohort outgrows.

The 4,096 bins are equally wide in log-odds from -16 to 16 (0.8 % of the odds; what lies beyond goes into the outermost
bins), because a network's probabilities crowd near 0 and 1. Pixels of one bin are ties, and ties are handled as
scikit-learn does, so the areas equal scikit-learn's where each bin holds one value. :func:`auc_error` bounds what the
binning can have done to the ROC-AUC otherwise.
"""

import numpy as np

from monai_lgg.metrics.overlap import ratio

BINS = 4096
#: Log-odds of the outer edges, -16 and 16: 1e-7 and 1 - 1e-7, about the last float32 below 1.
LOG_ODDS = 16.0


def bin_index(probability: np.ndarray) -> np.ndarray:
    """The bin of each probability, int64."""
    values = probability.astype(np.result_type(probability.dtype, np.float32), copy=False)
    with np.errstate(divide="ignore"):
        position = (np.log(values) - np.log1p(-values) + LOG_ODDS) * (BINS / (2 * LOG_ODDS))
    return np.clip(position, 0, BINS - 1).astype(np.int64)


def bin_centres() -> np.ndarray:
    """The probability in the middle of each bin."""
    log_odds = (np.arange(BINS) + 0.5) * (2 * LOG_ODDS / BINS) - LOG_ODDS
    return 1 / (1 + np.exp(-log_odds))


def histogram(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """int64 (2, BINS): how many pixels without, and with, tumour have a probability in each bin. They add up.

    Args:
        probability: 0 to 1, of any shape.
        truth: bool, same shape.
    """
    index = bin_index(probability.ravel()) + BINS * truth.ravel()
    return np.bincount(index, minlength=2 * BINS).reshape(2, BINS)


def roc_auc(histograms: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of histograms (..., 2, BINS); NaN without tumour pixels or without others.

    It is the chance that a tumour pixel has a higher probability than another one, ties counting one half.
    """
    negative, positive = _split(histograms)
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=-1)
    return ratio(wins, positive.sum(axis=-1) * negative.sum(axis=-1))


def auc_error(histograms: np.ndarray) -> np.ndarray:
    """The most that the ROC-AUC of the histograms can differ from that of the unbinned probabilities.

    Half of the pairs in one bin. Among them are pairs that are ties without bins too (a bfloat16 network gives many),
    so the true difference is smaller.
    """
    negative, positive = _split(histograms)
    return ratio((positive * negative).sum(axis=-1) / 2, positive.sum(axis=-1) * negative.sum(axis=-1))


def pr_auc(histograms: np.ndarray) -> np.ndarray:
    """Average precision of histograms (..., 2, BINS): the sum over thresholds of precision times gain in recall.

    No interpolation between thresholds, which would be too good (Davis and Goadrich 2006). NaN without tumour pixels.
    """
    negative, positive = _split(histograms)
    true, false = _above(positive), _above(negative)
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(true / (true + false))  # 0 / 0 only where no pixel is gained either
    return ratio((precision * positive).sum(axis=-1), positive.sum(axis=-1))


def roc_curve(histogram: np.ndarray, points: int = 201) -> dict[str, list[float]]:
    """False- and true-positive rate over falling thresholds, (0, 0) to (1, 1), at most ``points`` of them.

    Args:
        histogram: (2, BINS). Without tumour pixels, or without others, the lists are empty.
    """
    negative, positive = _split(histogram)
    if not positive.sum() or not negative.sum():
        return {"fpr": [], "tpr": []}
    fpr, tpr = (np.append(0, _above(of)[::-1] / of.sum()) for of in (negative, positive))
    keep = _spread(fpr, tpr, points)
    return {"fpr": fpr[keep].tolist(), "tpr": tpr[keep].tolist()}


def pr_curve(histogram: np.ndarray, points: int = 201) -> dict[str, list[float]]:
    """Recall and precision over falling thresholds, at most ``points`` of them.

    Args:
        histogram: (2, BINS). Without tumour pixels the lists are empty.
    """
    negative, positive = _split(histogram)
    if not positive.sum():
        return {"recall": [], "precision": []}
    true, false = _above(positive)[::-1], _above(negative)[::-1]
    some = true + false > 0
    recall, precision = true[some] / positive.sum(), true[some] / (true + false)[some]
    keep = _spread(recall, precision, points)
    return {"recall": recall[keep].tolist(), "precision": precision[keep].tolist()}


def _split(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = histograms.astype(np.float64)
    return values[..., 0, :], values[..., 1, :]


def _above(counts: np.ndarray) -> np.ndarray:
    """How many lie in each bin or a higher one."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _spread(x: np.ndarray, y: np.ndarray, points: int) -> np.ndarray:
    """Indices of at most ``points`` points of a curve, evenly spread along its length, the ends among them."""
    length = np.append(0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
    steps = np.linspace(0, length[-1], points)
    return np.unique(np.searchsorted(length, steps))
