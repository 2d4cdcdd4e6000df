"""Dictionary transforms that MONAI lacks."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

#: Intensities above this percentile of a foreign volume are clipped before they are mapped to 0..255.
TOP_PERCENTILE = 99.5


class ThreeSequencesd(MapTransform):
    """Makes (pre-contrast, FLAIR, post-contrast) of an image: FLAIR alone is repeated, as the data's authors did.

    Raises:
        ValueError: the image has neither 1 nor 3 channels.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            image = record[key]
            if image.shape[0] == 1:
                record[key] = image.repeat(3, *[1] * (image.ndim - 1))
            elif image.shape[0] != 3:
                raise ValueError(
                    f"{_name(record, key)}: {image.shape[0]} channels; give 1 (FLAIR) or 3 (pre-contrast, FLAIR, "
                    "post-contrast)"
                )
        return record


class ToPublicRanged(MapTransform):
    """Brings intensities to the 0..255 range of the public data, as float32.

    uint8 images are taken as they are. Any other type is mapped linearly, each channel of the volume on its own, from
    [minimum, 99.5th percentile of the voxels above the minimum] to [0, 255] and clipped. A constant channel becomes 0.

    Args:
        keys: of images (C, H, W[, D]).
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            image = record[key]
            scaled = image.to(torch.float32)
            if image.dtype != torch.uint8:
                scaled = scaled.clone()  # of a float32 image, .to() gives the caller's own memory
                for channel in range(scaled.shape[0]):
                    scaled[channel] = _to_bytes_range(scaled[channel])
            record[key] = scaled
        return record


def _to_bytes_range(channel: torch.Tensor) -> torch.Tensor:
    low = channel.min()
    inside = channel[channel > low].flatten()
    if inside.numel() == 0:
        return torch.zeros_like(channel)
    rank = max(1, round(inside.numel() * TOP_PERCENTILE / 100))
    high = torch.as_tensor(inside).kthvalue(rank).values  # torch.quantile refuses more than 16 million values
    return ((channel - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny) * 255).clamp(0, 255)


def _name(record: Mapping[Hashable, Any], key: Hashable) -> str:
    meta = getattr(record[key], "meta", {})
    return str(meta.get("filename_or_obj") or record.get("case") or key)
