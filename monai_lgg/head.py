"""Where the head is in an image."""

from collections.abc import Sequence

import numpy as np

#: Scaled by its intensity range, what is above this share of the way to the bright end is head.
HEAD_LEVEL = 0.1
#: A row or column is of the head when this share of its pixels is; single specks of noise are not.
HEAD_FILL = 0.04


def head_box(image: np.ndarray, ranges: Sequence[tuple[float, float]]) -> tuple[slice, slice]:
    """Rows and columns that the head takes up in any slice and any sequence; all of them where there is none.

    Args:
        image: (C, H, W[, D]).
        ranges: (low, high) of each channel's volume, as of :func:`monai_lgg.cases.intensity_range`.
    """
    levels = np.array([low + HEAD_LEVEL * (high - low) for low, high in ranges]).reshape(-1, *[1] * (image.ndim - 1))
    head = np.any(image > levels, axis=0)
    return _extent(head, across=1), _extent(head, across=0)


def _extent(head: np.ndarray, across: int) -> slice:
    """From the first to the last line of (H, W[, D]) that is filled enough in any slice."""
    fill = head.mean(axis=across)  # of each line in each slice
    filled = np.flatnonzero((fill > HEAD_FILL).reshape(len(fill), -1).any(axis=1))
    return slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, len(fill))
