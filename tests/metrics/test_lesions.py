import math

import numpy as np

from monai_lgg.metrics.lesions import lesion_counts, lesion_sensitivity


def counts(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    found = lesion_counts(prediction, truth)
    return found["lesions"], found["lesions_found"], found["false_positive_lesions"]


def test_by_hand() -> None:
    """Three lesions: one overlapped by two predicted parts, one by a single pixel, one missed; one false alarm."""
    truth, prediction = np.zeros((2, 20, 20, 4), dtype=bool)
    truth[2:6, 2:6, 0:2] = truth[10:14, 2:6, 1:3] = truth[2:6, 12:16, 2:4] = True
    prediction[2, 2:6, 0] = prediction[5, 2:6, 0] = True
    prediction[13:16, 5:8, 2] = True
    prediction[16:18, 16:18, 0] = True
    assert counts(prediction, truth) == (3, 2, 1)
    assert counts(truth, prediction) == (4, 3, 1)


def test_corners_connect_across_slices() -> None:
    truth = np.zeros((3, 3, 3), dtype=bool)
    truth[0, 0, 0] = truth[1, 1, 1] = truth[2, 2, 2] = True
    assert counts(truth, truth) == (1, 1, 0)
    truth[1, 1, 1] = False
    assert counts(truth, truth) == (2, 2, 0)


def test_empty_and_full() -> None:
    empty, full = np.zeros((4, 4, 2), dtype=bool), np.ones((4, 4, 2), dtype=bool)
    assert counts(empty, empty) == (0, 0, 0)
    assert counts(full, empty) == (0, 0, 1)
    assert counts(empty, full) == (1, 0, 0)
    assert counts(full, full) == (1, 1, 0)


def test_sensitivity() -> None:
    assert lesion_sensitivity(4, 3) == 0.75
    assert math.isnan(lesion_sensitivity(0, 0))
