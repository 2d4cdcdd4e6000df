"""Inferers that MONAI lacks."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from monai.inferers import Inferer


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
