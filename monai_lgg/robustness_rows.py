"""The rows of a robustness measurement, kept on disk, and the table made of them."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.io.atomic import atomic_text
from monai_lgg.perturbations import PERTURBATIONS, Perturbation, Strength
from monai_lgg.report.tables import Column, Table, to_csv, to_markdown

#: One row a patient, perturbation and strength; what an interrupted call goes on from.
ROWS = "rows.csv"
#: Per-patient Dice below which a result is counted as poor.
POOR = 0.7
#: The files as they are: first in every table.
CLEAN = Perturbation("clean", "no perturbation", (Strength("only", "as it is", None),), lambda volume, _: volume)

_COLUMNS = (
    Column("perturbation", "Perturbation"),
    Column("words", "What it is"),
    Column("level", "Level"),
    Column("strength", "Strength"),
    Column("patients", "Patients"),
    Column("dice", "Mean Dice"),
    Column("median", "Median Dice"),
    Column("difference", "Mean difference to clean"),
    Column("worst", "Worst difference"),
    Column("whose", "Whose"),
    Column("poor", f"Dice below {POOR}"),
    Column("agreement", "Mean Dice with the clean result"),
    Column("failed", "Failed"),
)

Key = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One patient under one perturbation.

    Args:
        dice: of the prediction against the truth; None when both are empty, or the case failed.
        dice_clean: of the unperturbed prediction.
        difference: dice - dice_clean.
        agreement: Dice between this prediction and the unperturbed one, moved to the same geometry.
        voxels: predicted, and in the truth.
        weights: start of the weights' SHA-256.
        made_from: hash of weights, settings, the patient's voxels and the version of the perturbations.
        error: why the case failed; empty when it did not.
    """

    patient: str
    perturbation: str
    level: str
    strength: str
    dice: float | None = None
    dice_clean: float | None = None
    difference: float | None = None
    agreement: float | None = None
    voxels: int | None = None
    voxels_truth: int | None = None
    weights: str = ""
    made_from: str = ""
    error: str = ""


def identity(row: Row) -> Key:
    """What it measures."""
    return (row.patient, row.perturbation, row.level)


def key_of(row: Row) -> Key:
    """A change of the bundle, the data or the strength makes another row."""
    return (*identity(row), row.strength, row.made_from)


def read_rows(path: Path) -> dict[Key, Row]:
    """The rows of an earlier call; empty without a file.

    Raises:
        ValueError: the file is of another kind.
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ()) != [field.name for field in fields(Row)]:
            raise ValueError(f"{path}: not the rows of a robustness measurement of this version; choose another folder")
        try:
            rows = [_parsed(record) for record in reader]
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{path} is damaged ({error}); choose another folder, or remove it") from error
    return {key_of(row): row for row in rows}


def _parsed(record: Mapping[str, str]) -> Row:
    texts = {field.name for field in fields(Row) if field.type is str}
    counts = {"voxels", "voxels_truth"}
    values: dict[str, Any] = {}
    for key, text in record.items():
        if key in texts:
            values[key] = text
        else:
            values[key] = None if text == "" else (int if key in counts else float)(text)
    return Row(**values)


def write_rows(path: Path, stored: Mapping[Key, Row], new: Sequence[Row]) -> dict[Key, Row]:
    """``stored`` with the new rows, which take the places of failed ones, on disk too."""
    again = {identity(row) for row in new}
    kept = {key: row for key, row in stored.items() if not (row.error and identity(row) in again)}
    kept |= {key_of(row): row for row in new}
    if kept != stored:
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in kept.values())
        atomic_text(path, text.getvalue())
    return kept


def summary_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a perturbation and strength, over patients. Undefined values are left out of means; failed are counted.

    ``difference`` is the mean of the patients' differences, and ``worst`` the lowest, of the patient ``whose``.
    """
    words = {CLEAN.name: CLEAN.words} | {name: item.words for name, item in PERTURBATIONS.items()}
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.perturbation, row.level, row.strength), []).append(row)
    table = []
    for (perturbation, level, strength), members in groups.items():
        scores = [row.dice for row in members if row.dice is not None]
        changed = {row.patient: row.difference for row in members if row.difference is not None}
        worst = min(changed, key=lambda name: changed[name], default="")
        agreements = [row.agreement for row in members if row.agreement is not None]
        table.append(
            {
                "perturbation": perturbation,
                "words": words[perturbation],
                "level": level,
                "strength": strength,
                "patients": len(scores),
                "dice": _mean(scores),
                "median": float(np.median(scores)) if scores else None,
                "difference": _mean(list(changed.values())),
                "worst": changed.get(worst),
                "whose": worst if changed.get(worst, 0) < 0 else "",
                "poor": sum(score < POOR for score in scores),
                "agreement": _mean(agreements),
                "failed": sum(bool(row.error) for row in members),
            }
        )
    return table


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def write_tables(rows: Sequence[Row], output: Path, notes: Sequence[str] = ()) -> Table:
    """``robustness.csv`` and ``robustness.md``: the summary by perturbation and strength."""
    table = Table("Robustness", _COLUMNS, summary_rows(rows), notes)
    atomic_text(output / "robustness.csv", to_csv(table))
    atomic_text(output / "robustness.md", to_markdown(table))
    return table
