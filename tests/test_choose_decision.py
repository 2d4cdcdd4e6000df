import numpy as np
import pytest
from scipy.special import expit

from scripts.choose_decision import BINS, LARGEST, POINTS, calibrate, histogram, reliability_table

TRUE = np.array([-14.0, -8.0, -3.0, -0.5, 2.0, 7.0])


def counts_of(score: np.ndarray, voxels: float = 1e6) -> np.ndarray:
    return voxels * np.stack([1 - expit(score), expit(score)])


def middles() -> np.ndarray:
    edges = np.linspace(-LARGEST, LARGEST, BINS + 1)
    return (edges[:-1] + edges[1:]) / 2


def test_the_line_that_made_the_counts_is_found() -> None:
    assert calibrate(counts_of(np.interp(middles(), POINTS, TRUE))) == pytest.approx(TRUE, abs=0.02)


def test_the_line_rises_where_there_are_no_voxels_and_where_they_fall() -> None:
    counts = counts_of(np.abs(middles()) - 6)  # fewer tumours as the logit grows to 0
    counts[:, middles() > 6] = 0
    assert (np.diff(calibrate(counts)) > 0).all()


def test_histogram_keeps_each_voxel() -> None:
    logits = np.array([-12.0, -11.995, 0.005, 12.0])
    counts = histogram(logits, np.array([False, False, True, True]))
    assert (counts[0, 0], counts[1, BINS // 2], counts[1, -1], counts.sum()) == (2, 1, 1, 4)


def test_reliability_by_hand() -> None:
    """Two bins at logits of nearly 0 and of nearly 12, as they are: probabilities of 1/2 and 1."""
    counts = np.zeros((2, BINS))
    counts[:, BINS // 2] = 30, 10
    counts[:, -1] = 0, 5
    lines = reliability_table([(counts, np.array(POINTS)), (counts, np.array(POINTS))]).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "80 voxels: said 0.501, is 0.250",
        "10 voxels: said 1.000, is 1.000",
    ]
