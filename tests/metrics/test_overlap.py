import numpy as np
import pytest
from monai.metrics import compute_dice, compute_iou
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, recall_score

from monai_lgg.metrics.overlap import (
    OVERLAP,
    accuracy,
    dice,
    iou,
    precision,
    recall,
    slice_counts,
    specificity,
    volume_error,
)


def test_counts_by_hand() -> None:
    prediction = np.array([[[1, 0], [1, 0]], [[0, 0], [0, 1]]], dtype=bool)  # (2, 2, 2)
    truth = np.array([[[1, 0], [0, 0]], [[1, 0], [0, 0]]], dtype=bool)
    np.testing.assert_array_equal(slice_counts(prediction, truth), [[1, 1, 1, 1], [0, 1, 0, 3]])


def test_dice_and_iou_by_hand() -> None:
    counts = np.array([[1, 1, 1, 1], [0, 1, 0, 3], [0, 0, 0, 4], [4, 0, 0, 0]])
    np.testing.assert_allclose(dice(counts), [0.5, 0, np.nan, 1])
    np.testing.assert_allclose(iou(counts), [1 / 3, 0, np.nan, 1])


def test_the_other_ratios_by_hand() -> None:
    """Rows: a bit of each, a false alarm, both empty, both full, all missed."""
    counts = np.array([[2, 1, 2, 5], [0, 1, 0, 3], [0, 0, 0, 4], [4, 0, 0, 0], [0, 0, 4, 0]])
    np.testing.assert_allclose(precision(counts), [2 / 3, 0, np.nan, 1, np.nan])
    np.testing.assert_allclose(recall(counts), [1 / 2, np.nan, np.nan, 1, 0])
    np.testing.assert_allclose(specificity(counts), [5 / 6, 3 / 4, 1, np.nan, np.nan])
    np.testing.assert_allclose(accuracy(counts), [7 / 10, 3 / 4, 1, 1, 0])
    np.testing.assert_allclose(volume_error(counts), [1 / 4, np.nan, np.nan, 0, 1])


def test_agrees_with_monai() -> None:
    import torch

    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 20, 30, 5)) > 0.7
    counts = slice_counts(prediction, truth)
    tensors = [torch.as_tensor(np.moveaxis(mask, -1, 0)[:, None].astype(np.float32)) for mask in (prediction, truth)]
    np.testing.assert_allclose(dice(counts), compute_dice(*tensors)[:, 0].numpy(), atol=1e-6)
    np.testing.assert_allclose(iou(counts), compute_iou(*tensors)[:, 0].numpy(), atol=1e-6)


def test_agrees_with_scikit_learn() -> None:
    """F1 is Dice."""
    rng = np.random.default_rng(1)
    prediction, truth = rng.random((2, 9, 7, 4)) > 0.6
    counts = slice_counts(prediction, truth).sum(axis=0)
    flat = truth.ravel(), prediction.ravel()
    expected = precision_recall_fscore_support(*flat, average="binary")[:3]
    np.testing.assert_allclose([of(counts) for of in (precision, recall, dice)], expected, rtol=1e-12)
    assert accuracy(counts) == pytest.approx(accuracy_score(*flat), rel=1e-12)
    assert specificity(counts) == pytest.approx(recall_score(~flat[0], ~flat[1]), rel=1e-12)


def test_every_ratio_takes_one_row_and_many() -> None:
    counts = np.random.default_rng(2).integers(0, 3, (6, 4))
    for name, of in OVERLAP.items():
        np.testing.assert_array_equal(of(counts), [of(row) for row in counts], err_msg=name)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        slice_counts(np.zeros((2, 2, 1), bool), np.zeros((2, 3, 1), bool))
