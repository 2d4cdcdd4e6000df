"""The U-Net of R1, R2 and R3."""

from collections.abc import Sequence

from monai.networks.nets import BasicUNet


class UNet2d(BasicUNet):
    """MONAI's BasicUNet for slices, with batch normalization and ReLU; weights are exchangeable with BasicUNet's.

    Any size of at least 32 x 32 works: odd maps are padded on the way up.

    Args:
        features: channels of the five levels, and of the last map before the head.

    Shape: (B, in_channels, H, W) to logits (B, out_channels, H, W).
    Source: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597).
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, features: Sequence[int] = (16, 32, 64, 128, 256, 16)
    ) -> None:
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            features=features,
            norm="batch",
            act="relu",
        )
