"""Every bundle: metadata, required properties, network in and out, TorchScript export, configuration in one piece."""

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from torch.utils.data import default_collate

from monai_lgg.bundle import bundle_names, bundles_dir, read_config
from scripts.build_bundles import bundle_files

SCHEMA = Path(__file__).parent / "schema" / "meta_schema_20240725.json"
BUNDLES = [bundles_dir() / name for name in bundle_names()]
FILES = ["metadata.json", "train.json", "evaluate.json", "inference.json", "multi_gpu_train.json", "logging.conf"]

pytestmark = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def test_has_all_files(bundle: Path) -> None:
    for name in FILES:
        assert (bundle / "configs" / name).is_file(), name
    assert "research" in (bundle / "docs" / "README.md").read_text().lower()
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_metadata(bundle: Path) -> None:
    meta = bundle / "configs" / "metadata.json"
    assert json.loads(meta.read_text())["schema"].endswith(SCHEMA.name)
    verify_metadata(meta_file=str(meta), filepath=str(SCHEMA))


def test_schema_refuses_bad_metadata(bundle: Path, tmp_path: Path) -> None:
    content = json.loads((bundle / "configs" / "metadata.json").read_text())
    del content["required_packages_version"]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="required_packages_version"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA))


@pytest.mark.parametrize(("config", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_required_properties(bundle: Path, config: str, kind: str, phantoms: Path, tmp_path: Path) -> None:
    flow = ConfigWorkflow(
        config_file=str(bundle / "configs" / config),
        workflow_type=kind,
        logging_file=False,
        run_id="training" if kind == "train" else "inferring",
        bundle_root=str(bundle),
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path),
        device="cpu",
        **({"cache_rate": 0.0} if kind == "train" else {"initialize": []}),
    )
    flow.initialize()
    assert flow.check_properties() == []
    flow.finalize()


def test_network_in_out(bundle: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        device="cpu",
        n=4,
    )


def test_torchscript_export_equals_the_network(bundle: Path, tmp_path: Path) -> None:
    config = bundle / "configs" / "inference.json"
    torch.manual_seed(0)
    network = read_config([config]).get_parsed_content("network_def").eval()
    weights, exported = tmp_path / "model.pt", tmp_path / "model.ts"
    torch.save(network.state_dict(), weights)
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(weights),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(config),
    )
    channels = network_channels(bundle)
    image = torch.rand(2, channels, 64, 96) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(exported)(image), network(image), rtol=1e-4, atol=1e-5)


def network_channels(bundle: Path) -> int:
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    return int(meta["network_data_format"]["inputs"]["image"]["num_channels"])


def test_is_what_its_recipe_and_the_shared_files_make(bundle: Path) -> None:
    """Change ``bundles/common`` or the recipe, then run ``make bundles``."""
    for name, text in bundle_files(bundle).items():
        assert (bundle / name).read_text() == text, name


def test_training_and_inference_have_one_network_and_normalization(bundle: Path) -> None:
    training, inference = (read_config([bundle / "configs" / name]) for name in ("train.json", "inference.json"))
    for key in ("network_def", "image_size", "background", "intensity", "slice_inferer"):
        assert training[key] == inference[key], key
    steps = inference["preprocessing"]["transforms"]
    for step in training["normalize"]["transforms"]:
        assert step in steps or step["keys"] != "image"
    inner = inference["inferer"]["inferer"]  # inside the one that mirrors
    assert training["validate"]["inferer"]["inferer"] == inner["inferer"] == "@slice_inferer"


def test_evaluation_and_prediction_decide_alike(bundle: Path) -> None:
    configs = (["train.json", "evaluate.json"], ["inference.json"])
    evaluation, inference = (read_config([bundle / "configs" / name for name in names]) for names in configs)
    for key in ("mirror", "calibration", "threshold", "component_share", "fill_holes"):
        assert evaluation[key] == inference[key], key


def test_preprocessing_gives_what_the_network_takes(bundle: Path, phantoms: Path, tmp_path: Path) -> None:
    """Training slices (augmented) and validation volumes: size, channels, type, value range, binary labels."""
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    parser = read_config([bundle / "configs" / "train.json"])
    changes = {"bundle_root": str(bundle), "dataset_dir": str(phantoms), "output_dir": str(tmp_path), "cache_rate": 0.0}
    for key, value in {**changes, "image_size": [64, 64], "crop_size": [64, 64]}.items():
        parser[key] = value
    items = parser.get_parsed_content("train#dataset")
    prepare = parser.get_parsed_content("prepare_batch")
    batch = prepare(default_collate([items[2], items[3]]), "cpu", False)
    volume = parser.get_parsed_content("validate#dataset")[0]
    low, high = meta["value_range"]
    sequences = meta["num_channels"] // (1 + 2 * parser.get("neighbours", 0))
    for image, label, channels in [
        *((image, label, meta["num_channels"]) for image, label in zip(*batch, strict=True)),
        (volume["image"], volume["label"], sequences),
    ]:
        assert image.shape[0] == channels
        assert label.shape[0] == 1
        assert image.shape[1:3] == label.shape[1:3] == (64, 64)
        assert image.dtype == label.dtype == torch.float32
        assert label.unique().tolist() in ([0.0], [0.0, 1.0])
    image = volume["image"]
    assert image.min() >= low
    assert image.max() <= high
    assert image.max() - image.min() > 0.5 * (high - low)


def test_validation_has_the_loss_of_training_over_whole_patients(bundle: Path, phantoms: Path, tmp_path: Path) -> None:
    """Dice over all voxels of a patient, and their cross-entropy where the recipe has it, from the logits."""
    parser = read_config([bundle / "configs" / "train.json"])
    changes = {"bundle_root": str(bundle), "dataset_dir": str(phantoms), "output_dir": str(tmp_path), "amp": False}
    no_files = {"best_model#save": False, "early_stopping_patience": 0, "is_main": False, "show_progress": False}
    for key, value in {**changes, **no_files, "image_size": [64, 64], "pretrained_weights": None}.items():
        parser[key] = value
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    inferer, network, expected = parser.get_parsed_content("slice_inferer"), evaluator.network.eval(), []
    for item in parser.get_parsed_content("validate#dataset"):
        with torch.no_grad():
            logits = inferer(item["image"][None], network)[0].double()
        p, y = logits.sigmoid(), item["label"].double()
        expected.append(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
        if parser["loss"]["_target_"] == "DiceCELoss":
            expected[-1] -= (y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert evaluator.state.metrics["val_loss"] == pytest.approx(float(sum(expected) / len(expected)), rel=1e-4)


def test_no_metric_hides_false_positives(bundle: Path) -> None:
    text = (bundle / "configs" / "train.json").read_text()
    assert '"ignore_empty": true' not in text.lower()
    assert text.count('"ignore_empty": false') == text.count('"DiceMetric"') + text.count('"MeanIoU"')
    assert '"MeanDice"' not in text
