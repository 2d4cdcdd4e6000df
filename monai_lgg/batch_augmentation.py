"""Augmentation of whole batches on the device that trains, as a ``prepare_batch`` of MONAI's trainers.

MONAI augments sample by sample in the loader; on two CPU cores that takes as long as the network
(``scripts/benchmark_training.py``). The random numbers come from torch's global generator, which
:class:`monai_lgg.handlers.EpochSeed` seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from monai_lgg.transforms import TINY

#: Scaled intensity below which a pixel is background, for the simulated skull stripping.
HEAD_SCALED = -0.8


@dataclass(frozen=True)
class Augmentation:
    """How strongly a batch is changed. Chances are per item; ranges are symmetric about no change.

    Args:
        rotation: largest angle, degrees.
        zoom: largest factor and, inverted, smallest.
        stretch: largest factor between rows and columns.
        shift: share of the size.
        mirror, upside_down, reverse: chance of swapped left and right, of swapped rows, of swapped neighbours.
        elastic: chance, and ``elastic_size`` the largest displacement as a share of the size.
        gamma, contrast: largest factor; brightness in units of the scaled range, which is 2 wide.
        noise: largest standard deviation, in those units; chance ``noisy``.
        blur: chance that an item loses resolution.
        bias: chance of a smooth field, and ``bias_size`` its largest natural logarithm.
        missing_pre, missing_post, swapped: chances that a sequence is replaced by FLAIR, or both others change places.
        stripped: chance that the outer layer of the head is blackened, as skull stripping would.
    """

    rotation: float = 20.0
    zoom: float = 1.3
    stretch: float = 1.1
    shift: float = 0.06
    mirror: float = 0.5
    upside_down: float = 0.1
    reverse: float = 0.5
    elastic: float = 0.3
    elastic_size: float = 0.03
    gamma: float = 1.5
    contrast: float = 1.25
    brightness: float = 0.2
    noisy: float = 0.3
    noise: float = 0.12
    blur: float = 0.15
    bias: float = 0.3
    bias_size: float = 0.35
    missing_pre: float = 0.08
    missing_post: float = 0.12
    swapped: float = 0.02
    stripped: float = 0.08


class AugmentBatch:
    """Scales and augments a batch of :class:`monai_lgg.datasets.VolumeSlices`.

    Args:
        size: (rows, columns) of the result, cut around the middle; None keeps the batch's.
        sequences: how many; the other channels are their neighbours.
        augmentation: settings; None only scales.
        chances: fields of :class:`Augmentation` to change.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        sequences: int = 3,
        augmentation: Augmentation | None = None,
        **chances: float,
    ) -> None:
        self.size = None if size is None else tuple(size)
        self.sequences = sequences
        self.settings = augmentation or Augmentation(**chances)

    def __call__(
        self, batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 (B, C, rows, columns) in [-1, 1] and label float32 (B, 1, rows, columns)."""
        moved = {key: batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label", "intensity_range")}
        with torch.no_grad():
            image = scale(moved["image"], moved["intensity_range"], self.sequences)
            return self.augment(image, moved["label"].float())

    def augment(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = move(image, label, self.settings, self.size)  # first, because it cuts
        by_sequence = change_sequences(image.unflatten(1, (self.sequences, -1)), self.settings)
        turned = _chosen(len(image), self.settings.reverse)
        by_sequence[turned] = by_sequence[turned].flip(2)
        return change_intensities(by_sequence, self.settings).flatten(1, 2), label


def scale(image: torch.Tensor, ranges: torch.Tensor, sequences: int) -> torch.Tensor:
    """From the intensity range of each sequence's volume to [-1, 1], as ScaleVolumeIntensityd does.

    Args:
        image: (B, sequences x slices, H, W), any type.
        ranges: (B, sequences, 2).
    """
    low, high = (ranges[..., end].reshape(*ranges.shape[:2], 1, 1, 1) for end in (0, 1))
    scaled = (image.unflatten(1, (sequences, -1)) - low).float()
    return scaled.div_((high - low).clamp_min(TINY)).mul_(2).sub_(1).clamp_(-1, 1).flatten(1, 2)


def change_sequences(image: torch.Tensor, settings: Augmentation) -> torch.Tensor:
    """Pre- or post-contrast missing (replaced by FLAIR), or the two swapped. (B, 3, slices, H, W); others as is."""
    if image.shape[1] != 3:
        return image
    count = len(image)
    no_pre, no_post, swap = (
        _chosen(count, chance) for chance in (settings.missing_pre, settings.missing_post, settings.swapped)
    )
    no_post = no_post | (no_pre & _chosen(count, 0.5))  # often both are missing
    changed = image.clone()
    changed[swap] = image[swap].flip(1)
    changed[no_pre, 0] = image[no_pre, 1]
    changed[no_post, 2] = image[no_post, 1]
    return changed


def move(
    image: torch.Tensor, label: torch.Tensor, settings: Augmentation, size: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate, zoom, stretch, shift, mirror and deform image (B, C, H, W) and label (B, 1, H, W) alike."""
    count, rows, columns = len(image), *image.shape[-2:]
    target = tuple(size or (rows, columns))
    angle = _uniform(count, -settings.rotation, settings.rotation, image) * math.pi / 180
    zoom = _factor(count, settings.zoom, image)
    stretch = _factor(count, settings.stretch, image)
    flip_x, flip_y = (1 - 2 * _chosen(count, of).float().to(image) for of in (settings.mirror, settings.upside_down))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    keep = target[1] / columns, target[0] / rows  # of the target's coordinates in the source's
    ratio = rows / columns  # so that a turn is one in pixels
    theta = torch.zeros(count, 2, 3, device=image.device)
    theta[:, 0, 0], theta[:, 0, 1] = cos * stretch * flip_x * keep[0], -sin * flip_y * ratio * keep[1]
    theta[:, 1, 0], theta[:, 1, 1] = sin * flip_x / ratio * keep[0], cos / stretch * flip_y * keep[1]
    theta[:, :, 2] = _uniform(2 * count, -settings.shift, settings.shift, image).reshape(count, 2) * 2
    grid = affine_grid(theta, [count, 1, *target], align_corners=False)
    chosen = _chosen(count, settings.elastic)
    if chosen.any():
        grid[chosen] += _deformation(int(chosen.sum()), target, settings, image)
    moved = grid_sample(image + 1, grid, mode="bilinear", align_corners=False) - 1  # outside is background, -1
    return moved, grid_sample(label, grid, mode="nearest", align_corners=False)


def _deformation(count: int, target: Sequence[int], settings: Augmentation, like: torch.Tensor) -> torch.Tensor:
    """Smooth random displacements (B, H, W, 2) in grid_sample's units."""
    coarse = torch.rand(count, 2, 6, 6).to(like.device) * 2 - 1
    size = _uniform(count, 0, settings.elastic_size * 2, like).reshape(-1, 1, 1, 1)
    fine = interpolate(coarse, tuple(target), mode="bicubic", align_corners=True) * size
    return fine.permute(0, 2, 3, 1)


def change_intensities(image: torch.Tensor, settings: Augmentation) -> torch.Tensor:
    """Gamma, contrast and brightness of each sequence; smooth field, blur, noise, stripping. (B, S, slices, H, W)."""
    count, sequences = image.shape[:2]

    def each(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(count, -1, 1, 1, 1)

    head = image > HEAD_SCALED
    share = (image + 1).div_(2).clamp_(0, 1).pow_(each(_factor(count * sequences, settings.gamma, image)))
    share *= each(_factor(count * sequences, settings.contrast, image))
    uneven, blurred, noisy = (_chosen(count, of) for of in (settings.bias, settings.blur, settings.noisy))
    if uneven.any():
        share[uneven] *= _field(int(uneven.sum()), settings, image)
    share += head * (each(_uniform(count * sequences, -settings.brightness, settings.brightness, image)) / 2)
    if blurred.any():
        share[blurred] = _blurred(share[blurred])
    if noisy.any():
        size = _uniform(int(noisy.sum()), 0, settings.noise / 2, image).reshape(-1, 1, 1, 1, 1)
        share[noisy] += torch.randn_like(share[noisy]) * size
    return _stripped(share, head, settings).mul_(2).sub_(1).clamp_(-1, 1)


def _field(count: int, settings: Augmentation, like: torch.Tensor) -> torch.Tensor:
    """A smooth factor (B, 1, 1, H, W), as of an uneven coil."""
    coarse = torch.rand(count, 1, 3, 3).to(like.device) * 2 - 1
    size = _uniform(count, 0, settings.bias_size, like)
    fine = interpolate(coarse, tuple(like.shape[-2:]), mode="bicubic", align_corners=True)
    return torch.exp(fine * size.reshape(-1, 1, 1, 1)).unsqueeze(1)


def _blurred(image: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(image.flatten(1, 2), 3, 1, 1, count_include_pad=False).view_as(image)


def _stripped(image: torch.Tensor, head: torch.Tensor, settings: Augmentation) -> torch.Tensor:
    """Blacken, in place, all that is nearer to the outside of the head than 4 to 12 % of the image's height."""
    for item in _chosen(len(image), settings.stripped).nonzero().flatten().tolist():
        filled = binary_fill_holes(head[item].flatten(0, 1).any(dim=0).cpu().numpy())
        depth = distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1]
        reach = image.shape[-2] * (0.04 + 0.08 * float(torch.rand(())))
        image[item] *= torch.as_tensor(depth > reach, device=image.device)
    return image


def _uniform(count: int, low: float, high: float, like: torch.Tensor) -> torch.Tensor:
    return (torch.rand(count) * (high - low) + low).to(like.device)


def _factor(count: int, largest: float, like: torch.Tensor) -> torch.Tensor:
    """From 1 / largest to largest, even on a logarithmic scale."""
    return torch.exp(_uniform(count, -math.log(largest), math.log(largest), like))


def _chosen(count: int, chance: float) -> torch.Tensor:
    """Which items are changed, on the CPU: a GPU need not be waited for."""
    return torch.rand(count) < chance
