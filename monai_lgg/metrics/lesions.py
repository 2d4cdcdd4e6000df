"""Lesions found, missed and invented: 3D components that touch by face, edge or corner (26 neighbours)."""

import math

import numpy as np

from monai_lgg.components import label_components
from monai_lgg.metrics.surface import bounding_box


def lesion_counts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, int]:
    """Count lesions of the truth and those that the prediction overlaps by at least one pixel.

    Args:
        prediction: bool, (H, W, D).
        truth: same shape.
    Returns:
        ``lesions`` (of the truth), ``lesions_found``, ``false_positive_lesions`` (predicted components without any
        overlap). No component is too small to count.
    """
    box = bounding_box(prediction | truth)
    if box is None:
        return {"lesions": 0, "lesions_found": 0, "false_positive_lesions": 0}
    predicted, true = prediction[box], truth[box]
    both = predicted & true
    lesions, found = _components(true, both)
    components, right = _components(predicted, both)
    return {"lesions": lesions, "lesions_found": found, "false_positive_lesions": components - right}


def lesion_sensitivity(lesions: float, found: float) -> float:
    """Found / all; NaN where there is no lesion."""
    return found / lesions if lesions else math.nan


def _components(mask: np.ndarray, overlap: np.ndarray) -> tuple[int, int]:
    """How many components the mask has, and how many of them the overlap touches."""
    labels, count = label_components(mask)
    return count, len(np.unique(labels[overlap]))
