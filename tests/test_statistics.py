import math

import numpy as np
import pytest
from scipy import stats

from monai_lgg.statistics import paired_bootstrap, paired_test, wilcoxon


def named(values: list[float]) -> dict[str, float]:
    return {f"P{k}": value for k, value in enumerate(values)}


def test_bootstrap_of_a_constant_difference_is_that_difference() -> None:
    difference, interval = paired_bootstrap(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.6, 0.8]))
    assert difference == pytest.approx(0.1)
    assert interval == pytest.approx([0.1, 0.1])


def test_bootstrap_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(30)
    second = first - 0.1 + 0.2 * rng.random(30)
    difference, interval = paired_bootstrap(first, second)
    other = stats.bootstrap(
        (first, second), lambda a, b: np.mean(a) - np.mean(b), paired=True, vectorized=False, method="percentile", rng=2
    ).confidence_interval
    assert difference == pytest.approx(first.mean() - second.mean())
    assert interval == pytest.approx([other.low, other.high], abs=0.002)


def test_bootstrap_is_seeded_and_keeps_pairs_together() -> None:
    first = np.linspace(0, 1, 20)
    assert paired_bootstrap(first, first - 0.01, seed=3) == paired_bootstrap(first, first - 0.01, seed=3)
    _, (low, high) = paired_bootstrap(first, first - 0.01)  # unpaired, the interval would be some 0.4 wide
    assert high - low < 1e-9
    noisy = first - np.random.default_rng(0).random(20)
    assert paired_bootstrap(first, noisy, seed=1)[1] != paired_bootstrap(first, noisy, seed=2)[1]


def test_wilcoxon_by_hand() -> None:
    """Six differences of one sign: the most extreme of 2^6 sign patterns on either side, p = 2 / 64."""
    p_value, note = wilcoxon(np.array([1.0, 2, 3, 4, 5, 6]), np.zeros(6))
    assert p_value == pytest.approx(2 / 64)
    assert note == ""


def test_wilcoxon_agrees_with_scipy_on_ties_and_zeros() -> None:
    first = np.array([0.8, 0.7, 0.9, 0.6, 0.5, 0.4, 0.75, 0.65, 0.9, 0.3])
    second = np.array([0.7, 0.7, 0.8, 0.65, 0.4, 0.2, 0.70, 0.60, 0.9, 0.35])
    p_value, note = wilcoxon(first, second)
    assert p_value == pytest.approx(stats.wilcoxon(first, second, zero_method="wilcox").pvalue)
    assert 0.02 < p_value < 0.2
    assert note == ""


def test_wilcoxon_without_any_difference() -> None:
    assert wilcoxon(np.ones(8), np.ones(8)) == (1.0, "no patient differs")


def test_wilcoxon_of_few_patients_says_so() -> None:
    p_value, note = wilcoxon(np.array([1.0, 2, 3, 4, 5, 5]), np.array([0.0, 0, 0, 0, 0, 5]))
    assert p_value == pytest.approx(2 / 32)
    assert note == "only 5 patient(s) differ, so p cannot fall below 0.0625"


def test_undefined_pairs_are_left_out_and_counted() -> None:
    first = named([0.9, 0.8, math.nan, 0.7, math.inf])
    second = {"P3": 0.5, "P0": 0.8, "P1": 0.8, "P2": 0.1, "P4": 0.0}
    result = paired_test(first, second)
    assert (result.patients, result.undefined) == (3, 2)
    assert result.difference == pytest.approx((0.1 + 0.0 + 0.2) / 3)
    assert result.p_value == pytest.approx(0.5)  # two positive differences: 2 / 2^2
    assert "only 2 patient(s) differ" in result.note


def test_nothing_to_compare() -> None:
    result = paired_test(named([math.nan]), named([0.5]))
    assert (result.patients, result.undefined) == (0, 1)
    assert math.isnan(result.p_value)
    assert result.note == "no patient has a value in both"


def test_other_patients() -> None:
    with pytest.raises(ValueError, match=r"2 patient\(s\) are in one of the two only, first P1"):
        paired_test({"P0": 1.0, "P1": 1.0}, {"P0": 1.0, "P2": 1.0})
