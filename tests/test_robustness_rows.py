import csv
from pathlib import Path

import pytest

from monai_lgg.perturbations import PERTURBATIONS
from monai_lgg.robustness_rows import Row, read_rows, summary_rows, write_rows, write_tables


def row(patient: str, perturbation: str, dice: float | None, clean: float | None, error: str = "") -> Row:
    difference = None if dice is None or clean is None else dice - clean
    return Row(patient, perturbation, "mild", "s", dice, clean, difference, 0.5, error=error)


def test_table_by_hand(tmp_path: Path) -> None:
    rows = [
        row("a", "noise", 0.9, 0.8),
        row("b", "noise", 0.5, 0.8),
        row("c", "noise", 0.7, 0.9),
        row("d", "noise", None, None, error="broken"),
        row("e", "noise", None, None),  # without tumour and without prediction
        row("a", "blur", 0.9, 0.8),
    ]
    noise, blur = summary_rows(rows)
    assert (noise["patients"], noise["failed"], noise["poor"], noise["whose"]) == (3, 1, 1, "b")
    assert noise["dice"] == pytest.approx(0.7)
    assert noise["median"] == 0.7
    assert noise["difference"] == pytest.approx(-0.4 / 3)
    assert noise["worst"] == pytest.approx(-0.3)
    assert (blur["whose"], blur["words"]) == ("", PERTURBATIONS["blur"].words)
    write_tables(rows, tmp_path, ["a note"])
    (first, second) = csv.DictReader((tmp_path / "robustness.csv").open())
    assert (first["perturbation"], first["whose"], second["poor"]) == ("noise", "b", "0")
    text = (tmp_path / "robustness.md").read_text()
    assert "| noise |" in text
    assert text.endswith("- a note\n")


def test_rows_come_back_from_the_file(tmp_path: Path) -> None:
    rows = [row("a", "noise", 0.1 + 0.2, 0.8), row("b, c", "blur", None, None, error='two\n"lines"')]
    write_rows(tmp_path / "rows.csv", {}, rows)
    assert list(read_rows(tmp_path / "rows.csv").values()) == rows
    assert read_rows(tmp_path / "none.csv") == {}


def test_damaged_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", {}, [row("a", "noise", 0.1, 0.8)])
    text = (tmp_path / "rows.csv").read_text()
    for damaged in (text.replace("0.8", "0.8x"), text[:-4] + ",,,,,,,\n"):
        (tmp_path / "rows.csv").write_text(damaged)
        with pytest.raises(ValueError, match=r"rows\.csv is damaged"):
            read_rows(tmp_path / "rows.csv")
