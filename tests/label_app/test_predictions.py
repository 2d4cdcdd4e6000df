import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch

from monai_lgg.bundle import find_bundle
from monai_lgg.inference import predict
from monai_lgg.inferers import NOTHING
from monai_lgg.io.tiff import write_tiff
from monai_lgg.label_app.predictions import UNCERTAINTY, Predictions
from monai_lgg.label_app.studies import prepare_studies
from monai_lgg.label_app.versions import Versions
from monai_lgg.prediction_inputs import prediction_records
from monai_lgg.quality import uncertainty
from tests.test_inference import BrightFlair, pattern, threshold_bundle  # noqa: F401


@pytest.fixture
def predictions(threshold_bundle: Path, tmp_path: Path) -> Predictions:  # noqa: F811
    return Predictions(Versions(threshold_bundle, tmp_path / "models"))


def test_mask_of_a_volume_is_the_file_that_predict_writes(run: Path, phantoms: Path, tmp_path: Path) -> None:
    prepare_studies(phantoms, tmp_path / "studies", labelled=0)
    images = sorted((tmp_path / "studies").glob("*.nii.gz"))[:2]
    predict(prediction_records(images), run, tmp_path / "out")
    model = Predictions(Versions(run, tmp_path / "models"))
    for image in images:
        name = image.name.removesuffix(".nii.gz")
        path, facts = model.mask(image)
        whole, own = nib.load(tmp_path / "out" / name / f"{name}_mask.nii.gz"), nib.load(path)
        np.testing.assert_array_equal(np.asanyarray(own.dataobj), np.asanyarray(whole.dataobj))
        assert own.get_data_dtype() == np.uint8
        assert bytes(own.header.binaryblock) == bytes(whole.header.binaryblock)
        assert facts["voxels"] == np.count_nonzero(own.dataobj)
        assert (facts["model"], facts["version"]) == ("run", 0)
        path.unlink()


@pytest.mark.parametrize("pages", [1, 3])
def test_mask_of_a_tiff_has_0_and_1_and_all_pages(predictions: Predictions, tmp_path: Path, pages: int) -> None:
    mask = pattern(40, 70, pages)
    image = np.where(mask, 250, 60).astype(np.uint8)
    image[0, 0] = 0  # background: the rest is head
    stack = image.transpose(2, 0, 1)
    write_tiff(tmp_path / "a.tif", stack[0] if pages == 1 else stack)
    path, _ = predictions.mask(tmp_path / "a.tif")
    written = tifffile.imread(path)
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(written if pages > 1 else written[None], mask.transpose(2, 0, 1))
    path.unlink()


def test_versions_are_told_apart(predictions: Predictions, tmp_path: Path) -> None:
    """Version 1 sees tumour nowhere, so a mask tells which one made it."""
    mask = pattern(40, 70, 1)
    image = np.where(mask, 250, 60).astype(np.uint8)
    image[0, 0] = 0
    write_tiff(tmp_path / "a.tif", image[..., 0])

    def blind(folder: Path) -> None:
        shutil.copytree(predictions.versions.bundle, folder, dirs_exist_ok=True)
        torch.save(BrightFlair(level=2.0).state_dict(), folder / "models" / "model.pt")

    assert predictions.mask(tmp_path / "a.tif")[1]["voxels"] == mask.sum()
    predictions.versions.add(blind)
    found = {asked: predictions.mask(tmp_path / "a.tif", asked)[1] for asked in (None, 0, 1)}
    assert {asked: facts["version"] for asked, facts in found.items()} == {None: 1, 0: 0, 1: 1}
    assert {asked: facts["voxels"] for asked, facts in found.items()} == {None: 0, 0: mask.sum(), 1: 0}
    assert found[0]["weights_sha256"] != found[1]["weights_sha256"]


def test_entropy_is_the_mean_over_voxels_in_bits(predictions: Predictions, tmp_path: Path) -> None:
    """The network is the same for an image and its mirror image, so flips change nothing: the entropy of one pass."""
    image = np.full((40, 70), 100, np.uint8)
    image[20:30, 5:65] = np.arange(195, 225, 0.5).astype(np.uint8)  # the network turns at 2.1 times the head's median
    image[:16] = 0  # background
    write_tiff(tmp_path / "a.tif", image)
    predict(
        prediction_records(tmp_path / "a.tif"),
        predictions.versions.bundle,
        tmp_path / "out",
        settings={"save_probabilities": True},
    )
    bits = uncertainty(tifffile.imread(tmp_path / "out" / "a" / "a_prob.tif")).mean()
    assert bits > 0.01
    assert predictions.entropy(tmp_path / "a.tif", "tta") == pytest.approx(bits, rel=1e-3)


def test_an_image_that_cannot_be_used_stops_no_other(predictions: Predictions, tmp_path: Path) -> None:
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b cut")
    write_tiff(tmp_path / "good.tif", np.arange(64, dtype=np.uint8).reshape(8, 8))
    with pytest.raises(ValueError, match=r"cut.nii.gz: not a readable NIfTI"):
        predictions.mask(tmp_path / "cut.nii.gz")
    assert predictions.mask(tmp_path / "good.tif")[1]["version"] == 0
    with pytest.raises(FileNotFoundError, match="does not exist"):
        predictions.mask(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("method", UNCERTAINTY)
def test_the_shipped_network_is_unsure_of_heads_only(phantoms: Path, tmp_path: Path, method: str) -> None:
    prepare_studies(phantoms, tmp_path / "studies", labelled=0)
    head = sorted((tmp_path / "studies").glob("*.nii.gz"))[0]
    image = nib.load(head)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine, image.header), tmp_path / "empty.nii.gz")
    model = Predictions(Versions(find_bundle("unet_25d"), tmp_path / "models"))
    unsure = model.entropy(head, method)
    calibration = json.loads((find_bundle("unet_25d") / "configs" / "inference.json").read_text())["calibration"]
    (x, beside), (y, rising) = (calibration[key][:2] for key in ("logits", "calibrated"))
    rest = 1 / (1 + math.exp(-y - (NOTHING - x) * (rising - y) / (beside - x)))
    of_nothing = -rest * math.log2(rest) - (1 - rest) * math.log2(1 - rest)
    assert model.entropy(tmp_path / "empty.nii.gz", method) == pytest.approx(of_nothing, rel=0.01)
    assert 2 * of_nothing < unsure < 0.1  # of few voxels, at the tumour's border
    assert model.entropy(head, method) == unsure
