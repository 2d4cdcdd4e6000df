"""Grids that can be checked by eye."""

import numpy as np
import pytest

from monai_lgg.decision import decide


def volume(*rows: str) -> np.ndarray:
    """One slice; a digit is a probability in tenths."""
    return np.array([[int(letter) / 10 for letter in row] for row in rows])[..., None]


RING = volume(
    "999900",
    "900900",
    "999900",
    "000004",
)


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ({}, 10),
        ({"threshold": 0.4}, 11),
        ({"threshold": 0.95}, 0),
        ({"fill": True}, 12),
        ({"threshold": 0.4, "share": 0.2}, 10),
        ({"threshold": 0.4, "share": 0.2, "fill": True}, 12),
    ],
)
def test_threshold_holes_and_components(options: dict[str, float], pixels: int) -> None:
    assert decide(RING, **options).sum() == pixels  # type: ignore[arg-type]


def test_a_hole_is_filled_though_it_is_open_to_the_next_slice() -> None:
    open_below = np.concatenate([RING, np.zeros_like(RING)], axis=-1)
    assert decide(open_below, fill=True).sum() == 12


def test_an_open_ring_stays_open() -> None:
    assert decide(volume("999", "900", "999"), fill=True).sum() == 7
