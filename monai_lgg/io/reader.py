"""One reader for every case: a stack of TIFF slices, a multi-page TIFF, NIfTI volumes, or DICOM series."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data.image_reader import ImageReader

from monai_lgg.io.dicom import is_dicom, require_dicom
from monai_lgg.io.nifti import is_nifti, read_nifti
from monai_lgg.io.tiff import DISPLAY_AFFINE, is_tiff, read_tiff_slice, read_tiff_volume, resolution_of


class CaseReader(ImageReader):
    """Reads a case as a volume with channels last. Use by dotted path: ``reader="monai_lgg.io.reader.CaseReader"``.

    - TIFF files (a list is a stack of slices in the given order): (rows, columns, slices, C).
    - one NIfTI volume, 3D or 4D with channels last: (X, Y, Z, C).
    - three NIfTI volumes of equal geometry (pre-contrast, FLAIR, post-contrast): (X, Y, Z, 3).
    - DICOM files of one series, or of these three: (columns, rows, slices, 1 or 3); see :mod:`monai_lgg.io.dicom`.

    Files are opened in :meth:`get_data`, because LoadImage answers an exception in ``read`` by trying other readers.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[str]:
        return [str(data)] if isinstance(data, str | os.PathLike) else [str(item) for item in data]

    def get_data(self, img: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        if not img:
            raise ValueError("a case without files; give TIFF slices or one to three NIfTI volumes")
        if all(is_tiff(path) for path in img):
            pixels, meta = _tiff_stack(img)
        elif all(is_nifti(path) for path in img):
            pixels, meta = _nifti_channels(img)
        elif all(is_dicom(path) for path in img):
            pixels, meta = _dicom_channels(img)
        else:
            raise ValueError(
                f"{img[0]}: unknown format; give .tif, .tiff, .nii, .nii.gz or DICOM files, all of one kind"
            )
        meta |= {
            "filename_or_obj": img[0],
            "original_affine": meta["affine"].copy(),
            "spatial_shape": np.array(pixels.shape[:-1]),
            "original_channel_dim": -1,
            "space": "RAS",
        }
        return pixels, meta


def _tiff_stack(paths: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    slices = [read_tiff_slice(path) if len(paths) > 1 else read_tiff_volume(path) for path in paths]
    for path, pixels in zip(paths, slices, strict=True):
        if pixels.shape[:2] != slices[0].shape[:2] or pixels.shape[3] != slices[0].shape[3]:
            raise ValueError(
                f"{path}: {_size(pixels)}, but {Path(paths[0]).name} is {_size(slices[0])}; "
                "all slices of a case must have one size"
            )
        if pixels.dtype != slices[0].dtype:
            raise ValueError(
                f"{path}: {pixels.dtype}, but {Path(paths[0]).name} is {slices[0].dtype}; all slices of a case must "
                "have one type, because their scales may differ"
            )
    meta: dict[str, Any] = {"affine": DISPLAY_AFFINE.copy(), "spacing_known": False}
    resolution = resolution_of(paths[0])
    if resolution is not None:
        meta["resolution"] = resolution
    return np.concatenate(slices, axis=2), meta


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]} with {pixels.shape[3]} channel(s)"


def _dicom_channels(paths: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    require_dicom()
    from monai_lgg.io.dicom.volume import read_dicom_case

    return read_dicom_case(paths)


def _nifti_channels(paths: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    volumes = [read_nifti(path) for path in paths]
    first, meta = volumes[len(volumes) // 2]  # FLAIR: what is written has its form codes and unit
    for path, (volume, other) in zip(paths, volumes, strict=True):
        if volume.shape != first.shape or not np.allclose(other["affine"], meta["affine"], atol=1e-3):
            raise ValueError(
                f"{path}: geometry differs from {Path(paths[len(paths) // 2]).name} (shape {volume.shape[:3]} and "
                f"{first.shape[:3]}, or another affine); resample the sequences to the FLAIR first"
            )
    return first if len(volumes) == 1 else np.concatenate([volume for volume, _ in volumes], axis=-1), meta
