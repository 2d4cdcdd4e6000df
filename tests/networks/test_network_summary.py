import pytest
import torch
from monai.networks.nets import AttentionUnet, FlexibleUNet, SegResNet, UNet
from torch import nn

from monai_lgg.networks import NETWORKS
from monai_lgg.networks.ensemble import Ensemble
from monai_lgg.networks.resnext import ResNeXt50Encoder
from monai_lgg.networks.summary import FEWEST_ROWS, MOST_ROWS, describe_network, summary_table


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


OTHERS = {
    "monai_unet": lambda: UNet(2, 3, 1, channels=(4, 8, 16), strides=(2, 2), num_res_units=2),
    "segresnet": lambda: SegResNet(spatial_dims=2, in_channels=3, out_channels=1, init_filters=8),
    "attention_unet": lambda: AttentionUnet(2, 3, 1, channels=(4, 8, 16), strides=(2, 2)),
    "flexible_unet": lambda: FlexibleUNet(3, 1, backbone="resnet10", spatial_dims=2),
    "ensemble": lambda: Ensemble([UNet(2, 3, 1, channels=(4, 8), strides=(2,)) for _ in range(2)]),
}


@pytest.mark.parametrize("name", [*NETWORKS, *OTHERS])
def test_rows_of_a_readable_number_hold_all_parameters(name: str) -> None:
    network = NETWORKS[name](in_channels=3, out_channels=1) if name in NETWORKS else OTHERS[name]()
    summary = describe_network(network, 3, (64, 64))
    assert summary.name == type(network).__name__
    assert summary.input == (3, 64, 64)
    assert summary.output == (1, 64, 64)
    assert summary.parameters == summary.trainable == count(network)
    assert FEWEST_ROWS <= len(summary.stages) <= MOST_ROWS
    assert sum(stage.parameters for stage in summary.stages) == summary.parameters
    modules = dict(network.named_modules())
    for stage in summary.stages:
        assert stage.parameters == count(modules[stage.name])
    assert summary.multiply_accumulates > 0


class Small(nn.Module):
    """Parts defined in another order than they run, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.ReLU())
        self.spare = nn.Linear(5, 5)
        self.nothing = nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.nothing(self.head(self.body(image)))


def test_hand_worked() -> None:
    """8 x 6 pixels: the body gives 4 x 3 x 4 values of 27 products each, the head 4 x 3 x 2 of 4."""
    network = Small()
    network.spare.weight.requires_grad_(False)
    summary = describe_network(network, 3, (8, 6))
    assert [(stage.name, stage.kind, stage.output, stage.parameters) for stage in summary.stages] == [
        ("body.0", "Conv2d", (4, 4, 3), 3 * 4 * 9 + 4),
        ("body.1", "ReLU", (4, 4, 3), 0),
        ("body.2", "ReLU", (4, 4, 3), 0),
        ("head", "Conv2d", (2, 4, 3), 4 * 2 + 2),
        ("spare", "Linear", None, 30),
    ]
    assert (summary.parameters, summary.trainable) == (152, 127)
    assert summary.multiply_accumulates == 4 * 3 * 4 * 27 + 4 * 3 * 2 * 4
    assert summary.output == (2, 4, 3)


def test_multiply_accumulates_as_published() -> None:
    """Torchvision states 4.23 G for ResNeXt50 (32x4d) at 224 x 224; of these 2048 x 1000 are the classifier's."""
    encoder = ResNeXt50Encoder()
    assert describe_network(encoder, 3, (224, 224)).multiply_accumulates + 2048 * 1000 == 4_230_479_872


def test_kinds() -> None:
    kinds = {stage.name: stage.kind for stage in describe_network(NETWORKS["resnext50_unet"](), 3, (32, 32)).stages}
    assert kinds["encoder.layer3"] == "6 ResNeXtBlock"
    assert kinds["decoder.blocks.4"] == "UpCat"
    kinds = {stage.name: stage.kind for stage in describe_network(NETWORKS["segmentation_ae"](), 1, (32, 32)).stages}
    assert kinds["encoder.0"] == "Conv2d, ReLU, MaxPool2d"


def test_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    network[1].eval()  # frozen
    before = {name: value.clone() for name, value in network.state_dict().items()}
    describe_network(network, 3, (8, 8))
    assert [module.training for module in network] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_leaves_the_network_as_it_was_after_an_error() -> None:
    network = NETWORKS["segmentation_ae"](3, 1)
    with pytest.raises(ValueError, match=r"SegmentationAE got 20 x 32; .* multiples of 32"):
        describe_network(network, 3, (20, 32))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_table() -> None:
    assert summary_table(describe_network(Small(), 3, (8, 6))).splitlines() == [
        "Small: 3 x 8 x 6 to 2 x 4 x 3",
        "stage   kind    output     parameters",
        "body.0  Conv2d  4 x 4 x 3         112",
        "body.1  ReLU    4 x 4 x 3           0",
        "body.2  ReLU    4 x 4 x 3           0",
        "head    Conv2d  2 x 4 x 3          10",
        "spare   Linear  -                  30",
        "152 parameters, 152 trainable; 0.00 G multiply-accumulates an image",
    ]
