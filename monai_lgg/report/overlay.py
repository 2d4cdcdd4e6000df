"""Outlines of masks on FLAIR slices."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

PREDICTION_COLOUR = (255, 140, 0)  # orange
TRUTH_COLOUR = (0, 200, 255)  # cyan; the pair is told apart by colour-blind readers
LEGEND = (("prediction", PREDICTION_COLOUR), ("truth", TRUTH_COLOUR))
#: Pixels: width of a slice on a sheet, height of a line of text and of its letters.
PANEL, LINE, TEXT = 270, 22, 14
MOST_ACROSS = 4
#: A picture narrower than this is enlarged before a legend is put under it.
LEGEND_WIDTH = 200


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


def with_legend(picture: np.ndarray) -> np.ndarray:
    """A picture of :func:`paint` with a line below that says which outline is which.

    Args:
        picture: (H, W, 3) uint8; enlarged by a whole factor where the words would not fit.
    Returns:
        (H', W', 3) uint8.
    """
    factor = -(-LEGEND_WIDTH // picture.shape[1])
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    strip = Image.new("RGB", (picture.shape[1], LINE), "black")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(TEXT)
    for place, (name, colour) in zip((1, 3), LEGEND, strict=True):
        pen.text((place * strip.width / 4, LINE / 2), name, colour, font, anchor="mm")
    return np.concatenate([picture, np.asarray(strip)])


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

    Drawn by Pillow, in a few hundredths of the second that Matplotlib takes: each predicted case gets one.

    Args:
        flair: (H, W, D) in display order.
        prediction, truth: bool, same shape; truth may be None.
        numbers: slice numbers for the captions; None counts from 1.
    """
    panels = [
        (
            f"slice {numbers[k] if numbers else k + 1}",
            paint(flair[..., k], prediction[..., k], None if truth is None else truth[..., k]),
        )
        for k in choose_slices(prediction, truth, most)
    ]
    legend = list(LEGEND[: 1 if truth is None else 2])
    heading = title if prediction.any() else f"{title}: no tumour predicted"
    draw_sheet(heading, panels, legend).save(path, compress_level=1)  # a third larger, four times as fast


def draw_sheet(
    heading: str, panels: list[tuple[str, np.ndarray]], legend: list[tuple[str, tuple[int, int, int]]]
) -> Image.Image:
    """Pictures (H, W, 3) uint8 of one size with a caption each, at most four beside each other, on black."""
    rows, columns = panels[0][1].shape[:2]
    width, height = PANEL, max(1, round(PANEL * rows / columns))
    across = min(MOST_ACROSS, len(panels))
    down = -(-len(panels) // across)
    sheet = Image.new("RGB", (max(width * across, 2 * PANEL), LINE * (down + 2) + height * down), "black")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT)
    pen.text((sheet.width / 2, LINE / 2), heading, "white", font, anchor="mm")
    for n, (caption, picture) in enumerate(panels):
        left, top = n % across * width, LINE + n // across * (height + LINE)
        pen.text((left + width / 2, top + LINE / 2), caption, "white", font, anchor="mm")
        sheet.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), (left, top + LINE))
    middle = sheet.height - LINE / 2
    for n, (name, colour) in enumerate(legend):
        begin = sheet.width / 2 + 7 * LINE * (n - len(legend) / 2)
        pen.line((begin, middle, begin + LINE, middle), colour, 3)
        pen.text((begin + 1.4 * LINE, middle), name, "white", font, anchor="lm")
    return sheet


def choose_slices(prediction: np.ndarray, truth: np.ndarray | None, most: int) -> list[int]:
    """Up to ``most`` slice indices, evenly over those with any mask, or over all when there is none."""
    either = prediction if truth is None else prediction | truth
    found = np.flatnonzero(either.any(axis=(0, 1)))
    pool = found if len(found) else np.arange(prediction.shape[2])
    return sorted({int(pool[i]) for i in np.linspace(0, len(pool) - 1, min(most, len(pool))).round().astype(int)})
