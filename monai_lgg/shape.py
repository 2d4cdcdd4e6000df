"""Shape of a tumour's mask: bounding ellipsoid volume ratio, margin fluctuation, angular standard deviation.

Source: Buda, Saha, Mazurowski 2019, Comput. Biol. Med. 109, arXiv 1906.03720. What the text leaves open is settled by
its literal words; the choices are named in :func:`ellipsoid_ratio` and :func:`radial_profile`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_lgg.cases import (
    Patient,
    Slice,
    missing_numbers,
    parse_slice_name,
    patient_folders,
    read_labels,
    read_patient,
)

FEATURES = ("bevr", "mf", "asd")

#: Share of the boundary's pixels that margin fluctuation smooths over.
SMOOTHING_SHARE = 0.1
#: Equal angles that the angular standard deviation looks at one by one.
ANGULAR_BINS = 10
#: Shorter boundaries have no MF and ASD: a tenth of them is not even two pixels.
MIN_BOUNDARY_PX = 20
#: The bounding ellipsoid's volume is at most about this share above the smallest.
ELLIPSOID_TOLERANCE = 1e-6
_MAX_STEPS = 100_000
_AT_CENTRE = 1e-12

_CORNERS = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
#: (row, column) steps to the eight neighbours, clockwise from the right on a display.
_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


@dataclass(frozen=True)
class Shape:
    """Shape of one patient's largest 3D component; NaN where a feature is undefined.

    Args:
        components: 26-connected ones of the whole mask; the figures are those of the largest.
        slice_number: of the component's largest slice, which MF and ASD are measured in; None without tumour.
        bevr: tumour volume / volume of its minimum bounding ellipsoid, 0 to 1; small for an irregular tumour.
        mf: margin fluctuation, in mean radii.
        asd: angular standard deviation, in mean radii.
    """

    patient: str
    components: int
    volume_voxels: int
    slice_number: int | None
    area_px: int
    boundary_px: int
    bevr: float
    mf: float
    asd: float


def measure_masks(root: str | Path, progress: Callable[[int, int], None] | None = None) -> list[Shape]:
    """The shape of each patient's tumour below ``root``, in the order of their names.

    Args:
        root: folder in the public layout, with or without the images beside the masks.
        progress: called after each patient with the numbers of patients done and in all.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no masks, or masks of one patient that are missing, unreadable or of different sizes.
    """
    folders = mask_folders(root)
    shapes = []
    for folder in folders:
        patient = read_mask_folder(folder)
        shapes.append(measure(patient.name, read_labels(patient), [item.number for item in patient.slices]))
        if progress is not None:
            progress(len(shapes), len(folders))
    return shapes


def mask_folders(root: str | Path) -> list[Path]:
    """The patients' folders below ``root``, sorted by name; a ValueError when there are none."""
    folders = patient_folders(root)
    if not folders:
        raise ValueError(f"{root}: no masks in the layout <patient>/<patient>_<n>_mask.tif; give the folder above them")
    return folders


def read_mask_folder(folder: Path) -> Patient:
    """As ``read_patient``, but a folder of masks alone will do; ``image`` is the mask itself then.

    Raises:
        ValueError: as ``read_patient``, or masks alone with a gap in their numbers.
    """
    labels: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        parsed = parse_slice_name(path.name)
        if parsed is None or path.name.startswith("."):
            continue
        patient, number, is_mask = parsed
        if not is_mask:
            return read_patient(folder)
        if patient != folder.name:
            raise ValueError(f"{path}: file of patient {patient} in the folder of {folder.name}; move it")
        if number in labels:
            raise ValueError(f"{path}: slice number {number} is used twice ({labels[number].name}); keep one")
        labels[number] = path
    if not labels:
        return read_patient(folder)  # says what it looked for
    gaps = missing_numbers(labels, min(labels))
    if gaps:
        missing = ", ".join(gaps)
        raise ValueError(
            f"{folder}: no mask of slice {missing} between {min(labels)} and {max(labels)}; add it (all 0 where there "
            "is no tumour), or the images, which say what slices there are"
        )
    return Patient(folder.name, tuple(Slice(n, labels[n], labels[n]) for n in sorted(labels)))


def measure(patient: str, mask: np.ndarray, numbers: Sequence[int] | None = None) -> Shape:
    """Shape features of the largest 3D component.

    Args:
        patient: name that goes into the result.
        mask: (H, W, D); any value above 0 is tumour.
        numbers: slice number of each of the D; None counts from 1.
    """
    tumour, components = largest_component(mask)
    if not components:
        return Shape(patient, 0, 0, None, 0, 0, math.nan, math.nan, math.nan)
    areas = np.count_nonzero(tumour, axis=(0, 1))
    index = int(areas.argmax())
    radii, angles = radial_profile(tumour[..., index])
    return Shape(
        patient=patient,
        components=components,
        volume_voxels=int(areas.sum()),
        slice_number=index + 1 if numbers is None else numbers[index],
        area_px=int(areas[index]),
        boundary_px=len(radii),
        bevr=ellipsoid_ratio(tumour),
        mf=margin_fluctuation(radii),
        asd=angular_deviation(radii, angles),
    )


def largest_component(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest component, touching by corners included (8- or 26-connected), and how many there are.

    Args:
        mask: (H, W[, D]); any value above 0 belongs to a component.
    Returns:
        bool, same shape (the first of several equally large ones; all False when the mask is empty), and the number.
    """
    from scipy import ndimage

    labels, count = ndimage.label(mask > 0, structure=np.ones((3,) * mask.ndim))
    if not count:
        return np.zeros(mask.shape, dtype=bool), 0
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1, int(count)


def ellipsoid_ratio(mask: np.ndarray) -> float:
    """Bounding ellipsoid volume ratio (BEVR): tumour volume / volume of the smallest ellipsoid around it.

    The ellipsoid holds the voxels as boxes, corners included, for it is to bound the volume that is counted. So the
    ratio never exceeds 1, a tumour of one slice or voxel has one too (2 / (pi sqrt 3) for one voxel), and no spacing
    is needed: the ratio stays the same under any affine map. With voxel centres in place of corners, flat tumours
    have no ellipsoid, and on the public masks the associations with the genomic clusters are about as strong.

    Args:
        mask: bool, (H, W, D).
    Returns:
        The ratio; NaN for an empty mask.
    """
    from scipy.spatial import ConvexHull

    if not mask.any():
        return math.nan
    corners = _outer_corners(mask)
    _, matrix = bounding_ellipsoid(corners[ConvexHull(corners).vertices])
    return float(np.count_nonzero(mask) / (4 / 3 * math.pi * math.sqrt(np.linalg.det(matrix))))


def _outer_corners(mask: np.ndarray) -> np.ndarray:
    """Corners (N, 3) of the first and last voxel of each row of each slice: all that the convex hull can touch."""
    rows, slices = np.nonzero(mask.any(axis=1))
    lines = mask[rows, :, slices]
    ends = (lines.argmax(axis=1), mask.shape[1] - 1 - lines[:, ::-1].argmax(axis=1))
    voxels = np.concatenate([np.stack([rows, columns, slices], axis=1) for columns in ends])
    return np.unique((voxels[:, None] + _CORNERS).reshape(-1, 3), axis=0)


def bounding_ellipsoid(points: np.ndarray, tolerance: float = ELLIPSOID_TOLERANCE) -> tuple[np.ndarray, np.ndarray]:
    """The smallest ellipsoid around points, (x - centre)^T matrix^-1 (x - centre) <= 1.

    Args:
        points: (N, d), not all in one plane (line).
        tolerance: of the volume; the ellipsoid is scaled at the end so that it holds every point all the same.
    Returns:
        Centre (d,) and matrix (d, d); the volume is sqrt(det(matrix)) times that of the unit ball.
    Raises:
        ValueError: the points lie in one plane, or are fewer than d + 1.
    Source: Khachiyan 1996, with the away steps of Todd and Yildirim 2007.
    """
    count, dimensions = points.shape
    origin, scale = points.mean(axis=0), np.ptp(points, axis=0).max(initial=0) or 1.0
    scaled = (points - origin) / scale
    if np.linalg.matrix_rank(scaled) < dimensions:
        raise ValueError(f"{count} points span no volume in {dimensions}D; give points that do not lie in one plane")
    weights = _ellipsoid_weights(np.column_stack([scaled, np.ones(count)]), tolerance / (dimensions + 1))
    centre = weights @ scaled
    matrix = dimensions * ((scaled.T * weights) @ scaled - np.outer(centre, centre))
    from_centre = scaled - centre
    farthest = np.einsum("nd,dn->n", from_centre, np.linalg.solve(matrix, from_centre.T)).max()
    return origin + scale * centre, matrix * farthest * scale**2


def _ellipsoid_weights(lifted: np.ndarray, tolerance: float) -> np.ndarray:
    """Weight of each point (N, d + 1; the last coordinate is 1) in the smallest ellipsoid; 0 for those inside."""
    count, size = lifted.shape
    weights = np.full(count, 1 / count)
    for _ in range(_MAX_STEPS):
        moments = (lifted.T * weights) @ lifted
        distances = np.einsum("nd,dn->n", lifted, np.linalg.solve(moments, lifted.T))
        far = int(distances.argmax())
        near = int(np.where(weights > 0, distances, np.inf).argmin())
        if max(distances[far] - size, size - distances[near]) <= tolerance * size:
            return weights
        toward = distances[far] - size >= size - distances[near]
        point = far if toward else near
        step = (distances[point] - size) / (size * max(distances[point] - 1, _AT_CENTRE))
        step = max(step, -weights[point] / (1 - weights[point]))  # away from a point until it has no weight
        weights *= 1 - step
        weights[point] = max(weights[point] + step, 0.0)
    raise RuntimeError(f"no bounding ellipsoid of {count} points after {_MAX_STEPS} steps; allow a larger tolerance")


def radial_profile(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction from the centroid to each boundary pixel of a slice's largest 8-connected component.

    Centroid and boundary are those of this component alone. Holes count for the centroid; their rims are no boundary.

    Args:
        mask: bool, (H, W), not empty.
    Returns:
        Radii (N,) in px and angles (N,) in radians from -pi to pi, in the order of the boundary.
    """
    tumour, _ = largest_component(mask)
    offsets = boundary(tumour) - np.argwhere(tumour).mean(axis=0)
    return np.hypot(offsets[:, 0], offsets[:, 1]), np.arctan2(offsets[:, 0], offsets[:, 1])


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of the outer boundary, each a neighbour of the next (Moore's tracing, clockwise on a display).

    Args:
        mask: bool, (H, W), one 8-connected component.
    Returns:
        int (N, 2), row and column, a closed way; where the tumour is one pixel wide its pixels come twice.
    """
    if np.count_nonzero(mask) == 1:
        return np.argwhere(mask)
    padded = np.pad(mask, 1)
    row, column = (int(place) for place in np.argwhere(padded)[0])
    steps: list[tuple[int, int, int]] = []
    direction = 0
    while True:
        for turn in range(6, 14):  # the left-hand neighbours first, so that the outside stays on the left
            onward = (direction + turn) % 8
            down, right = _STEPS[onward]
            if padded[row + down, column + right]:
                break
        step = (row, column, onward)
        if steps and step == steps[0]:
            return np.array(steps)[:, :2] - 1
        steps.append(step)
        row, column, direction = row + down, column + right, onward


def margin_fluctuation(radii: np.ndarray) -> float:
    """Margin fluctuation (MF): SD of (radius - smoothed radius), in mean radii.

    Smoothed is by a moving average around the closed boundary over a tenth of its pixels (the nearest odd number).

    Args:
        radii: (N,), centroid to boundary, in its order.
    Returns:
        MF; NaN for boundaries of fewer than :data:`MIN_BOUNDARY_PX` pixels.
    """
    from scipy import ndimage

    if len(radii) < MIN_BOUNDARY_PX:
        return math.nan
    relative = radii / radii.mean()
    window = 2 * math.floor(SMOOTHING_SHARE * len(radii) / 2) + 1
    return float((relative - ndimage.uniform_filter1d(relative, window, mode="wrap")).std())


def angular_deviation(radii: np.ndarray, angles: np.ndarray) -> float:
    """Angular standard deviation (ASD): mean over ten equal angles of the radii's SD in each, in mean radii.

    Angles without boundary (a centroid outside the tumour) are left out of the mean.

    Args:
        radii: (N,), centroid to boundary.
        angles: (N,), radians from -pi to pi; the bins start at -pi.
    Returns:
        ASD; NaN for boundaries of fewer than :data:`MIN_BOUNDARY_PX` pixels.
    """
    if len(radii) < MIN_BOUNDARY_PX:
        return math.nan
    relative = radii / radii.mean()
    bins = np.floor((angles + math.pi) / (2 * math.pi) * ANGULAR_BINS).astype(int) % ANGULAR_BINS
    return float(np.mean([relative[bins == one].std() for one in np.unique(bins)]))
