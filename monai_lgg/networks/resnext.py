"""ResNeXt50 (32x4d) as an encoder of MONAI's FlexibleUNet, and the U-Net of R0 on it.

Importing this module registers the encoder, so ``FlexibleUNet(backbone="resnext50_32x4d", ...)`` works as well.
"""

from typing import Any

import torch
from monai.networks.blocks import BaseEncoder
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE, FlexibleUNet
from torch import nn

from monai_lgg.networks.pretrained import load_encoder_weights
from monai_lgg.networks.sizes import check_size

ENCODER = "resnext50_32x4d"
GROUPS = 32
#: Blocks, width of the grouped convolution, output channels and stride of the four stages.
STAGES = ((3, 128, 256, 1), (4, 256, 512, 2), (6, 512, 1024, 2), (3, 1024, 2048, 2))


class ResNeXtBlock(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolution, added to the input.

    Source: Xie et al. 2017 (arXiv:1611.05431), figure 3c.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        return self.relu(self.bn3(self.conv3(residual)) + self.downsample(x))


class ResNeXt50Encoder(nn.Module, BaseEncoder):
    """ResNeXt50 (32x4d) in the layer names of torchvision's state_dict, giving a map after each halving.

    Args:
        spatial_dims: 2 (FlexibleUNet passes it).
        in_channels: of the image.
        pretrained: False (FlexibleUNet passes it); weights are loaded by
            :func:`monai_lgg.networks.pretrained.load_encoder_weights`.
        classes: adds the classifier ``fc`` for this many classes; None has none.

    Shape: (B, in_channels, H, W) to five maps of 64, 256, 512, 1024 and 2048 channels at 1/2 to 1/32 of the size.
    Raises:
        ValueError: ``spatial_dims`` is not 2, or ``pretrained`` is true.
    Source: Xie et al. 2017 (arXiv:1611.05431), table 1; initialized as in He et al. 2015 (arXiv:1502.01852).
    """

    def __init__(
        self, spatial_dims: int = 2, in_channels: int = 3, pretrained: bool = False, classes: int | None = None
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"{ENCODER}: spatial_dims is {spatial_dims}; it must be 2; use it slice by slice")
        if pretrained:
            raise ValueError(f"{ENCODER}: pretrained must be False; give pretrained_weights to ResNeXt50UNet instead")
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = (64, *[stage[2] for stage in STAGES])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(channels, *stage) for channels, stage in zip(before[:-1], STAGES, strict=True)
        )
        self.fc = nn.Identity() if classes is None else nn.Linear(before[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x0 = self.relu(self.bn1(self.conv1(image)))
        x1 = self.layer1(self.maxpool(x0))
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        return [x0, x1, x2, x3, self.layer4(x3)]

    def classify(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of images (B, in_channels, H, W); without a classifier, the 2048 pooled features."""
        return self.fc(self(image)[-1].mean(dim=(2, 3)))

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        return [{"spatial_dims": 2, "in_channels": 3, "pretrained": False}]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        return [(64, *[stage[2] for stage in STAGES])]

    @classmethod
    def num_outputs(cls) -> list[int]:
        return [1 + len(STAGES)]

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        return [ENCODER]


def _stage(in_channels: int, blocks: int, width: int, out_channels: int, stride: int) -> nn.Sequential:
    first = ResNeXtBlock(in_channels, width, out_channels, stride)
    return nn.Sequential(first, *[ResNeXtBlock(out_channels, width, out_channels, 1) for _ in range(blocks - 1)])


FLEXUNET_BACKBONE.register_class(ResNeXt50Encoder)


class ResNeXt50UNet(FlexibleUNet):
    """A U-Net decoder on the ResNeXt50 (32x4d) encoder: MONAI's FlexibleUNet with 256, 128, 64, 32 and 16 channels.

    The decoder's first four stages join the encoder's maps at 1/16, 1/8, 1/4 and 1/2 of the size; the last one, at full
    size, has none to join.

    Args:
        pretrained_weights: local path or https URL of a torchvision-format state_dict for the encoder. None, as in an
            evaluation or an inference, loads and downloads nothing.
        weights_sha256: of that file; see :func:`monai_lgg.networks.pretrained.load_encoder_weights`.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Raises:
        ValueError: the weights do not fit; or (when called) rows or columns are no multiples of 32.
        FileNotFoundError: no weights at the path.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        pretrained_weights: str | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, backbone=ENCODER, is_pad=False)
        if pretrained_weights is not None:
            load_encoder_weights(self.encoder, pretrained_weights, weights_sha256)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        check_size(inputs, 32, "ResNeXt50UNet")
        return self.segmentation_head(self.decoder(self.encoder(inputs), self.skip_connect))
