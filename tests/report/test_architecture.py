import json
from pathlib import Path
from typing import Any

import pytest

from monai_lgg.networks.summary import Stage
from monai_lgg.report.architecture import BOXES, ROW, draw, network_of


def stage(name: str, *output: int, parameters: int = 0) -> Stage:
    return Stage(name, "Conv2d", output or None, parameters)


def test_boxes_are_wider_for_resolution_and_taller_for_channels() -> None:
    drawn = draw([stage("in", 8, 64, 64), stage("middle", 32, 16, 16), stage("out", 1, 64, 64)])
    first, middle, last = drawn.boxes
    assert first.width == last.width == BOXES
    assert middle.width == 14
    assert first.x == 0
    assert middle.x == (BOXES - 14) / 2
    assert last.height == 8
    assert middle.height == ROW - 6
    assert [box.middle for box in drawn.boxes] == [ROW / 2, 1.5 * ROW, 2.5 * ROW]
    assert drawn.height == 3 * ROW


def test_halfway_is_by_doublings() -> None:
    boxes = draw([stage("a", 1, 64, 64), stage("b", 1, 16, 16), stage("c", 1, 4, 4)]).boxes
    assert boxes[1].width == pytest.approx((boxes[0].width + boxes[2].width) / 2)


def test_equal_stages_and_stages_that_never_ran() -> None:
    drawn = draw([stage("a", 4, 8, 8), stage("never"), stage("b", 4, 8, 8), stage("vector", 4)])
    assert [box.stage.name for box in drawn.boxes] == ["a", "b", "vector"]
    assert draw([]).boxes == []


def test_long_names_keep_their_end() -> None:
    first, second = draw([stage("a" * 34, 1, 8, 8), stage("model." * 9 + "conv", 1, 8, 8)]).boxes
    assert first.label == "a" * 34
    assert len(second.label) == 34
    assert second.label.startswith("…")
    assert second.label.endswith("model.conv")


def write_run(folder: Path, train: dict[str, Any], overrides: dict[str, Any]) -> Path:
    (folder / "configs").mkdir()
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    (folder / "configs" / "overrides.json").write_text(json.dumps(overrides))
    return folder


def test_network_of_a_run_with_its_own_settings(tmp_path: Path) -> None:
    train = {
        "image_size": [16, 16],
        "sizes": 4,
        "network_def": {"_target_": "torch.nn.Conv2d", "in_channels": 2, "out_channels": "@sizes", "kernel_size": 3},
    }
    summary = network_of(write_run(tmp_path, train, {"image_size": [10, 12], "network_def#kernel_size": 1}))
    assert summary.input == (2, 10, 12)
    assert summary.parameters == 2 * 4 + 4


def test_pretrained_weights_are_not_fetched(tmp_path: Path) -> None:
    network = {
        "_target_": "monai_lgg.networks.resnext.ResNeXt50UNet",
        "in_channels": 3,
        "out_channels": 1,
        "pretrained_weights": "@weights",
    }
    train = {"image_size": [32, 32], "weights": "/no/such/file.pth", "network_def": network}
    assert network_of(write_run(tmp_path, train, {})).name == "ResNeXt50UNet"
