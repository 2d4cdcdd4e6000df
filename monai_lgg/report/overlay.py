"""Outlines of masks on FLAIR slices."""

import math
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_erosion

PREDICTION_COLOUR = (255, 140, 0)  # orange
TRUTH_COLOUR = (0, 200, 255)  # cyan; the pair is told apart by colour-blind readers


def outline(mask: np.ndarray) -> np.ndarray:
    """Inner one-pixel border of a 2D bool mask (H, W)."""
    return mask & ~binary_erosion(mask)


def paint(image: np.ndarray, prediction: np.ndarray | None, truth: np.ndarray | None = None) -> np.ndarray:
    """A grey slice with outlines: orange for the prediction, cyan for the truth (drawn on top).

    Args:
        image: (H, W), any range; stretched from its minimum to its 99.8th percentile.
        prediction, truth: (H, W) bool, or None.
    Returns:
        (H, W, 3) uint8.
    """
    low, high = float(image.min()), float(np.percentile(image, 99.8))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)
    for mask, colour in ((prediction, PREDICTION_COLOUR), (truth, TRUTH_COLOUR)):
        if mask is not None:
            picture[outline(mask.astype(bool))] = colour
    return picture


def save_contact_sheet(
    path: Path,
    title: str,
    flair: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray | None = None,
    numbers: list[int] | None = None,
    most: int = 12,
) -> None:
    """One picture of a case: up to ``most`` FLAIR slices with outlines and a legend.

    Args:
        flair: (H, W, D) in display order.
        prediction, truth: bool, same shape; truth may be None.
        numbers: slice numbers for the captions; None counts from 1.
    """
    from matplotlib.figure import Figure  # imported here: it takes longer than the rest of this module
    from matplotlib.lines import Line2D

    chosen = choose_slices(prediction, truth, most)
    columns = min(4, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    height = 3 * flair.shape[0] / flair.shape[1]
    size = (3 * columns, (height + 0.25) * rows + 0.8)
    figure = Figure(figsize=size, dpi=90, facecolor="black", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, k in zip(axes, chosen, strict=False):
        axis.imshow(paint(flair[..., k], prediction[..., k], None if truth is None else truth[..., k]))
        axis.set_title(f"slice {numbers[k] if numbers else k + 1}", color="white", fontsize=9)
    drawn = [("prediction", PREDICTION_COLOUR)] + ([("truth", TRUTH_COLOUR)] if truth is not None else [])
    lines = [Line2D([], [], color="#{:02x}{:02x}{:02x}".format(*colour), label=name) for name, colour in drawn]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, labelcolor="white", frameon=False)
    figure.suptitle(title if prediction.any() else f"{title}: no tumour predicted", color="white", fontsize=10)
    figure.savefig(path)


def choose_slices(prediction: np.ndarray, truth: np.ndarray | None, most: int) -> list[int]:
    """Up to ``most`` slice indices, evenly over those with any mask, or over all when there is none."""
    either = prediction if truth is None else prediction | truth
    found = np.flatnonzero(either.any(axis=(0, 1)))
    pool = found if len(found) else np.arange(prediction.shape[2])
    return sorted({int(pool[i]) for i in np.linspace(0, len(pool) - 1, min(most, len(pool))).round().astype(int)})
