import csv
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from monai_lgg.report.tables import (
    Column,
    Table,
    cell_text,
    html_table,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
    write_table,
)

TABLE = Table(
    "R&D of <models>",
    [Column("name", "Bundle"), Column("dice", "Dice"), Column("ci", "95 % CI"), Column("weights", "Parameters")],
    [
        {"name": "unet_a|b", "dice": 0.81249, "ci": [0.7, 0.9], "weights": 1948417},
        {"name": "50%<i>", "dice": math.nan, "ci": [math.nan, math.nan], "weights": None},
    ],
    ["It leaks: 5_% & more."],
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12349, "0.123"), (-1.0, "-1.000"), (None, ""), (math.nan, ""), (1234, "1,234"), ("x", "x"), (True, "True"),
     ([0.5, 1.0], "0.500 to 1.000"), ([math.nan, math.nan], ""), (math.inf, "inf")],
)  # fmt: skip
def test_cell(value: object, text: str) -> None:
    assert cell_text(value) == text


def test_digits() -> None:
    assert cell_text(3.14159, 1) == "3.1"
    assert cell_text(-0.0002) == "0.000"
    assert cell_text(5e-15, 4, positive=True) == "<0.0001"
    assert cell_text(0.0, 4, positive=True) == "0.0000"
    assert cell_text(0.0123, 4, positive=True) == "0.0123"


def test_csv_keeps_all_digits_and_splits_intervals() -> None:
    rows = list(csv.reader(to_csv(TABLE).splitlines()))
    assert rows == [
        ["name", "dice", "ci_low", "ci_high", "weights"],
        ["unet_a|b", "0.81249", "0.7", "0.9", "1948417"],
        ["50%<i>", "", "", "", ""],
    ]


def test_csv_of_a_missing_interval() -> None:
    columns = [Column("ci", "CI")]
    assert to_csv(Table("t", columns, [{"ci": [1.0, 2.0]}, {"ci": None}])) == "ci_low,ci_high\n1.0,2.0\n,\n"


def test_csv_without_rows_has_its_heading() -> None:
    assert to_csv(Table("empty", TABLE.columns, [])) == "name,dice,ci,weights\n"


def test_text_is_aligned() -> None:
    assert to_text(TABLE).splitlines() == [
        "R&D of <models>",
        "",
        "Bundle     Dice         95 % CI  Parameters",
        "unet_a|b  0.812  0.700 to 0.900   1,948,417",
        "50%<i>",
        "",
        "It leaks: 5_% & more.",
    ]


def test_markdown_escapes() -> None:
    assert to_markdown(TABLE).splitlines() == [
        "# R&D of \\<models>",
        "",
        "| Bundle | Dice | 95 % CI | Parameters |",
        "| :--- | ---: | ---: | ---: |",
        "| unet\\_a\\|b | 0.812 | 0.700 to 0.900 | 1,948,417 |",
        "| 50%\\<i> |  |  |  |",
        "",
        "- It leaks: 5\\_% & more.",
    ]


def test_latex_escapes() -> None:
    text = to_latex(TABLE)
    assert r"\caption{R\&D of <models>}" in text
    assert r"\begin{tabular}{lrrr}" in text
    assert r"Bundle & Dice & 95 \% CI & Parameters \\" in text
    assert r"unet\_a|b & 0.812 & 0.700 to 0.900 & 1,948,417 \\" in text
    assert r"\par It leaks: 5\_\% \& more." in text
    assert text.count(r"\begin") == text.count(r"\end") == 2


def test_latex_backslash_and_braces() -> None:
    assert r"a\textbackslash{}b\{c\} \\" in to_latex(Table("t", [Column("x", "x")], [{"x": r"a\b{c}"}]))


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_escaped() -> None:
    text = html_table(TABLE)
    parser = _Cells()
    parser.feed(text)
    assert parser.tags.count("td") == 8
    assert parser.tags.count("th") == 4
    assert "i" not in parser.tags  # <i> in a cell is text
    assert {"50%<i>", "unet_a|b", "0.812"} <= set(parser.text)


def test_write_table(tmp_path: Path) -> None:
    paths = write_table(TABLE, tmp_path / "new", "result")
    assert [path.name for path in paths] == ["result.csv", "result.md", "result.tex"]
    assert paths[0].read_text() == to_csv(TABLE)


def test_a_page_of_paper_gets_a_narrower_table(tmp_path: Path) -> None:
    narrow = Table(TABLE.title, TABLE.columns[:1], TABLE.rows)
    paths = write_table(TABLE, tmp_path, "result", printed=narrow)
    assert paths[1].read_text() == to_markdown(TABLE)
    assert paths[2].read_text() == to_latex(narrow)
