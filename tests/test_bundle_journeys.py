"""Every bundle as a user runs it: trained for an epoch, evaluated, used for masks; the resumed training is the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from monai_lgg import bundle as bundles
from monai_lgg.cases import read_patients
from monai_lgg.experiments import training_progress
from monai_lgg.handlers import TrainingState
from monai_lgg.inference import predict
from monai_lgg.io.tiff import read_tiff
from monai_lgg.prediction_inputs import prediction_records

#: unet_cosine goes through all of this in tests/cli and tests/integration.
NAMES = [name for name in bundles.bundle_names() if name != "unet_cosine"]


def small(name: str, *more: str) -> tuple[str, ...]:
    """64 x 64 images, a narrow network where its width is a setting, nothing from the network."""
    inside = bundles.read_config([bundles.find_bundle(name) / "configs" / "train.json"])
    widths = {"features": [8] * 6, "channels": [8] * len(inside["network_def"].get("channels", ()))}
    narrow = [f"network_def#{key}={widths[key]}" for key in widths if key in inside["network_def"]]
    less = {"pretrained_weights": "null", "crop_size": "[64,64]", "slices_per_epoch": "32"}
    own = [f"{key}={value}" for key, value in less.items() if key in inside]
    return ("image_size=[64,64]", "batch_size=16", *narrow, *own, *more)


@pytest.mark.parametrize("name", NAMES)
def test_trains_evaluates_and_predicts(name: str, phantoms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    bundles.train(bundles.find_bundle(name), phantoms, run, settings=small(name, "max_epochs=1"), progress=False)
    begins = "pretrained_weights" in bundles.read_config([run / "configs" / "train.json"])
    assert training_progress(run)["pretrained"] is (False if begins else None)  # small() takes none
    summary = bundles.evaluate(run, phantoms, tmp_path / "results", progress=False)
    assert summary["patients"] >= 1
    assert 0 <= summary["per_patient_dice"]["mean"] <= 1
    patient = read_patients(phantoms)[0]
    results = predict(prediction_records([phantoms / patient.name]), run, tmp_path / "masks")
    assert [result.status for result in results] == ["done"]
    masks = sorted((tmp_path / "masks").rglob("*_mask.tif"))
    assert len(masks) == len(patient.slices)
    assert {read_tiff(mask).shape for mask in masks} == {(64, 64)}


def whole_and_resumed(
    name: str, phantoms: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Checkpoints: after epoch 1, at the end, and at the end of a training put back to its state after epoch 1."""
    store = TrainingState.store

    def store_and_keep(self: TrainingState, engine: Engine) -> None:
        store(self, engine)
        shutil.copy(self.path, folder / f"{engine.state.epoch}.pt")

    monkeypatch.setattr(TrainingState, "store", store_and_keep)
    run, settings, ends = folder / "run", small(name, "max_epochs=2"), []
    for _ in range(2):
        bundles.train(bundles.find_bundle(name), phantoms, run, settings=settings, device=device, progress=False)
        ends.append(torch.load(folder / "2.pt", weights_only=True))
        (folder / "2.pt").unlink()
        shutil.copy(folder / "1.pt", run / "models" / "checkpoint.pt")
    return [torch.load(folder / "1.pt", weights_only=True), *ends]


@pytest.mark.parametrize("name", ["unet_dice", "unet_128", "unet_25d"])
def test_resumed_training_is_the_uninterrupted_one(
    name: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With augmentation, and with another schedule."""
    before, first, second = (state["network"] for state in whole_and_resumed(name, phantoms, tmp_path, monkeypatch))
    assert any(not torch.equal(before[key], value) for key, value in first.items())
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
