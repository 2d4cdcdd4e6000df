"""Longest diameter of a mask in one axial slice."""

import numpy as np
from nibabel.orientations import io_orientation
from scipy.ndimage import generate_binary_structure, label
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

#: Where the outline of a pixel meets the lines between it and its neighbours, in pixels.
_EDGES = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])


def longest_axial_diameter(mask: np.ndarray, directions: np.ndarray) -> float:
    """Longest straight line between two points of the outline of one connected region in one axial slice.

    The outline runs through the middles of the pixels' edges, so n pixels in a row are n pixels long. Axial are the
    slices across the axis of the volume that is nearest to head-foot: in an oblique scan the slices as acquired, in a
    sagittal or coronal one cuts across them. Pixels that touch by a corner are connected.

    Args:
        mask: bool, (X, Y, Z) of a file.
        directions: (3, 3), columns: the step of each axis in mm, RAS.
    Returns:
        mm; 0 for an empty mask.
    Source: the outline is that of "Maximum 2D diameter (Slice)" in PyRadiomics; one region as in RANO and RECIST.
    """
    affine = np.eye(4)
    affine[:3, :3] = directions
    axis = int(np.flatnonzero(io_orientation(affine)[:, 0] == 2)[0])
    steps = np.delete(np.asarray(directions, dtype=float), axis, axis=1)
    slices = np.moveaxis(mask, axis, 0)
    shown = np.flatnonzero(slices.any(axis=(1, 2)))
    return max((_longest(slices[k], steps) for k in shown), default=0.0)


def _longest(mask: np.ndarray, steps: np.ndarray) -> float:
    """Of the regions of one slice; ``steps`` (3, 2) are those along its two axes, in mm."""
    regions, count = label(mask, generate_binary_structure(2, 2))
    return max(_diameter(np.argwhere(regions == number + 1), steps) for number in range(count))


def _diameter(pixels: np.ndarray, steps: np.ndarray) -> float:
    points = (pixels[:, None] + _EDGES).reshape(-1, 2)
    corners = points[ConvexHull(points).vertices]  # the two points furthest apart are corners of the hull
    return float(pdist(corners @ steps.T).max())
