"""Masks and probabilities as DICOM SEG, by highdicom, on the images of the FLAIR series that they were made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.uid import UID
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM, DSfloat

from monai_lgg import __version__
from monai_lgg.io.atomic import atomic_write
from monai_lgg.io.dicom.headers import read_dataset, read_header, unvalidated
from monai_lgg.io.dicom.studies import sorted_stack

MANUFACTURER = "monai-lgg"
LABEL = "FLAIR abnormality"
#: Added to the number of the FLAIR series.
SERIES_OFFSET = 1000
#: Which a source without them, or with odd ones, does not stop: highdicom asks for them, and the standard lets them be
#: empty.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime",
)  # fmt: skip
_TEXTS = (*_MAY_BE_EMPTY, "ReferringPhysicianName", "PositionReferenceIndicator")
#: What a PACS files by, and what places the mask on its images. Nothing else of the source is read, because highdicom
#: copies all that it knows of the patient, the study, clinical trials and the equipment.
_CARRIED = (
    *_TEXTS, "StudyInstanceUID", "FrameOfReferenceUID", "SpecificCharacterSet",
)  # fmt: skip
_PLACE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality", "Rows",
    "Columns", "NumberOfFrames", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "DimensionOrganizationSequence", "DimensionIndexSequence",
)  # fmt: skip


@dataclass(frozen=True)
class Algorithm:
    """What made the mask.

    Args:
        name: of the bundle.
        version: of the bundle.
        weights: SHA-256 of its weights; empty when unknown.
        threshold: probability from which a voxel is tumour.
    """

    name: str
    version: str
    weights: str
    threshold: float


def write_seg(path: Path, values: np.ndarray, files: Sequence[str], algorithm: Algorithm) -> None:
    """Write one segment; the file appears only when whole.

    Of the source it carries what a PACS files it by (patient's name, id, birth date and sex; study's UID, id, date and
    time; accession number; referring physician; frame of reference) and nothing else of patient, study or equipment.
    Of these, what cannot be read as its kind, such as a date with hyphens, is left empty. Text that is not all ASCII is
    written in UTF-8.

    Args:
        path: of the new file.
        values: (column, row, slice) as :func:`monai_lgg.io.dicom.volume.read_dicom_case` gives volumes; bool is
            written as a binary segmentation, float (probabilities in 0 to 1) as a fractional one of 255 steps.
        files: of the FLAIR series, in any order.
    Raises:
        ValueError: the source has no FrameOfReferenceUID, or its images do not fit the values. The message holds no
            value of the source.
    """
    headers, stack = sorted_stack([read_header(file) for file in files])
    if values.shape != stack.shape:
        raise ValueError(f"a mask of {values.shape} does not fit the images ({stack.shape}); was the series changed?")
    if not headers[0].frame_of_reference:
        raise ValueError("FLAIR has no FrameOfReferenceUID, which DICOM SEG needs; write --format nifti")
    sources = [_source(header.path, float(np.linalg.norm(stack.affine[:3, 2]))) for header in headers]
    frames = values.transpose(2, 1, 0)
    if len(sources) == 1:  # highdicom expects the frames as they lie in a multi-frame file
        frames = frames[np.argsort([frame for _, frame in stack.order])]
    with unvalidated():
        try:
            segmentation = _segmentation(sources, np.ascontiguousarray(frames), algorithm)
        except Exception as error:  # of highdicom, whose words may quote a name or a date
            raise ValueError(
                f"highdicom makes no SEG from the headers of FLAIR ({type(error).__name__}); write --format nifti"
            ) from error
        atomic_write(path, lambda partial: segmentation.save_as(partial, enforce_file_format=True))


def _source(path: str, step: float) -> Dataset:
    """What is carried over of a file's header, mended.

    Args:
        step: from slice to slice, mm.
    """
    data = read_dataset(path, [*_CARRIED, *_PLACE])
    if not data.get("SOPInstanceUID"):
        raise ValueError(
            "an image of FLAIR has no SOPInstanceUID, by which DICOM SEG refers to it; write --format nifti"
        )
    texts = {keyword: _usable(keyword, data.get(keyword)) for keyword in _TEXTS if keyword in data}
    for keyword, text in (dict.fromkeys(_MAY_BE_EMPTY, "") | texts).items():
        setattr(data, keyword, text)
    if "".join(texts.values()).isascii():
        data.pop("SpecificCharacterSet", None)
    else:
        data.SpecificCharacterSet = "ISO_IR 192"
    if not data.get("SliceThickness") and "NumberOfFrames" not in data:
        data.SliceThickness = DSfloat(step, auto_format=True)
    return data


def _usable(keyword: str, value: Any) -> str:
    """The value as text; empty when it is none of its kind."""
    text = "" if value is None or isinstance(value, MultiValue) else str(value)
    kind = DA if keyword.endswith("Date") else TM if keyword.endswith("Time") else str
    try:
        kind(text)
    except ValueError:
        return ""
    return "" if keyword == "PatientSex" and text not in ("F", "M", "O") else text


def _segmentation(sources: list[Dataset], frames: np.ndarray, algorithm: Algorithm) -> Segmentation:
    binary = frames.dtype == bool
    number = sources[0].get("SeriesNumber")
    return Segmentation(
        source_images=sources,
        pixel_array=frames if binary else np.clip(frames, 0, 1).astype(np.float32),
        segmentation_type=SegmentationTypeValues.BINARY if binary else SegmentationTypeValues.FRACTIONAL,
        segment_descriptions=[_segment(algorithm)],
        series_instance_uid=UID(),
        series_number=SERIES_OFFSET + int(number or 0),
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name[:64],
        software_versions=__version__,
        device_serial_number=algorithm.weights[:16] or "none",
        max_fractional_value=255,
        content_label="FLAIR_LESION",
        content_description="Automatic, for research use only"[:64],
        series_description=f"monai-lgg {LABEL}{'' if binary else ', probability'}",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(frames.any()),
    )


def _segment(algorithm: Algorithm) -> SegmentDescription:
    parameters = {"threshold": f"{algorithm.threshold:g}"}
    if algorithm.weights:
        parameters["weights_sha256"] = algorithm.weights
    return SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version[:64],
            source=MANUFACTURER,
            parameters=parameters,
        ),
        anatomic_regions=[codes.SCT.Brain],
        tracking_uid=UID(),
        tracking_id=LABEL,
    )
