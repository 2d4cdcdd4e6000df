"""Inferers that MONAI lacks."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer


class MixedPrecisionInferer(Inferer):
    """Runs another inferer with 16-bit autocast and channels_last memory format, on CPU or GPU.

    MONAI's engines autocast on CUDA only; on a CPU their ``amp=True`` does nothing. bfloat16 is used on a CPU, and on
    a GPU when the trainer has not opened an autocast of its own.

    Args:
        inferer: does the work, for example a SlidingWindowInferer.
        amp: False runs in full precision.
    """

    def __init__(self, inferer: Inferer, amp: bool = True) -> None:
        super().__init__()
        self.inferer = inferer
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Args: inputs (B, C, H, W[, D]); network: maps (B, C, H, W) to float (B, 1, H, W)."""

        def forward(batch: torch.Tensor, *a: Any, **k: Any) -> torch.Tensor:
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.amp):
                return network(batch.contiguous(memory_format=torch.channels_last), *a, **k).float()

        return self.inferer(inputs, forward, *args, **kwargs)
