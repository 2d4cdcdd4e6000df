"""Which cases of an evaluation a report shows, and their pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.cases import TOP_MEDIANS, Patient, intensity_range, read_labels, read_patients
from monai_lgg.report.overlay import paint
from monai_lgg.report.page import Picture, number, photo, shrink

FLAIR = 1
#: A tumour whose patient has a lower Dice counts as missed.
MISSED_DICE = 0.2
MOST_MISSED = 4
MOST_FAINT = 3

#: A row of patients.csv or slices.csv.
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One patient shown.

    Args:
        roles: why, such as ``worst`` and ``missed``.
        facts: figures in words.
        pictures: slices with outlines.
    """

    patient: str
    roles: list[str]
    facts: str
    pictures: list[Picture]


def choose_cases(patients: Sequence[Row], contrasts: Mapping[str, float]) -> dict[str, list[str]]:
    """Patient -> why it is shown, in the order best, median, worst, missed, faint. A patient comes once.

    Args:
        patients: rows with ``patient``, ``dice``, ``tp``, ``fn``.
        contrasts: of :func:`tumour_contrast`, by patient.
    """
    defined = sorted((row for row in patients if not math.isnan(row["dice"])), key=lambda row: row["dice"])
    chosen: dict[str, list[str]] = {}
    if defined:
        for role, row in (("best", defined[-1]), ("median", defined[(len(defined) - 1) // 2]), ("worst", defined[0])):
            chosen.setdefault(row["patient"], []).append(role)
    for row in missed_tumours(patients)[:MOST_MISSED]:
        chosen.setdefault(row["patient"], []).append("missed")
    known = {name: value for name, value in contrasts.items() if not math.isnan(value)}
    for name in sorted(known, key=lambda name: known[name])[:MOST_FAINT]:
        chosen.setdefault(name, []).append("faint")
    return chosen


def missed_tumours(patients: Sequence[Row]) -> list[Row]:
    """Rows of patients with a tumour and a Dice below :data:`MISSED_DICE`, the lowest first."""
    missed = [row for row in patients if row["tp"] + row["fn"] > 0 and row["dice"] < MISSED_DICE]
    return sorted(missed, key=lambda row: row["dice"])


def tumour_contrast(patient: Patient) -> float:
    """Mean FLAIR of the tumour as a multiple of the head's median, both above the volume's minimum.

    NaN without tumour, without masks, or in a volume of one grey.
    """
    from monai_lgg.io.reader import CaseReader

    if not patient.has_labels:
        return math.nan
    volume, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
    flair, truth = flair_of(volume), read_labels(patient)
    if truth.shape != flair.shape:
        raise ValueError(f"{patient.name}: masks {truth.shape[:2]} and images {flair.shape[:2]} differ in size")
    low, high = intensity_range(flair)
    if high <= low or not truth.any():
        return math.nan
    return float((flair[truth].mean() - low) / (high - low) * TOP_MEDIANS)


def flair_of(pixels: np.ndarray) -> np.ndarray:
    """The FLAIR channel of (..., C); the only one where there is one."""
    return pixels[..., FLAIR if pixels.shape[-1] > FLAIR else 0]


def show_case(root: Path, results: Path, row: Row, slices: Sequence[Row], roles: list[str], contrast: float) -> Case:
    """Pictures of one patient: the slice of the largest tumour, plain and outlined, and that of the largest error.

    Args:
        root: folder of the images and true masks.
        results: folder of the evaluation, with ``masks``.
        row: of patients.csv.
        slices: the patient's rows of slices.csv.
        contrast: of :func:`tumour_contrast`.
    Raises:
        FileNotFoundError: a predicted mask is missing.
        ValueError: a mask is not of its image's size; the data has no such slice.
    """
    name = row["patient"]
    items = {item.number: item for item in read_patients(root, [name])[0].slices}
    pictures = []
    for of, kind in _chosen_slices(slices):
        n = int(of["slice"])
        if n not in items:
            raise ValueError(f"{name}: the results have slice {n}, {root} has not; give the data they were made from")
        image = _read_slice(items[n].image)
        prediction = _read_mask(results / "masks" / name / f"{name}_{n}_mask.tif", image, name)
        label = items[n].label
        truth = None if label is None else _read_mask(label, image, name)
        if kind != "error":
            pictures.append(photo(shrink(paint(image, None)), f"{name}, slice {n}, FLAIR", f"Slice {n}, FLAIR"))
        pictures.append(_outlined(name, of, kind, image, prediction, truth))
    facts = (
        f"Dice {number(row['dice'])}; {number(row['tp'] + row['fn'], 0)} tumour voxels, "
        f"{number(row['tp'] + row['fp'], 0)} predicted; tumour {number(contrast, 2)} times as bright as the head"
    )
    return Case(name, roles, facts, pictures)


def _chosen_slices(slices: Sequence[Row]) -> list[tuple[Row, str]]:
    """The slice of the largest truth and that of the largest error, each with its kind; one when they are the same."""
    largest = max(slices, key=lambda row: row["tp"] + row["fn"])
    worst = max(slices, key=lambda row: row["fp"] + row["fn"])
    error = worst["fp"] + worst["fn"] > 0
    if largest["tp"] + largest["fn"] == 0:  # no tumour
        return [(worst, "plain error")] if error else [(slices[len(slices) // 2], "empty")]
    if not error:
        return [(largest, "largest")]
    if largest is worst:
        return [(largest, "largest and error")]
    return [(largest, "largest"), (worst, "error")]


_WORDS = {
    "largest": "largest tumour area",
    "error": "largest error",
    "plain error": "largest error",
    "largest and error": "largest tumour area and largest error",
    "empty": "no tumour, none predicted",
}


def _outlined(
    name: str, of: Row, kind: str, image: np.ndarray, prediction: np.ndarray, truth: np.ndarray | None
) -> Picture:
    pixels = paint(shrink(image), shrink(prediction), None if truth is None else shrink(truth))
    figures = f"{number(of['tp'], 0)} px found, {number(of['fn'], 0)} missed, {number(of['fp'], 0)} too many"
    caption = f"Slice {int(of['slice'])}, {_WORDS[kind]}: {figures}"
    return photo(pixels, f"{name}, {caption}; orange outline: prediction, cyan outline: truth", caption)


def _read_slice(path: Path) -> np.ndarray:
    from monai_lgg.io.tiff import read_tiff_volume

    return flair_of(read_tiff_volume(path)[:, :, 0])


def _read_mask(path: Path, image: np.ndarray, case: str) -> np.ndarray:
    from monai_lgg.io.tiff import read_tiff

    if not path.is_file():
        raise FileNotFoundError(f"{case}: no mask {path}; run 'monai-lgg evaluate' again")
    mask = read_tiff(path) > 0
    if mask.shape != image.shape:
        raise ValueError(
            f"{case}: {path.name} is {_size(mask)}, its image {_size(image)}; a mask has the size of its image: give "
            "the data that the masks were made from, or evaluate again"
        )
    return mask


def _size(pixels: np.ndarray) -> str:
    return " x ".join(map(str, pixels.shape))
