import numpy as np
import pytest
from monai.metrics import compute_dice, compute_iou

from monai_lgg.metrics.overlap import dice, iou, slice_counts


def test_counts_by_hand() -> None:
    prediction = np.array([[[1, 0], [1, 0]], [[0, 0], [0, 1]]], dtype=bool)  # (2, 2, 2)
    truth = np.array([[[1, 0], [0, 0]], [[1, 0], [0, 0]]], dtype=bool)
    np.testing.assert_array_equal(slice_counts(prediction, truth), [[1, 1, 1, 1], [0, 1, 0, 3]])


def test_dice_and_iou_by_hand() -> None:
    counts = np.array([[1, 1, 1, 1], [0, 1, 0, 3], [0, 0, 0, 4], [4, 0, 0, 0]])
    np.testing.assert_allclose(dice(counts), [0.5, 0, np.nan, 1])
    np.testing.assert_allclose(iou(counts), [1 / 3, 0, np.nan, 1])


def test_agrees_with_monai() -> None:
    import torch

    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 20, 30, 5)) > 0.7
    counts = slice_counts(prediction, truth)
    tensors = [torch.as_tensor(np.moveaxis(mask, -1, 0)[:, None].astype(np.float32)) for mask in (prediction, truth)]
    np.testing.assert_allclose(dice(counts), compute_dice(*tensors)[:, 0].numpy(), atol=1e-6)
    np.testing.assert_allclose(iou(counts), compute_iou(*tensors)[:, 0].numpy(), atol=1e-6)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        slice_counts(np.zeros((2, 2, 1), bool), np.zeros((2, 3, 1), bool))
