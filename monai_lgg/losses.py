"""Named losses: fragments of a bundle's configuration, all for logits of one channel and a batch of slices.

Choose one with ``--set loss=...`` or tune over them by name. MONAI has no Lovasz loss.
"""

import difflib
from typing import Any

from monai_lgg.errors import UsageError

#: Dice over the whole batch, because most slices have no tumour; smoothing 1, as in the recipes.
_DICE: dict[str, Any] = {"sigmoid": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}

#: name -> configuration fragment for the key ``loss``.
LOSSES: dict[str, dict[str, Any]] = {
    "dice_ce": {"_target_": "DiceCELoss", **_DICE},
    "dice": {"_target_": "DiceLoss", **_DICE},
    "jaccard": {"_target_": "DiceLoss", "jaccard": True, **_DICE},
    "dice_focal": {"_target_": "DiceFocalLoss", **_DICE},
    # a missed pixel (beta) weighs more than a false one (alpha): Salehi et al. 2017, arXiv:1706.05721
    "tversky": {"_target_": "TverskyLoss", "alpha": 0.3, "beta": 0.7, **_DICE},
    "focal": {"_target_": "FocalLoss"},  # applies the sigmoid itself, and averages over pixels
}


def find_loss(name: str) -> dict[str, Any]:
    """The fragment of that name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name in LOSSES:
        return dict(LOSSES[name])
    near = difflib.get_close_matches(name, LOSSES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of: {', '.join(LOSSES)}"
    raise UsageError(f"no loss {name!r}; {hint}")
