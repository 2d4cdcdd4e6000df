"""The settings that the public projects state, written down a second time, so that an edit of a recipe is noticed."""

from typing import Any

import pytest
import torch

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


@pytest.mark.parametrize("name", ["unet_128", "resunet_128", "deeplab_128", "resnext50_unet"])
def test_a_resized_mask_stays_on_its_image(name: str) -> None:
    """A disc in both: half a pixel's shift, as of interpolation by the nearest pixel's corner, would be learned."""
    parser = read_config([find_bundle(name) / "configs" / "train.json"])
    key = "fit" if name.endswith("128") else "augment"
    steps = [
        item for item in transforms(parser[key]) if item["_target_"] in ("RandScaleCropd", "Resized", "AsDiscreted")
    ]
    parser[key] = {"_target_": "Compose", "transforms": steps}
    resize = parser.get_parsed_content(key).set_random_state(1)
    rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    for radius in (20, 31, 42):
        disc = ((rows - 120) ** 2 + (columns - 131) ** 2 <= radius**2).float()[None]
        found = resize({"image": disc, "label": disc})
        image, label = (torch.as_tensor(found[part])[0] for part in ("image", "label"))
        assert set(label.unique().tolist()) == {0, 1}
        for axis in (0, 1):
            places = torch.arange(len(label)).float()
            middles = [float((part.sum(dim=1 - axis) * places).sum() / part.sum()) for part in (image, label)]
            assert middles[0] == pytest.approx(middles[1], abs=0.15)
