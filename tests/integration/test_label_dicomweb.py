"""The label server on top of a DICOMweb server (Orthanc), and the OHIF viewer that it serves."""

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

pytest.importorskip("monailabel", reason="needs MONAI Label, in the environment of 'make label-dicom-test'")

from monai_lgg.cases import intensity_range
from monai_lgg.phantom import make_patient
from tests.dicom_series import PLUGIN, Orthanc, mask_of, write_series
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


def test_ohif_opens_the_study(server: LabelServer, orthanc: Orthanc, series: list[str], tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    (study,) = {
        item["ParentStudy"] for item in orthanc.get("/series?expand")
        if item["MainDicomTags"]["SeriesInstanceUID"] == series[0]
    }  # fmt: skip
    uid = orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    picture = Path(os.environ.get("OHIF_PICTURE", tmp_path / "ohif.png"))
    words = [chromium, "--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader"]
    words += [
        "--use-angle=swiftshader",
        "--window-size=1400,900",
        "--virtual-time-budget=120000",
        f"--user-data-dir={tmp_path}/c",
    ]
    words += [f"--screenshot={picture}", f"{server.url}/ohif/viewer?StudyInstanceUIDs={uid}"]
    subprocess.run(words, capture_output=True, timeout=300, check=True)
    from PIL import Image

    shown = np.asarray(Image.open(picture).convert("L"))
    assert (shown > 60).mean() > 0.05  # of a black page, the head and the tools
