"""Several networks as one."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import logsigmoid


class Ensemble(nn.Module):
    """Averages the probabilities of its networks; returns the logit of the mean, so it stands where one network stood.

    With s the sigmoid, logit(mean s(x)) = log(sum s(x)) - log(sum s(-x)), and each sum is a logsumexp of logsigmoids.
    So nothing is clamped, confident logits stay finite, and an ensemble of one equals its network.

    Args:
        networks: each maps (B, C, H, W) to logits of one shape; the state_dict holds them as ``networks.<n>.*``.

    Shape: (B, C, H, W) to float32 logits (B, out, H, W).
    Raises:
        ValueError: no network, or one object given twice (in a config, by a reference), which would share its weights.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("an ensemble got 0 networks; give at least one")
        if len({id(network) for network in networks}) < len(networks):
            raise ValueError(
                f"an ensemble got one object more than once among its {len(networks)} networks, which would share "
                "weights; define each network by itself"
            )
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tumour, other = [], []
        for network in self.networks:
            logits = network(image).float()
            tumour.append(logsigmoid(logits))
            other.append(logsigmoid(-logits))
        return torch.logsumexp(torch.stack(tumour), dim=0) - torch.logsumexp(torch.stack(other), dim=0)
