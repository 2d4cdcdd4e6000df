"""How probabilities become a mask, by one rule for evaluation and prediction."""

import numpy as np
from scipy.ndimage import binary_fill_holes

from monai_lgg.components import keep_components


def decide(probability: np.ndarray, threshold: float = 0.5, share: float = 0.0, fill: bool = False) -> np.ndarray:
    """The mask of a volume of probabilities.

    Args:
        probability: (H, W, D), slices last.
        threshold: probability from which a voxel is tumour.
        share: components smaller than this share of the largest are left out, see
            :func:`monai_lgg.components.keep_components`.
        fill: fill what the mask encloses within a slice, such as a cyst: in the public data, two of 81 patients have a
            true mask with more than 0.1 % of holes.
    Returns:
        bool, (H, W, D).
    """
    mask = probability >= threshold
    if fill:
        for k in np.flatnonzero(mask.any(axis=(0, 1))):
            mask[..., k] = binary_fill_holes(mask[..., k])
    return keep_components(mask, share)
