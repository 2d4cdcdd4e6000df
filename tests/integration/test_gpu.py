"""What a CPU does, done on a GPU: every bundle, resuming, masks, augmentation, several processes. Skipped without one.

On a machine with a GPU: ``pytest -m gpu``.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_lgg import bundle as bundles
from monai_lgg.batch_augmentation import AugmentBatch, scale
from monai_lgg.experiments import training_progress
from monai_lgg.inference import predict
from monai_lgg.io.tiff import read_tiff
from monai_lgg.prediction_inputs import prediction_records
from tests.integration.test_processes import TINY_ARGS, train_in_ranks
from tests.test_bundle_journeys import small, whole_and_resumed

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def trained(name: str, phantoms: Path, run: Path, *more: str) -> Path:
    settings = small(name, *more)
    bundles.train(bundles.find_bundle(name), phantoms, run, settings=settings, device=DEVICE, progress=False)
    return run


@pytest.mark.parametrize("name", bundles.bundle_names())
def test_a_bundle_trains_evaluates_and_predicts(name: str, phantoms: Path, tmp_path: Path) -> None:
    run = trained(name, phantoms, tmp_path / "run", "max_epochs=1")
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    assert all(of.device.type == "cpu" and torch.isfinite(of.float()).all() for of in weights.values())
    summary = bundles.evaluate(run, phantoms, tmp_path / "results", device=DEVICE, progress=False)
    assert 0 <= summary["per_patient_dice"]["mean"] <= 1
    (result,) = predict(prediction_records([next(phantoms.glob("TCGA*"))]), run, tmp_path / "masks", device=DEVICE)
    assert result.status == "done"


@pytest.mark.parametrize("name", ["unet_cosine", "unet_25d"])
def test_a_resumed_training_is_the_uninterrupted_one(
    name: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler of mixed precision, the optimizer and the schedule go on; sums have no fixed order on a GPU."""
    before, first, second = whole_and_resumed(name, phantoms, tmp_path, monkeypatch, DEVICE)
    assert {"scaler" in of for of in (before, first, second)} == {DEVICE == "cuda"}
    assert first["progress"] == second["progress"]
    for key, value in first["network"].items():
        torch.testing.assert_close(second["network"][key], value, rtol=0.01, atol=0.01, msg=key)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_masks_are_those_of_the_cpu(precision: str, phantoms: Path, tmp_path: Path) -> None:
    records = prediction_records(sorted(phantoms.glob("TCGA*"))[:3])
    masks = {}
    for device, settings in {"cpu": {"backend": "torch"}, DEVICE: {"precision": precision}}.items():
        out = tmp_path / f"on {device}"
        results = predict(
            records, bundles.find_bundle("unet_25d"), out, device=device, settings=settings, overwrite=True
        )
        assert {result.status for result in results} == {"done"}
        masks[device] = np.stack([read_tiff(path) for path in sorted(out.rglob("*_mask.tif"))]) > 0
    one, other = masks.values() if len(masks) == 2 else (masks[DEVICE], masks[DEVICE])
    assert one.any()
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > (0.9999 if precision == "fp32" else 0.995)


def test_a_batch_is_augmented_where_it_is() -> None:
    torch.manual_seed(0)
    batch = {
        "image": torch.randint(0, 256, (8, 9, 64, 64), dtype=torch.uint8),
        "label": torch.zeros(8, 1, 64, 64, dtype=torch.uint8),
        "intensity_range": torch.tensor([0.0, 255.0]).repeat(8, 3, 1),
    }
    batch["label"][:, :, 20:40, 20:40] = 1
    always = dict.fromkeys(
        ("elastic", "noisy", "blur", "bias", "missing_pre", "missing_post", "swapped", "stripped"), 1.0
    )
    image, label = AugmentBatch((48, 32), **always)(batch, torch.device(DEVICE))
    assert (image.device.type, label.device.type) == (DEVICE, DEVICE)
    assert (image.shape, label.shape) == ((8, 9, 48, 32), (8, 1, 48, 32))
    assert image.isfinite().all()
    assert 0.05 < label.mean() < 0.6
    scaled = [scale(batch["image"].to(of), batch["intensity_range"].to(of), 3).cpu() for of in ("cpu", DEVICE)]
    torch.testing.assert_close(*scaled)


def test_one_rank_with_nccl(phantoms: Path, tmp_path: Path) -> None:
    root = train_in_ranks(1, phantoms, tmp_path, "unet_cosine", *TINY_ARGS)
    assert training_progress(root)["epochs"] == 1


@pytest.mark.parametrize("network", ["unet_25d"])
def test_tensorrt_gives_the_masks_of_pytorch(network: str, phantoms: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt")
    records = prediction_records(sorted(phantoms.glob("TCGA*"))[:1])
    masks = []
    for backend in ("torch", "tensorrt"):
        out = tmp_path / backend
        settings = {"backend": backend, "precision": "fp32"}
        (result,) = predict(records, bundles.find_bundle(network), out, device=DEVICE, settings=settings)
        assert result.status == "done", result
        masks.append(np.stack([read_tiff(path) for path in sorted(out.rglob("*_mask.tif"))]) > 0)
    assert 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum()) > 0.999
