"""The networks of the bundles, each by a name: only what MONAI lacks is written here.

Every network is built by ``(in_channels, out_channels, ...)`` and maps images (B, C, H, W) to logits (B, out, H, W) of
the same height and width; the sigmoid belongs to the loss and to a bundle's post-processing. A network is added by
one file and one line of :data:`NETWORKS`; the contract tests in ``tests/networks`` find it there.
"""

import difflib

from torch import nn

from monai_lgg.networks.autoencoder import SegmentationAE
from monai_lgg.networks.deeplab import DeepLab
from monai_lgg.networks.lite_unet import LiteUNet
from monai_lgg.networks.resnext import ResNeXt50UNet
from monai_lgg.networks.resunet import ResUNet
from monai_lgg.networks.unet import UNet2d

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet2d,
    "resunet": ResUNet,
    "deeplab": DeepLab,
    "segmentation_ae": SegmentationAE,
    "resnext50_unet": ResNeXt50UNet,
    "lite_unet": LiteUNet,
}


def find_network(name: str) -> type[nn.Module]:
    """The class of a network given by its name.

    Raises:
        ValueError: no such name; the nearest is suggested.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    near = difflib.get_close_matches(name, NETWORKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of: {', '.join(NETWORKS)}"
    raise ValueError(f"no network {name!r}; {hint}")
