import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_lgg.report import page
from monai_lgg.report.charts import new_chart


@pytest.mark.parametrize(
    ("value", "digits", "wanted"),
    [
        (0.71249, 3, "0.712"),
        (12345.6, 0, "12,346"),
        (None, 3, "undef."),
        (math.nan, 3, "undef."),
        (math.inf, 1, "∞"),
        (-math.inf, 1, "-∞"),
        (0, 0, "0"),
    ],
)
def test_number(value: float | None, digits: int, wanted: str) -> None:
    assert page.number(value, digits) == wanted


def test_interval() -> None:
    assert page.interval([0.4591, 0.7222]) == "0.459 to 0.722"
    assert page.interval([None, None]) == "undef."


def test_percent() -> None:
    assert page.percent(0.9471) == "94.7%"
    assert page.percent(None) == "undef."


def test_cells_sort_by_value_and_undefined_ones_have_no_key() -> None:
    assert page.cell("<b>") == page.Cell("<b>", "<b>")
    assert page.cell(1234.5, 0) == page.Cell("1,234", 1234.5)
    assert page.cell(35) == page.Cell("35", 35.0)
    assert page.cell(math.nan) == page.Cell("undef.", None)
    assert page.cell(math.inf) == page.Cell("∞", "Infinity")
    assert page.cell(None) == page.Cell("undef.", None)


def test_chart_is_svg_and_always_the_same() -> None:
    pictures = []
    for _ in range(2):
        figure, axes = new_chart()
        axes.plot([0, 1], [0, 1])
        pictures.append(page.chart(figure, "a line"))
    kind, content = pictures[0].uri.split(",")
    assert kind == "data:image/svg+xml;base64"
    assert b"<svg" in base64.b64decode(content)
    assert pictures[0] == pictures[1]


def test_photo_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    picture = page.photo(pixels, "noise", "caption")
    content = base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    assert (picture.alt, picture.caption, picture.pixelated) == ("noise", "caption", True)


@pytest.mark.parametrize(("shape", "wanted"), [((512, 100), (512, 100)), ((513, 100), (257, 50)), ((4, 3), (4, 3))])
def test_shrink(shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert page.shrink(np.zeros(shape)).shape == wanted


@pytest.mark.parametrize("name", ["page.txt", "page", "split.json"])
def test_only_pages_are_written(tmp_path: Path, name: str) -> None:
    precious = tmp_path / name
    precious.write_text("precious")
    with pytest.raises(ValueError, match=r"the page is HTML; give a name that ends in \.html"):
        page.save_page(precious, "base.html.j2", title="t")
    assert precious.read_text() == "precious"


def test_a_failing_template_leaves_the_old_page(tmp_path: Path) -> None:
    old = tmp_path / "page.html"
    old.write_text("old")
    with pytest.raises(Exception, match="'title' is undefined"):
        page.save_page(old, "base.html.j2")
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_values_are_escaped(tmp_path: Path) -> None:
    text = page.save_page(
        tmp_path / "new" / "page.html", "base.html.j2", title="<script>alert('&')</script>"
    ).read_text()
    assert "<title>&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;</title>" in text
