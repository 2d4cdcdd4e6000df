"""95th-percentile Hausdorff distance and normalized surface Dice, from the distances between two mask surfaces.

The surface of a mask are its pixels (voxels) with a neighbour outside of it, across an edge (a face) or beyond the
border of the image: that of MONAI's metrics without sub-voxels. Each surface pixel counts once, whatever its area;
DeepMind's surface-distance weighs by area and puts the surface between the pixels, so its figures differ a little.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

#: Surface Dice accepts surfaces this far apart, in mm, or in pixels where the spacing is unknown.
TOLERANCE = 2.0
PERCENTILE = 95

#: Of each surface pixel of the prediction to the truth, and of each one of the truth to the prediction.
Distances = tuple[np.ndarray, np.ndarray]


def surface_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float] | None = None
) -> Distances:
    """Distance of each surface pixel of one mask to the nearest surface pixel of the other, both ways.

    Args:
        prediction: bool, (H, W[, D]).
        truth: same shape.
        spacing_mm: per axis; None gives pixels, a step between slices counting as one.
    Returns:
        Float64 arrays; empty for an empty mask, inf throughout where only the other mask is empty.
    Raises:
        ValueError: the shapes differ, or the spacing does not fit.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape; compare on one grid")
    spacing = np.ones(truth.ndim) if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (truth.ndim,) or not (spacing > 0).all():
        raise ValueError(f"spacing {spacing_mm} of masks with {truth.ndim} axes; give a positive number for each axis")
    a, b = (_surface(mask) * spacing for mask in (prediction, truth))
    return _nearest(a, b), _nearest(b, a)


def hd95(distances: Distances) -> float:
    """The larger of the two directions' 95th percentiles; NaN if both masks are empty, inf if one is.

    Source: Huttenlocher et al. 1993; as MONAI's compute_hausdorff_distance(percentile=95).
    """
    present = [len(of) > 0 for of in distances]
    if not all(present):
        return math.inf if any(present) else math.nan
    return max(float(np.percentile(of, PERCENTILE)) for of in distances)


def surface_dice(distances: Distances, tolerance: float = TOLERANCE) -> float:
    """Share of both surfaces within the tolerance of each other; NaN if both masks are empty, 0 if one is.

    Source: Nikolov et al. 2018, arXiv 1809.04430, with surface pixels in place of surface elements.
    """
    pixels = sum(len(of) for of in distances)
    within = tolerance * (1 + 1e-9)  # a distance of just the tolerance is rounded to either side
    return sum(int(np.count_nonzero(of <= within)) for of in distances) / pixels if pixels else math.nan


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds the mask; None for an empty one."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not len(filled):
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Coordinates (N, axes) of the surface pixels."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, mask.ndim))
    inside = mask[box]  # what lies beyond the box is no tumour, so the surface is that of the whole
    return np.argwhere(inside & ~binary_erosion(inside)) + [edge.start for edge in box]


def _nearest(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if not len(points) or not len(targets):
        return np.full(len(points), math.inf)
    tree = cKDTree(targets, compact_nodes=False, balanced_tree=False)  # built faster, as few are asked of each
    return tree.query(points)[0]
