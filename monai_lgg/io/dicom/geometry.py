"""Slices in their order along the normal, and the affine of the volume that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform

from monai_lgg.io.dicom.headers import Header

#: LPS to RAS.
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Direction cosines that differ by more are another orientation. Scanners write six digits or more.
SAME_DIRECTION = 1e-3
#: Pixel spacings that differ by more, in mm, are another geometry.
SAME_SPACING = 1e-3
#: Share of the slice distance by which a slice may lie off its place.
OFF_PLACE = 0.05
#: Slices nearer to each other than this, in mm, lie at one position.
SAME_POSITION = 0.01
#: How far a voxel reaches from its centre, in voxels: half, and what the rounding of headers adds.
HALF = 0.501
PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Stack:
    """A series as a volume (column, row, slice).

    Args:
        order: (number of the file, number of the frame in it), in the order of the slices along the normal.
        affine: RAS, mm.
        shape: columns, rows, slices.
        plane: the one that the slices are nearest to.
    """

    order: tuple[tuple[int, int], ...]
    affine: np.ndarray
    shape: tuple[int, int, int]
    plane: str

    @property
    def normal(self) -> np.ndarray:
        """Of the slices, RAS."""
        normal = np.cross(self.affine[:3, 0], self.affine[:3, 1])
        return np.asarray(normal / np.linalg.norm(normal))


def stack(headers: Sequence[Header]) -> Stack:
    """Order the images of one series.

    Args:
        headers: of its files, in any order.
    Raises:
        ValueError: they are no single regular volume; says why, in words that identify nobody.
    """
    _check_alike(headers)
    frames = [(file, number) for file, header in enumerate(headers) for number in range(len(header.frames))]
    places = [headers[file].frames[number] for file, number in frames]
    orientations = np.array([_needed(frame.orientation, "ImageOrientationPatient") for frame in places])
    positions = np.array([_needed(frame.position, "ImagePositionPatient") for frame in places])
    spacings = np.array([_needed(frame.spacing, "PixelSpacing") for frame in places])
    if (spacings <= 0).any():
        raise ValueError("PixelSpacing is not above 0; export the series again")
    _check_directions(orientations)
    if np.ptp(spacings, axis=0).max() > SAME_SPACING:
        raise ValueError("its images have different PixelSpacing; export one series of one geometry")
    across, down = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(across, down)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    step = _step(positions[order], along[order], normal, headers[0].thickness)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * spacings[0, 1], down * spacings[0, 0]
    affine[:3, 2], affine[:3, 3] = step, positions[order[0]]
    return Stack(
        tuple(frames[index] for index in order),
        RAS @ affine,
        (headers[0].columns, headers[0].rows, len(order)),
        PLANES[int(np.argmax(np.abs(normal)))],
    )


def _check_alike(headers: Sequence[Header]) -> None:
    sizes = {(header.rows, header.columns) for header in headers}
    if len(sizes) > 1:
        found = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        raise ValueError(f"its images have different sizes ({found}); export one series of one geometry")
    if 0 in next(iter(sizes)):
        raise ValueError("its images state no size (Rows, Columns); export the series again")
    if not all(header.grey for header in headers):
        raise ValueError("its images are not plain grey (MONOCHROME2); give the original MR images")
    if any(header.burned_in for header in headers):
        raise ValueError("its images have text burned into the pixels; give the original MR images")
    if any(header.enhanced for header in headers) and len(headers) > 1:
        raise ValueError(f"{len(headers)} multi-frame files in one series; give the one that holds the volume")
    if any(len({frame.rescale for frame in header.frames}) > 1 for header in headers):
        raise ValueError("its frames have different rescale slopes; export it as single-frame MR images")


def _needed(value: tuple[float, ...] | None, name: str) -> tuple[float, ...]:
    if value is None:
        raise ValueError(f"{name} is missing or unreadable, so its geometry is unknown; export the original MR images")
    return value


def _check_directions(orientations: np.ndarray) -> None:
    across, down = orientations[:, :3], orientations[:, 3:]
    lengths = np.linalg.norm(orientations.reshape(-1, 3), axis=1)
    if np.abs(lengths - 1).max() > SAME_DIRECTION or np.abs((across * down).sum(axis=1)).max() > SAME_DIRECTION:
        raise ValueError("ImageOrientationPatient is not two unit vectors at a right angle; export the series again")
    different = len(np.unique((orientations / SAME_DIRECTION / 10).round(), axis=0))
    if np.ptp(orientations, axis=0).max() > SAME_DIRECTION:
        raise ValueError(f"its images have mixed orientations ({different}); export each orientation as its own series")


def _step(positions: np.ndarray, along: np.ndarray, normal: np.ndarray, thickness: float | None) -> np.ndarray:
    """From one slice to the next, mm.

    Raises:
        ValueError: slices are missing, doubled, unevenly spaced or shifted sideways; one slice of unknown thickness.
    """
    if len(along) == 1:
        if not thickness or thickness <= 0:
            raise ValueError("it has one image, of unknown thickness; give the whole series")
        return np.asarray(normal * thickness)
    gaps = np.diff(along)
    _check_doubled(gaps)
    gap = float(np.median(gaps))
    wide = [k for k, value in enumerate(gaps) if value > 1.5 * gap]
    if wide:
        missing = sum(round(gaps[k] / gap) - 1 for k in wide)
        where = ", ".join(str(k + 1) for k in wide[:5])
        raise ValueError(
            f"{missing} slice{'s' if missing > 1 else ''} missing: slices are {gap:.2f} mm apart, but "
            f"{max(gaps):.2f} mm after slice {where} of {len(along)}; export the whole series again"
        )
    step = (positions[-1] - positions[0]) / (len(along) - 1)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(along))[:, None] * step), axis=1).max()
    if off > max(OFF_PLACE * gap, SAME_POSITION):
        raise ValueError(
            f"slices are unevenly spaced: one lies {off:.2f} mm off its place ({gap:.2f} mm apart on average); "
            "give the series as it was acquired"
        )
    sideways = float(np.linalg.norm(step - (step @ normal) * normal))
    if sideways > OFF_PLACE * gap:
        raise ValueError(f"slices are shifted sideways by {sideways:.2f} mm each; give the series as it was acquired")
    return np.asarray(step)


def _check_doubled(gaps: np.ndarray) -> None:
    """One position with several images, or every position with as many: two volumes in one series."""
    at = np.concatenate([[0], np.cumsum(gaps > SAME_POSITION)])
    counts = np.bincount(at)
    if counts.max() == 1:
        return
    if len(set(counts)) == 1:
        raise ValueError(
            f"4D: {counts[0]} images at each of {len(counts)} positions (several echoes, times or directions); "
            "export one of these volumes as its own series"
        )
    doubled = int((counts > 1).sum())
    raise ValueError(
        f"doubled slices: {doubled} of {len(counts)} positions have more than one image; export the series again"
    )


def resample(
    volume: np.ndarray, affine: np.ndarray, target: np.ndarray, shape: Sequence[int], order: int = 1
) -> np.ndarray:
    """A volume on another grid; outside it is the volume's lowest value.

    A volume reaches half a voxel beyond the centres of its outermost voxels, whose values it has there.

    Args:
        volume: (X, Y, Z).
        affine: of the volume, RAS, mm.
        target: affine of the grid.
        shape: of the grid.
        order: 1 interpolates linearly, 0 takes the nearest voxel.
    """
    way = np.linalg.inv(affine) @ target
    moved = np.asarray(
        affine_transform(volume, way[:3, :3], way[:3, 3], tuple(shape), order=order, mode="nearest"), volume.dtype
    )
    rows, columns, lowest = *np.ogrid[: shape[0], : shape[1]], volume.min()
    for k in range(shape[2]):  # one by one, to spare memory
        at = [line[0] * rows + line[1] * columns + (line[2] * k + line[3]) for line in way[:3]]
        inside = [_within(along, size) for along, size in zip(at, volume.shape, strict=True)]
        moved[..., k][~np.logical_and.reduce(inside)] = lowest
    return moved


def _within(voxel: np.ndarray, size: int) -> np.ndarray:
    """Where coordinates, in voxels, lie within ``size`` of them."""
    return np.asarray((voxel >= -HALF) & (voxel <= size - 1 + HALF))


def covered(shape: Sequence[int], affine: np.ndarray, target: np.ndarray, target_shape: Sequence[int]) -> float:
    """Share of a grid's voxel centres that lie within a volume of this shape, on a sample of them."""
    points = np.stack(
        np.meshgrid(*[np.linspace(0, size - 1, min(size, 24)) for size in target_shape], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    way = np.linalg.inv(affine) @ target
    at = points @ way[:3, :3].T + way[:3, 3]
    return float(np.all([_within(at[:, axis], size) for axis, size in enumerate(shape)], axis=0).mean())
