"""Connected components of masks, by one rule for all: voxels that touch by face, edge or corner (26 neighbours)."""

import numpy as np
from scipy.ndimage import find_objects, generate_binary_structure, label


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers of the components from 1, 0 outside, in the mask's shape; and how many there are.

    Args:
        mask: bool, (H, W) or (H, W, D).
    """
    labels = np.zeros(mask.shape, np.int32)
    box, inside, count = _in_box(mask)
    labels[box] = inside
    return labels, count


def component_sizes(mask: np.ndarray) -> np.ndarray:
    """Voxels of each component; empty where there is none. Takes little memory beside the mask.

    Args:
        mask: bool, (H, W) or (H, W, D).
    """
    _, inside, count = _in_box(mask)
    return _sizes(inside, count)[1:]


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
    box, inside, count = _in_box(mask)
    sizes = _sizes(inside, count)
    sizes[0] = 0  # what is outside
    kept = np.zeros_like(mask)
    kept[box] = (sizes >= share * sizes.max())[inside] & mask[box]
    return kept


def _in_box(mask: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray, int]:
    """The smallest box that holds the mask (most of a head is no tumour), its component numbers there, their count."""
    found = find_objects(mask.view(np.uint8))
    box = found[0] if found else tuple(slice(0) for _ in mask.shape)
    inside, count = label(mask[box], generate_binary_structure(mask.ndim, mask.ndim))
    return box, inside, int(count)


def _sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """Voxels of each number from 0 to ``count``; part by part, because bincount makes a copy of eight bytes a voxel."""
    sizes = np.zeros(count + 1, np.int64)
    for part in labels:
        sizes += np.bincount(part.ravel(), minlength=count + 1)
    return sizes
