"""HTML pages that need nothing but themselves: style, script and pictures are inside the file."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_lgg.errors import UsageError
from monai_lgg.io.atomic import atomic_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Written in place of a value that does not exist, such as the Dice of an empty truth and an empty prediction.
UNDEFINED = "undef."
SUFFIXES = (".html", ".htm")
#: Pictures of slices are shown with at most this many rows or columns.
MOST_PIXELS = 512


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Args:
        uri: ``data:`` URI.
        alt: what it shows, for those who do not see it.
        caption: below it.
        pixelated: slices; enlarged without smoothing.
    """

    uri: str
    alt: str
    caption: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, and what the column is sorted by (None: undefined, always last)."""

    text: str
    key: float | str | None


def checked_output(path: Path) -> Path:
    """``path``, if its name is that of a page; anything else could be a file that nobody wants replaced.

    Raises:
        UsageError: another suffix than .html.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"output {path}: the page is HTML; give a name that ends in {SUFFIXES[0]}")
    return path


def save_page(path: Path, template: str, **context: Any) -> Path:
    """Render a template of this package to ``path``, which appears only when whole. Every value is escaped."""
    text = render(template, **context)
    atomic_text(checked_output(path), text)
    return path


def render(template: str, **context: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from monai_lgg import __version__

    environment = Environment(
        loader=PackageLoader("monai_lgg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": number, "interval": interval, "grouped": grouped, "percent": percent}
    return environment.get_template(template).render(
        **context, version=__version__, today=date.today().isoformat(), undefined_word=UNDEFINED
    )


def is_undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float | None, digits: int = 3) -> str:
    if value is None or is_undefined(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.{digits}f}"


def grouped(value: float | None) -> str:
    """A count with separated thousands."""
    return number(value, 0)


def percent(value: float | None) -> str:
    return UNDEFINED if value is None or is_undefined(value) else f"{value:.1%}"


def interval(bounds: Sequence[float | None], digits: int = 3) -> str:
    """``0.459 to 0.722``; one word when it is undefined."""
    return UNDEFINED if any(map(is_undefined, bounds)) else " to ".join(number(bound, digits) for bound in bounds)


def cell(value: Any, digits: int = 3) -> Cell:
    """Text as it is, whole numbers without decimals, others with ``digits``."""
    if isinstance(value, str):
        return Cell(value, value)
    if is_undefined(value):
        return Cell(UNDEFINED, None)
    digits = 0 if isinstance(value, int) else digits
    infinite = math.isinf(value)  # in JavaScript's word
    return Cell(number(value, digits), ("Infinity" if value > 0 else "-Infinity") if infinite else float(value))


def chart(figure: "Figure", alt: str, caption: str = "") -> Picture:
    """A matplotlib figure as SVG; the same figure always gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "monai-lgg", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(_uri("image/svg+xml", buffer.getvalue()), alt, caption)


def photo(pixels: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Pixels as PNG: (H, W, 3) uint8."""
    from PIL import Image  # comes with matplotlib

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return Picture(_uri("image/png", buffer.getvalue()), alt, caption, pixelated=True)


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Every n-th pixel of the first two axes, so that neither is longer than :data:`MOST_PIXELS`."""
    step = math.ceil(max(pixels.shape[:2]) / MOST_PIXELS)
    return pixels[::step, ::step]


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
