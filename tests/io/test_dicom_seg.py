import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.base import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from monai_lgg.io.dicom.seg import Algorithm, write_seg
from monai_lgg.io.dicom.volume import read_dicom_case
from monai_lgg.phantom_dicom import PLANES
from tests.dicom_files import SHAPE, affine_of, change, dataset, voxels, write, write_enhanced

ALGORITHM = Algorithm("2.5D U-Net for lower-grade glioma", "0.2.0", "ab" * 32, 0.4)


def names(paths: list[Path]) -> list[str]:
    return [str(path) for path in paths]


def marked(values: np.ndarray) -> np.ndarray:
    """A mask without order: odd values, but nothing in slice 2."""
    mask = values % 2 == 1
    mask[..., 2] = False
    return np.asarray(mask)


def frames_of(path: Path) -> list[tuple[Dataset, np.ndarray]]:
    """Each frame's functional groups and its pixels (rows, columns), unpacked here by hand."""
    data = pydicom.dcmread(path)
    size = (data.NumberOfFrames, data.Rows, data.Columns)
    if data.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
        pixels = bits[: np.prod(size)].reshape(size)
    else:
        pixels = np.frombuffer(data.PixelData, np.uint8)[: np.prod(size)].reshape(size)
    return list(zip(data.PerFrameFunctionalGroupsSequence, pixels, strict=True))


def source_of(group: Dataset) -> tuple[str, int | None]:
    (image,) = group.DerivationImageSequence[0].SourceImageSequence
    return str(image.ReferencedSOPInstanceUID), image.get("ReferencedFrameNumber")


@pytest.mark.parametrize("plane", PLANES)
def test_binary_overlays_its_source_voxel_for_voxel(tmp_path: Path, plane: str) -> None:
    """Where a source pixel is odd its frame of the segmentation is 1: found by reference and again by position."""
    files = write(tmp_path / "s", voxels(), affine_of(PLANES[plane]))
    shuffled = [files[k] for k in np.random.default_rng(2).permutation(len(files))]
    mask = marked(read_dicom_case(names(shuffled))[0][..., 0])
    write_seg(tmp_path / "seg.dcm", mask, names(shuffled), ALGORITHM)
    sources = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in files}
    frames = frames_of(tmp_path / "seg.dcm")
    assert len(frames) == SHAPE[2] - 1  # a slice without tumour has no frame
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for group, pixels in frames:
        source = sources[source_of(group)[0]]
        np.testing.assert_array_equal(pixels, source.pixel_array % 2)
        position = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_array_equal(position, source.ImagePositionPatient)
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        np.testing.assert_array_equal(orientation, source.ImageOrientationPatient)
        np.testing.assert_array_equal(shared.PixelMeasuresSequence[0].PixelSpacing, source.PixelSpacing)
    referenced = segmentation.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == set(sources)
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID


@pytest.mark.parametrize("plane", PLANES)
def test_highdicom_reads_the_volume_back_in_place(tmp_path: Path, plane: str) -> None:
    affine = affine_of(PLANES[plane])
    files = names(write(tmp_path / "s", voxels(), affine))
    write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    to_voxel = np.linalg.inv(lps) @ volume.affine
    found = np.zeros(SHAPE, bool)
    indices = np.argwhere(volume.array)
    places = indices @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    np.testing.assert_allclose(places, places.round(), atol=1e-5)
    found[tuple(places.round().astype(int).T)] = True
    np.testing.assert_array_equal(found, marked(voxels()))


def test_fractional_holds_the_probabilities_in_255_steps(tmp_path: Path) -> None:
    files = write(tmp_path / "s", voxels(), affine_of(PLANES["oblique"]))
    probability = (voxels() / voxels().max()).astype(np.float32)
    write_seg(tmp_path / "seg.dcm", probability, names(files), ALGORITHM)
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (data.SegmentationType, data.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert data.MaximumFractionalValue == 255
    slices = {pydicom.dcmread(path).SOPInstanceUID: k for k, path in enumerate(files)}
    frames = frames_of(tmp_path / "seg.dcm")
    assert len(frames) == SHAPE[2]
    for group, pixels in frames:
        expected = probability[..., slices[source_of(group)[0]]].T
        np.testing.assert_allclose(pixels / 255, expected, atol=0.5 / 255 + 1e-6)


def test_codes_algorithm_and_patient(tmp_path: Path) -> None:
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))
    write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    (segment,) = data.SegmentSequence
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("108369006", "SCT", "Neoplasm")
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("FLAIR abnormality", "AUTOMATIC")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (ALGORITHM.name, "0.2.0")
    assert str(algorithm.AlgorithmParameters).startswith("threshold=0.4")
    assert (data.PatientID, data.PatientName, data.SeriesNumber) == ("Doe", "PHANTOM^Doe", 1003)
    source = pydicom.dcmread(files[0])
    assert data.StudyInstanceUID == source.StudyInstanceUID
    assert data.SeriesInstanceUID != source.SeriesInstanceUID


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_empty_mask_is_written_whole(tmp_path: Path, kind: str) -> None:
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))
    write_seg(tmp_path / "seg.dcm", np.zeros(SHAPE, bool if kind == "binary" else np.float32), files, ALGORITHM)
    frames = frames_of(tmp_path / "seg.dcm")
    assert len(frames) == SHAPE[2]
    assert not any(pixels.any() for _, pixels in frames)


def test_multi_frame_source(tmp_path: Path) -> None:
    order = [3, 0, 6, 1, 2, 5, 4]
    write_enhanced(tmp_path / "one", voxels(), affine_of(PLANES["sagittal"]), order)
    write_seg(tmp_path / "seg.dcm", marked(voxels()), [str(tmp_path / "one")], ALGORITHM)
    source = pydicom.dcmread(tmp_path / "one")
    frames = frames_of(tmp_path / "seg.dcm")
    assert len(frames) == SHAPE[2] - 1
    for group, pixels in frames:
        uid, number = source_of(group)
        assert uid == source.SOPInstanceUID
        np.testing.assert_array_equal(pixels, source.pixel_array[number - 1] % 2)


#: What the README says that a SEG carries over of patient, study and equipment.
CARRIED = {
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator",
}  # fmt: skip
SECRET = {"AS": "077Y", "DA": "19431112", "TM": "111213.25", "DT": "19431112111213", "DS": "77.25", "IS": "7725",
          "UI": "1.2.3.7725", "US": 7725, "UL": 7725, "FD": 77.25, "FL": 77.25, "SL": 7725}  # fmt: skip


def filled(path: Path) -> set[str]:
    """Gives all attributes of patient, study, series and equipment that the file lacks a secret value; their names."""
    maps = [reader() for reader in (get_sop_class_iod_map, get_iod_module_map, get_module_attribute_map)]
    names: set[str] = set()

    def edit(data: Dataset) -> None:
        for module in maps[1][maps[0][data.SOPClassUID]]:
            if module["ie"] in ("Patient", "Study", "Series", "Equipment"):
                names.update(item["keyword"] for item in maps[2][module["key"]] if not item["path"])
        for name in sorted(names):
            kind = dictionary_VR(name)
            if name in data or name.startswith("Pixel") or " or " in kind:
                continue
            code = dataset(CodeValue="SECRET", CodeMeaning="SECRET", PatientID="SECRET", CodingSchemeDesignator="99X")
            setattr(data, name, [code] if kind == "SQ" else SECRET.get(kind, "SECRET"))

    change(path, edit)
    return names


@pytest.mark.parametrize("kind", ["single frames", "one enhanced file"])
def test_of_patient_and_study_only_what_a_pacs_files_by_is_carried_over(tmp_path: Path, kind: str) -> None:
    """All attributes that the standard has for patient, study, trial, series and equipment are there in the source."""
    if kind == "single frames":
        files = write(tmp_path / "s", voxels(), affine_of(PLANES["axial"]), StudyTime="101112")
    else:
        files = [tmp_path / "one"]
        write_enhanced(files[0], voxels(), affine_of(PLANES["axial"]), range(SHAPE[2]))
    source_names = set.union(*(filled(path) for path in files))
    assert len(source_names) > 150
    source = pydicom.dcmread(files[0])
    assert {"PatientComments", "AdditionalPatientHistory", "StudyDescription", "Allergies", "InstitutionName"} <= {
        element.keyword for element in source
    }
    write_seg(tmp_path / "seg.dcm", marked(voxels()), names(files), ALGORITHM)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    same = {name for name in source_names | CARRIED if name in found and name in source and found[name] == source[name]}
    assert same == {name for name in CARRIED if name in source}
    secrets = {"SECRET", *map(str, SECRET.values())}
    for element in found.iterall():
        text = str(element.value)
        if element.VR != "SQ":
            assert text not in secrets, element
            # of the shorter ones, any of the many digits of random UIDs can be a part
            assert not any(secret in text for secret in secrets if len(secret) > 5), element


def test_poor_headers(tmp_path: Path) -> None:
    """Headers as de-identification leaves them, and a value that breaks its rule."""
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))

    def edit(data: Dataset) -> None:
        for keyword in ("AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex", "StudyTime", "SeriesNumber"):
            delattr(data, keyword)
        data.add(pydicom.DataElement("PatientID", "LO", "x" * 70, validation_mode=pydicom.config.IGNORE))

    for path in files:
        change(Path(path), edit)
    write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientID == "x" * 70


@pytest.mark.parametrize(
    ("character_set", "name", "written"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "ISO_IR 192"),
        ("ISO 2022 IR 100", "Müller^Jörg", "ISO_IR 192"),
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 192"),
        ("GB18030", "Wang^XiaoDong=王^小东", "ISO_IR 192"),
        ("ISO_IR 192", "Müller^Jörg", "ISO_IR 192"),
        ("ISO_IR 6", "Mueller^Joerg", None),
        ("", "Mueller^Joerg", None),
        (None, "Mueller^Joerg", None),
    ],
)
def test_names_in_every_alphabet(
    tmp_path: Path, character_set: str | list[str] | None, name: str, written: str | None
) -> None:
    def edit(data: Dataset) -> None:
        data.SpecificCharacterSet, data.PatientName = character_set, name
        if character_set is None:
            del data.SpecificCharacterSet

    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))
    for path in files:
        change(Path(path), edit)
    write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (found.PatientName, found.get("SpecificCharacterSet")) == (name, written)


@pytest.mark.parametrize(
    ("keyword", "odd"),
    [
        ("PatientBirthDate", "1970-03-05"),
        ("PatientBirthDate", "19700000"),
        ("StudyDate", "unknown"),
        ("StudyTime", "99:99:99"),
        ("PatientSex", "Female"),
        ("PatientName", "Doe^Jane\\Roe^Jane"),
    ],
)
def test_an_odd_value_is_left_empty(tmp_path: Path, keyword: str, odd: str) -> None:
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))
    ignore = pydicom.config.IGNORE
    for path in files:
        change(
            Path(path),
            lambda data: data.add(pydicom.DataElement(keyword, dictionary_VR(keyword), odd, validation_mode=ignore)),
        )
    write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    found = pydicom.dcmread(tmp_path / "seg.dcm")
    assert not found[keyword].value
    assert found.PatientID == "Doe"


@pytest.mark.parametrize(
    "edit", [lambda data: data.pop("SliceThickness"), lambda data: setattr(data, "SliceThickness", None)]
)
def test_thickness_that_is_not_stated_is_the_step(tmp_path: Path, edit: Callable[[Dataset], object]) -> None:
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))
    step = np.linalg.norm(affine_of(PLANES["axial"])[:3, 2])
    for path in files:
        change(Path(path), edit)
    write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    shared = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].SliceThickness == pytest.approx(step)


def test_an_error_of_highdicom_shows_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise TypeError("Unable to convert '1970-03-05'")

    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"])))
    monkeypatch.setattr("monai_lgg.io.dicom.seg.Segmentation", fail)
    with pytest.raises(
        ValueError, match=r"^highdicom makes no SEG from the headers of FLAIR \(TypeError\); write --for"
    ):
        write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)


def test_what_is_refused(tmp_path: Path) -> None:
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES["axial"]), FrameOfReferenceUID=None))
    with pytest.raises(ValueError, match=r"a mask of \(2, 2, 2\) does not fit the images"):
        write_seg(tmp_path / "seg.dcm", np.zeros((2, 2, 2), bool), files, ALGORITHM)
    with pytest.raises(ValueError, match="no FrameOfReferenceUID, which DICOM SEG needs"):
        write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    files = names(write(tmp_path / "t", voxels(), affine_of(PLANES["axial"])))
    change(Path(files[0]), lambda data: data.pop("SOPInstanceUID"))
    with pytest.raises(ValueError, match="an image of FLAIR has no SOPInstanceUID"):
        write_seg(tmp_path / "seg.dcm", marked(voxels()), files, ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian package dicom3tools)")
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("kind", ["binary", "fractional", "empty"])
def test_dciodvfy_finds_no_error(tmp_path: Path, plane: str, kind: str) -> None:
    values = {"binary": marked(voxels()), "fractional": voxels() / 3640, "empty": np.zeros(SHAPE, bool)}[kind]
    files = names(write(tmp_path / "s", voxels(), affine_of(PLANES[plane])))
    write_seg(tmp_path / "seg.dcm", values, files, ALGORITHM)
    for path in (tmp_path / "seg.dcm", files[0]):  # the source too, or its own faults would be inherited
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert re.search(r"^(Segmentation|MRImage)$", said, re.M), said
        assert "Error" not in said
