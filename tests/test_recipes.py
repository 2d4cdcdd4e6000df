"""The settings that the public projects state, written down a second time, so that an edit of a recipe is noticed."""

from typing import Any

import pytest

from monai_lgg.bundle import find_bundle, read_config

_R3: dict[str, Any] = {
    "max_epochs": 40,
    "image_size": [128, 128],
    "split_fractions": [0.7, 0.15, 0.15],
    "optimizer#_target_": "torch.optim.Adam",
    "loss#_target_": "DiceCELoss",
}
#: Bundle -> key of train.json -> what the project states.
STATED: dict[str, dict[str, Any]] = {
    "resnext50_unet": {
        "max_epochs": 20,
        "batch_size": 26,
        "learning_rate": 5e-4,
        "early_stopping_patience": 5,
        "image_size": [256, 256],
        "split_fractions": [0.765, 0.1, 0.135],
        "optimizer#_target_": "torch.optim.Adam",
        "loss#_target_": "DiceCELoss",
    },
    "unet_dice": {
        "batch_size": 8,
        "learning_rate": 1e-4,
        "optimizer#_target_": "torch.optim.Adam",
        "loss#_target_": "DiceLoss",
    },
    "unet_cosine": {
        "max_epochs": 130,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 1e-5,
        "image_size": [256, 256],
        "optimizer#_target_": "torch.optim.Adam",
        "lr_scheduler#_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "loss#_target_": "DiceCELoss",
    },
    **{name: _R3 for name in ("unet_128", "resunet_128", "deeplab_128")},
    "segmentation_ae": {"max_epochs": 10, "image_size": [256, 256]},
}
#: Bundle -> transforms that its project lists as augmentation.
AUGMENTED = {
    "resnext50_unet": {
        "RandScaleCropd", "RandFlipd", "RandRotate90d", "RandAffined", "Rand2DElasticd", "RandGridDistortiond",
        "RandShiftIntensityd", "RandScaleIntensityFixedMeand",
    },
    "unet_dice": {"RandFlipd", "RandAffined", "RandShiftIntensityd"},
}  # fmt: skip


@pytest.mark.parametrize("name", STATED)
def test_settings_are_those_of_the_project(name: str) -> None:
    config = read_config([find_bundle(name) / "configs" / "train.json"])
    assert {key: config[key] for key in STATED[name]} == STATED[name]


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmentation_is_that_of_the_project(name: str) -> None:
    found = list(transforms(read_config([find_bundle(name) / "configs" / "train.json"])["augment"]))
    assert AUGMENTED[name] <= {item["_target_"] for item in found}
    affine = next(item for item in found if item["_target_"] == "RandAffined")
    assert affine["scale_range"] == [0.1, 0.1]  # one number would scale the rows alone
    assert affine["translate_range"] == [16, 16]
    flips = [item["spatial_axis"] for item in found if item["_target_"] == "RandFlipd"]
    assert sorted(flips) == [0, 1]


def transforms(config: Any) -> Any:
    """Every transform of a configuration, inner ones of Compose and OneOf included."""
    for item in config["transforms"]:
        yield item
        if "transforms" in item:
            yield from transforms(item)
