"""The clinical table of the public data (``data.csv``): reading it, and finding the row of each patient."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENT = "Patient"
#: Genomic subtypes: a small whole number a patient.
CLUSTERS = (
    "RNASeqCluster",
    "MethylationCluster",
    "miRNACluster",
    "CNCluster",
    "RPPACluster",
    "OncosignCluster",
    "COCCluster",
)
#: What a blank cell may hold, in lower case.
_NO_VALUE = frozenset(("", "na", "n/a", "nan"))
_SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """Patients' folders and rows of the clinical table brought together.

    Args:
        rows: folder name -> cells (column -> value, "" where blank), in the order of the folders.
        without_row: folders that the table does not name.
        without_masks: ids in the table that have no folder.
    """

    rows: dict[str, dict[str, str]]
    without_row: tuple[str, ...]
    without_masks: tuple[str, ...]


def read_clinical(path: str | Path, columns: Sequence[str] = CLUSTERS) -> dict[str, dict[str, str]]:
    """Rows of a clinical table.

    Args:
        path: CSV file with a header, a column ``Patient`` and ``columns``; others are left out.
    Returns:
        Patient id -> column -> cell; blank cells and NA are "", a whole number such as 2.0 is "2".
    Raises:
        FileNotFoundError: no such file.
        ValueError: not a CSV file, columns missing, rows of another length, a row without id, or an id twice.
    """
    file = Path(path)
    lines = _read_lines(file)
    header = [name.strip() for name in lines[0][1]] if lines else []
    _check_header(file, header, (PATIENT, *columns))
    rows: dict[str, dict[str, str]] = {}
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise ValueError(f"{file}, line {number}: {len(cells)} cells, the header has {len(header)}; mend the line")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        patient = row[PATIENT]
        if not patient:
            raise ValueError(f"{file}, line {number}: no patient id; add it, or remove the line")
        if patient in rows:
            raise ValueError(f"{file}, line {number}: patient {patient} has a row already; keep one")
        rows[patient] = {name: _cell(row[name]) for name in columns}
    if not rows:
        raise ValueError(f"{file}: has a header and no rows; give a table with one row a patient")
    return rows


def _check_header(file: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        found = some_names([name[:40] for name in header]) or "empty"
        raise ValueError(
            f"{file}: no column {', '.join(missing)}; its header is {found}. Give a table like the public data.csv: "
            "comma-separated, column names in the first line"
        )
    repeated = [name for name in columns if header.count(name) > 1]
    if repeated:
        raise ValueError(f"{file}: column {', '.join(repeated)} is there twice; keep one")


def _read_lines(file: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not blank."""
    if not file.is_file():
        raise FileNotFoundError(f"clinical table {file} does not exist or is no file; give the data.csv of the data")
    try:
        text = file.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it has zero bytes")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{file}: not a CSV text file ({error}); save the table as CSV (UTF-8)") from error


def _cell(text: str) -> str:
    if text.lower() in _NO_VALUE:
        return ""
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def match_patients(rows: Mapping[str, dict[str, str]], folders: Iterable[str]) -> Matched:
    """Find the row of each patient: its id is the folder's name, or that without the date at its end.

    Raises:
        ValueError: nobody has a row, or two folders have the same one.
    """
    names = list(folders)
    ids = {name: patient for name in names if (patient := _id_of(name, rows)) is not None}
    if not ids:
        raise ValueError(
            f"none of the {len(names)} patients ({some_names(names)}) has a row in the clinical table "
            f"({some_names(list(rows))}); an id is the name of a patient's folder, with or without the date at its end"
        )
    owners: dict[str, list[str]] = defaultdict(list)
    for name, patient in ids.items():
        owners[patient].append(name)
    for patient, shared in owners.items():
        if len(shared) > 1:
            raise ValueError(f"{', '.join(shared)}: all fit the row of {patient}; keep one folder a patient")
    return Matched(
        rows={name: rows[patient] for name, patient in ids.items()},
        without_row=tuple(name for name in names if name not in ids),
        without_masks=tuple(patient for patient in rows if patient not in owners),
    )


def _id_of(folder: str, rows: Mapping[str, dict[str, str]]) -> str | None:
    """The longest id that is the folder's name up to an underscore."""
    words = folder.split("_")
    names = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((name for name in names if name in rows), None)


def some_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
