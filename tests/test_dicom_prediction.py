"""DICOM folders through the whole prediction: files in, segmentation out, nothing told of the patient."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result

from monai_lgg.cli import main
from monai_lgg.inference import predict
from monai_lgg.phantom_dicom import PLANES
from monai_lgg.prediction_inputs import prediction_records
from tests.dicom_files import affine_of, change, write, write_enhanced
from tests.test_inference import make_threshold_bundle, pattern

SHAPE = (50, 40, 6)
SPACING = (0.8, 1.2, 5.0)
#: What the headers, folders and files of these tests say of the patient.
SECRETS = ("Smithers", "SMITHERS", "MRN0815", "19700101", "ward-seven")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_threshold_bundle(tmp_path / "threshold bundle")


def flair(folder: Path, plane: str = "axial", name: str = "MRN0815", **tags: Any) -> tuple[list[Path], np.ndarray]:
    """A series and the mask (column, row, slice) that the threshold finds in it."""
    mask = pattern(*SHAPE)
    values = np.where(mask, 900, 100)
    values[0, 0, 0] = 0
    text = {"SeriesDescription": "ward-seven FLAIR", "PatientName": "Smithers^Waylon", **tags}
    return write(folder, values, affine_of(PLANES[plane], SHAPE, SPACING), name=name, **text), mask


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("plane", PLANES)
def test_shuffled_files_to_nifti_and_segmentation_in_place(bundle: Path, tmp_path: Path, plane: str) -> None:
    files, mask = flair(tmp_path / "in put", plane)
    affine = affine_of(PLANES[plane], SHAPE, SPACING)
    (result,) = predict(prediction_records(tmp_path / "in put"), bundle, tmp_path / "n")
    assert result.status == "done", result.error
    image = nib.load(tmp_path / "n" / result.case / f"{result.case}_mask.nii.gz")
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), mask)
    (result,) = predict(
        prediction_records(tmp_path / "in put"), bundle, tmp_path / "s", settings={"output_format": "dicomseg"}
    )
    assert result.status == "done", result.error
    path = tmp_path / "s" / result.case / f"{result.case}_seg.dcm"
    assert {item.name for item in path.parent.iterdir()} == {path.name, "overlay.png", "result.json"}
    sources = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file) for file in files}
    segmentation = highdicom.seg.segread(path)
    assert segmentation.NumberOfFrames == SHAPE[2]
    pixels = segmentation.get_pixels_by_source_instance(list(sources), combine_segments=True)
    for source, found in zip(sources.values(), pixels, strict=True):
        np.testing.assert_array_equal(found, source.pixel_array == 900)


def test_volume_and_diameter(bundle: Path, tmp_path: Path) -> None:
    """Columns are 0.8 mm apart, rows 1.2 mm, slices 5 mm; the pattern is an L of 2 x n and n x 2 pixels."""
    _, mask = flair(tmp_path / "in")
    (result,) = predict(prediction_records(tmp_path / "in"), bundle, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / result.case / "result.json").read_text())
    assert facts["voxels"] == mask.sum()
    assert facts["volume_ml"] == pytest.approx(mask.sum() * 0.8 * 1.2 * 5 / 1000)
    # slice 6: columns 2 to 10 of rows 3 and 4, columns 2 and 3 of rows 3 to 16; the outline's points furthest apart are
    # the outer edges of column 10 in row 3 and of column 2 in row 16: 8 columns and 14 rows
    assert facts["longest_axial_diameter_mm"] == pytest.approx(np.hypot(8 * 0.8, 14 * 1.2), abs=0.01)
    (row,) = rows(tmp_path / "out")
    assert float(row["longest_axial_diameter_mm"]) == facts["longest_axial_diameter_mm"]
    assert facts["spacing_mm"] == [0.8, 1.2, 5.0]


def test_t1_series_reach_the_network(bundle: Path, tmp_path: Path) -> None:
    flair(tmp_path / "f")
    names = {"name": "MRN0815", "PatientName": "Smithers^Waylon"}
    for number, sequence in ((4, "pre"), (5, "post")):
        values = np.random.default_rng(number).integers(100, 900, (30, 30, 12))
        grid = affine_of(PLANES["sagittal"], (30, 30, 12), (1.6, 1.6, 4.0))
        write(tmp_path / str(number), values, grid, sequence, number=number, **names)
    (result,) = predict(prediction_records(tmp_path), bundle, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / result.case / "result.json").read_text())
    assert [facts["dicom"][name]["series_number"] for name in ("pre", "flair", "post")] == [4, 3, 5]
    assert not {"missing pre", "missing post"} & {flag["name"] for flag in facts["flags"]}


def test_unreadable_files_beside_flair_are_a_flag(bundle: Path, tmp_path: Path) -> None:
    flair(tmp_path / "f")
    grid = affine_of(PLANES["sagittal"], (30, 30, 12), (1.6, 1.6, 4.0))
    values = np.random.default_rng(4).integers(100, 900, (30, 30, 12))
    files = write(tmp_path / "t", values, grid, "pre", number=4, name="MRN0815", PatientName="Smithers^Waylon")
    files[0].write_bytes(files[0].read_bytes()[:140] + b"\xff" * 60)
    (result,) = predict(prediction_records(tmp_path), bundle, tmp_path / "out")
    found = {
        flag["name"]: flag["reason"]
        for flag in json.loads((tmp_path / "out" / result.case / "result.json").read_text())["flags"]
    }
    assert found["unreadable files"].startswith("1 file(s) beside FLAIR cannot be read")
    (row,) = rows(tmp_path / "out")
    assert "unreadable files" in row["flags"].split(";")


def test_command_on_an_export_of_many_kinds(bundle: Path, tmp_path: Path) -> None:
    """Several patients below each other in folders with spaces, read-only, with a DICOMDIR and other files among
    them; of the studies one is good, one multi-frame, and the others fail each for its own reason."""
    root = tmp_path / "PACS export of ward-seven"
    _, mask = flair(root / "Smithers Waylon" / "study 1" / "SE 3")
    write(root / "Smithers Waylon" / "study 1" / "SE 1", mask[..., :3] * 9, affine_of(PLANES["sagittal"]), "localizer",
          name="MRN0815", number=1, PatientName="Smithers^Waylon")  # fmt: skip
    values, affine = np.where(mask, 900, 100), affine_of(PLANES["axial"], SHAPE, SPACING)
    write_enhanced(root / "B" / "one", values, affine, range(6), "B")
    flair(root / "C", name="C")[0][2].unlink()
    for path in flair(root / "D", name="D")[0]:
        change(path, lambda data: delattr(data, "PixelSpacing"))
    write(root / "E", values, affine, "pre", name="E")
    for path in flair(root / "F", name="F")[0]:
        change(path, not_readable)
    (root / "report.pdf").write_bytes(b"%PDF")
    (root / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    dicomdir = pydicom.Dataset()
    dicomdir.file_meta = pydicom.dataset.FileMetaDataset()
    dicomdir.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dicomdir.file_meta.MediaStorageSOPClassUID = dicomdir.SOPClassUID = "1.2.840.10008.1.3.10"
    dicomdir.file_meta.MediaStorageSOPInstanceUID = dicomdir.SOPInstanceUID = "1.2.3"
    dicomdir.save_as(root / "DICOMDIR", enforce_file_format=True)
    before = tree(root)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = invoke("predict", root, "-o", tmp_path / "out", "--bundle", bundle, "--format", "dicomseg", "-q")
    assert result.exit_code == 1, result.output
    assert "2 done, 0 skipped, 4 failed" in result.output
    found = rows(tmp_path / "out")
    assert sorted(row["status"] for row in found) == ["done"] * 2 + ["failed"] * 4
    errors = " | ".join(row["error"] for row in found)
    for reason in (
        "1 slice missing", "PixelSpacing is missing", "no FLAIR among the 1 MR series", "compressed as High-Throughput"
    ):  # fmt: skip
        assert errors.count(reason) == 1, errors
    assert len(list((tmp_path / "out").glob("*/*_seg.dcm"))) == 2
    assert tree(root) == before


def not_readable(data: pydicom.Dataset) -> None:
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.201")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


def test_nothing_of_the_patient_in_names_logs_and_tables(bundle: Path, tmp_path: Path) -> None:
    """A real process, so that warnings of C++ libraries count too; of five studies three fail, in several ways."""
    root = tmp_path / "ward-seven" / "Smithers"
    good = flair(root / "good", name="MRN0815", PatientBirthDate="19700101")[0]
    uid = str(pydicom.dcmread(good[0]).StudyInstanceUID)
    flair(root / "cut", name="SMITHERS2")[0][3].unlink()
    for path in flair(root / "htj2k", name="SMITHERS3")[0]:
        change(path, not_readable)
    damaged = flair(root / "damaged", name="SMITHERS4")[0]
    damaged[1].write_bytes(damaged[1].read_bytes()[:-500])
    odd = flair(root / "odd", name="SMITHERS5")[0]
    for path in odd:
        path.write_bytes(path.read_bytes().replace(b"19700101", b"Smithers"))  # a date that is none
    output = tmp_path / "out"
    command = [sys.executable, "-m", "monai_lgg.cli", "predict", str(root), "-o", str(output), "--bundle", str(bundle)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, "--preview"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    again = CliRunner().invoke(main, [*command[3:], "--json"])
    assert again.exit_code == 1
    for secret in SECRETS:
        assert secret not in done.stdout + done.stderr + again.output, done.stdout + done.stderr
    assert [row["status"] for row in rows(output)].count("skipped") == 2
    for path in output.rglob("*"):
        assert not any(secret in str(path.relative_to(output)) for secret in SECRETS)
        content = path.read_bytes() if path.is_file() else b""
        if path.name.endswith(".nii.gz"):
            content = nib.load(path).header.binaryblock
        for secret in (*SECRETS, uid):
            assert secret.encode() not in content, path


def test_identifiers_when_asked_for(bundle: Path, tmp_path: Path) -> None:
    files, _ = flair(tmp_path / "in")
    result = invoke("predict", tmp_path / "in", "-o", tmp_path / "out", "--bundle", bundle, "--keep-identifiers", "-q")
    assert result.exit_code == 0, result.output
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert folder.name.startswith("MRN0815_20200101_")
    facts = json.loads((folder / "result.json").read_text())
    assert facts["dicom"]["patient_id"] == "MRN0815"
    assert facts["dicom"]["flair"]["series_description"] == "ward-seven FLAIR"
    assert facts["made_from"]["input"] == [str(path.resolve()) for path in files]


def test_a_study_that_was_moved_is_skipped_and_a_changed_one_told(bundle: Path, tmp_path: Path) -> None:
    files, _ = flair(tmp_path / "in")
    assert [item.status for item in predict(prediction_records(tmp_path / "in"), bundle, tmp_path / "out")] == ["done"]
    shutil.move(tmp_path / "in", tmp_path / "else where")
    records = prediction_records(tmp_path / "else where")
    assert [item.status for item in predict(records, bundle, tmp_path / "out")] == ["skipped"]
    path = tmp_path / "else where" / files[0].name
    change(path, lambda data: setattr(data, "PixelData", bytes(len(data.PixelData))))
    (result,) = predict(prediction_records(tmp_path / "else where"), bundle, tmp_path / "out")
    assert "was made from other content of the input; use --overwrite" in result.error


def test_fractional_and_maps_beside_a_segmentation(bundle: Path, tmp_path: Path) -> None:
    flair(tmp_path / "in")
    options = ("--format", "dicomseg", "--seg-type", "fractional", "--keep-probabilities", "--threshold", "0.3")
    result = invoke("predict", tmp_path / "in", "-o", tmp_path / "out", "--bundle", bundle, "-q", *options)
    assert result.exit_code == 0, result.output
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    segmentation = highdicom.seg.segread(folder / f"{folder.name}_seg.dcm")
    assert segmentation.SegmentationType == "FRACTIONAL"
    algorithm = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (metadata["name"], metadata["version"])
    assert "0.3" in str(algorithm.AlgorithmParameters)
    assert (folder / f"{folder.name}_prob.nii.gz").is_file()
    assert json.loads((folder / "result.json").read_text())["format"] == "dicomseg"


def test_segmentation_of_other_input_is_refused_before_the_network(bundle: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 3), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    records = prediction_records(tmp_path / "scan.nii.gz")
    (result,) = predict(records, bundle, tmp_path / "out", settings={"output_format": "dicomseg"})
    assert (result.status, "DICOM SEG needs DICOM input" in result.error) == ("failed", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seg-type", "binary"), "--seg-type goes with --format dicomseg"),
        (("--format", "rtstruct"), "'rtstruct' is not one of"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    flair(tmp_path / "in")
    result = invoke("predict", tmp_path / "in", "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.output


def test_one_study_in_two_inputs_and_single_files(bundle: Path, tmp_path: Path) -> None:
    files, _ = flair(tmp_path / "in")
    (tmp_path / "more").mkdir()
    for path in files[:3]:
        shutil.move(path, tmp_path / "more" / path.name)
    (record,) = prediction_records([tmp_path / "in", tmp_path / "more"])
    assert len(record["image"]) == SHAPE[2]
    (record,) = prediction_records([*(tmp_path / "in").iterdir(), tmp_path / "more"])
    assert len(record["image"]) == SHAPE[2]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no \.nii or \.nii\.gz files and no DICOM files"):
        prediction_records(tmp_path / "none")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flair(tmp_path / "in")
    monkeypatch.setattr("monai_lgg.io.dicom.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs pydicom and highdicom: pip install "monai-lgg\[dicom\]"'):
        prediction_records(tmp_path / "in")


def test_nifti_beside_dicom(bundle: Path, tmp_path: Path) -> None:
    flair(tmp_path / "in" / "deep" / "er")
    nib.save(nib.Nifti1Image(np.arange(243, dtype=np.int16).reshape(9, 9, 3), np.eye(4)), tmp_path / "in" / "a.nii.gz")
    names = [record["case"] for record in prediction_records(tmp_path / "in")]
    assert names[0] == "a"
    assert names[1].startswith("study-")
