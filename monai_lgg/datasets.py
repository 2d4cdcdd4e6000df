"""Data sets that MONAI lacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_lgg.cases import intensity_range
from monai_lgg.head import head_box, network_size, pixel_shape, resize_slices


class VolumeSlices(Dataset[dict[str, torch.Tensor]]):
    """One item a slice, with its neighbours, of volumes that are kept in memory as they were read.

    Volumes are kept in the data type of their files, a byte a pixel for the public data, cut or padded to one size
    around the head; scaling and augmentation are left to the batch
    (:class:`monai_lgg.batch_augmentation.AugmentBatch`). Beyond the first and the last slice that slice is repeated.
    Heads of other sizes and pixels that are not square are resized as
    :class:`monai_lgg.inferers.ContextSliceInferer` does it, so that a network learns what it will be shown.

    Args:
        data: volume records.
        transform: reads a record: ``image`` (C, H, W, D) and ``label`` (1, H, W, D), unscaled.
        size: (rows, columns) of the items.
        neighbours: slices on each side.
        head_size: (smallest, largest) head that is not resized; None resizes none.
        progress: show a bar while reading.

    An item has ``image`` (C x (2 x neighbours + 1), rows, columns), sequence by sequence, ``label`` (1, rows, columns)
    uint8, and ``intensity_range`` (C, 2) float32 of the whole volume.
    Raises:
        ValueError: there is no record.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any],
        size: Sequence[int],
        neighbours: int = 1,
        head_size: Sequence[int] | None = None,
        progress: bool = False,
    ) -> None:
        if not data:
            raise ValueError("no volumes; the training part of the split is empty")
        self.neighbours = neighbours
        self._volumes = [
            _kept(transform(dict(record)), size, head_size)
            for record in tqdm(data, desc="reading", disable=not progress)
        ]
        self._index = [(v, k) for v, volume in enumerate(self._volumes) for k in range(len(volume["image"]))]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        v, k = self._index[index]
        volume = self._volumes[v]
        image: torch.Tensor = volume["image"]
        around = torch.arange(k - self.neighbours, k + self.neighbours + 1).clamp(0, len(image) - 1)
        return {
            "image": image[around].transpose(0, 1).flatten(0, 1),
            "label": volume["label"][k],
            "intensity_range": volume["intensity_range"],
        }

    def weights(self, tumour_share: float) -> torch.Tensor:
        """Of each slice, for a sampler that draws slices with tumour that often (if there are slices of both kinds).

        Raises:
            ValueError: the share is not above 0 and below 1.
        """
        if not 0 < tumour_share < 1:
            raise ValueError(f"tumour_share {tumour_share} must be above 0 and below 1")
        tumour = torch.tensor([bool(self._volumes[v]["label"][k].any()) for v, k in self._index])
        found, empty = int(tumour.sum()), int((~tumour).sum())
        if not found or not empty:
            return torch.ones(len(tumour), dtype=torch.float64)
        weights = torch.full((len(tumour),), (1 - tumour_share) / empty, dtype=torch.float64)
        weights[tumour] = tumour_share / found
        return weights


def _kept(record: Mapping[str, Any], size: Sequence[int], head_size: Sequence[int] | None) -> dict[str, torch.Tensor]:
    """A volume's image (D, C, rows, columns), label (D, 1, rows, columns) and ranges, as plain tensors."""
    image, label = (np.asarray(record[key]) for key in ("image", "label"))
    ranges = record.get("intensity_range") or [intensity_range(channel) for channel in image]
    box = head_box(image, ranges)
    extents = [side.stop - side.start for side in box]
    wanted = network_size(image.shape[1:3], extents, pixel_shape(record["image"]), head_size)
    window = _window(box, image.shape[1:3], wanted, size)
    background = [np.asarray(low).astype(image.dtype) for low, _ in ranges]
    image, label = _resized(image, wanted), _resized((label > 0).astype(np.float32), wanted) >= 0.5
    cut = np.stack([_cut(channel, window, low) for channel, low in zip(image, background, strict=True)])
    mask = _cut(label[0], window, False)[None].astype(np.uint8)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(cut.transpose(3, 0, 1, 2))),
        "label": torch.from_numpy(np.ascontiguousarray(mask.transpose(3, 0, 1, 2))),
        "intensity_range": torch.tensor(ranges, dtype=torch.float32),
    }


def _resized(volume: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(C, H, W, D) in other rows and columns, in its own data type."""
    if volume.shape[1:3] == tuple(size):
        return volume
    slices = torch.from_numpy(volume.transpose(3, 0, 1, 2).astype(np.float32))
    resized = resize_slices(slices, size).numpy().transpose(1, 2, 3, 0)
    return (resized.round() if np.issubdtype(volume.dtype, np.integer) else resized).astype(volume.dtype)


def _window(
    box: tuple[slice, slice], shape: Sequence[int], wanted: Sequence[int], size: Sequence[int]
) -> list[tuple[int, int]]:
    """(start, stop) of rows and columns, ``size`` long, with the box in its middle once ``shape`` is ``wanted``."""
    middles = [(side.start + side.stop) * new // (2 * old) for side, old, new in zip(box, shape, wanted, strict=True)]
    return [(middle - length // 2, middle - length // 2 + length) for middle, length in zip(middles, size, strict=True)]


def _cut(channel: np.ndarray, window: list[tuple[int, int]], background: Any) -> np.ndarray:
    """(H, W, D) cut to a window, which may reach beyond it."""
    sides = zip(window, channel.shape[:2], strict=True)
    pads = [(max(0, -start), max(0, stop - length)) for (start, stop), length in sides]
    inner = tuple(slice(max(0, start), stop) for start, stop in window)
    return np.pad(channel[inner], [*pads, (0, 0)], constant_values=background)
