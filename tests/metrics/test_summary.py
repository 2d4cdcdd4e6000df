import math

import numpy as np
import pytest

from monai_lgg.metrics.summary import (
    always_empty,
    bootstrap_interval,
    describe,
    detection,
    slice_conventions,
    summarise,
)

#: Three slices: half right, a false alarm, rightly empty; then one patient missed entirely.
MIXED = np.array([[1, 1, 1, 97], [0, 2, 0, 98], [0, 0, 0, 100]])
MISSED = np.array([[0, 0, 4, 96], [0, 0, 0, 100]])


def test_conventions_by_hand() -> None:
    result = slice_conventions(np.concatenate([MIXED, MISSED]))
    assert result["slices_empty_is_1"] == pytest.approx((0.5 + 0 + 1 + 0 + 1) / 5)
    assert result["slices_empty_is_0"] == pytest.approx(0.5 / 5)
    assert result["tumour_slices_only"] == pytest.approx((0.5 + 0) / 2)
    assert result["pooled"] == pytest.approx(2 / (2 + 3 + 5))
    assert result["batches_of_16_smooth_1_in_order"] == pytest.approx(3 / 11)  # one batch of five slices


def test_batches_split_at_16() -> None:
    counts = np.concatenate([np.tile([1, 0, 0, 0], (16, 1)), np.tile([0, 1, 0, 0], (2, 1))])
    expected = ((32 + 1) / (32 + 1) + 1 / (2 + 1)) / 2
    assert slice_conventions(counts)["batches_of_16_smooth_1_in_order"] == pytest.approx(expected)


def test_summary_by_hand() -> None:
    summary = summarise({"a": MIXED, "b": MISSED, "healthy": np.array([[0, 0, 0, 100]])})
    patient = summary["per_patient_dice"]
    assert patient["mean"] == pytest.approx((2 / 6 + 0) / 2)  # a: 2 TP / (2 TP + FP + FN) = 2 / (2 + 3 + 1)
    assert patient["defined"] == 2
    assert patient["undefined"] == 1  # the healthy patient without prediction is counted, not averaged
    assert summary["detection"]["slices"] == {
        "positives": 2, "negatives": 4, "sensitivity": 0.5, "false_positive_rate": 0.25
    }  # fmt: skip
    assert summary["detection"]["patients"]["sensitivity"] == 0.5
    assert summary["detection"]["pixels"]["sensitivity"] == pytest.approx(1 / 6)
    assert summary["detection"]["pixels"]["precision"] == pytest.approx(1 / 4)
    assert summary["always_empty"]["slice_dice"]["slices_empty_is_1"] == pytest.approx(4 / 6)
    assert summary["always_empty"]["per_patient_dice_mean"] == 0


def independent_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """A second implementation, by sets of coordinates."""
    a, b = ({tuple(point) for point in np.argwhere(mask)} for mask in (prediction, truth))
    return math.nan if not a and not b else 2 * len(a & b) / (len(a) + len(b))


def test_agrees_with_an_independent_implementation() -> None:
    from monai_lgg.metrics.overlap import slice_counts

    rng = np.random.default_rng(1)
    cases = {f"p{i}": [rng.random((12, 9, 4)) > level for _ in range(2)] for i, level in enumerate((0.5, 0.9, 0.99, 2))}
    summary = summarise({name: slice_counts(*pair) for name, pair in cases.items()})
    volumes = np.array([independent_dice(*pair) for pair in cases.values()])
    slices = np.array([independent_dice(p[..., k], t[..., k]) for p, t in cases.values() for k in range(4)])
    assert summary["per_patient_dice"]["mean"] == pytest.approx(np.nanmean(volumes), abs=1e-6)
    assert summary["per_patient_dice"]["median"] == pytest.approx(np.nanmedian(volumes), abs=1e-6)
    assert summary["per_patient_dice"]["undefined"] == 1
    assert summary["slice_dice"]["slices_empty_is_1"] == pytest.approx(np.nan_to_num(slices, nan=1).mean(), abs=1e-6)
    assert summary["slice_dice"]["slices_empty_is_0"] == pytest.approx(np.nan_to_num(slices).mean(), abs=1e-6)


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 100)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / 10  # the normal approximation of the standard error
    assert low == pytest.approx(values.mean() - error, abs=0.004)
    assert high == pytest.approx(values.mean() + error, abs=0.004)
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([0.5])))


def test_bootstrap_in_steps_draws_what_one_step_draws() -> None:
    values = np.random.default_rng(0).normal(size=7)
    picks = np.random.default_rng(0).integers(7, size=(10_000, 7))
    assert bootstrap_interval(values) == np.quantile(values[picks].mean(axis=1), [0.025, 0.975]).tolist()


def test_infinite_values_are_counted_apart() -> None:
    result = describe(np.array([1.0, np.inf, 3.0, np.nan, np.inf]))
    assert (result["mean"], result["median"], result["max"]) == (2, 2, 3)
    assert result["p10"] == pytest.approx(1.2)
    assert (result["defined"], result["infinite"], result["undefined"]) == (2, 2, 1)
    assert all(map(math.isfinite, result["mean_ci95"]))


def test_no_interval_on_demand() -> None:
    whole = describe(np.array([1.0, 2.0]))
    assert describe(np.array([1.0, 2.0]), interval=False) == {k: v for k, v in whole.items() if k != "mean_ci95"}


def test_nothing_defined() -> None:
    result = describe(np.array([np.nan, np.nan]))
    assert result["undefined"] == 2
    assert math.isnan(result["mean"])
    assert math.isnan(detection(np.array([[0, 0, 0, 4]]))["sensitivity"])


def test_always_empty_keeps_the_pixels() -> None:
    np.testing.assert_array_equal(always_empty(MIXED).sum(axis=1), MIXED.sum(axis=1))
    np.testing.assert_array_equal(always_empty(MIXED)[0], [0, 0, 2, 98])


def test_no_patients() -> None:
    with pytest.raises(ValueError, match="no patients"):
        summarise({})
