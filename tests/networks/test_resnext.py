"""The encoder against the published one: torchvision's resnext50_32x4d."""

from math import prod
from pathlib import Path

import pytest
import torch
from monai.networks.nets import FlexibleUNet

from monai_lgg.networks.resnext import ResNeXt50Encoder, ResNeXt50UNet

#: "name shape" of every entry of the state_dict of torchvision 0.28's resnext50_32x4d, in its order.
PUBLISHED = Path(__file__).with_name("resnext50_32x4d.txt")
#: Logits 0, 1, 2, 500 and 999 of that network with the weights and the image of the test; with the stride in the first
#: convolution of a block, where other versions have it, they would be 3 % smaller.
REFERENCE = (19.28093, 28.81685, 10.28218, 21.13188, 4.20765)


def published() -> dict[str, tuple[int, ...]]:
    rows = [line.partition(" ") for line in PUBLISHED.read_text().splitlines()]
    return {name: tuple(map(int, shape.split("x"))) if shape else () for name, _, shape in rows}


def weights() -> dict[str, torch.Tensor]:
    """Reproducible everywhere: cosines, small enough for logits of about 20."""
    state = {}
    for name, shape in published().items():
        wave = torch.cos(torch.arange(prod(shape), dtype=torch.float64) * 0.7 + len(name)).float().reshape(shape)
        if len(shape) > 1:
            wave = wave * 0.3 / prod(shape[1:]) ** 0.5
        elif name.endswith(("running_var", "weight")):
            wave = 1 + wave / 2
        state[name] = wave if shape else torch.tensor(1)
    return state


def test_published_names_and_shapes() -> None:
    own = {name: tuple(value.shape) for name, value in ResNeXt50Encoder(classes=1000).state_dict().items()}
    assert list(own.items()) == list(published().items())


def test_published_parameter_count() -> None:
    assert sum(parameter.numel() for parameter in ResNeXt50Encoder(classes=1000).parameters()) == 25_028_904
    assert sum(parameter.numel() for parameter in ResNeXt50Encoder().parameters()) == 25_028_904 - 2048 * 1000 - 1000


def test_published_output() -> None:
    """The logits of torchvision 0.28's network with the same weights: strides, groups and order are the same too."""
    encoder = ResNeXt50Encoder(classes=1000).eval()
    encoder.load_state_dict(weights())
    image = torch.cos(torch.arange(3 * 64 * 96, dtype=torch.float64) * 0.3).float().reshape(1, 3, 64, 96)
    with torch.no_grad():
        logits = encoder.classify(image)
    assert logits.shape == (1, 1000)
    torch.testing.assert_close(logits[0, [0, 1, 2, 500, 999]], torch.tensor(REFERENCE), rtol=1e-4, atol=0)


def test_five_maps_each_half_the_size() -> None:
    with torch.no_grad():
        maps = ResNeXt50Encoder(in_channels=1)(torch.rand(2, 1, 64, 96))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (64, 32, 48),
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 2, 3),
    ]


def test_each_decoder_stage_joins_the_map_of_its_size() -> None:
    """The decoder's stages get the encoder's own maps, in order, each of the size of what was upsampled."""
    network, joined = ResNeXt50UNet().eval(), []
    maps: list[torch.Tensor] = []
    network.encoder.register_forward_hook(lambda _module, _inputs, output: maps.extend(output))
    for block in network.decoder.blocks:
        block.upsample.register_forward_hook(lambda _m, _i, output: joined.append([tuple(output.shape[2:])]))
        block.register_forward_pre_hook(lambda _m, inputs: joined.append([inputs[1]]))
    with torch.no_grad():
        network(torch.rand(1, 3, 64, 96))
    skips, sizes = [entry[0] for entry in joined[::2]], [entry[0] for entry in joined[1::2]]
    assert sizes == [(4, 6), (8, 12), (16, 24), (32, 48), (64, 96)]
    assert all(skip is expected for skip, expected in zip(skips, [*maps[3::-1], None], strict=True))
    assert [tuple(skip.shape[2:]) for skip in skips[:4]] == sizes[:4]


def test_registered_in_monai() -> None:
    network = FlexibleUNet(2, 1, backbone="resnext50_32x4d", spatial_dims=2)
    assert type(network.encoder) is ResNeXt50Encoder
    assert network.encoder.conv1.in_channels == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; it must be 2"),
        ({"pretrained": True}, "give pretrained_weights to ResNeXt50UNet"),
    ],
)
def test_arguments_that_monai_would_pass(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNeXt50Encoder(**arguments)


def test_published_weights_reach_the_encoder(tmp_path: Path) -> None:
    state = weights()
    torch.save(state, tmp_path / "weights.pth")
    encoder = ResNeXt50UNet(pretrained_weights=str(tmp_path / "weights.pth")).encoder.state_dict()
    assert encoder.keys() == state.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, state[name]) for name, value in encoder.items())


def test_weights_of_resnet50_are_refused(tmp_path: Path) -> None:
    """ResNet50 has the same names; its first other shape is that of layer1.0.conv1."""
    state = {name: torch.zeros(()).expand(shape) for name, shape in published().items()}
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    torch.save(state, tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is 64 x 64 x 1 x 1, expected 128 x 64 x 1 x 1"):
        ResNeXt50UNet(pretrained_weights=str(tmp_path / "resnet50.pth"))


def test_nothing_is_downloaded_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    ResNeXt50UNet()
