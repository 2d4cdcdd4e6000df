"""Inferers that MONAI lacks."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from monai.inferers import Inferer
from torch.nn.functional import interpolate


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


class ResizeSliceInferer(Inferer):
    """Resizes each slice to the size that the network was trained at, and its output back to the slice's own size.

    For recipes that resize whole slices. The aspect ratio is not kept, as in those recipes.

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
        outputs = []
        for some in slices.split(self.batch_size):
            output = network(_resize(some, self.size), *args, **kwargs)
            outputs.append(_resize(output, some.shape[-2:]))
        return torch.cat(outputs)


def _resize(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear; antialiased where it shrinks. Left alone at its own size."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return interpolate(images, tuple(size), mode="bilinear", align_corners=False, antialias=True)
