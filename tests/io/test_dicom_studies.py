import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from monai_lgg.io.dicom import find_dicom, is_dicom
from monai_lgg.io.dicom.studies import dicom_records
from monai_lgg.phantom_dicom import PLANES, SEQUENCES
from tests.dicom_files import affine_of, change, copy, voxels, write, write_enhanced

AXIAL = affine_of(PLANES["axial"])
SAGITTAL = affine_of(PLANES["sagittal"])


def records(*folders: Path, **options: Any) -> list[dict[str, Any]]:
    return dicom_records(find_dicom(folders), **options)


def facts(record: dict[str, Any]) -> dict[str, Any]:
    assert "broken" not in record, record["broken"]
    content: dict[str, Any] = json.loads(record["dicom"])
    return content["facts"]


def numbers(record: dict[str, Any]) -> list[int | None]:
    """Series numbers of (pre, FLAIR, post)."""
    found = facts(record)
    return [found[name] and found[name]["series_number"] for name in ("pre", "flair", "post")]


def broken(record: dict[str, Any]) -> str:
    return str(record["broken"])


def write_t1(folder: Path, number: int, sequence: str = "pre", **tags: Any) -> list[Path]:
    return write(folder, voxels(number), SAGITTAL, sequence, number=number, **tags)


def test_by_content_not_by_name(tmp_path: Path) -> None:
    (path, *_) = write(tmp_path / "s", voxels(), AXIAL)
    assert is_dicom(path)
    raw = path.read_bytes()
    (tmp_path / "bare").write_bytes(raw[132:])
    assert is_dicom(tmp_path / "bare")
    for name, content in (("text", b"A" * 500), ("short", raw[:100]), ("zeros", bytes(500)), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name)
    assert not is_dicom(tmp_path)
    shutil.copy(path, tmp_path / ".hidden")
    shutil.copy(path, tmp_path / "scan.json")
    assert sorted(find_dicom([tmp_path])) == sorted(
        [str(tmp_path / "bare"), *(str(item) for item in (tmp_path / "s").iterdir())]
    )


def test_several_patients_and_series_in_one_folder(tmp_path: Path) -> None:
    """All files of two patients side by side in one folder, under names that say nothing."""
    heap = tmp_path / "all of them"
    heap.mkdir()
    for patient in ("Doe", "Roe"):
        for number, sequence in enumerate(("localizer", "pre", "flair", "post"), start=1):
            folder = tmp_path / patient / str(number)
            write(folder, voxels(number), AXIAL, sequence, name=patient, number=number)
            for k, path in enumerate(folder.iterdir()):
                shutil.move(path, heap / f"{patient[0]}{number}{k}")
    (heap / "notes.txt").write_text("no image")
    found = records(heap)
    assert [numbers(record) for record in found] == [[2, 3, 4], [2, 3, 4]]
    assert [len(record["image"]) for record in found] == [21, 21]
    assert len({record["case"] for record in found}) == 2


def test_name_is_a_hash_of_the_study(tmp_path: Path) -> None:
    """Computed here by the recipe that the README gives."""
    import hashlib

    path = write(tmp_path / "s", voxels(), AXIAL)[0]
    uid = pydicom.dcmread(path).StudyInstanceUID
    (record,) = records(tmp_path)
    assert record["case"] == "study-" + hashlib.sha256(uid.encode()).hexdigest()[:10]
    (record,) = records(tmp_path, keep_identifiers=True)
    assert record["case"] == "Doe_20200101_" + hashlib.sha256(uid.encode()).hexdigest()[:10]
    assert "source" not in record
    assert facts(record)["flair"]["series_description"] == SEQUENCES["flair"]["SeriesDescription"]


def test_files_are_in_the_order_of_the_slices(tmp_path: Path) -> None:
    paths = write(tmp_path / "s", voxels(), AXIAL)
    assert [path.name for path in paths] != sorted(path.name for path in paths)
    (record,) = dicom_records(sorted(map(str, paths)))
    assert record["image"] == [str(path) for path in paths]


def test_missing_t1_is_replaced_by_flair(tmp_path: Path) -> None:
    flair = [str(path) for path in write(tmp_path / "f", voxels(), AXIAL)]
    (record,) = records(tmp_path)
    assert record["image"] == flair
    write_t1(tmp_path / "t", 4, "post")
    (record,) = records(tmp_path)
    assert numbers(record) == [None, 3, 4]
    assert (record["image"][:7], record["image"][7:14], len(record["image"])) == (flair, flair, 21)


def test_another_frame_of_reference_or_place_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "f", voxels(), AXIAL)
    write_t1(tmp_path / "a", 4, FrameOfReferenceUID=generate_uid())
    far = SAGITTAL.copy()
    far[2, 3] += 1000
    write(tmp_path / "b", voxels(), far, "post", number=5)
    (record,) = records(tmp_path)
    assert numbers(record) == [None, 3, None]
    notes = facts(record)["notes"]
    assert any(
        "pre-contrast) cannot be used: series 4" in note and "another frame of reference" in note for note in notes
    )
    assert any("post-contrast) cannot be used: series 5" in note and "covers 0% of FLAIR" in note for note in notes)


def test_broken_t1_is_left_out_and_another_taken(tmp_path: Path) -> None:
    write(tmp_path / "f", voxels(), AXIAL)
    write_t1(tmp_path / "a", 4)[3].unlink()
    (record,) = records(tmp_path)
    assert numbers(record) == [None, 3, None]
    assert "1 slice missing" in facts(record)["notes"][0]
    write_t1(tmp_path / "b", 5)
    assert numbers(records(tmp_path)[0]) == [5, 3, None]


def test_t1_of_flairs_plane_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "f", voxels(), AXIAL)
    write_t1(tmp_path / "a", 1)
    write(tmp_path / "b", voxels(), AXIAL, "pre", number=9)
    assert numbers(records(tmp_path)[0]) == [9, 3, None]


def test_localizer_images_in_the_series_are_left_out(tmp_path: Path) -> None:
    paths = write(tmp_path / "f", voxels(), AXIAL)
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    copy(paths[0], tmp_path / "f" / "loc", ImageType=kind, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    (record,) = records(tmp_path)
    assert facts(record)["notes"] == ["1 localizer images in the series were left out"]
    assert len(record["image"]) == 7


def test_a_file_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    paths = write(tmp_path / "f", voxels(), AXIAL)
    shutil.copytree(tmp_path / "f", tmp_path / "copy")
    (record,) = records(tmp_path)
    assert (len(record["image"]), facts(record)["notes"]) == (7, ["7 files were there twice"])
    change(tmp_path / "copy" / paths[2].name, lambda data: setattr(data, "PixelData", bytes(len(data.PixelData))))
    assert "doubled slices: 1 of 7" in broken(records(tmp_path)[0])


def test_images_that_the_header_speaks_of(tmp_path: Path) -> None:
    write(tmp_path / "f", voxels(), AXIAL, ImagesInAcquisition=7)[-1].unlink()  # the last: distances do not tell
    (record,) = records(tmp_path)
    assert facts(record)["notes"] == ["FLAIR has 6 images, but its header speaks of 7; slices may be missing"]


def test_every_second_slice_is_gone(tmp_path: Path) -> None:
    gap = math.hypot(*AXIAL[:3, 2])
    paths = write(tmp_path / "f", voxels(), AXIAL, SpacingBetweenSlices=gap)
    assert facts(records(tmp_path)[0])["notes"] == []
    for path in paths[1::2]:
        path.unlink()
    (note,) = facts(records(tmp_path)[0])["notes"]
    assert note == f"slices are {2 * gap:.2f} mm apart, 2 times what the header states; some may be missing in between"


def test_several_flair(tmp_path: Path) -> None:
    """Original before derived, before contrast, axial, of most images, of the lowest number."""
    wanted = []
    for number, affine, tags in (
        (9, AXIAL, {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        (8, AXIAL, {"ContrastBolusAgent": "Gd"}),
        (7, SAGITTAL, {}),
        (6, AXIAL, {}),
        (5, AXIAL, {}),
    ):
        write(tmp_path / str(number), voxels(), affine, number=number, **tags)
        wanted.append(numbers(records(tmp_path)[0])[1])
    assert wanted == [9, 8, 7, 6, 5]
    assert sum("another FLAIR was not used" in note for note in facts(records(tmp_path)[0])["notes"]) == 4
    next((tmp_path / "5").iterdir()).unlink()
    paths = sorted((tmp_path / "6").iterdir())
    assert numbers(records(tmp_path)[0])[1] in (5, 6)
    for path in paths[:3]:
        change(path, lambda data: delattr(data, "PixelSpacing"))
    (record,) = records(tmp_path)
    assert any("a FLAIR cannot be used: series 6" in note and "PixelSpacing" in note for note in facts(record)["notes"])


@pytest.mark.parametrize("name", ["3", "WEIRD", "uid"])
def test_flair_by_name(tmp_path: Path, name: str) -> None:
    tags = {"SeriesDescription": "weird scan", "ScanningSequence": "SE", "InversionTime": None}
    path = write(tmp_path / "f", voxels(), AXIAL, **tags)[0]
    write(tmp_path / "g", voxels(), AXIAL, number=4)
    uid = str(pydicom.dcmread(path).SeriesInstanceUID)
    assert numbers(records(tmp_path)[0])[1] == 4
    assert numbers(records(tmp_path, flair_series=uid if name == "uid" else name)[0])[1] == 3


def test_no_flair(tmp_path: Path) -> None:
    write_t1(tmp_path / "t", 4)
    write(tmp_path / "l", voxels()[..., :3], SAGITTAL, "localizer", number=1)
    (record,) = records(tmp_path)
    assert broken(record).startswith(
        "no FLAIR among the 2 MR series: series 1 (GR, TR 20 ms, TE 5 ms, 3 images); "
        "series 4 (SE, TR 500 ms, TE 10 ms, 7 images); name it with --flair-series"
    )
    (record,) = records(tmp_path, flair_series="nothing", keep_identifiers=True)
    assert broken(record).startswith(
        "no series of the name given by --flair-series among the 2 MR series: series 1 'loc"
    )


def test_other_modality_and_objects_without_images(tmp_path: Path) -> None:
    for path in write(tmp_path / "ct", voxels(), AXIAL, Modality="CT"):
        change(path, lambda data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"))
    assert broken(records(tmp_path)[0]) == "no MR images in this study (modality CT); give MR images with FLAIR"
    write(tmp_path / "f", voxels(), AXIAL)
    assert numbers(records(tmp_path)[0]) == [None, 3, None]


def test_two_patients_in_one_study(tmp_path: Path) -> None:
    paths = write(tmp_path / "f", voxels(), AXIAL)
    change(paths[0], lambda data: setattr(data, "PatientID", "another"))
    assert broken(records(tmp_path)[0]) == "files of 2 patients (PatientID) in one study; export it again"


def test_damaged_files_are_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = write(tmp_path / "Doe", voxels(), AXIAL)
    raw = paths[3].read_bytes()
    paths[3].write_bytes(raw[:140] + b"\xff" * 60)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        (record,) = records(tmp_path)
    assert not warned  # pydicom's would hold the path
    assert "Doe" not in caplog.text
    assert "a file: not a readable DICOM file" in caplog.text
    assert "1 slice missing" in broken(record)
    assert "(1 damaged files were passed over)" in broken(record)
    assert "Doe" not in broken(record)


def spoil(path: Path, keep: int = 140) -> None:
    """The beginning stays, and what follows is no element."""
    path.write_bytes(path.read_bytes()[:keep] + b"\xff" * 60)


def cut_before(path: Path, tag: bytes) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(tag)])


STUDY, SERIES, SIZE = b"\x20\x00\x0d\x00UI", b"\x20\x00\x0e\x00UI", b"\x28\x00\x10\x00US"
MAY_BELONG = "1 file(s) that may belong to FLAIR cannot be read (damaged, or no permission), so slices may be missing"


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("damage", ["bytes", "no study", "no series", "no size", "named only", "gone", "no permission"])
def test_a_lost_slice_at_an_end_of_flair_refuses_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, damage: str
) -> None:
    """The distances between the slices that are left do not tell of it."""
    folder = tmp_path / "f"
    paths = write(folder, voxels(), AXIAL)
    write_t1(tmp_path / "t", 4)
    assert facts(records(tmp_path)[0])["unreadable_files"] == 0
    path = paths[place]
    if damage == "bytes":
        spoil(path)
    elif damage in ("no study", "no series", "no size"):
        cut_before(path, {"no study": STUDY, "no series": SERIES, "no size": SIZE}[damage])
    elif damage == "named only":
        path.unlink()
        (folder / "1.DCM").write_bytes(b"")
    elif damage == "gone":
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    else:
        monkeypatch.setattr("monai_lgg.io.dicom.open", refusing(open, path), raising=False)
        monkeypatch.setattr(pydicom, "dcmread", refusing(pydicom.dcmread, path))
    (record,) = records(tmp_path)
    expected = "have different sizes" if damage == "no size" else MAY_BELONG
    assert expected in broken(record)
    assert str(tmp_path) not in broken(record)


def refusing(work: Callable[..., Any], secret: Path) -> Callable[..., Any]:
    """What opens files, as it is for who may not read one of them (root may)."""

    def refused(path: Any, *args: Any, **options: Any) -> Any:
        if str(path) == str(secret):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return work(path, *args, **options)

    return refused


def test_a_damaged_file_of_another_series_is_counted(tmp_path: Path) -> None:
    """Told by its header, though it lies beside FLAIR; or by its folder, where its header is lost."""
    paths = write(tmp_path / "f", voxels(), AXIAL)
    others = write_t1(tmp_path / "t", 4)
    spoil(others[0])
    assert facts(records(tmp_path)[0])["unreadable_files"] == 1
    cut_before(others[-1], b"\x20\x00\x11\x00IS")  # just behind the UID of its series
    raw = others[-1].read_bytes()
    others[-1].unlink()
    (tmp_path / "f" / "x").write_bytes(raw + b"\xff" * 20)
    (record,) = records(tmp_path)
    assert (facts(record)["unreadable_files"], facts(record)["flair"]["images"]) == (2, 7)
    shutil.copytree(tmp_path / "t", tmp_path / "elsewhere" / "none")
    for path in (tmp_path / "elsewhere" / "none").iterdir():
        spoil(path)  # a folder without any readable file
    assert facts(records(tmp_path)[0])["unreadable_files"] == 8
    spoil(paths[0])
    assert MAY_BELONG in broken(records(tmp_path)[0])


def test_flair_that_misses_none_of_its_images_is_used(tmp_path: Path) -> None:
    shutil.copy(write(tmp_path / "f", voxels(), AXIAL, ImagesInAcquisition=7)[0], tmp_path / "f" / "again")
    spoil(tmp_path / "f" / "again")
    assert facts(records(tmp_path)[0])["unreadable_files"] == 1
    shutil.rmtree(tmp_path / "f")
    write_enhanced(tmp_path / "one", voxels(), AXIAL, range(7))
    (tmp_path / "two.dcm").write_bytes(b"")
    assert facts(records(tmp_path)[0])["unreadable_files"] == 1


def test_a_file_in_each_folder(tmp_path: Path) -> None:
    for k, path in enumerate(write(tmp_path / "f", voxels(), AXIAL)):
        (tmp_path / str(k)).mkdir()
        shutil.move(path, tmp_path / str(k) / "file")
    spoil(tmp_path / "6" / "file")
    assert MAY_BELONG in broken(records(tmp_path)[0])


def test_damaged_files_count_for_the_studies_that_they_may_be_of(tmp_path: Path) -> None:
    for name in ("Doe", "Roe"):
        write(tmp_path / name, voxels(), AXIAL, name=name)
        write(tmp_path / name / "t", voxels(4), SAGITTAL, "pre", name=name, number=4)
    spoil(next((tmp_path / "Roe" / "t").iterdir()))
    assert sorted(facts(record)["unreadable_files"] for record in records(tmp_path)) == [0, 1]
    write(tmp_path / "Poe", voxels(), AXIAL, name="Poe")
    for path in (tmp_path / "Poe").iterdir():
        cut_before(path, SERIES)  # each still tells its study
    reasons = [record["broken"] for record in records(tmp_path) if "broken" in record]
    assert reasons == ["none of its 7 file(s) can be read; export the study again"]


def test_what_is_no_image_is_no_loss(tmp_path: Path) -> None:
    """A DICOMDIR (told by its meta information alone), a damaged report, and what only begins like DICOM."""
    path = write(tmp_path / "f", voxels(), AXIAL)[0]
    index = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    index.file_meta.MediaStorageSOPClassUID, index.file_meta.MediaStorageSOPInstanceUID = (
        MediaStorageDirectoryStorage, "1.2.3"
    )  # fmt: skip
    index.file_meta.TransferSyntaxUID, index.FileSetID = ExplicitVRLittleEndian, "X"
    index.save_as(tmp_path / "f" / "DICOMDIR", enforce_file_format=True)
    copy(path, tmp_path / "f" / "report", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    cut_before(tmp_path / "f" / "report", STUDY)
    (tmp_path / "f" / "table").write_bytes(b"\x02\x00\x00\x00\x10\x00\x00\x00" + bytes(500))
    assert facts(records(tmp_path)[0])["unreadable_files"] == 0


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f", voxels(), AXIAL)
    write_t1(tmp_path / "t", 4)
    monkeypatch.setattr(os, "scandir", refusing(os.scandir, tmp_path / "t"))
    (record,) = records(tmp_path)
    assert (numbers(record), facts(record)["unreadable_files"]) == ([None, 3, None], 1)


def test_multi_frame(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "one", voxels(), AXIAL, [3, 0, 6, 1, 2, 5, 4])
    write_t1(tmp_path / "t", 4, "post")
    (record,) = records(tmp_path)
    assert numbers(record) == [None, 3, 4]
    assert facts(record)["flair"] == {
        "series_number": 3, "images": 7, "plane": "axial", "repetition_time_ms": 9000.0, "echo_time_ms": 120.0,
        "inversion_time_ms": 2500.0,
    }  # fmt: skip
    write_enhanced(tmp_path / "one", voxels(), AXIAL, [3, 0, 6, 1, 2, 5, 4] * 2)
    assert "4D: 2 images at each of 7 positions" in broken(records(tmp_path)[0])
