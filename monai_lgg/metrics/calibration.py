"""Calibration of the probabilities: Brier score, expected calibration error (ECE), reliability curve.

All from sums over ten bins of equal width, which add up over slices, patients and cohorts. All pixels count, and most
of them are easy background, so ECE and Brier score are small in absolute terms: compare them between models on the
same patients, and read the reliability curve for the rest.
"""

from typing import Any

import numpy as np

from monai_lgg.metrics.overlap import ratio

BINS = 10
#: Columns of the sums: pixels, their probabilities, those with tumour, squared differences of probability and truth.
SUMS = ("count", "probability", "positive", "squared_error")


def calibration_sums(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Float64 (BINS, 4), columns :data:`SUMS`. A probability on an edge belongs to the bin above it, 1 to the last.

    Args:
        probability: 0 to 1, of any shape.
        truth: bool, same shape.
    """
    values, is_tumour = probability.ravel().astype(np.float64), truth.ravel()
    index = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    columns = (
        np.bincount(index, minlength=BINS),
        np.bincount(index, values, BINS),
        np.bincount(index[is_tumour], minlength=BINS),
        np.bincount(index, (values - is_tumour) ** 2, BINS),
    )
    return np.stack(columns, axis=-1).astype(np.float64)


def brier(sums: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and truth over sums (..., BINS, 4); exact, not binned. NaN without pixels.

    Source: Brier 1950.
    """
    count, _, _, squared = np.moveaxis(sums, -1, 0)
    return ratio(squared.sum(axis=-1), count.sum(axis=-1))


def ece(sums: np.ndarray) -> np.ndarray:
    """Mean over pixels of |mean probability - share with tumour| of their bin, over sums (..., BINS, 4).

    Source: Naeini, Cooper and Hauskrecht 2015, with ten bins of equal width.
    """
    count, probability, positive, _ = np.moveaxis(sums, -1, 0)
    return ratio(np.abs(probability - positive).sum(axis=-1), count.sum(axis=-1))


def reliability(sums: np.ndarray) -> dict[str, list[Any]]:
    """The reliability curve of sums (BINS, 4): bin edges, pixels, mean probability and observed share; NaN if empty."""
    count, probability, positive, _ = sums.T
    return {
        "edges": np.linspace(0, 1, BINS + 1).round(6).tolist(),
        "count": count.astype(np.int64).tolist(),
        "mean_probability": ratio(probability, count).tolist(),
        "observed": ratio(positive, count).tolist(),
    }
