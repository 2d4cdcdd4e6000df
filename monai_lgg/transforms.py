"""Dictionary transforms that MONAI lacks."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_lgg.cases import intensity_range
from monai_lgg.decision import decide

#: Keeps a constant channel from a division by zero.
TINY = 1e-6
#: Weights of red, green and blue in grey.
LUMA = (0.299, 0.587, 0.114)
#: Rows that are calibrated.
AT_A_TIME = 32


class ThreeSequencesd(MapTransform):
    """Makes (pre-contrast, FLAIR, post-contrast) of an image: FLAIR alone is repeated, as the data's authors did.

    A volume's contrast sequence that is one grey throughout, as exports leave one that is missing, becomes FLAIR too,
    and so do its slices, which :func:`monai_lgg.cases.volume_ranges` has given the ``intensity_range`` of FLAIR.
    The record's ``missing_sequences`` then says which were missing, that is equal to FLAIR: empty, ``pre``, ``post`` or
    ``pre+post``. For a slice it speaks of that slice alone, in which all three may be black.

    Raises:
        ValueError: the image has neither 1 nor 3 channels.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            image = record[key]
            if image.shape[0] == 1:
                record[key] = image.expand(3, *image.shape[1:])  # a view: three copies of a volume can be large
            elif image.shape[0] != 3:
                raise ValueError(
                    f"{_name(record, key)}: {image.shape[0]} channels; give 1 (FLAIR) or 3 (pre-contrast, FLAIR, "
                    "post-contrast)"
                )
            record[key] = _filled(record[key], record.get("intensity_range"))
            pre, flair, post = record[key]
            equal = {"pre": torch.equal(pre, flair), "post": torch.equal(post, flair)}
            record["missing_sequences"] = "+".join(name for name, missing in equal.items() if missing)
        return record


def _filled(image: torch.Tensor, ranges: Sequence[Sequence[float]] | None) -> torch.Tensor:
    """A volume (3, H, W, D), or a slice (3, H, W) of one, with FLAIR where another sequence is of one grey."""
    grey = [bool(channel.min() == channel.max()) for channel in map(np.asarray, image)]
    if image.ndim == 3:  # the slice of a sequence that is there can be black
        grey = [is_grey and ranges is not None and ranges[k] == ranges[1] for k, is_grey in enumerate(grey)]
    if grey[1] or not any(grey):
        return image
    filled = image.clone()
    for channel in (0, 2):
        if grey[channel]:
            filled[channel] = image[1]
    return filled


class ScaleVolumeIntensityd(MapTransform):
    """Maps each channel from the intensity range of its whole volume to [-1, 1], clipped, as float32.

    The range is taken from the record (``range_key``, (C, 2), for a slice whose volume is elsewhere) or else measured
    on the image itself by :func:`monai_lgg.cases.intensity_range`. So a dark scan, a bright one and raw scanner
    values of any scale look alike. A constant channel becomes -1.

    Args:
        keys: of images (C, H, W[, D]).
    """

    def __init__(
        self, keys: KeysCollection, range_key: str = "intensity_range", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.range_key = range_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            ranges = record.get(self.range_key) or [intensity_range(np.asarray(channel)) for channel in record[key]]
            scaled = record[key].to(torch.float32, copy=True)
            plain = scaled.as_subclass(torch.Tensor)  # the same memory: changed in place, a volume can be large
            if len(ranges) != scaled.shape[0]:
                raise ValueError(
                    f"{_name(record, key)}: {scaled.shape[0]} channels, but intensity ranges of {len(ranges)}"
                )
            for channel, (low, high) in enumerate(ranges):
                plain[channel].sub_(low).div_(max(high - low, TINY)).mul_(2).sub_(1).clamp_(-1, 1)
            record[key] = scaled
        return record


class GreySequencesd(MapTransform):
    """Makes one grey channel of (pre-contrast, FLAIR, post-contrast), as reading the public RGB files as grey does.

    Args:
        keys: of images (3, H, W[, D]).
    Source: ITU-R BT.601 luma, 0.299 R + 0.587 G + 0.114 B.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            image = record[key]
            if image.shape[0] != len(LUMA):
                raise ValueError(f"{_name(record, key)}: {image.shape[0]} channels; grey is made of three sequences")
            weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device).reshape(-1, *[1] * (image.ndim - 1))
            record[key] = (image * weights).sum(dim=0, keepdim=True)
        return record


class Calibrated(MapTransform):
    """Probabilities of logits: the sigmoid of a calibrated logit, which a line through given points has.

    The points are fitted on predictions for patients that the network had not seen. Beyond the first and the last of
    them the line goes on. (0, 0) and (1, 1), the default, change nothing.

    Args:
        keys: of logits (1, ...).
        logits: of the points, ascending, two or more.
        calibrated: what each becomes, ascending.
    Raises:
        ValueError: the points are no rising line, or too few.
    Source: Platt 1999 has one straight line, Zadrozny and Elkan 2002 any rising one; this is between.
    """

    def __init__(
        self, keys: KeysCollection, logits: Sequence[float] = (0.0, 1.0), calibrated: Sequence[float] = (0.0, 1.0)
    ) -> None:
        super().__init__(keys)
        points = np.array([logits, calibrated], dtype=float) if len(logits) == len(calibrated) else np.empty((2, 0))
        if points.shape[1] < 2 or not np.isfinite(points).all() or not (np.diff(points) > 0).all():
            raise ValueError(
                f"calibration of logits {list(logits)} to {list(calibrated)}: give two points or more, both lists "
                "ascending, or the mask would turn inside out"
            )
        slopes = np.diff(points[1]) / np.diff(points[0])
        self.slope, self.intercept = float(slopes[0]), float(points[1, 0] - slopes[0] * points[0, 0])
        self.bends = list(zip(points[0, 1:-1].tolist(), np.diff(slopes).tolist(), strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            score = record[key].mul(self.slope).add_(self.intercept)
            parts = zip(*(of.as_subclass(torch.Tensor).split(AT_A_TIME, 1) for of in (record[key], score)), strict=True)
            for logits, part in parts:  # some rows at a time, because each bend needs a copy of them
                for logit, change in self.bends:
                    part.add_((logits - logit).clamp_(min=0), alpha=change)
            record[key] = score.sigmoid_()
        return record


class Decided(MapTransform):
    """Makes a mask of probabilities, by :func:`monai_lgg.decision.decide`.

    Args:
        keys: of probabilities (1, H, W, D), slices last; they become masks of 0 and 1, of the same type.
    """

    def __init__(self, keys: KeysCollection, threshold: float = 0.5, share: float = 0.0, fill: bool = False) -> None:
        super().__init__(keys)
        self.threshold, self.share, self.fill = threshold, share, fill

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            probability = record[key]
            mask = decide(probability[0].float().cpu().numpy(), self.threshold, self.share, self.fill)
            record[key] = torch.as_tensor(mask[None]).to(probability)
        return record


class SameSized(MapTransform):
    """Refuses records whose keys differ in spatial size, before a resize would hide it.

    Raises:
        ValueError: an image and its mask differ in size.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sizes = {key: tuple(data[key].shape[1:]) for key in self.key_iterator(dict(data))}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{key} {' x '.join(map(str, size))}" for key, size in sizes.items())
            raise ValueError(
                f"{_name(data, next(iter(sizes)))}: sizes differ ({found}); export the mask on the image's grid"
            )
        return dict(data)


def flair_channel(image: torch.Tensor) -> np.ndarray:
    """FLAIR of (pre-contrast, FLAIR, post-contrast), or the only channel of a grey image, as float32 for pictures."""
    return np.asarray(image[1 if len(image) > 1 else 0].float().cpu())


def _name(record: Mapping[Hashable, Any], key: Hashable) -> str:
    meta = getattr(record[key], "meta", {})
    return str(meta.get("filename_or_obj") or record.get("case") or key)
