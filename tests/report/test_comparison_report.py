import math
from html.parser import HTMLParser
from pathlib import Path

from monai_lgg.metrics import find_metric
from monai_lgg.report.comparison_report import write_comparison_report
from monai_lgg.report.tables import Column, Table
from monai_lgg.results import Results


def results(**dice: float) -> Results:
    rows = [{"patient": name, "institution": name[:2], "dice": value} for name, value in dice.items()]
    return Results(Path(), {}, rows, [])


class _Rows(HTMLParser):
    """The text of each row of each table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows:
            self.rows[-1][-1] += data.strip()


def page(tmp_path: Path, notes: list[str] | None = None) -> str:
    table = Table("Ranked <here>", [Column("name", "Bundle")], [{"name": "a&b"}, {"name": "c"}], notes or [])
    found = {"a&b": results(AA_1=0.9, AA_2=0.5, BB_1=math.nan), "c": results(AA_1=0.1, AA_2=0.7, BB_1=0.4)}
    return write_comparison_report(tmp_path / "comparison.html", table, find_metric("dice"), found).read_text()


def test_each_patient_and_institution_by_each_bundle(tmp_path: Path) -> None:
    parser = _Rows()
    parser.feed(page(tmp_path))
    rows = [[text for text in row if text] for row in parser.rows]
    assert ["AA_1", "AA", "0.900", "0.100", "0.800"] in rows
    assert ["BB_1", "BB", "undef.", "0.400", "0.000"] in rows
    assert ["AA", "2", "0.700", "0.400"] in rows
    assert ["BB", "1", "undef.", "0.400"] in rows


def test_warnings_come_first_and_all_is_escaped(tmp_path: Path) -> None:
    text = page(tmp_path, ["WARNING: it leaks", "d FAILED and is not ranked: <why>", "a note"])
    assert text.index("it leaks") < text.index("&lt;why&gt;") < text.index('id="ranking"') < text.index("a note")
    assert text.count("it leaks") == text.count("a note") == 1
    assert "Ranked &lt;here&gt;" in text
    assert "a&amp;b" in text
    assert "<td>a&b" not in text
    assert "data:image/svg+xml" in text
    assert 'src="http' not in text


def test_a_distance_has_no_picture(tmp_path: Path) -> None:
    rows = [{"patient": "p", "institution": "AA", "hd95": math.inf}]
    found = {"a": Results(Path(), {}, rows, [])}
    table = Table("t", [Column("name", "Bundle")], [{"name": "a"}])
    text = write_comparison_report(tmp_path / "c.html", table, find_metric("hd95"), found).read_text()
    assert "data:image" not in text
    assert "∞" in text


def test_counts_have_no_picture(tmp_path: Path) -> None:
    """Its axis is from 0 to 1, so patients would be missing in it."""
    rows = [{"patient": str(n), "institution": "AA", "false_positive_lesions": float(n)} for n in range(3)]
    table = Table("t", [Column("name", "Bundle")], [{"name": "a"}])
    metric = find_metric("false_positive_lesions")
    path = write_comparison_report(tmp_path / "c.html", table, metric, {"a": Results(Path(), {}, rows, [])})
    assert "data:image" not in path.read_text()
