"""Grids that can be checked by eye."""

import numpy as np
import pytest

from monai_lgg.components import keep_components, label_components

#: Components of 4, 2 and 1 pixels; the two of the second touch by a corner.
MASK = np.array(
    [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ],
    dtype=bool,
)


def test_pixels_that_touch_by_a_corner_are_one_component() -> None:
    labels, count = label_components(MASK)
    assert count == 3
    assert labels[1, 4] == labels[2, 3] != labels[4, 0]


def test_slices_are_joined() -> None:
    volume = np.zeros((3, 3, 2), bool)
    volume[0, 0, 0] = volume[1, 1, 1] = True
    assert label_components(volume)[1] == 1


@pytest.mark.parametrize(("share", "kept"), [(0, 7), (0.25, 7), (0.26, 6), (0.5, 6), (0.51, 4), (1, 4)])
def test_small_components_go(share: float, kept: int) -> None:
    before = MASK.copy()
    result = keep_components(MASK, share)
    assert result.sum() == kept
    assert result[:2, :2].all()
    assert np.array_equal(MASK, before)


def test_of_two_largest_both_stay() -> None:
    assert keep_components(np.array([[1, 0, 1]], bool), 1).sum() == 2


def test_an_empty_mask_stays_empty() -> None:
    assert not keep_components(np.zeros((3, 3, 2), bool), 0.5).any()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"component share .* is not in 0 to 1"):
        keep_components(MASK, share)
