"""Inferers whose probabilities say how unsure a network is, for choosing the case that is worth labelling next."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from torch.nn.functional import dropout
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

#: Probabilities are kept this far from 0 and 1, or their logits would be infinite.
TINY = 3e-7


class FlipInferer(Inferer):
    """Logits of the mean probability over the image and its flips, as test-time augmentation for uncertainty.

    Where the network is sure, it says the same of a mirrored head.

    Args:
        inferer: does the work.
        axes: of (B, C, H, W, D) that are flipped, each alone and all together: left to right, and the order of the
            slices. Those of length 1, or that a slice does not have, are left out.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = (3, 4)) -> None:
        super().__init__()
        self.inferer = inferer
        self.axes = tuple(axes)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Args: inputs (B, C, H, W[, D]). Returns: logits of the mean of the probabilities."""
        axes = [axis for axis in self.axes if axis < inputs.ndim and inputs.shape[axis] > 1]
        subsets = [some for count in range(len(axes) + 1) for some in combinations(axes, count)]
        logits = (self.inferer(inputs.flip(some), network, *args, **kwargs).flip(some) for some in subsets)
        return _mean_of(logits, len(subsets), inputs)


class DropoutInferer(Inferer):
    """Logits of the mean probability over passes with random dropout, for the uncertainty of the network itself.

    Layers of dropout are used as they are. A network without any gets dropout before each of its convolutions but the
    first. The same image gives the same result each time.

    Args:
        inferer: does the work.
        samples: passes, 2 or more.
        rate: share of the activations that is dropped, where the network states none.
        seed: of the random numbers.
    Raises:
        ValueError: fewer samples, or a rate that is not above 0 and below 1.
    Source: Gal and Ghahramani 2016, Dropout as a Bayesian approximation; Ledda et al. 2023, Dropout injection at test
        time for post hoc uncertainty quantification in neural networks.
    """

    def __init__(self, inferer: Inferer, samples: int = 5, rate: float = 0.05, seed: int = 0) -> None:
        super().__init__()
        if samples < 2 or not 0 < rate < 1:
            raise ValueError(f"samples {samples}, rate {rate}: give 2 samples or more, and a rate above 0 and below 1")
        self.inferer = inferer
        self.samples = samples
        self.rate = rate
        self.seed = seed

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Args: inputs (B, C, H, W[, D]); network: a module in evaluation mode."""
        with torch.random.fork_rng(), self._dropping(network):
            torch.manual_seed(self.seed)
            logits = (self.inferer(inputs, network, *args, **kwargs) for _ in range(self.samples))
            return _mean_of(logits, self.samples, inputs)

    @contextmanager
    def _dropping(self, network: torch.nn.Module) -> Iterator[None]:
        layers = [layer for layer in network.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
        convolutions = [layer for layer in network.modules() if isinstance(layer, _ConvNd)][1:]
        hooks = [] if layers else [layer.register_forward_pre_hook(self._drop) for layer in convolutions]
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()
            for hook in hooks:
                hook.remove()

    def _drop(self, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (dropout(inputs[0], self.rate), *inputs[1:])


def _mean_of(logits: Iterable[torch.Tensor], count: int, inputs: torch.Tensor) -> Any:
    """Logits of the mean probability, with the metadata of the inputs, if there are any."""
    total = sum(one.sigmoid() for one in logits)
    return convert_to_dst_type(torch.logit(total / count, eps=TINY), inputs, dtype=torch.float32)[0]  # type: ignore[arg-type]
