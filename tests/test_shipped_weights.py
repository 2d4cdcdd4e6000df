"""Weights that ship: whole, safe to load, small enough, and giving the figures that are written beside them."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch

from monai_lgg import bundle as bundles
from monai_lgg.backends import available
from monai_lgg.bundle import evaluate, find_bundle
from monai_lgg.inference import predict
from monai_lgg.io.tiff import DISPLAY_AFFINE
from monai_lgg.phantom import make_patient, write_patients
from monai_lgg.prediction_inputs import prediction_records
from monai_lgg.results import read_results
from monai_lgg.splits import read_split

WITH_WEIGHTS = sorted(path.parent.parent for path in (Path(__file__).parent.parent / "bundles").glob("*/models/*.pt"))
LARGEST = 25_000_000
#: Of a patient's Dice: other processors round sums in another order, which moves single pixels.
TOLERANCE = 0.002
FASTEST = next(name for name in ("openvino", "onnxruntime", "torch") if name in available())
#: In which the masks of two libraries may differ; OpenVINO's and PyTorch's of this phantom differed in none of the
#: 1,572,864 voxels (17,799 of tumour) on the processor that this was written on.
OTHER_VOXELS = 20


@pytest.fixture(params=WITH_WEIGHTS, ids=lambda path: path.name)
def shipped(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "models" / "manifest.json").read_text())
    return content


def found_dice(bundle: Path, data: Path, output: Path) -> dict[str, float]:
    evaluate(bundle, data, output, part="all", progress=False)
    return {str(row["patient"]): float(row["dice"]) for row in read_results(output).patients}


def test_the_default_bundle_has_weights() -> None:
    assert find_bundle("unet_25d").name in {path.name for path in WITH_WEIGHTS}


def test_file(shipped: Path) -> None:
    weights = shipped / "models" / "model.pt"
    assert weights.stat().st_size <= LARGEST
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == manifest(shipped)["weights_sha256"]
    state = torch.load(weights, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert "CC BY-NC-SA 4.0" in (shipped / "models" / "NOTICE").read_text()


def test_patients_seen_are_known(shipped: Path, phantoms: Path) -> None:
    split = read_split(shipped / "models" / "split.json")
    counts = {part: len(split.part(part)) for part in ("train", "validation", "test")}
    assert counts == manifest(shipped)["patients"]
    assert bundles.seen_in_training(shipped, phantoms, None, "all", 0) is None


def test_a_patient_that_was_trained_on_is_told(shipped: Path, phantoms: Path, tmp_path: Path) -> None:
    """A phantom under the name of a patient of the training, beside one under its own."""
    trained = min(read_split(shipped / "models" / "split.json").part("train"))
    one, other = sorted(phantoms.glob("TCGA*"))[:2]
    shutil.copytree(one, tmp_path / one.name)
    (tmp_path / trained).mkdir()
    for path in other.iterdir():
        shutil.copy(path, tmp_path / trained / path.name.replace(other.name, trained))
    assert str(bundles.seen_in_training(shipped, tmp_path, None, "all", 0)).startswith("1 of the 2 patients were used")


def test_a_training_takes_neither_weights_nor_their_papers(shipped: Path, tmp_path: Path) -> None:
    bundles.prepare_run(shipped, tmp_path / "run", {})
    assert not (tmp_path / "run" / "models").exists()


def test_phantoms_give_the_recorded_figures(shipped: Path, tmp_path: Path) -> None:
    facts = manifest(shipped)
    write_patients(tmp_path / "phantoms", **facts["phantoms"])
    found = found_dice(shipped, tmp_path / "phantoms", tmp_path / "out")
    assert found == pytest.approx(facts["dice"]["phantoms"], abs=TOLERANCE)


def test_predict_gives_what_evaluate_scores(shipped: Path, tmp_path: Path) -> None:
    """On one phantom, by the fastest library and by PyTorch: the masks' Dice, counted here, is that of ``evaluate``."""
    (name,) = write_patients(tmp_path / "phantoms", 1, seed=5)
    scored = found_dice(shipped, tmp_path / "phantoms", tmp_path / "eval")[name]
    masks = {}
    for backend in ("auto", "torch"):
        out = tmp_path / backend
        records = prediction_records(tmp_path / "phantoms")
        (result,) = predict(records, shipped, out, settings={"backend": backend, "save_overlay": False})
        assert result.status == "done", result.error
        content = json.loads((out / name / "result.json").read_text())
        assert content["backend"] == (FASTEST if backend == "auto" else "torch")
        masks[backend] = pixels(out / name, name)
        truth = pixels(tmp_path / "phantoms" / name, name)
        dice = 2 * (masks[backend] & truth).sum() / (masks[backend].sum() + truth.sum())
        assert dice == pytest.approx(scored, abs=1e-3)
    assert (masks["auto"] != masks["torch"]).sum() <= OTHER_VOXELS


def pixels(folder: Path, name: str) -> np.ndarray:
    """bool (slices, rows, columns) of all masks of a patient."""
    count = len(list(folder.glob(f"{name}_*_mask.tif")))
    return np.stack([tifffile.imread(folder / f"{name}_{k}_mask.tif") > 0 for k in range(1, count + 1)])


@pytest.mark.real
def test_real_patients_give_the_recorded_figures(shipped: Path, real_data: Path, tmp_path: Path) -> None:
    recorded = manifest(shipped)["dice"]["patients"]
    found = found_dice(shipped, real_data, tmp_path / "out")
    assert found == pytest.approx({name: recorded[name] for name in found}, abs=TOLERANCE)


def test_thick_sagittal_slices_are_segmented_too(tmp_path: Path) -> None:
    """A fine phantom averaged over 5 columns: sagittal slices of 4.7 mm, which are 51 wide columns of an axial slice.

    Without square pixels the Dice was 0.03.
    """
    phantom = make_patient(3, slices=140)
    flair, truth = (np.moveaxis(of, 0, 2)[:, :255].astype(np.float32) for of in (phantom.image[..., 1], phantom.mask))
    flair, truth = (of.reshape(256, 51, 5, 140).mean(axis=2) for of in (flair, truth))
    image = nib.Nifti1Image(flair, DISPLAY_AFFINE @ np.diag([0.9375, 4.6875, 1, 1]))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "sagittal.nii.gz")
    records = prediction_records(tmp_path / "sagittal.nii.gz")
    assert [result.status for result in predict(records, find_bundle("unet_25d"), tmp_path / "out")] == ["done"]
    mask = np.asarray(nib.load(tmp_path / "out" / "sagittal" / "sagittal_mask.nii.gz").dataobj) > 0
    assert mask.shape == truth.shape
    assert 2 * (mask & (truth > 0.5)).sum() / (mask.sum() + (truth > 0.5).sum()) > 0.9
