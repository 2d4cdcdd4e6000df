"""Connected components of masks, by one rule for all: voxels that touch by face, edge or corner (26 neighbours)."""

import numpy as np
from scipy.ndimage import find_objects, generate_binary_structure, label


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers of the components from 1, 0 outside, in the mask's shape; and how many there are.

    Args:
        mask: bool, (H, W) or (H, W, D).
    """
    labels = np.zeros(mask.shape, np.int32)
    box = find_objects(mask.astype(np.uint8))  # most of a head is no tumour
    if not box:
        return labels, 0
    labels[box[0]], count = label(mask[box[0]], generate_binary_structure(mask.ndim, mask.ndim))
    return labels, int(count)


def keep_components(mask: np.ndarray, share: float) -> np.ndarray:
    """Without the components that are smaller than ``share`` of the largest.

    Args:
        mask: bool, (H, W[, D]).
        share: in 0 to 1; 0 keeps all, 1 the largest alone (all of its size, if several are).
    Raises:
        ValueError: a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"component share {share} is not in 0 to 1; 0 keeps all components, 1 the largest alone")
    if share == 0 or not mask.any():
        return mask
    labels, _ = label_components(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # what is outside
    return np.asarray((sizes >= share * sizes.max())[labels] & mask)
