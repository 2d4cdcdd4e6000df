"""Where the head is in an image, and at what size a network sees it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

#: Scaled by its intensity range, what is above this share of the way to the bright end is head.
HEAD_LEVEL = 0.1
#: A row or column is of the head when this share of its pixels is; single specks of noise are not.
HEAD_FILL = 0.04
#: Sides of a pixel that differ by no more than this factor are not resampled.
SQUARE = 1.05
#: Slices that are resized, or searched for their heads.
AT_A_TIME = 16


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


def pixel_shape(image: Any) -> tuple[float, float]:
    """Height and width of a pixel of an image with MONAI's metadata, the smaller being 1.

    Square where none state the spacing, or nearly so.
    """
    meta = getattr(image, "meta", None) or {}
    if not bool(torch.as_tensor(meta.get("spacing_known", False)).all()):
        return 1.0, 1.0
    affine = torch.as_tensor(meta["affine"], dtype=torch.float64).reshape(-1, 4, 4)[0]
    height, width = affine[:3, :2].norm(dim=0).tolist()
    ratio = height / width if width else 1.0
    if ratio <= 0 or 1 / SQUARE <= ratio <= SQUARE:
        return 1.0, 1.0
    return max(ratio, 1.0), max(1 / ratio, 1.0)


def network_size(
    size: Sequence[int], extents: Sequence[int], pixel: Sequence[float], head_size: Sequence[int] | None
) -> list[int]:
    """Rows and columns that an image gets for a network: square pixels, and a head as large as those of its training.

    Args:
        size: rows and columns of the image.
        extents: rows and columns that the head takes up in it.
        pixel: of :func:`pixel_shape`.
        head_size: (smallest, largest) number of rows or columns, the larger of the two, that a head may take up as it
            is; another becomes the nearer of them. None leaves the head as large as it is.
    """
    factor = 1.0
    if head_size is not None:
        found = max(extent * length for extent, length in zip(extents, pixel, strict=True))
        factor = min(max(found, head_size[0]), head_size[1]) / found
    return [max(1, round(length * by * factor)) for length, by in zip(size, pixel, strict=True)]


def resize_slices(slices: torch.Tensor, size: Sequence[int], antialias: bool = True) -> torch.Tensor:
    """(D, C, H, W) in other rows and columns: bilinear; by default antialiased where it shrinks; as it is at its own.

    Some at a time, because each is copied.
    """
    if tuple(slices.shape[-2:]) == tuple(size):
        return slices
    resized = slices.new_empty((*slices.shape[:2], *size))
    for new, old in zip(resized.split(AT_A_TIME), slices.split(AT_A_TIME), strict=True):
        new.copy_(interpolate(old, tuple(size), mode="bilinear", align_corners=False, antialias=antialias))
    return resized
