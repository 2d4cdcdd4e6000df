"""A U-Net on an EfficientNet-Lite encoder, which is quick on a CPU and can begin from ImageNet weights."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from monai_lgg.networks.sizes import check_size

#: The share of tumour in all pixels is about 1 %; the head begins there, so that the first steps are not spent on it.
PRIOR_LOGIT = -4.0
#: (expansion, channels, blocks, stride, kernel) of the stages of Lite0. Source: Tan and Le 2019 (arXiv:1905.11946),
#: table 1; the Lite variants leave squeeze-and-excitation out and have ReLU6.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
#: Factors by which a variant has more channels and more blocks. Source: TensorFlow's efficientnet/lite (Liu 2020).
VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8)}
#: Channels are multiples of this, and rounded down by no more than a tenth.
CHANNEL_STEP = 8
STEM = 32
#: Stages that end at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size; their maps are what the decoder gets.
SCALES = (0, 1, 2, 4, 6)
#: Of the published batch normalization.
EPSILON = 1e-3


class LiteUNet(nn.Module):
    """Residual U-Net decoder on an EfficientNet-Lite encoder; ends at half the size, in four logits for 2 x 2 pixels.

    So the layers that cost most on a CPU, those at full size, are not there. The encoder's layers have the published
    names without their leading underscores; :func:`monai_lgg.networks.pretrained.load_encoder_weights` fills it.

    Args:
        in_channels: sequences, or sequences x slices (the slice and its neighbours).
        channels: of the decoder's stages, from 1/16 of the size to 1/2.
        variant: of the encoder, ``lite0`` (the smallest) to ``lite4``.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Raises:
        ValueError: an unknown variant; (when called) rows or columns are no multiples of 32.
    Source: encoder as :class:`LiteEncoder`; residual blocks of He et al. 2016 (arXiv:1512.03385); rearrangement of Shi
    et al. 2016 (arXiv:1609.05158).
    """

    def __init__(
        self,
        in_channels: int = 9,
        out_channels: int = 1,
        channels: Sequence[int] = (128, 64, 32, 16),
        variant: str = "lite0",
    ) -> None:
        super().__init__()
        self.encoder = LiteEncoder(in_channels, variant)
        stages = encoder_stages(variant)
        lowest, *joined = [stages[stage][1] for stage in reversed(SCALES)]
        below = [lowest, *channels[:-1]]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, c, 2, stride=2) for b, c in zip(below, channels, strict=True))
        self.decode = nn.ModuleList(ResidualBlock(c + j, c) for c, j in zip(channels, joined, strict=True))
        self.head = nn.Conv2d(channels[-1], 4 * out_channels, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, PRIOR_LOGIT)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        check_size(image, 32, "LiteUNet")
        maps = self.encoder(image)
        x = maps.pop()
        for up, decode in zip(self.ups, self.decode, strict=True):
            x = decode(torch.cat([maps.pop(), up(x)], dim=1))
        return self.shuffle(self.head(x))


def encoder_stages(variant: str) -> list[tuple[int, int, int, int, int]]:
    """:data:`STAGES` of a variant; stem, first and last stage have as many blocks in all of them.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} of the encoder is not one of {', '.join(VARIANTS)}")
    width, depth = VARIANTS[variant]
    scaled = []
    for number, (expansion, channels, count, stride, kernel) in enumerate(STAGES):
        ends = number in (0, len(STAGES) - 1)
        blocks = count if ends else math.ceil(count * depth)
        scaled.append((expansion, _rounded(channels * width), blocks, stride, kernel))
    return scaled


def _rounded(channels: float) -> int:
    nearest = max(CHANNEL_STEP, int(channels + CHANNEL_STEP / 2) // CHANNEL_STEP * CHANNEL_STEP)
    return nearest if nearest >= 0.9 * channels else nearest + CHANNEL_STEP


class LiteEncoder(nn.Module):
    """An EfficientNet-Lite without its classifier.

    Strided convolutions are padded alike on both sides; the published network pads more at the end, half a pixel's
    difference that training makes up for.

    Shape: (B, in_channels, H, W) to five maps, at 1/2, 1/4, 1/8, 1/16 and 1/32; of Lite0 with 16, 24, 40, 112 and 320
    channels.
    Source: Tan and Le 2019 (arXiv:1905.11946); Lite: TensorFlow's efficientnet/lite (Liu 2020).
    """

    def __init__(self, in_channels: int, variant: str = "lite0") -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(in_channels, STEM, 3, 2, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(STEM, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self.blocks = nn.ModuleList()
        self.ends = []
        below = STEM
        for number, (expansion, channels, count, stride, kernel) in enumerate(encoder_stages(variant)):
            for k in range(count):
                self.blocks.append(InvertedResidual(below, channels, expansion, stride if k == 0 else 1, kernel))
                below = channels
            if number in SCALES:
                self.ends.append(len(self.blocks) - 1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = self.relu(self.bn0(self.conv_stem(image)))
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                maps.append(x)
        return maps


class InvertedResidual(nn.Module):
    """Widens, convolves each channel by itself, narrows; with a shortcut where size and channels stay the same.

    Shape: (B, in_channels, H, W) to (B, out_channels, H/stride, W/stride).
    Source: Sandler et al. 2018 (arXiv:1801.04381).
    """

    widens: Final[bool]  # so that TorchScript does not look for layers that are not there

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.widens = expansion != 1
        if self.widens:
            self.expand_conv = nn.Conv2d(in_channels, wide, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(wide, EPSILON)
        self.depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, EPSILON)
        self.project_conv = nn.Conv2d(wide, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        if self.widens:
            y = self.relu(self.bn0(self.expand_conv(x)))
        y = self.bn2(self.project_conv(self.relu(self.bn1(self.depthwise_conv(y)))))
        return x + y if self.shortcut else y


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalization and a shortcut of 1 x 1. (B, C, H, W) to (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))
