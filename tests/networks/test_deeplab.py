import pytest
import torch
from torch import nn

from monai_lgg.networks.deeplab import DILATIONS, DeepLab


def test_output_stride_is_8_and_the_pyramid_keeps_the_size() -> None:
    network, shapes = DeepLab(3, 1).eval(), []
    for part in (*network.encoder, *network.aspp.convs, network.aspp):
        part.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        network(torch.rand(1, 3, 128, 128))
    encoder = [(32, 128, 128), (64, 64, 64), (128, 32, 32), (256, 16, 16)]
    assert shapes == [*encoder, *[(64, 16, 16)] * 4, (256, 16, 16)]


def test_stated_dilations() -> None:
    branches = DeepLab(3, 1).aspp.convs
    assert [branch.dilation for branch in branches] == [(rate, rate) for rate in DILATIONS] == [
        (1, 1), (3, 3), (6, 6), (9, 9)
    ]  # fmt: skip
    assert [branch.kernel_size for branch in branches] == [(1, 1), (3, 3), (3, 3), (3, 3)]


@pytest.mark.parametrize("rate", DILATIONS[1:])
def test_every_tap_of_a_branch_meets_the_16_x_16_map_not_only_padding(rate: int) -> None:
    """On a map of ones, the nine taps of ones together count the map's pixels each tap sees: all see some."""
    tap_sees = [sum(0 <= row + offset < 16 for row in range(16)) for offset in (-rate, 0, rate)]
    convolution = nn.Conv2d(1, 1, 3, dilation=rate, padding=rate, bias=False)
    nn.init.ones_(convolution.weight)
    assert convolution(torch.ones(1, 1, 16, 16)).sum().item() == sum(tap_sees) ** 2
    assert min(tap_sees) >= 7


@pytest.mark.parametrize("size", [(1, 1), (7, 130), (50, 33)])
def test_any_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert DeepLab(1, 2).eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)
