"""The residual U-Net of R3."""

from collections.abc import Sequence

import torch
from monai.networks.nets import UNet

from monai_lgg.networks.sizes import check_size


class ResUNet(UNet):
    """MONAI's residual U-Net with two-convolution residual units and batch normalization.

    Each level halves the size by a strided convolution, so rows and columns must be multiples of 2 to the power of
    the number of levels less one: 16 as built here. Weights are exchangeable with MONAI's UNet.

    Args:
        channels: of the levels, top first.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Raises:
        ValueError: (when called) the size does not fit.
    Source: Kerfoot et al. 2018 (doi 10.1007/978-3-030-12029-0_40); R3 does not state its layers.
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, channels: Sequence[int] = (32, 64, 128, 256, 512)
    ) -> None:
        halvings = len(channels) - 1
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            strides=(2,) * halvings,
            num_res_units=2,
            norm="batch",
        )
        self.multiple = 2**halvings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_size(x, self.multiple, "ResUNet")
        return self.model(x)
