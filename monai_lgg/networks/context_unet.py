"""A residual U-Net for a slice and its neighbours, made for speed on a CPU."""

from collections.abc import Sequence

import torch
from torch import nn

from monai_lgg.networks.sizes import check_size

#: The share of tumour in all pixels is about 1 %; the head begins there, so that the first steps are not spent on it.
PRIOR_LOGIT = -4.0


class ContextUNet(nn.Module):
    """A residual U-Net that works at half the image's size and gives logits at the full one.

    Its first layer takes 2 x 2 pixels as one position with four times the channels, its last one spreads four logits
    over 2 x 2 pixels: no pixel is lost, and the layers that cost most on a CPU, those at full size, are not there.

    Args:
        in_channels: sequences x slices (the slice and its neighbours).
        channels: of the levels, top (half size) first; each level halves the size of the one above.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Raises:
        ValueError: (when called) rows or columns are no multiples of 2 to the power of the number of levels.
    Source: residual blocks of He et al. 2016 (arXiv:1512.03385); rearrangement of Shi et al. 2016 (arXiv:1609.05158).
    """

    def __init__(
        self, in_channels: int = 9, out_channels: int = 1, channels: Sequence[int] = (32, 64, 128, 192, 256)
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(channels)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.levels = _level(4 * in_channels, list(channels), stride=1)
        self.head = nn.Conv2d(channels[0], 4 * out_channels, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, PRIOR_LOGIT)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        check_size(image, self.multiple, "ContextUNet")
        return self.shuffle(self.head(self.levels(self.unshuffle(image))))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalization and a shortcut. (B, C, H, W) to (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class _Level(nn.Module):
    """Encodes, goes through the levels below, joins what comes back, and decodes."""

    def __init__(self, in_channels: int, channels: int, below: nn.Module, below_channels: int, stride: int) -> None:
        super().__init__()
        self.encode = ResidualBlock(in_channels, channels, stride)
        self.below = below
        self.up = nn.ConvTranspose2d(below_channels, channels, 2, stride=2)
        self.decode = ResidualBlock(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.encode(x)
        return self.decode(torch.cat([skip, self.up(self.below(skip))], dim=1))


def _level(in_channels: int, channels: list[int], stride: int) -> nn.Module:
    first, rest = channels[0], channels[1:]
    if not rest:
        return nn.Sequential(ResidualBlock(in_channels, first, stride), ResidualBlock(first, first))
    return _Level(in_channels, first, _level(first, rest, stride=2), rest[0], stride)
