"""Inferers that MONAI lacks."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch.nn.functional import pad

from monai_lgg.backends import BACKENDS, PRECISIONS, Backend, BackendError, check_name, load_backend
from monai_lgg.head import AT_A_TIME, HEAD_FILL, HEAD_LEVEL, network_size, pixel_shape, resize_slices

#: Logit of what is no tissue: a probability of 3e-7.
NOTHING = -15.0
#: Slices that are cut to one window. A constant: the window shifts the grid on which a network halves the image, which
#: moves the outline of faint tumours, and no result may depend on the size of a batch.
CUT_ALIKE = 8
#: Rows and columns.
Box = tuple[slice, slice]


class MixedPrecisionInferer(Inferer):
    """Runs another inferer with 16-bit autocast and channels_last memory format, on CPU or GPU.

    MONAI's engines autocast on CUDA only; on a CPU their ``amp=True`` does nothing. Here bfloat16 is
    used on a CPU and float16 on a GPU, unless the trainer has opened an autocast of its own, which is left as it is.

    Args:
        inferer: does the work, for example a SlidingWindowInferer.
        amp: False opens no autocast: full precision, unless the caller has opened one.
    """

    def __init__(self, inferer: Inferer, amp: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Args: inputs (B, C, H, W[, D]); network: maps (B, C, H, W) to float (B, 1, H, W)."""

        def forward(batch: torch.Tensor, *a: Any, **k: Any) -> torch.Tensor:
            device = batch.device.type  # autocast(enabled=False) would switch the trainer's own off, so none is opened
            opens = self.amp and not torch.is_autocast_enabled(device)
            dtype = torch.float16 if device == "cuda" else torch.bfloat16  # older GPUs lack bfloat16
            with torch.autocast(device, dtype) if opens else nullcontext():
                return network(batch.contiguous(memory_format=torch.channels_last), *a, **k).float()

        return self.inferer(inputs, forward, *args, **kwargs)


class BackendInferer(Inferer):
    """Runs another inferer with the network given to a library that is faster than PyTorch.

    The library is loaded at the first batch, with the network as it is then, and again for another network. Where that
    fails it is a :class:`monai_lgg.backends.BackendError`, because no other case would fare better.

    Args:
        inferer: does the work, for example a SlidingWindowInferer.
        backend: of :func:`monai_lgg.backends.load_backend`.
        precision: as there, or ``auto``: fp32 on a CPU, and PyTorch's 16-bit autocast on a GPU.
        int8_file: for ``int8``.
    """

    def __init__(
        self, inferer: Inferer, backend: str = "auto", precision: str = "auto", int8_file: str | None = None
    ) -> None:
        super().__init__()
        check_name("backend", backend, BACKENDS)
        check_name("precision", precision, ("auto", *PRECISIONS))
        self.inferer = inferer
        self.backend = backend
        self.precision = precision
        self.int8_file = Path(int8_file) if int8_file else None
        self.loaded: tuple[Any, Backend] | None = None

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Args: inputs (B, C, H, W[, D]); network: a module that maps (B, C, H, W) to logits, in evaluation mode."""
        logits = self._logits(inputs, network, *args, **kwargs)
        return convert_to_dst_type(logits, inputs, dtype=torch.float32)[0]  # with the metadata, if there are any

    def _logits(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        def forward(batch: torch.Tensor) -> torch.Tensor:
            return self._backend(network, batch)(batch)

        if self._autocasts(inputs.device):
            return torch.as_tensor(MixedPrecisionInferer(self.inferer)(inputs, network, *args, **kwargs))
        return torch.as_tensor(self.inferer(inputs, forward, *args, **kwargs))

    def _autocasts(self, device: torch.device) -> bool:
        return device.type == "cuda" and self.precision == "auto" and self.backend in ("auto", "torch")

    def _backend(self, network: Any, batch: torch.Tensor) -> Backend:
        if self.loaded is None or self.loaded[0] is not network:
            precision = "fp32" if self.precision == "auto" else self.precision
            try:
                backend = load_backend(
                    self.backend,
                    network,
                    batch.shape[1],
                    precision=precision,
                    device=batch.device,
                    int8_file=self.int8_file,
                )
            except Exception as error:
                raise BackendError(str(error)) from error
            self.loaded = (network, backend)
        return self.loaded[1]


class MirrorInferer(Inferer):
    """Averages the logits with those of the image mirrored left to right, as test-time augmentation.

    Args:
        inferer: does the work.
        mirror: False leaves it at that.
    """

    def __init__(self, inferer: Inferer, mirror: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.mirror = mirror

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Args: inputs (B, C, H, W[, D]), columns from right to left or left to right."""
        logits = self.inferer(inputs, network, *args, **kwargs)
        if not self.mirror:
            return logits
        return (logits + self.inferer(inputs.flip(3), network, *args, **kwargs).flip(3)) / 2


class ResizeSliceInferer(Inferer):
    """Resizes each slice to the size that the network was trained at, and its output back to the slice's own size.

    For recipes that resize whole slices. The aspect ratio is not kept, as in those recipes. To no less than half the
    size it is the interpolation of their training; further down it averages what it merges.

    Args:
        size: (rows, columns) of the network's input.
        batch_size: slices a forward pass.
    """

    def __init__(self, size: Sequence[int], batch_size: int = 16) -> None:
        super().__init__()
        self.size = tuple(size)
        self.batch_size = batch_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Args: inputs (B, C, H, W) or (B, C, H, W, D). Returns: of the same size, in the network's channels."""
        if inputs.ndim == 4:
            return self._slices(inputs, network, *args, **kwargs)
        batch, depth = inputs.shape[0], inputs.shape[-1]
        slices = inputs.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (B * D, C, H, W)
        outputs = self._slices(slices, network, *args, **kwargs)
        return outputs.unflatten(0, (batch, depth)).permute(0, 2, 3, 4, 1)

    def _slices(self, slices: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        # to half the size, bilinear interpolation reads every pixel, and is what the recipes train with
        antialias = any(old > 2 * new for old, new in zip(slices.shape[-2:], self.size, strict=True))
        outputs = []
        for some in slices.split(self.batch_size):
            output = network(resize_slices(some, self.size, antialias), *args, **kwargs)
            outputs.append(resize_slices(output, some.shape[-2:]))
        return torch.cat(outputs)


class ContextSliceInferer(Inferer):
    """Runs a network on each slice with its neighbours, cut to the head, and puts the logits back in their places.

    The head's rows and columns are those of which more than 4 % lie above -0.8 in any sequence. Slices that hold
    nothing but background, and what lies outside the head, get the logit -15. Where the head is larger or smaller than
    any in training, or the pixels are known not to be square, the slices are resized for the network (bilinear,
    antialiased where that shrinks) and its logits back. Then up to eight slices at a time are cut to the box that holds
    their heads and padded at the end.

    Args:
        neighbours: slices on each side; beyond the volume its first and last slice are repeated.
        batch_size: slices a forward pass; the result does not depend on it.
        multiple: the network takes multiples of so many rows and columns.
        head_size: (smallest, largest) number of rows or columns, the larger of the two, that a head may take up as it
            is over all slices; another is resized to the nearer of them. None resizes nothing.
        margin: pixels around the head, as far as the image goes.
        background: intensity of the padding.
    """

    def __init__(
        self,
        neighbours: int = 1,
        batch_size: int = 8,
        multiple: int = 32,
        head_size: Sequence[int] | None = None,
        margin: int = 6,
        background: float = -1.0,
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.batch_size = batch_size
        self.multiple = multiple
        self.head_size = head_size
        self.margin = margin
        self.background = background

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Args: inputs (1, C, H, W, D) in [-1, 1], or (1, C, H, W), a slice without neighbours. Returns logits."""
        if inputs.ndim == 4:
            return self(inputs.unsqueeze(-1), network, *args, **kwargs).squeeze(-1)
        if len(inputs) != 1:
            raise ValueError(f"{len(inputs)} volumes in a batch; give one, sizes differ")
        slices = inputs.as_subclass(torch.Tensor)[0].permute(3, 0, 1, 2)  # (D, C, H, W), without MONAI's metadata
        logits = slices.new_full((len(slices), 1, *slices.shape[-2:]), NOTHING)
        boxes = _head_boxes(slices)
        heads = [box for box in boxes if box is not None]
        if heads:
            window = _union(heads, self.margin, slices.shape[-2:])
            inside = slices[(..., *window)]
            extents = [max(box[axis].stop for box in heads) - min(box[axis].start for box in heads) for axis in (0, 1)]
            size = network_size(inside.shape[-2:], extents, pixel_shape(inputs), self.head_size)
            sized = resize_slices(inside, size)
            scale = [new / old for new, old in zip(sized.shape[-2:], inside.shape[-2:], strict=True)]
            moved = [None if box is None else _moved(box, window, scale) for box in boxes]
            found = self._of_heads(sized, moved, network, *args, **kwargs)
            logits[(..., *window)] = resize_slices(found, inside.shape[-2:])
        return logits.permute(1, 2, 3, 0).unsqueeze(0)

    def _of_heads(
        self, slices: torch.Tensor, boxes: list[Box | None], network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Logits (D, 1, H, W) of slices (D, C, H, W), each within its box."""
        logits = slices.new_full((len(slices), 1, *slices.shape[-2:]), NOTHING)
        todo = [k for k, box in enumerate(boxes) if box is not None]
        for group in _pieces(todo, CUT_ALIKE):
            rows, columns = _union([boxes[k] for k in group], self.margin, slices.shape[-2:])
            first, last = group[0] - self.neighbours, group[-1] + self.neighbours
            cut = slices[max(0, first) : last + 1, :, rows, columns].contiguous()  # read once, not for each neighbour
            for numbers in _pieces(group, self.batch_size):
                stack = self._stack(cut, [k - max(0, first) for k in numbers])
                logits[numbers, :, rows, columns] = self._forward(stack, network, *args, **kwargs)
        return logits

    def _stack(self, slices: torch.Tensor, numbers: list[int]) -> torch.Tensor:
        """(B, C x (2 x neighbours + 1), rows, columns), sequence by sequence."""
        steps = range(-self.neighbours, self.neighbours + 1)
        around = [[min(max(k + step, 0), len(slices) - 1) for step in steps] for k in numbers]
        return slices[torch.tensor(around)].transpose(1, 2).flatten(1, 2)

    def _forward(self, stack: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        rows, columns = stack.shape[-2:]
        after = (-columns % self.multiple, -rows % self.multiple)
        padded = pad(stack, (0, after[0], 0, after[1]), value=self.background)
        return network(padded, *args, **kwargs)[..., :rows, :columns]


def _pieces(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _head_boxes(slices: torch.Tensor) -> list[Box | None]:
    """Rows and columns of the head in each slice of (D, C, H, W), scaled to [-1, 1]; None where there is none."""
    boxes: list[Box | None] = []
    for some in slices.split(AT_A_TIME):
        head = (some > 2 * HEAD_LEVEL - 1).any(dim=1).float()
        filled = [(head.mean(dim=across) > HEAD_FILL).cpu().numpy() for across in (2, 1)]
        for lines in zip(*filled, strict=True):
            found = [np.flatnonzero(line) for line in lines]
            empty = any(len(line) == 0 for line in found)
            boxes.append(None if empty else tuple(slice(int(line[0]), int(line[-1]) + 1) for line in found))  # type: ignore
    return boxes


def _moved(box: Box, window: Box, scale: Sequence[float]) -> Box:
    """A box in the coordinates of a window that was resized."""
    rows, columns = (
        slice(math.floor((of.start - within.start) * factor), math.ceil((of.stop - within.start) * factor))
        for of, within, factor in zip(box, window, scale, strict=True)
    )
    return rows, columns


def _union(boxes: Sequence[Any], margin: int, size: Sequence[int]) -> Box:
    rows, columns = (
        slice(
            max(0, min(box[axis].start for box in boxes) - margin),
            min(size[axis], max(box[axis].stop for box in boxes) + margin),
        )
        for axis in (0, 1)
    )
    return rows, columns
