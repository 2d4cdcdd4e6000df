"""The label server on top of a DICOMweb server (Orthanc), and the OHIF viewer that it serves."""

import copy
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid
from scipy import ndimage

pytest.importorskip("monailabel", reason="needs MONAI Label, in the environment of 'make label-dicom-test'")

from monai_lgg.cases import intensity_range
from monai_lgg.phantom import make_patient
from tests.dicom_series import ORIGIN, PLUGIN, SPACING, Orthanc, mask_of, write_series
from tests.label_server import LabelServer, threshold_bundle

if shutil.which("Orthanc") is None or not PLUGIN.exists():
    pytest.skip("needs Orthanc: apt-get install orthanc orthanc-dicomweb", allow_module_level=True)

if {name for _, name in socket.if_nameindex()} != {"lo"}:
    reason = "Orthanc listens on every address: run it by 'make label-dicom-test', in a network of its own"
    pytest.skip(reason, allow_module_level=True)

SLICES = 6


@pytest.fixture(scope="module")
def flair() -> list[np.ndarray]:
    """FLAIR of three phantoms, (slices, rows, columns), not square."""
    return [make_patient(k, seed=3, size=(72, 64), slices=SLICES).image[..., 1].astype(np.uint16) * 8 for k in range(3)]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def series(orthanc: Orthanc, flair: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("series")
    uids = [write_series(root / str(k), volume, f"PHANTOM{k}") for k, volume in enumerate(flair)]
    for k in range(len(uids)):
        orthanc.upload(root / str(k))
    return uids


@pytest.fixture(scope="module")
def server(
    orthanc: Orthanc, series: list[str], run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelServer]:
    root = tmp_path_factory.mktemp("label")
    (root / "cache").mkdir()
    bundles = [run, threshold_bundle(root / "threshold")]
    chosen = [word for bundle in bundles for word in ("--bundles", bundle)]
    os.environ["MONAI_LABEL_DICOMWEB_CACHE_EXPIRY"] = "1"
    with LabelServer(root / "server.log", root / "cache", *chosen, "--dicomweb", f"{orthanc.url}/dicom-web") as running:
        yield running
        assert running.stop() == 0, running.log.read_text()
    del os.environ["MONAI_LABEL_DICOMWEB_CACHE_EXPIRY"]


def fetched(server: LabelServer) -> set[str]:
    """Series in the server's cache."""
    return {path.name.removesuffix(".nii.gz") for path in (server.log.parent / "cache").glob("*/*.nii.gz")}


def with_values(mask: Path, path: Path, values: tuple[int, ...]) -> str:
    """The mask with these values in turn in place of 1, as viewers number their segments."""
    image = nib.load(mask)
    voxels = np.asanyarray(image.dataobj).astype(np.uint8)
    voxels[voxels > 0] = np.resize(values, np.count_nonzero(voxels))
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), path)
    return str(path)


def stored_by_a_viewer(orthanc: Orthanc, source: pydicom.Dataset, folder: Path, kind: str, **other: str) -> str:
    """A later copy of a stored SEG, coded as OHIF does, without its first frame; returns its SeriesInstanceUID."""
    item = copy.deepcopy(source)
    item.SeriesInstanceUID, item.SOPInstanceUID = generate_uid(), generate_uid()
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID
    item.ContentDate = "20990101"
    segment = item.SegmentSequence[0]
    segment.SegmentAlgorithmType = kind
    segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "T-D0050"
    frames = item.pixel_array.reshape(-1, item.Rows, item.Columns).copy()
    frames[0] = 0
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    item.PixelData = packed + b"\0" * (len(packed) % 2)
    for name, value in other.items():
        setattr(item, name, value)
    folder.mkdir()
    item.save_as(folder / "seg.dcm", write_like_original=False)
    orthanc.upload(folder)
    return str(item.SeriesInstanceUID)


def truth(volume: np.ndarray) -> np.ndarray:
    """What the network of the threshold bundle finds, by plain arithmetic."""
    low, high = intensity_range(volume)
    return 2 * (volume - low) / (high - low) - 1 >= 0.4


def test_series_are_listed_and_labels_become_dicom_seg(
    server: LabelServer, orthanc: Orthanc, series: list[str], flair: list[np.ndarray], tmp_path: Path
) -> None:
    client = server.client
    assert client.info()["datastore"]["total"] == 3
    first = client.next_sample("first", {})["id"]
    assert first == min(series)
    assert client.info()["models"]  # so that there would be something to score with
    assert server.send("GET", "/scoring/")[0] == 404  # nothing was asked for, so that no series but one was fetched
    assert fetched(server) == {first}
    for k, (uid, volume) in enumerate(zip(series, flair, strict=True)):
        mask, params = client.infer("threshold", uid, {"save_label": True})
        assert params["voxels"] == truth(volume).sum() > 0
        client.save_label(uid, with_values(Path(mask), tmp_path / f"{k}.nii.gz", [(1,), (255,), (2, 7)][k]))
    found = {item.ReferencedSeriesSequence[0].SeriesInstanceUID: item for item in orthanc.segmentations()}
    assert set(found) == set(series)
    for uid, volume in zip(series, flair, strict=True):
        np.testing.assert_array_equal(mask_of(found[uid], SLICES), truth(volume))
        (segment,) = found[uid].SegmentSequence
        assert segment.SegmentLabel == "tumour"
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning) == ("SCT", "108369006", "Neoplasm")
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "monai-lgg")
    time.sleep(1.5)  # for what the server keeps in mind of Orthanc
    assert client.next_sample("first", {}) == {}
    for method in ("dice", "sum"):
        assert server.post(f"/scoring/{method}?run_sync=true")[0] == 200
    for uid, volume in zip(series, flair, strict=True):
        assert server.get(f"/datastore/image/info?image={uid}")["dice"] == 1
        assert server.get(f"/datastore/label/info?label={uid}&tag=final")["sum"] == truth(volume).sum()
    client.train_start("run", {"max_epochs": 1})
    task = server.wait_for("/train/")
    assert task["status"] == "DONE", task["details"]
    assert client.infer("run", first, {})[1]["version"] == 1


def test_labels_drawn_in_another_viewer_are_learnt_from(
    server: LabelServer, orthanc: Orthanc, series: list[str], flair: list[np.ndarray], tmp_path: Path
) -> None:
    """Runs after the first test, whose labels are replaced in the first series, and not in the others."""
    stored = {item.ReferencedSeriesSequence[0].SeriesInstanceUID: item for item in orthanc.segmentations()}
    drawn = stored_by_a_viewer(orthanc, stored[series[0]], tmp_path / "drawn", "MANUAL")
    stored_by_a_viewer(orthanc, stored[series[1]], tmp_path / "automatic", "AUTOMATIC")
    broken = stored_by_a_viewer(orthanc, stored[series[2]], tmp_path / "broken", "MANUAL", PixelData=b"\0\0")
    pairs = {Path(pair["image"]).name: pair["label"] for pair in server.get("/datastore/?output=train")}
    assert set(pairs) == {f"{uid}.nii.gz" for uid in series}
    for k, (uid, volume) in enumerate(zip(series, flair, strict=True)):
        expected = truth(volume)
        if k == 0:
            place = stored[uid].PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
            erased = round((place[2] - ORIGIN[2]) / SPACING[2])
            assert expected[erased].any()
            expected[erased] = False
            assert expected.any()
        label = np.asanyarray(nib.load(pairs[f"{uid}.nii.gz"]).dataobj)
        np.testing.assert_array_equal(label.transpose(2, 1, 0) > 0, expected)
    assert server.get(f"/datastore/label/info?label={series[0]}&tag=final")["SeriesInstanceUID"] == drawn
    assert f"label {broken} of {series[2]} cannot be used" in server.log.read_text()


def test_scoring_goes_on_after_a_series_without_pixels(server: LabelServer, orthanc: Orthanc, tmp_path: Path) -> None:
    """Runs after the first test, which labels all others."""
    volume = make_patient(7, seed=3, size=(72, 64), slices=SLICES).image[..., 1].astype(np.uint16) * 8
    empty = write_series(tmp_path / "empty", volume, "EMPTY")
    for path in (tmp_path / "empty").glob("*.dcm"):
        item = pydicom.dcmread(path)
        del item.PixelData
        item.save_as(path)
    whole = write_series(tmp_path / "whole", volume, "WHOLE")
    for folder in ("empty", "whole"):
        orthanc.upload(tmp_path / folder)
    time.sleep(1.5)
    assert server.post("/scoring/epistemic", {"model": "threshold"})[0] == 200
    task = server.wait_for("/scoring/")
    assert task["status"] == "DONE", task["details"]
    assert any(f"{empty}: is not in the studies" in line for line in task["details"]), task["details"]
    assert 0 <= server.get(f"/datastore/image/info?image={whole}")["epistemic_entropy"] <= 1


def test_an_empty_label_is_refused(server: LabelServer, series: list[str], tmp_path: Path) -> None:
    from monailabel.client.client import MONAILabelClientException

    mask, _ = server.client.infer("threshold", series[0], {})
    image = nib.load(mask)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(MONAILabelClientException) as error:
        server.client.save_label(series[0], str(tmp_path / "empty.nii.gz"))
    assert "it is empty, and a DICOM SEG cannot be" in error.value.msg


def test_ohif_opens_the_study_and_shows_its_first_slice(
    server: LabelServer, orthanc: Orthanc, series: list[str], flair: list[np.ndarray], tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    (study,) = {
        item["ParentStudy"] for item in orthanc.get("/series?expand")
        if item["MainDicomTags"]["SeriesInstanceUID"] == series[0]
    }  # fmt: skip
    uid = orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    picture = Path(os.environ.get("OHIF_PICTURE", tmp_path / "ohif.png"))
    words = [chromium, "--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
    words += ["--window-size=1400,900", "--virtual-time-budget=120000", f"--user-data-dir={tmp_path}/c"]
    words += [f"--screenshot={picture}", f"{server.url}/ohif/viewer?StudyInstanceUIDs={uid}"]
    subprocess.run(words, capture_output=True, timeout=300, check=True)
    shown = np.asarray(Image.open(picture).convert("L"), np.float32)
    viewport = head(shown[55:, 295:1350])  # between the bars
    likeness, mirrored = (correlation(viewport, head(flair[0][0][:, ::step])) for step in (1, -1))
    assert likeness > 0.9 > mirrored + 0.2


def head(picture: np.ndarray) -> np.ndarray:
    """The box around the largest bright part."""
    parts, count = ndimage.label(picture > 0.25 * picture.max())
    largest = 1 + int(np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:]))
    return np.asarray(picture[ndimage.find_objects(parts)[largest - 1]], np.float32)


def correlation(shown: np.ndarray, original: np.ndarray) -> float:
    """Of two pictures, the second stretched over the first."""
    size = (shown.shape[1], shown.shape[0])
    stretched = np.asarray(Image.fromarray(np.ascontiguousarray(original)).resize(size))
    return float(np.corrcoef(stretched.ravel(), shown.ravel())[0, 1])
