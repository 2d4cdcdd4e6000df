from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom or label")

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from monai_lgg.label_app.segmentations import NEOPLASM, drawn_tumour, mask_of

SHAPE = (7, 5, 4)
#: mm: from column to column, from row to row, from slice to slice.
SPACING = (0.7, 0.9, 5.5)
ORIGIN = np.array([-20.0, 31.0, 8.0])
#: Columns are the directions of the axes, LPS: an oblique acquisition.
AXES = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [-0.1, 1.0, 0.3], [0.2, -0.2, 1.0]]))[0]


def image_affine() -> np.ndarray:
    """RAS, as a converter of DICOM writes it."""
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = AXES * SPACING, ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def item(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def segmentation(masks: dict[int, np.ndarray], *, fractional: bool = False, shift: float = 0.0) -> Dataset:
    """A SEG of the slices that are not empty, last slice first; ``masks`` by number of the segment, (X, Y, Z)."""
    frames, groups = [], []
    for number, mask in masks.items():
        for k in reversed(np.flatnonzero(mask.any(axis=(0, 1)))):
            frames.append(mask[..., k].T)
            place = ORIGIN + AXES[:, 2] * SPACING[2] * k + AXES[:, 0] * shift
            groups.append(
                item(
                    SegmentIdentificationSequence=Sequence([item(ReferencedSegmentNumber=number)]),
                    PlanePositionSequence=Sequence([item(ImagePositionPatient=[float(f"{x:.6f}") for x in place])]),
                )
            )
    pixels = np.stack(frames)
    shared = item(
        PlaneOrientationSequence=Sequence(
            [item(ImageOrientationPatient=[float(f"{x:.6f}") for x in (*AXES[:, 0], *AXES[:, 1])])]
        ),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2])]),
    )
    data = item(
        Rows=SHAPE[1],
        Columns=SHAPE[0],
        NumberOfFrames=len(frames),
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        PixelRepresentation=0,
        SegmentationType="FRACTIONAL" if fractional else "BINARY",
        BitsAllocated=8 if fractional else 1,
        BitsStored=8 if fractional else 1,
        HighBit=7 if fractional else 0,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(groups),
    )
    if fractional:
        data.MaximumFractionalValue = 200
    packed = pixels.astype(np.uint8) if fractional else np.packbits(pixels.ravel() > 0, bitorder="little")
    data.PixelData = packed.tobytes() + b"\0" * (packed.size % 2)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.is_little_endian, data.is_implicit_VR = True, False
    return data


@pytest.fixture
def masks() -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {number: rng.random(SHAPE) < 0.4 for number in (1, 2, 3)}
    made[1][..., 1] = made[2][..., 1] = False  # its slice has no frame
    return made


def test_chosen_segments_lie_on_the_voxels_that_they_were_drawn_on(masks: dict[int, np.ndarray]) -> None:
    found = mask_of(segmentation(masks), {1, 2}, SHAPE, image_affine())
    np.testing.assert_array_equal(found, masks[1] | masks[2])
    assert (masks[1] & masks[2]).any()  # they overlap


def test_of_a_fractional_one_half_counts() -> None:
    levels = np.zeros(SHAPE)
    levels[1:4, 2, 3] = (99, 100, 200)
    found = mask_of(segmentation({1: levels}, fractional=True), {1}, SHAPE, image_affine())
    np.testing.assert_array_equal(found, levels >= 100)


def test_frames_elsewhere_are_refused(masks: dict[int, np.ndarray]) -> None:
    affine = image_affine()
    for data, shape, grid in [
        (segmentation(masks, shift=0.3), SHAPE, affine),
        (segmentation(masks), (7, 6, 4), affine),
        (segmentation(masks), (5, 7, 4), affine),
        (segmentation(masks), (7, 5, 3), affine),
        (segmentation(masks), SHAPE, affine * [1, 1, 0.8, 1]),
        (segmentation(masks), SHAPE, affine * [-1, 1, 1, 1]),
        (segmentation(masks), SHAPE, affine[:, [1, 0, 2, 3]]),
    ]:
        with pytest.raises(ValueError, match=r"a frame of 7 x 5 pixels at .* lies on no slice of the images"):
            mask_of(data, {1, 2, 3}, shape, grid)


def described(**segment: Any) -> Dataset:
    """Metadata of a SEG with one segment."""
    kind = segment.pop("kind", "T-D0050")  # tissue, as OHIF says of all
    return item(
        StudyInstanceUID="1.1",
        SeriesInstanceUID="1.2",
        SOPInstanceUID="1.3",
        ContentDate="20260102",
        ContentTime="130405.5",
        ReferencedSeriesSequence=Sequence([item(SeriesInstanceUID="1.9")]),
        SegmentSequence=Sequence(
            [
                item(
                    SegmentNumber=4,
                    SegmentedPropertyTypeCodeSequence=Sequence([item(CodeValue=kind)]),
                    **{"SegmentAlgorithmType": "MANUAL", "SegmentLabel": "Segment 1", **segment},
                )
            ]
        ),
    )


@pytest.mark.parametrize(
    ("segment", "is_label"),
    [
        ({"SegmentLabel": "Tumor left"}, True),
        ({"SegmentLabel": "FLAIR abnormality"}, True),
        ({"kind": NEOPLASM}, True),
        ({"kind": NEOPLASM, "SegmentAlgorithmType": "SEMIAUTOMATIC"}, True),
        ({"kind": NEOPLASM, "SegmentAlgorithmType": "AUTOMATIC", "SegmentLabel": "tumour"}, False),
        ({}, False),
        ({"SegmentLabel": "Spleen"}, False),
    ],
)
def test_a_label_is_a_tumour_that_people_drew(segment: dict[str, Any], is_label: bool) -> None:
    found = drawn_tumour(described(**segment))
    assert (found is not None) == is_label
    if found is not None:
        assert (found.study, found.series, found.instance, found.image) == ("1.1", "1.2", "1.3", "1.9")
        assert found.segments == {4}


def test_order_in_time() -> None:
    times = []
    for day, hour in [(None, None), ("20260101", None), ("20260101", "09"), ("20260101", "0900"), ("20260102", "08")]:
        data = described(kind=NEOPLASM)
        data.ContentDate, data.ContentTime = day, hour
        found = drawn_tumour(data)
        assert found is not None
        times.append(found.time)
    assert times == sorted(times)


def test_without_segments_or_images_there_is_no_label() -> None:
    for name in ("SegmentSequence", "ReferencedSeriesSequence"):
        data = described(kind=NEOPLASM)
        delattr(data, name)
        assert drawn_tumour(data) is None
