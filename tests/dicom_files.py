"""DICOM files for tests beside those of :mod:`monai_lgg.phantom_dicom`: enhanced multi-frame MR, and damages."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_lgg.io.dicom.headers import ENHANCED_MR
from monai_lgg.phantom_dicom import SEQUENCES, centred_affine, geometry_tags, study_tags, write_series

#: Columns, rows, slices: all different, and no multiple of each other.
SHAPE = (20, 26, 7)
SPACING = (0.9, 1.1, 4.5)


def voxels(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Every voxel another value, in random order."""
    return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape)


def write(
    folder: Path,
    values: np.ndarray,
    affine: np.ndarray,
    sequence: str = "flair",
    name: str = "Doe",
    number: int = 3,
    **tags: Any,
) -> list[Path]:
    """A series of the patient ``name`` (always the same study for the same name); tags of None are left out."""
    rng = np.random.default_rng(1)
    all_tags = {**study_tags(name, rng), **SEQUENCES[sequence], "SeriesNumber": number, **tags}
    kept = {key: value for key, value in all_tags.items() if value is not None}
    return write_series(folder, values, affine, kept, np.random.default_rng(number))


def change(path: Path, edit: Callable[[Dataset], object]) -> None:
    data = pydicom.dcmread(path)
    edit(data)
    data.save_as(path)


def copy(path: Path, target: Path, **tags: Any) -> None:
    """Another image like this one, with a UID of its own."""
    data = pydicom.dcmread(path)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for key, value in tags.items():
        setattr(data, key, value)
    data.save_as(target)


def write_enhanced(
    path: Path, values: np.ndarray, affine: np.ndarray, order: Sequence[int], name: str = "Doe", slope: float = 1
) -> None:
    """FLAIR as one enhanced MR file whose frames lie in the given order of slices."""
    common = study_tags(name, np.random.default_rng(1))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = ENHANCED_MR, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    tags = {
        **common, "SOPClassUID": ENHANCED_MR, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": generate_uid(), "SeriesNumber": 3, "InstanceNumber": 1, "SeriesDescription": "FLAIR",
        "ImageType": ["ORIGINAL", "PRIMARY", "T2", "NONE"], "ContentDate": "20200101", "ContentTime": "120000",
        "NumberOfFrames": len(order), "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
        "Columns": values.shape[0], "Rows": values.shape[1],
    }  # fmt: skip
    for key, value in tags.items():
        setattr(image, key, value)
    shared = Dataset()
    shared.MRTimingAndRelatedParametersSequence = [dataset(RepetitionTime=9000)]
    shared.MREchoSequence = [dataset(EffectiveEchoTime=120)]
    shared.MRModifierSequence = [dataset(InversionRecovery="YES", InversionTimes=2500)]
    geometry = geometry_tags(affine, 0)
    shared.PlaneOrientationSequence = [dataset(ImageOrientationPatient=geometry["ImageOrientationPatient"])]
    measures = {key: geometry[key] for key in ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")}
    shared.PixelMeasuresSequence = [dataset(**measures)]
    shared.PixelValueTransformationSequence = [dataset(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [_frame(affine, k) for k in order]
    image.PixelData = values[:, :, list(order)].transpose(2, 1, 0).astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def _frame(affine: np.ndarray, k: int) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence = [dataset(ImagePositionPatient=geometry_tags(affine, k)["ImagePositionPatient"])]
    frame.FrameContentSequence = [dataset(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1])]
    return frame


def dataset(**tags: Any) -> Dataset:
    data = Dataset()
    for key, value in tags.items():
        setattr(data, key, value)
    return data


def affine_of(directions: Sequence[float], shape: Sequence[int] = SHAPE, spacing: Sequence[float] = SPACING) -> Any:
    return centred_affine(directions, shape, spacing)


def tags_of(path: Path) -> Mapping[str, Any]:
    data = pydicom.dcmread(path, stop_before_pixels=True)
    return {element.keyword: element.value for element in data}
