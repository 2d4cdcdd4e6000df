"""The results folder of an evaluation: written whole, read back, pooled from several.

``patients.csv``, ``slices.csv`` (blank: undefined; ``inf``: one of the two masks is empty), ``summary.json`` (written
last), ``masks/`` (the predicted masks in the public layout) and ``cases.npz`` (what pooling needs).
"""

import csv
import io
import json
import logging
import math
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.io.atomic import atomic_text, atomic_write, make_partial_folder, remove_leftovers, replace_folder
from monai_lgg.io.stored import read_json
from monai_lgg.io.tiff import write_tiff
from monai_lgg.metrics.case import PATIENT_FIGURES, SLICE_FIGURES, CaseMeasures, patient_row, slice_rows
from monai_lgg.metrics.cohort import summarise_cohort

_log = logging.getLogger(__name__)

#: Columns of the two tables that are text; all others are numbers.
TEXT_COLUMNS = ("patient", "institution", "missing_sequences")
#: Digits of a number in the tables.
DIGITS = 8
#: Stands for the cells that a row of a table lacks.
_CUT = "cut off"
#: Of ``cases.npz``.
VERSION = 1
STORE = "cases.npz"
MASKS = "masks"
#: Facts that a pooled summary keeps where all folders agree.
_SHARED = (
    "part", "settings", "model_file", "dataset_dir", "split_file", "fold", "split_level", "split_seed", "fingerprint",
    "leakage",
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    """A results folder in memory: numbers as float, undefined ones as NaN."""

    folder: Path
    summary: dict[str, Any]
    patients: list[dict[str, Any]]
    slices: list[dict[str, Any]]


def read_results(folder: str | Path) -> Results:
    """Read what an evaluation wrote.

    Raises:
        FileNotFoundError: no finished evaluation there.
        ValueError: a file of it is damaged.
    """
    path = Path(folder)
    _check_finished(path, ("summary.json", "patients.csv", "slices.csv"))
    summary = read_json(path / "summary.json", "evaluate again")
    tables = {name: _read_table(path / f"{name}.csv") for name in ("patients", "slices")}
    for name, rows in tables.items():
        if len(rows) != summary.get(name):
            raise ValueError(
                f"{path / name}.csv has {len(rows)} rows, its summary.json {summary.get(name)} {name}: one is damaged; "
                "evaluate again"
            )
    return Results(path, summary, **tables)


def write_results(
    folder: Path, cases: Sequence[CaseMeasures], context: Mapping[str, Any], masks: Path
) -> dict[str, Any]:
    """Write the tables, the store, the masks and, last, the summary.

    Args:
        cases: in any order; patients are written in the order of their names.
        context: facts that the summary repeats.
        masks: of :func:`start_masks`; becomes the folder's, or goes when it is empty.
    Returns:
        The summary.
    """
    ordered = sorted(cases, key=lambda case: case.name)
    summary = {**context, **summarise_cohort(ordered)}
    (folder / "summary.json").unlink(missing_ok=True)  # of an earlier evaluation, whose tables now go
    save_cases(folder / STORE, ordered)
    _publish_masks(masks, folder / MASKS)
    atomic_text(folder / "patients.csv", _csv([patient_row(case) for case in ordered]))
    atomic_text(folder / "slices.csv", _csv([row for case in ordered for row in slice_rows(case)]))
    atomic_text(folder / "summary.json", json.dumps(without_nan(summary), indent=1) + "\n")
    return summary


def pool_results(
    folders: Sequence[str | Path], output: str | Path, context: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make one results folder of several with different patients, such as the folds of a cross-validation.

    The figures are those of one evaluation of all patients: nothing is averaged over folders.

    Args:
        output: not one of ``folders``.
        context: facts for the summary; those on which the folders agree are kept, warnings are joined.
    Returns:
        The summary.
    Raises:
        FileNotFoundError: a folder holds no finished evaluation.
        ValueError: a patient is in two folders; or units, or tolerances of the surface Dice, differ.
    """
    paths, target = [Path(folder) for folder in folders], Path(output)
    if not paths:
        raise ValueError("no results to pool; give at least one folder")
    if target.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"output {target} is one of the folders to pool; give a new folder")
    found: dict[str, Path] = {}
    cases: list[CaseMeasures] = []
    for path in paths:
        _check_finished(path, ("summary.json", STORE))
        for case in load_cases(path / STORE):
            if case.name in found:
                raise ValueError(f"patient {case.name} is in {found[case.name]} and in {path}; pool disjoint results")
            found[case.name] = path
            cases.append(case)
    facts = _shared_facts([read_json(path / "summary.json", "evaluate again") for path in paths], context or {})
    unfinished = start_masks(target)
    for name, path in found.items():
        if (path / MASKS / name).is_dir():
            shutil.copytree(path / MASKS / name, unfinished / name)
    return write_results(target, cases, {**facts, "pooled_from": [str(path) for path in paths]}, unfinished)


def _shared_facts(summaries: Sequence[Mapping[str, Any]], context: Mapping[str, Any]) -> dict[str, Any]:
    first = summaries[0]
    agreed = [key for key in _SHARED if key in first and all(other.get(key) == first[key] for other in summaries)]
    texts = [of.get("warning") for of in (*summaries, context)]
    warning = " ".join(dict.fromkeys(text for text in texts if text))
    facts = {"part": "pooled", "split_level": "mixed"} | {key: first[key] for key in agreed}
    return {**facts, **context, "warning": warning or None}


def start_masks(folder: Path) -> Path:
    """An empty folder for the masks of one evaluation, which replaces ``masks`` only when all of it is written.

    Raises:
        ValueError: ``masks`` is there and not from an evaluation.
    """
    if (folder / MASKS).exists() and not (folder / STORE).is_file():
        raise ValueError(f"{folder / MASKS} is not from an evaluation (no {STORE} beside it); choose a new folder")
    remove_leftovers(folder)
    return make_partial_folder(folder / MASKS)


def save_masks(folder: Path, case: str, numbers: Sequence[int], mask: np.ndarray) -> None:
    """Write a case's masks, uint8 0/255, under the public layout's names.

    Args:
        folder: of :func:`start_masks`.
        mask: bool, (H, W, D).
    """
    for k, number in enumerate(numbers):
        write_tiff(folder / case / f"{case}_{number}_mask.tif", mask[..., k].astype(np.uint8) * 255)


def _publish_masks(unfinished: Path, final: Path) -> None:
    if any(unfinished.iterdir()):
        replace_folder(unfinished, final)
    else:
        unfinished.rmdir()
        shutil.rmtree(final, ignore_errors=True)


def save_cases(path: Path, cases: Sequence[CaseMeasures]) -> None:
    """Write the measures of all cases into one file."""
    histograms, calibrations = ([getattr(case, name) for case in cases] for name in ("histogram", "calibration"))
    known = np.array([histogram is not None for histogram in histograms])
    figures = [[case.figures[name] for name in PATIENT_FIGURES] for case in cases]
    slice_figures = [np.stack([case.slice_figures[name] for name in SLICE_FIGURES], axis=-1) for case in cases]
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "names": np.array([case.name for case in cases]),
        "missing_sequences": np.array([case.missing_sequences for case in cases]),
        "voxel_ml": np.array([math.nan if case.voxel_ml is None else case.voxel_ml for case in cases]),
        "tolerance": np.array([case.tolerance for case in cases]),
        "slices": np.array([len(case.numbers) for case in cases]),
        "numbers": np.concatenate([case.numbers for case in cases]),
        "counts": np.concatenate([case.counts for case in cases]),
        "figures": np.array(figures, dtype=np.float64),
        "slice_figures": np.concatenate(slice_figures),
        "has_probabilities": known,  # the two below have one entry for each True
        "histograms": np.array([of for of in histograms if of is not None]),
        "calibrations": np.array([of for of in calibrations if of is not None]),
    }
    atomic_write(path, lambda partial: np.savez_compressed(partial, **arrays))


def load_cases(path: Path) -> list[CaseMeasures]:
    """Read what :func:`save_cases` wrote.

    Raises:
        ValueError: not such a file, or one of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
        if int(data["version"]) != VERSION:
            raise ValueError(f"version {int(data['version'])}, this program reads {VERSION}")
        return _cases(data)
    except (OSError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not the store of an evaluation ({error}); evaluate again") from error


def _cases(data: Mapping[str, np.ndarray]) -> list[CaseMeasures]:
    ends = np.cumsum(data["slices"])
    place = np.cumsum(data["has_probabilities"]) - 1
    cases = []
    for i, (name, end) in enumerate(zip(data["names"], ends, strict=True)):
        rows = slice(int(end - data["slices"][i]), int(end))
        known = bool(data["has_probabilities"][i])
        cases.append(
            CaseMeasures(
                str(name),
                data["numbers"][rows].tolist(),
                str(data["missing_sequences"][i]),
                None if math.isnan(data["voxel_ml"][i]) else float(data["voxel_ml"][i]),
                float(data["tolerance"][i]),
                data["counts"][rows],
                data["histograms"][place[i]] if known else None,
                data["calibrations"][place[i]] if known else None,
                dict(zip(PATIENT_FIGURES, data["figures"][i].tolist(), strict=True)),
                dict(zip(SLICE_FIGURES, data["slice_figures"][rows].T, strict=True)),
            )
        )
    return cases


def without_nan(value: Any) -> Any:
    """The same structure with NaN and infinity as None, because JSON has neither."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _text(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.{DIGITS}g}"


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restval=_CUT))
        if any(_CUT in row.values() for row in rows):
            raise ValueError("a row is cut off")
        if any(None in row for row in rows):
            raise ValueError("a row is too long")
        return [{key: _cell(key, text) for key, text in row.items()} for row in rows]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}); evaluate again") from error


def _cell(column: str, text: str) -> str | float:
    if column in TEXT_COLUMNS:
        return text
    return float(text) if text else math.nan


def _check_finished(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no results at {folder} ({name} is missing); make them with "
                f"'monai-lgg evaluate RUN --data DIR -o {folder}'"
            )
