"""Is one model better than another, or could it be chance? Paired tests over patients.

The unit is the patient, never the slice: slices of one patient resemble each other, so counting them as independent
makes any difference look certain.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from monai_lgg.metrics.summary import RESAMPLES, SEED, bootstrap_interval

#: With fewer patients that differ, no two-sided signed-rank p value can fall below 0.05 (2 / 2^5 is 0.0625).
FEWEST_PATIENTS = 6


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same patients.

    Args:
        patients: pairs that were tested.
        undefined: pairs left out because one of the values is undefined.
        difference: mean of first - second over those pairs.
        interval: 95 % bootstrap interval of that difference, [low, high].
        p_value: of the two-sided Wilcoxon signed-rank test; NaN without a pair.
        note: what to know before believing the p value; empty when there is nothing.
    """

    patients: int
    undefined: int
    difference: float
    interval: list[float] = field(default_factory=lambda: [math.nan, math.nan])
    p_value: float = math.nan
    note: str = ""


def paired_test(
    first: Mapping[str, float], second: Mapping[str, float], resamples: int = RESAMPLES, seed: int = SEED
) -> PairedTest:
    """Compare the values of two models, one a patient.

    Args:
        first: patient -> value; NaN or infinite where it is undefined.
        second: of the same patients.
    Raises:
        ValueError: the patients differ.
    """
    other = sorted(first.keys() ^ second.keys())
    if other:
        raise ValueError(f"{len(other)} patient(s) are in one of the two only, first {other[0]}; use the same patients")
    pairs = np.array([[first[name], second[name]] for name in sorted(first)], dtype=float).reshape(-1, 2)
    defined = np.isfinite(pairs).all(axis=1)
    kept = pairs[defined]
    undefined = int(np.count_nonzero(~defined))
    if len(kept) == 0:
        return PairedTest(0, undefined, math.nan, note="no patient has a value in both")
    difference, interval = paired_bootstrap(kept[:, 0], kept[:, 1], resamples, seed)
    p_value, note = wilcoxon(kept[:, 0], kept[:, 1])
    return PairedTest(len(kept), undefined, difference, interval, p_value, note)


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, list[float]]:
    """Difference of the means and its 95 % percentile interval; patients are drawn, each with both of its values.

    Args:
        first: one value a patient, all finite.
        second: of the same patients in the same order.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    differences = first - second
    return float(differences.mean()), bootstrap_interval(differences, resamples, seed)


def wilcoxon(first: np.ndarray, second: np.ndarray) -> tuple[float, str]:
    """Two-sided p value of the signed-rank test, and a note on what it cannot say.

    Patients without a difference are left out, as in Wilcoxon's own procedure; if none is left, p is 1.
    Exact for up to 50 patients without ties.

    Args:
        first: one value a patient, all finite.
        second: of the same patients in the same order.
    Source: Wilcoxon, Biometrics Bulletin 1(6), 1945; scipy.stats.wilcoxon.
    """
    from scipy import stats

    differences = first - second
    differing = differences[differences != 0]
    count = len(differing)
    if count == 0:
        return 1.0, "no patient differs"
    p_value = float(stats.wilcoxon(differing).pvalue)
    if count < FEWEST_PATIENTS:
        return p_value, f"only {count} patient(s) differ, so p cannot fall below {2 / 2**count:.3g}"
    return p_value, ""
