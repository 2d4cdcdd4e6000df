import torch
from torch import nn

from monai_lgg.networks.autoencoder import SegmentationAE


def test_stated_channels_and_kernels() -> None:
    network = SegmentationAE(1, 1)
    down = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    up = [module for module in network.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [layer.in_channels for layer in (*down, *up)] == [1, 32, 64, 128, 256, 512, 256, 128, 64, 32]
    assert [layer.out_channels for layer in (*down, *up)] == [32, 64, 128, 256, 512, 256, 128, 64, 32, 1]
    assert [layer.kernel_size[0] for layer in (*down, *up)] == [7, 5, 3, 3, 3, 3, 3, 3, 5, 7]
    assert [type(layer).__name__ for layer in network.encoder[0]] == ["Conv2d", "ReLU", "MaxPool2d"]
    assert [type(layer).__name__ for layer in network.decoder[3]] == ["ConvTranspose2d", "ReLU"]


def test_parameters_of_the_stated_layers() -> None:
    """1-32 k7, 32-64 k5, 64-128, 128-256, 256-512 k3, and the same back; each output channel has a bias."""
    weights = 1 * 32 * 49 + 32 * 64 * 25 + (64 * 128 + 128 * 256 + 256 * 512) * 9
    biases = (32 + 64 + 128 + 256 + 512) + (256 + 128 + 64 + 32 + 1)
    assert (
        sum(parameter.numel() for parameter in SegmentationAE(1, 1).parameters()) == 2 * weights + biases == 3_203_585
    )


def test_each_step_halves_or_doubles() -> None:
    network, sizes = SegmentationAE(1, 1), []
    for part in (*network.encoder, *network.decoder):
        part.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        network(torch.rand(1, 1, 64, 96))
    halves = [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert sizes == [*halves, *halves[-2::-1], (64, 96)]


def test_logits_can_be_negative() -> None:
    """After a last ReLU, no probability would be below 0.5."""
    network = SegmentationAE(1, 1)
    nn.init.constant_(network.decoder[-1].bias, -5)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 32, 32)).sigmoid().max() < 0.5
