"""Tumours that people drew in a viewer and stored on a DICOMweb server as DICOM SEG, as OHIF does."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from monai_lgg.io.dicom.headers import functional_groups

#: SNOMED CT.
NEOPLASM = "108369006"
#: One of them is in the name of a segment that viewers code as mere tissue.
WORDS = ("tumour", "tumor", "glioma", "neoplasm", "lesion", "flair abnormality")
#: Of a voxel, by which a frame may lie off the grid of its images.
OFF = 0.1
#: From RAS to LPS, mm.
_TURN = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Drawn:
    """A DICOM SEG object with a tumour that people drew.

    Args:
        study, series, instance: UIDs of the object.
        image: UID of the series that it was drawn on.
        time: date and time of its content, as text in ascending order.
        segments: numbers of those that are tumour.
    """

    study: str
    series: str
    instance: str
    image: str
    time: str
    segments: frozenset[int]


def drawn_tumour(data: Dataset) -> Drawn | None:
    """What a SEG object's metadata say, or None where it holds no tumour that people drew or corrected.

    A segment of the type AUTOMATIC is what a network made, and no label to learn from.
    """
    images = data.get("ReferencedSeriesSequence") or []
    segments = frozenset(int(item.SegmentNumber) for item in data.get("SegmentSequence") or [] if _is_tumour(item))
    if not images or not segments:
        return None
    return Drawn(
        study=str(data.StudyInstanceUID),
        series=str(data.SeriesInstanceUID),
        instance=str(data.SOPInstanceUID),
        image=str(images[0].SeriesInstanceUID),
        time=f"{data.get('ContentDate') or '':0<8}{data.get('ContentTime') or ''}",
        segments=segments,
    )


def _is_tumour(segment: Dataset) -> bool:
    if segment.get("SegmentAlgorithmType") == "AUTOMATIC":
        return False
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or []
    name = str(segment.get("SegmentLabel", "")).lower()
    return any(kind.get("CodeValue") == NEOPLASM for kind in kinds) or any(word in name for word in WORDS)


def mask_of(data: Dataset, segments: Collection[int], shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """The union of segments on the grid of their images.

    Args:
        data: a SEG object with its pixels, BINARY, or FRACTIONAL of which half and more counts.
        shape: (columns, rows, slices) of the images.
        affine: of the images, RAS, mm.
    Returns:
        bool, of ``shape``.
    Raises:
        ValueError: a frame does not lie on a slice of the images, pixel by pixel.
    """
    mask = np.zeros(shape, bool)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    half = int(data.get("MaximumFractionalValue") or 1) / 2
    for pixels, group in zip(frames, functional_groups(data), strict=True):
        if int(group.ReferencedSegmentNumber) in segments:
            mask[..., _slice(group, (data.Columns, data.Rows), shape, affine)] |= np.greater_equal(pixels.T, half)
    return mask


def _slice(frame: Dataset, size: Sequence[int], shape: Sequence[int], affine: np.ndarray) -> int:
    """The slice that a frame of (columns, rows) covers."""
    along_row, along_column = np.asarray(frame.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in frame.PixelSpacing)
    first = np.asarray(frame.ImagePositionPatient, float)
    corners = [
        first,
        first + along_row * between_columns * (size[0] - 1),
        first + along_column * between_rows * (size[1] - 1),
    ]
    column, row, k = np.linalg.solve(affine[:3, :3], _TURN @ np.transpose(corners) - affine[:3, 3:])
    expected = np.array([[0, shape[0] - 1, 0], [0, 0, shape[1] - 1]])
    nearest = round(float(k[0]))
    if (
        tuple(size) != tuple(shape[:2])
        or np.abs(np.stack([column, row]) - expected).max() > OFF
        or np.abs(k - nearest).max() > OFF
        or not 0 <= nearest < shape[2]
    ):
        raise ValueError(
            f"a frame of {size[0]} x {size[1]} pixels at {[round(float(value), 2) for value in first]} mm lies on no "
            f"slice of the images ({' x '.join(map(str, shape))} voxels); draw on the images themselves"
        )
    return nearest
