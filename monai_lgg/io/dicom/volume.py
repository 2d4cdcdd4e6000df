"""Pixels of series as volumes, read by GDCM through ITK."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.io.dicom.geometry import resample
from monai_lgg.io.dicom.headers import Header, read_header
from monai_lgg.io.dicom.studies import sorted_stack

#: What GDCM decodes, beside uncompressed pixels: RLE, JPEG baseline to lossless, JPEG-LS, JPEG 2000.
_DECODED = (
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{code}" for code in (50, 51, 57, 70, 80, 81, 90, 91)),
)
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")


def read_dicom_case(paths: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """One series, or three of one frame of reference (pre-contrast, FLAIR, post-contrast), on FLAIR's grid.

    Args:
        paths: files, series after series; a series that stands for another one is there again.
    Returns:
        Rescaled values (column, row, slice, 1 or 3), slices along their normal, float32, and the geometry, RAS in mm.
    Raises:
        ValueError: a file cannot be read or decoded, or the images are no regular volumes. No path is in the message.
    """
    groups = list(_groups([read_header(path) for path in paths]))
    if len(groups) not in (1, 3):
        raise ValueError(f"files of {len(groups)} series; give one series, or pre-contrast, FLAIR and post-contrast")
    flair, affine = read_volume(groups[len(groups) // 2])
    volumes = [flair]
    if len(groups) == 3:
        volumes = [_on_grid(group, groups[1], flair, affine) for group in groups]
    meta = {"affine": affine, "spacing_known": True, "qform_code": 1, "sform_code": 1, "xyzt_units": 2}
    return np.stack(volumes, axis=-1), meta


def _groups(headers: Sequence[Header]) -> Iterator[list[Header]]:
    group: list[Header] = []
    for header in headers:
        if group and (header.series != group[0].series or any(header.path == other.path for other in group)):
            yield group
            group = []
        group.append(header)
    if group:
        yield group


def _on_grid(group: list[Header], flair_group: list[Header], flair: np.ndarray, affine: np.ndarray) -> np.ndarray:
    if group[0].series == flair_group[0].series:
        return flair
    volume, own = read_volume(group)
    if volume.shape == flair.shape and np.allclose(own, affine, atol=1e-3):
        return volume
    return resample(volume, own, affine, flair.shape)


def read_volume(headers: Sequence[Header]) -> tuple[np.ndarray, np.ndarray]:
    """A series as (column, row, slice), float32, and its RAS affine in mm.

    Raises:
        ValueError: as in :func:`read_dicom_case`.
    """
    files, stack = sorted_stack(headers)
    volume = np.empty(stack.shape, np.float32)
    if len(files) == 1:
        volume[:] = _pixels(files[0])[:, :, [frame for _, frame in stack.order]]
    else:
        for k, header in enumerate(files):
            volume[..., k] = _pixels(header)[..., 0]
    if not np.isfinite(volume).all():
        raise ValueError("has NaN or infinite voxels; export the series again")
    return volume, stack.affine


def _pixels(header: Header) -> np.ndarray:
    """(column, row, frame), rescaled."""
    import itk

    name = f"image {header.instance_number if header.instance_number is not None else '?'} of the series"
    _check_syntax(header, name)
    itk.Object.SetGlobalWarningDisplay(False)  # a warning would show the path
    try:
        pixels = np.asarray(itk.array_from_image(itk.imread(header.path, imageio=itk.GDCMImageIO.New())))
    except Exception as error:  # RuntimeError with the path in its text, and others of ITK's wrapping
        raise ValueError(f"{name}: its pixels cannot be decoded; export it again, uncompressed") from error
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.shape != (len(header.frames), header.rows, header.columns):
        raise ValueError(f"{name}: pixels of {pixels.shape}, not as its header says; export it again")
    return pixels.transpose(2, 1, 0)


def _check_syntax(header: Header, name: str) -> None:
    """ITK's own message on an unknown syntax does not name it, and a cut file would be filled up silently."""
    syntax = header.transfer_syntax
    if syntax in _UNCOMPRESSED or not syntax:
        if syntax != "1.2.840.10008.1.2.1.99" and Path(header.path).stat().st_size < header.pixel_bytes:
            raise ValueError(f"{name}: the file is shorter than its pixels; it was cut, export it again")
    elif syntax not in _DECODED:
        raise ValueError(f"{name}: compressed as {_syntax_name(syntax)}, which is not read; export it uncompressed")


def _syntax_name(syntax: str) -> str:
    from pydicom.uid import UID

    return f"{UID(syntax).name} ({syntax})" if UID(syntax).name != syntax else syntax
