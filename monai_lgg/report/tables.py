"""One table as text, CSV, Markdown, LaTeX and, inside a page, HTML."""

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_lgg.io.atomic import atomic_text

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column: the rows' key, its heading, and the decimals of its floats.

    A ``positive`` one that the decimals do not show is ``<0.0001``, not 0.0000, as p values are.
    A list of two numbers in a cell is an interval: ``0.712 to 0.850``, in CSV two columns ``<key>_low, <key>_high``.
    """

    key: str
    title: str
    digits: int = 3
    positive: bool = False


@dataclass(frozen=True)
class Table:
    """What to show, in the order to show it; None and NaN are blank.

    Args:
        rows: column key -> value.
        notes: sentences that every rendering repeats below the table (CSV, which has no place for them, apart).
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default_factory=list)


def write_table(table: Table, folder: Path, stem: str, printed: Table | None = None) -> list[Path]:
    """Write ``<stem>.csv``, ``.md`` and ``.tex`` and return their paths.

    Args:
        printed: a narrower one for ``.tex``, whose page is narrow.
    """
    texts = {"csv": to_csv(table), "md": to_markdown(table), "tex": to_latex(printed or table)}
    paths = [folder / f"{stem}.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        atomic_text(path, text)
    return paths


def cell_text(value: Any, digits: int = 3, positive: bool = False) -> str:
    """A cell as people read it; for ``positive`` see :class:`Column`."""
    if isinstance(value, list | tuple):
        low, high = (cell_text(item, digits) for item in value)
        return f"{low} to {high}" if low or high else ""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        least = 10.0**-digits
        return f"<{least:.{digits}f}" if positive and 0 < value < least else f"{value:z.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def to_csv(table: Table) -> str:
    """All digits, blank for undefined, the keys as headings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    intervals = {c.key for c in table.columns if any(isinstance(row.get(c.key), list | tuple) for row in table.rows)}
    keys = [[f"{c.key}_low", f"{c.key}_high"] if c.key in intervals else [c.key] for c in table.columns]
    writer.writerow([key for group in keys for key in group])
    for row in table.rows:
        values = [(row.get(c.key) or [None, None]) if c.key in intervals else [row.get(c.key)] for c in table.columns]
        writer.writerow([_number(value) for group in values for value in group])
    return text.getvalue()


def _number(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def to_text(table: Table) -> str:
    """For a terminal: aligned columns, then the notes."""
    titles, cells, left = _parts(table)
    widths = [max(len(row[k]) for row in [titles, *cells]) for k in range(len(titles))]
    lines = [
        "  ".join(text.ljust(width) if is_left else text.rjust(width) for text, width, is_left in columns).rstrip()
        for columns in (zip(row, widths, left, strict=True) for row in [titles, *cells])
    ]
    return "\n".join([table.title, "", *lines, *(["", *table.notes] if table.notes else [])])


def to_markdown(table: Table) -> str:
    titles, cells, left = _parts(table)
    lines = [_markdown_row(titles), _markdown_row([":---" if is_left else "---:" for is_left in left], escape=False)]
    lines += [_markdown_row(row) for row in cells]
    notes = [f"- {_markdown(note)}" for note in table.notes]
    return "\n".join([f"# {_markdown(table.title)}", "", *lines, *(["", *notes] if notes else [])]) + "\n"


def _markdown_row(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(_markdown(cell) if escape else cell for cell in cells) + " |"


def _markdown(text: str) -> str:
    for mark in "\\|*_<`[":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def to_latex(table: Table) -> str:
    """A ``table`` environment of the text's width; needs the packages booktabs and graphicx."""
    titles, cells, left = _parts(table)
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex(table.title)}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if is_left else 'r' for is_left in left)}}}",
        r"\toprule",
        _latex_row(titles),
        r"\midrule",
        *(_latex_row(row) for row in cells),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par {_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def html_table(table: Table) -> str:
    """The ``<table>`` element, for a page."""
    titles, cells, left = _parts(table)
    marks = [' class="text"' if is_left else "" for is_left in left]
    head = "".join(f"<th{mark}>{html.escape(text)}</th>" for mark, text in zip(marks, titles, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{m}>{html.escape(text)}</td>" for m, text in zip(marks, row, strict=True)) + "</tr>"
        for row in cells
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _parts(table: Table) -> tuple[list[str], list[list[str]], list[bool]]:
    """Headings, cells as text, and which columns hold text (aligned to the left)."""
    titles = [column.title for column in table.columns]
    cells = [
        [cell_text(row.get(column.key), column.digits, column.positive) for column in table.columns]
        for row in table.rows
    ]
    left = [any(isinstance(row.get(column.key), str) for row in table.rows) for column in table.columns]
    return titles, cells, left
