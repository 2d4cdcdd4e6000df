import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.metrics import auc, average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from monai_lgg.metrics.ranking import (
    BINS,
    auc_error,
    bin_centres,
    bin_index,
    histogram,
    pr_auc,
    pr_curve,
    roc_auc,
    roc_curve,
)


def draw(seed: int, pixels: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as a network gives them, most of them near 0, and a truth that they say something about."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-4, 3, pixels)
    truth = rng.random(pixels) < 1 / (1 + np.exp(-0.7 * log_odds - 1))
    return 1 / (1 + np.exp(-log_odds)), truth


@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_where_each_bin_holds_one_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability = bin_centres()[rng.integers(BINS // 2 - 40, BINS // 2 + 40, 4000)]  # many ties
    truth = rng.random(4000) < probability
    found = histogram(probability, truth)
    assert roc_auc(found) == pytest.approx(roc_auc_score(truth, probability), abs=1e-13)
    assert pr_auc(found) == pytest.approx(average_precision_score(truth, probability), abs=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_any_probabilities_within_the_stated_error(seed: int) -> None:
    probability, truth = draw(seed)
    for values in (probability, probability.astype(np.float32)):
        found = histogram(values, truth)
        error = float(auc_error(found))
        assert error < 2e-3
        assert abs(roc_auc(found) - roc_auc_score(truth, values)) <= error
        assert pr_auc(found) == pytest.approx(average_precision_score(truth, values), abs=2e-3)


def test_the_error_is_reached_when_ties_hide_the_order() -> None:
    """Two pixels in one bin, rightly ordered: 0.5 instead of 1."""
    found = histogram(np.array([0.5001, 0.5002]), np.array([False, True]))
    assert roc_auc(found) == 0.5
    assert auc_error(found) == 0.5


def test_bins() -> None:
    np.testing.assert_array_equal(bin_index(bin_centres()), np.arange(BINS))
    np.testing.assert_array_equal(bin_index(np.array([0, 1e-30, 1])), [0, 0, BINS - 1])
    np.testing.assert_array_equal(bin_index(np.array([0, 1], dtype=np.float32)), [0, BINS - 1])
    np.testing.assert_array_equal(bin_index(np.array([0, 0.5, 1], dtype=np.float16)), [0, BINS // 2, BINS - 1])
    odds = bin_centres() / (1 - bin_centres())
    np.testing.assert_allclose(odds[1:] / odds[:-1], 1.00784, rtol=1e-4)  # 0.8 % apart, as the module says


def test_by_hand() -> None:
    """Positives at 0.9 and 0.4, negatives at 0.6, 0.4 and 0.1: wins 3 + (0 + 0.5 + 1) of 6.

    Precision is 1 at 0.9 (recall 1/2) and 2/4 at 0.4 (recall 1).
    """
    found = histogram(np.array([0.9, 0.4, 0.6, 0.4, 0.1]), np.array([True, True, False, False, False]))
    assert roc_auc(found) == pytest.approx(4.5 / 6)
    assert pr_auc(found) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert roc_curve(found) == {"fpr": [0, 0, 1 / 3, 2 / 3, 1], "tpr": [0, 0.5, 0.5, 1, 1]}
    assert pr_curve(found) == {"recall": [0.5, 0.5, 1, 1], "precision": [1, 0.5, 0.5, 0.4]}


def test_undefined() -> None:
    none = histogram(np.array([0.2, 0.7]), np.array([False, False]))
    assert np.isnan(roc_auc(none))
    assert np.isnan(pr_auc(none))
    assert np.isnan(auc_error(none))
    assert roc_curve(none) == {"fpr": [], "tpr": []}
    assert pr_curve(none) == {"recall": [], "precision": []}
    every = histogram(np.array([0.2, 0.7]), np.array([True, True]))
    assert np.isnan(roc_auc(every))
    assert pr_auc(every) == 1


def test_histograms_add_up() -> None:
    parts = [histogram(*draw(seed)) for seed in range(3)]
    probability, truth = (np.concatenate(of) for of in zip(*(draw(seed) for seed in range(3)), strict=True))
    np.testing.assert_array_equal(sum(parts), histogram(probability, truth))
    assert sum(parts).sum() == 15000
    np.testing.assert_array_equal(roc_auc(np.stack(parts)), [roc_auc(part) for part in parts])
    np.testing.assert_array_equal(pr_auc(np.stack(parts)), [pr_auc(part) for part in parts])


def test_curves_are_thinned_evenly() -> None:
    probability, truth = draw(7, 50_000)
    found = histogram(probability, truth)
    curve = roc_curve(found)
    fpr, tpr = np.array(curve["fpr"]), np.array(curve["tpr"])
    assert len(fpr) == len(tpr) <= 201
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.hypot(np.diff(fpr), np.diff(tpr)).max() < 0.03  # 2 / 200, and the height of a step
    assert auc(fpr, tpr) == pytest.approx(roc_auc(found), abs=1e-3)
    exact = np.stack(sklearn_roc_curve(truth, probability, drop_intermediate=False)[:2], axis=-1)
    assert cKDTree(exact).query(np.stack([fpr, tpr], axis=-1))[0].max() < 1e-12
    precision = pr_curve(found)
    assert len(precision["recall"]) <= 201
    assert precision["recall"][-1] == 1
    assert precision["precision"][-1] == pytest.approx(truth.mean())
