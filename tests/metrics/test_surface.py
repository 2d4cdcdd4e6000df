import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import gaussian_filter

from monai_lgg.metrics.surface import bounding_box, hd95, surface_dice, surface_distances


def mask(shape: tuple[int, ...], *boxes: tuple[slice, ...]) -> np.ndarray:
    result = np.zeros(shape, dtype=bool)
    for box in boxes:
        result[box] = True
    return result


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return gaussian_filter(rng.standard_normal(shape), 2) > 0.05


def test_two_pixels_three_apart() -> None:
    a, b = mask((5, 9), np.s_[2, 1]), mask((5, 9), np.s_[2, 4])
    distances = surface_distances(a, b)
    assert [of.tolist() for of in distances] == [[3], [3]]
    assert hd95(distances) == 3
    assert surface_dice(distances, 2.9) == 0
    assert surface_dice(distances, 3) == 1
    assert hd95(surface_distances(a, b, (0.5, 0.8))) == pytest.approx(2.4)


def test_two_slices_apart_in_mm_and_voxels() -> None:
    a, b = mask((4, 4, 6), np.s_[1, 1, 1]), mask((4, 4, 6), np.s_[1, 1, 4])
    assert hd95(surface_distances(a, b, (0.9, 0.9, 5))) == 15
    assert hd95(surface_distances(a, b)) == 3


def test_a_square_moved_by_one() -> None:
    """Rows and columns 2 to 5 against columns 3 to 6: 12 surface pixels each, 6 of them on the other's surface."""
    truth, moved = mask((9, 9), np.s_[2:6, 2:6]), mask((9, 9), np.s_[2:6, 3:7])
    distances = surface_distances(moved, truth)
    assert [sorted(of) for of in distances] == [[0] * 6 + [1] * 6] * 2
    assert hd95(distances) == 1
    assert surface_dice(distances, 0) == 0.5
    assert surface_dice(distances, 1) == 1


def test_a_far_spot_counts_in_one_direction() -> None:
    """A bar of 20 pixels, predicted with a spot 10 rows above: 21 distances, of which the 95th percentile is 0.

    Its place is 0.95 * 20 = 19, the last of the 20 zeros; with 19 pixels it would lie between 0 and 10, at 0.95 * 19.
    """
    bar = mask((20, 30), np.s_[15, 5:25])
    assert hd95(surface_distances(bar | mask((20, 30), np.s_[5, 10]), bar)) == 0
    short = mask((20, 30), np.s_[15, 5:24])
    assert hd95(surface_distances(short | mask((20, 30), np.s_[5, 10]), short)) == pytest.approx(0.05 * 10)


def test_empty_masks() -> None:
    empty, square = mask((6, 6)), mask((6, 6), np.s_[1:3, 1:3])
    both = surface_distances(empty, empty)
    assert math.isnan(hd95(both))
    assert math.isnan(surface_dice(both))
    for pair in ((empty, square), (square, empty)):
        distances = surface_distances(*pair)
        assert hd95(distances) == math.inf
        assert surface_dice(distances) == 0


def test_full_masks_have_the_border_as_surface() -> None:
    full = np.ones((4, 5), dtype=bool)
    distances = surface_distances(full, full)
    assert [len(of) for of in distances] == [14, 14]
    assert hd95(distances) == 0
    assert surface_dice(distances) == 1


@pytest.mark.parametrize("spacing", [None, (0.5, 0.8, 4.0)])
@pytest.mark.parametrize("axes", [2, 3])
def test_agrees_with_monai(axes: int, spacing: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(axes)
    shape, spacing = (23, 17, 9)[:axes], None if spacing is None else spacing[:axes]
    for _ in range(4):
        pair = blobs(rng, shape), blobs(rng, shape)
        tensors = [torch.as_tensor(of[None, None].astype(np.float32)) for of in pair]
        distances = surface_distances(*pair, spacing)
        expected = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
        assert hd95(distances) == pytest.approx(expected.item(), rel=1e-5)
        expected = compute_surface_dice(*tensors, [1.3], include_background=True, spacing=spacing)
        assert surface_dice(distances, 1.3) == pytest.approx(expected.item(), rel=1e-6)


def test_by_brute_force() -> None:
    """Every pixel with a neighbour outside, against every other one."""
    rng = np.random.default_rng(5)
    a, b = blobs(rng, (15, 12)), blobs(rng, (15, 12))

    def surface(of: np.ndarray) -> np.ndarray:
        padded = np.pad(of, 1)
        steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
        return np.array([p for p in np.argwhere(of) if not all(padded[tuple(p + 1 + step)] for step in steps)])

    table = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    first, second = surface_distances(a, b)
    np.testing.assert_allclose(np.sort(first), np.sort(table.min(axis=1)))
    np.testing.assert_allclose(np.sort(second), np.sort(table.min(axis=0)))


def test_bounding_box() -> None:
    assert bounding_box(mask((5, 6, 7), np.s_[1, 2, 3], np.s_[3, 2, 6])) == np.s_[1:4, 2:3, 3:7]
    assert bounding_box(mask((5, 6))) is None


def test_refuses() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        surface_distances(mask((2, 3)), mask((3, 2)))
    with pytest.raises(ValueError, match="masks with 2 axes; give a positive number for each axis"):
        surface_distances(mask((2, 3)), mask((2, 3)), (1, 1, 1))
    with pytest.raises(ValueError, match="give a positive number"):
        surface_distances(mask((2, 3)), mask((2, 3)), (1, 0))


@pytest.mark.parametrize("spacing", [0.1, 0.4, 0.7])
def test_the_tolerance_counts_wherever_the_tumour_lies(spacing: float) -> None:
    """Two steps apart at a tolerance of just these two steps, which coordinates times spacing round either way."""
    for place in range(200):
        distances = surface_distances(
            mask((210, 3), np.s_[place, 1]), mask((210, 3), np.s_[place + 2, 1]), (spacing, 1)
        )
        assert surface_dice(distances, 2 * spacing) == 1
