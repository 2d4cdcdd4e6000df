"""The simplified DeepLab of R3."""

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution, SimpleASPP
from torch import nn
from torch.nn.functional import interpolate

#: Rates of the four branches; the first is a 1 x 1 convolution. R3 does not state its own. DeepLabv3 takes 6, 12 and 18
#: on maps of 33 x 33 (513 pixels, output stride 16), which is 18, 36 and 55 % of the map; the same shares of the
#: 16 x 16 maps that 128 x 128 images have here are 3, 6 and 9. A rate of 16 or more would meet only padding.
DILATIONS = (1, 3, 6, 9)


class DeepLab(nn.Module):
    """A small convolutional encoder, atrous spatial pyramid pooling (ASPP), a 1 x 1 head and bilinear upsampling.

    The encoder has four stages of two 3 x 3 convolutions; all but the first halve the size, so the output stride is
    8. The ASPP is MONAI's SimpleASPP: each branch pads with as many zeros as its rate, so maps keep their size; there
    is no image-level pooling branch. Logits are upsampled to the size of the image, so any size works.

    Args:
        channels: of the encoder's stages.
        dilations: of the ASPP's branches, see :data:`DILATIONS`; together they have as many channels as the last stage.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Source: Chen et al. 2017 (arXiv:1706.05587), simplified as in R3.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 256),
        dilations: Sequence[int] = DILATIONS,
    ) -> None:
        super().__init__()
        before = (in_channels, *channels[:-1])
        strides = (1, *[2] * (len(channels) - 1))
        self.encoder = nn.Sequential(*map(_stage, before, channels, strides))
        branch = channels[-1] // len(dilations)
        kernels = [1 if dilation == 1 else 3 for dilation in dilations]
        self.aspp = SimpleASPP(2, channels[-1], branch, kernels, dilations, norm_type="batch", acti_type="relu")
        self.head = nn.Conv2d(branch * len(dilations), out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.aspp(self.encoder(image)))
        return interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Convolution(2, before, after, strides=stride, act="relu", norm="batch", bias=False),
        Convolution(2, after, after, act="relu", norm="batch", bias=False),
    )
