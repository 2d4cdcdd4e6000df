"""What is needed of a DICOM header, of single-frame and of enhanced multi-frame MR images alike."""

import logging
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.4"
IMAGES = (MR, ENHANCED_MR, LEGACY_ENHANCED_MR)

_TAGS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "StudyDate", "FrameOfReferenceUID", "Modality", "ImageType", "SeriesDescription", "ProtocolName", "SequenceName",
    "SeriesNumber", "InstanceNumber", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "RepetitionTime", "EchoTime", "InversionTime",
    "InversionTimes", "EffectiveEchoTime", "ScanningSequence", "InversionRecovery", "ContrastBolusAgent",
    "ContrastBolusAgentSequence", "SamplesPerPixel", "PhotometricInterpretation", "BurnedInAnnotation",
    "BitsAllocated", "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ImagesInAcquisition",
)  # fmt: skip


#: pydicom keeps its mode in one place for all threads, and one reads while another writes.
_MODE = threading.RLock()


@contextmanager
def unvalidated() -> Iterator[None]:
    """Odd values are kept as they are, and nothing is warned of: warnings quote values and paths, maybe a name."""
    for library in ("pydicom", "highdicom"):  # of a damaged file they say where it lies, or its identifiers
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with _MODE, disable_value_validation():
        warnings.filterwarnings("ignore", module="pydicom|highdicom")
        yield


@dataclass(frozen=True)
class Frame:
    """Place of one 2D image. What the header does not say, or not in usable numbers, is None.

    Args:
        position: LPS, mm, of the centre of the first voxel.
        orientation: direction of increasing column, then of increasing row, LPS.
        spacing: between rows, then between columns, mm.
        rescale: slope and intercept of a multi-frame file's frame, which must be alike in the whole file.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    rescale: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Header:
    """One file. Times are in ms, lengths in mm; ``frames`` has one entry in a single-frame file."""

    path: str
    sop_class: str
    sop_uid: str
    patient: str
    study: str
    series: str
    frame_of_reference: str
    transfer_syntax: str
    modality: str
    image_type: tuple[str, ...]
    description: str
    protocol: str
    study_date: str
    series_number: int | None
    instance_number: int | None
    rows: int
    columns: int
    frames: tuple[Frame, ...]
    thickness: float | None
    slice_spacing: float | None
    repetition_time: float | None
    echo_time: float | None
    inversion_time: float | None
    scanning_sequence: tuple[str, ...]
    contrast: str
    grey: bool
    burned_in: bool
    pixel_bytes: int
    images_in_acquisition: int | None

    @property
    def is_image(self) -> bool:
        return self.sop_class in IMAGES

    @property
    def enhanced(self) -> bool:
        return self.sop_class in (ENHANCED_MR, LEGACY_ENHANCED_MR)


def read_dataset(path: str, keywords: Sequence[str]) -> Dataset:
    """These attributes of the header, at its top level, and no others."""
    with unvalidated():
        return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(keywords))


def read_header(path: str) -> Header:
    """Read a file's header.

    Raises:
        ValueError: it is no DICOM file, or damaged, or an image of no series. The message does not hold the path.
    """
    with unvalidated():
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            header = _header(path, data)
        except Exception as error:  # pydicom lets the errors of its parts through
            raise ValueError(f"not a readable DICOM file ({type(error).__name__})") from error
    if header.is_image and not (header.study and header.series):
        raise ValueError("an image without StudyInstanceUID or SeriesInstanceUID")
    return header


def _header(path: str, data: Dataset) -> Header:
    if not _text(data, "SOPClassUID"):
        raise ValueError("no SOPClassUID")
    groups = functional_groups(data)
    first = groups[0] if groups else data
    rows, columns = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
    samples = int(data.get("SamplesPerPixel") or 1)
    return Header(
        path=path,
        sop_class=_text(data, "SOPClassUID"),
        sop_uid=_text(data, "SOPInstanceUID"),
        patient=_text(data, "PatientID"),
        study=_text(data, "StudyInstanceUID"),
        series=_text(data, "SeriesInstanceUID"),
        frame_of_reference=_text(data, "FrameOfReferenceUID"),
        transfer_syntax=str(getattr(data.file_meta, "TransferSyntaxUID", "")),
        modality=_text(data, "Modality"),
        image_type=_words(data, "ImageType"),
        description=_text(data, "SeriesDescription"),
        protocol=" ".join(_text(data, name) for name in ("ProtocolName", "SequenceName")),
        study_date=_text(data, "StudyDate"),
        series_number=_whole(data, "SeriesNumber"),
        instance_number=_whole(data, "InstanceNumber"),
        rows=rows,
        columns=columns,
        frames=tuple(_frame(group) for group in groups or [data]),
        thickness=_number(first, "SpacingBetweenSlices") or _number(first, "SliceThickness"),
        slice_spacing=_number(first, "SpacingBetweenSlices"),
        repetition_time=_number(first, "RepetitionTime"),
        echo_time=_number(first, "EchoTime") or _number(first, "EffectiveEchoTime"),
        inversion_time=_number(first, "InversionTime") or _number(first, "InversionTimes"),
        scanning_sequence=_words(data, "ScanningSequence") or (("IR",) if _inverted(first) else ()),
        contrast=_contrast(data),
        grey=samples == 1 and _text(data, "PhotometricInterpretation") == "MONOCHROME2",
        burned_in=_text(data, "BurnedInAnnotation").upper() == "YES",
        pixel_bytes=rows * columns * samples * int(data.get("BitsAllocated") or 0) // 8 * max(1, len(groups)),
        images_in_acquisition=_whole(data, "ImagesInAcquisition"),
    )


def functional_groups(data: Dataset) -> list[Dataset]:
    """Of a multi-frame file: what is said of each frame, in one flat dataset a frame."""
    per_frame = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    return [_flat(shared, own) for own in per_frame]


def _flat(*groups: Dataset) -> Dataset:
    flat = Dataset()
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value:
                for item in element.value[0]:
                    flat[item.tag] = item
    return flat


def _frame(data: Dataset) -> Frame:
    rescale = _numbers(data, "RescaleSlope", 1), _numbers(data, "RescaleIntercept", 1)
    return Frame(
        position=_numbers(data, "ImagePositionPatient", 3),
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        spacing=_numbers(data, "PixelSpacing", 2),
        rescale=rescale[0] + rescale[1] if rescale[0] and rescale[1] else None,
    )


def _inverted(data: Dataset) -> bool:
    return _text(data, "InversionRecovery").upper() == "YES"


def _contrast(data: Dataset) -> str:
    agents: Any = data.get("ContrastBolusAgentSequence") or []
    return _text(data, "ContrastBolusAgent") or " ".join(_text(item, "CodeMeaning") for item in agents)


def _values(data: Dataset, keyword: str) -> Iterator[Any]:
    try:
        value = data.get(keyword)
    except (ValueError, TypeError, ArithmeticError):  # a number that is none
        return
    if value is not None:
        yield from value if isinstance(value, MultiValue | list | tuple) else [value]


def _text(data: Dataset, keyword: str) -> str:
    return " ".join(str(value) for value in _values(data, keyword)).strip()


def _words(data: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(str(value).strip().upper() for value in _values(data, keyword))


def _numbers(data: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(value) for value in _values(data, keyword))
    except (ValueError, TypeError):
        return None
    return numbers if len(numbers) == count and all(math.isfinite(number) for number in numbers) else None


def _number(data: Dataset, keyword: str) -> float | None:
    numbers = _numbers(data, keyword, 1)
    return numbers[0] if numbers else None


def _whole(data: Dataset, keyword: str) -> int | None:
    number = _number(data, keyword)
    return None if number is None else int(number)
