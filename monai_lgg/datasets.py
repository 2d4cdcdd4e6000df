"""Data sets that MONAI lacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_lgg.cases import intensity_range
from monai_lgg.head import head_box


class VolumeSlices(Dataset[dict[str, torch.Tensor]]):
    """One item a slice, with its neighbours, of volumes that are kept in memory as they were read.

    Volumes are kept in the data type of their files, a byte a pixel for the public data, cut or padded to one size
    around the head; scaling and augmentation are left to the batch
    (:class:`monai_lgg.batch_augmentation.AugmentBatch`). Beyond the first and the last slice that slice is repeated.

    Args:
        data: volume records.
        transform: reads a record: ``image`` (C, H, W, D) and ``label`` (1, H, W, D), unscaled.
        size: (rows, columns) of the items.
        neighbours: slices on each side.
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
        progress: bool = False,
    ) -> None:
        if not data:
            raise ValueError("no volumes; the training part of the split is empty")
        self.neighbours = neighbours
        self._volumes = [
            _kept(transform(dict(record)), size) for record in tqdm(data, desc="reading", disable=not progress)
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


def _kept(record: Mapping[str, Any], size: Sequence[int]) -> dict[str, torch.Tensor]:
    """A volume's image (D, C, rows, columns), label (D, 1, rows, columns) and ranges, as plain tensors."""
    image, label = (np.asarray(record[key]) for key in ("image", "label"))
    ranges = record.get("intensity_range") or [intensity_range(channel) for channel in image]
    window = _window(head_box(image, ranges), size)
    background = [np.asarray(low).astype(image.dtype) for low, _ in ranges]
    cut = np.stack([_cut(channel, window, low) for channel, low in zip(image, background, strict=True)])
    return {
        "image": torch.from_numpy(np.ascontiguousarray(cut.transpose(3, 0, 1, 2))),
        "label": torch.from_numpy(
            np.ascontiguousarray(_cut(label[0] > 0, window, False)[None].transpose(3, 0, 1, 2))
        ).to(torch.uint8),
        "intensity_range": torch.tensor(ranges, dtype=torch.float32),
    }


def _window(box: tuple[slice, slice], size: Sequence[int]) -> list[tuple[int, int]]:
    """(start, stop) of rows and columns, ``size`` long, with the box in its middle."""
    middles = [(side.start + side.stop) // 2 for side in box]
    return [(middle - length // 2, middle - length // 2 + length) for middle, length in zip(middles, size, strict=True)]


def _cut(channel: np.ndarray, window: list[tuple[int, int]], background: Any) -> np.ndarray:
    """(H, W, D) cut to a window, which may reach beyond it."""
    sides = zip(window, channel.shape[:2], strict=True)
    pads = [(max(0, -start), max(0, stop - length)) for (start, stop), length in sides]
    inner = tuple(slice(max(0, start), stop) for start, stop in window)
    return np.pad(channel[inner], [*pads, (0, 0)], constant_values=background)
