import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from monai_lgg.metrics.calibration import brier, calibration_sums, ece, reliability


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = rng.random((30, 40))
    return probability, rng.random((30, 40)) < probability**2


def test_by_hand() -> None:
    """Bin 0 to 0.1: 0.05 twice, one is tumour. Bin 0.7 to 0.8: 0.7 and 0.78, both tumour. Last bin: 1, no tumour."""
    sums = calibration_sums(np.array([0.05, 0.05, 0.7, 0.78, 1]), np.array([True, False, True, True, False]))
    np.testing.assert_allclose(sums[0], [2, 0.1, 1, 0.95**2 + 0.05**2])
    np.testing.assert_allclose(sums[7], [2, 1.48, 2, 0.3**2 + 0.22**2])
    np.testing.assert_allclose(sums[9], [1, 1, 0, 1])
    assert sums[:, 0].sum() == 5
    assert ece(sums) == pytest.approx((2 * 0.45 + 2 * 0.26 + 1 * 1) / 5)
    assert brier(sums) == pytest.approx((0.95**2 + 0.05**2 + 0.3**2 + 0.22**2 + 1) / 5)
    curve = reliability(sums)
    assert curve["edges"] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert curve["count"] == [2, 0, 0, 0, 0, 0, 0, 2, 0, 1]
    np.testing.assert_allclose(curve["mean_probability"], [0.05, *[np.nan] * 6, 0.74, np.nan, 1])
    np.testing.assert_allclose(curve["observed"], [0.5, *[np.nan] * 6, 1, np.nan, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_scikit_learn(dtype: type) -> None:
    probability, truth = draw(0)
    probability = probability.astype(dtype)
    sums = calibration_sums(probability, truth)
    flat = truth.ravel(), probability.ravel().astype(np.float64)
    assert brier(sums) == pytest.approx(brier_score_loss(*flat), rel=1e-12)
    observed, mean = calibration_curve(*flat, n_bins=10)
    curve = reliability(sums)
    np.testing.assert_allclose(curve["observed"], observed, rtol=1e-12)
    np.testing.assert_allclose(curve["mean_probability"], mean, rtol=1e-12)
    expected = np.average(np.abs(observed - mean), weights=curve["count"])
    assert ece(sums) == pytest.approx(expected, rel=1e-12)


def test_sums_add_up() -> None:
    parts = [calibration_sums(*draw(seed)) for seed in range(3)]
    whole = calibration_sums(*(np.concatenate(of) for of in zip(*(draw(seed) for seed in range(3)), strict=True)))
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-12)
    np.testing.assert_array_equal(ece(np.stack(parts)), [ece(part) for part in parts])
    np.testing.assert_array_equal(brier(np.stack(parts)), [brier(part) for part in parts])


def test_certain_and_right_or_wrong() -> None:
    truth = np.array([True, False, False])
    assert brier(calibration_sums(truth.astype(float), truth)) == ece(calibration_sums(truth.astype(float), truth)) == 0
    assert brier(calibration_sums(1.0 - truth, truth)) == ece(calibration_sums(1.0 - truth, truth)) == 1


def test_nothing() -> None:
    assert np.isnan(brier(np.zeros((10, 4))))
    assert np.isnan(ece(np.zeros((10, 4))))
