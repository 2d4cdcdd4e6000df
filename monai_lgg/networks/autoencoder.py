"""The convolutional autoencoder of R4."""

import torch
from torch import nn

from monai_lgg.networks.sizes import check_size

#: Channels after each of the five steps down, and the kernel of each step; R4 states both.
CHANNELS = (32, 64, 128, 256, 512)
KERNELS = (7, 5, 3, 3, 3)


class SegmentationAE(nn.Module):
    """Five times convolution, ReLU, max pooling; then five times transposed convolution and ReLU. No skip connections.

    Sizes: a convolution pads by half its kernel (k // 2), so it keeps the size; pooling halves it. A transposed
    convolution of stride 2 with padding k // 2 and output padding 1 gives (n - 1) * 2 - 2 * (k // 2) + k + 1 = 2n for
    every odd kernel k, so each step doubles exactly and the mask has the size of the image, if its rows and columns are
    multiples of 32. Kernels on the way up mirror those on the way down.

    The last step has no ReLU, although the public description has one before its sigmoid: a sigmoid of a ReLU is
    never below 0.5, so at the usual threshold every pixel would be tumour. Logits are returned.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Raises:
        ValueError: (when called) rows or columns are no multiples of 32.
    Source: R4's public description: 1-32-64-128-256-512-256-128-64-32-1 channels, kernels 7, 5, 3, 3, 3.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*map(_down, (in_channels, *CHANNELS), CHANNELS, KERNELS))
        up = (*CHANNELS[::-1], out_channels)
        self.decoder = nn.Sequential(*map(_up, up[:-2], up[1:-1], KERNELS[::-1]), _double(*up[-2:], KERNELS[0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        check_size(image, 32, "SegmentationAE")
        return self.decoder(self.encoder(image))


def _down(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(2))


def _up(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(_double(before, after, kernel), nn.ReLU())


def _double(before: int, after: int, kernel: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, kernel, stride=2, padding=kernel // 2, output_padding=1)
