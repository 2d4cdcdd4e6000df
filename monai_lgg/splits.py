"""Patients -> training / validation / test parts or folds, saved as JSON and checked against the data on loading."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.cases import Patient, read_labels, read_patients, slice_records, volume_ranges, volume_records
from monai_lgg.errors import UsageError
from monai_lgg.leakage import leakage, person, persons

PARTS = ("train", "validation", "test")
LEVELS = ("patient", "slice")
#: Of the JSON format.
VERSION = 1
#: Training, validation and test share of the patients when nothing else is asked for.
DEFAULT_FRACTIONS = (0.7, 0.1, 0.2)
#: Share of the patients outside the test fold that a k-fold split sets aside for validation.
FOLD_VALIDATION = 0.1

#: part -> patient name -> slice numbers
Parts = dict[str, dict[str, list[int]]]


@dataclass
class Split:
    """A saved split.

    Args:
        level: ``patient``, or ``slice`` for the leaking split that public projects use.
        folds: one entry for a plain split, k for k folds; each maps part -> patient -> slice numbers.
        fingerprint: of the patients, slice numbers and masks it was made from.
        leakage: facts of a slice-level split (:func:`leakage`); None for a patient-level one.
    """

    level: str
    seed: int
    fractions: list[float]
    fingerprint: str
    folds: list[Parts]
    leakage: dict[str, float] | None = None
    version: int = VERSION

    def part(self, name: str, fold: int = 0) -> dict[str, list[int]]:
        if name not in PARTS:
            raise ValueError(f"part {name!r} is not one of {', '.join(PARTS)}")
        if not 0 <= fold < len(self.folds):
            raise ValueError(f"fold {fold} does not exist; this split has the folds 0 to {len(self.folds) - 1}")
        return self.folds[fold][name]


def fingerprint(patients: Sequence[Patient], labels: Sequence[np.ndarray]) -> str:
    """SHA-256 over patient names, slice numbers and mask pixels; the same for any packing of the same data."""
    digest = hashlib.sha256()
    for patient, label in zip(patients, labels, strict=True):
        digest.update(
            f"{patient.name} {[item.number for item in patient.slices]} {label.shape}".encode(errors="surrogateescape")
        )
        digest.update(np.packbits(label).tobytes())
    return digest.hexdigest()


def split_patients(root: str | Path, fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = 0) -> Split:
    """Split by patient, stratified by institution and tumour volume. Studies of a person stay together.

    Args:
        fractions: of training, validation and test; must sum to 1.
    Raises:
        ValueError: bad fractions, or too few patients for a part that was asked for.
    """
    _check_fractions(fractions)
    patients, labels = _load(root)
    whose = persons(patients, labels)
    order = _stratified_order(patients, labels, whose, seed)
    test, rest = _take(order, fractions[2])
    validation, train = _take(rest, fractions[1] / (fractions[0] + fractions[1]) if rest else 0.0)
    for name, members, fraction in zip(PARTS, (train, validation, test), fractions, strict=True):
        if fraction > 0 and not members:
            raise ValueError(f"{len(order)} patients leave none for {name} at a fraction of {fraction}; add patients")
    parts = _parts(patients, whose, train, validation, test)
    return Split("patient", seed, list(fractions), fingerprint(patients, labels), [parts])


def split_folds(root: str | Path, folds: int, seed: int = 0, validation: float = FOLD_VALIDATION) -> Split:
    """k folds by patient: each patient is in the test part of exactly one fold. 22 folds of 110 as in Buda 2019.

    Args:
        validation: share of the patients outside the test fold; at least one patient when above 0.
    Raises:
        ValueError: bad numbers, or too few patients.
    """
    if not 0 <= validation < 1:
        raise UsageError(f"validation share {validation}: give 0 or more and below 1")
    patients, labels = _load(root)
    whose = persons(patients, labels)
    order = _stratified_order(patients, labels, whose, seed)
    if not 2 <= folds <= len(order):
        raise UsageError(f"{folds} folds of {len(order)} patients; give 2 to {len(order)}")
    rng = np.random.default_rng([seed, folds])
    tests: list[list[int]] = [[] for _ in range(folds)]
    for start in range(0, len(order), folds):
        block = order[start : start + folds]
        for fold, patient in zip(rng.permutation(folds), block, strict=False):
            tests[fold].append(patient)
    result = []
    for test in tests:
        rest = [i for i in order if i not in test]
        held, train = _take(rest, validation)
        if validation > 0 and not held:
            held, train = rest[:1], rest[1:]
        if not train:
            raise UsageError(f"{folds} folds of {len(order)} patients leave none for training; add patients")
        result.append(_parts(patients, whose, train, held, test))
    left = (folds - 1) / folds
    fractions = [round(left * (1 - validation), 4), round(left * validation, 4), round(1 / folds, 4)]
    return Split("patient", seed, fractions, fingerprint(patients, labels), result)


def split_slices(root: str | Path, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """The slice-level split that public projects use, stratified by tumour presence. It LEAKS: see ``leakage``.

    Raises:
        ValueError: bad fractions, or too few slices for a part that was asked for.
    """
    _check_fractions(fractions)
    if fractions[2] == 0:
        raise ValueError(
            f"fractions {list(fractions)}: a split by slice needs a test part, its leakage is measured there"
        )
    patients, labels = _load(root)
    rng = np.random.default_rng(seed)
    slices = [(p, k, bool(label[..., k].any())) for p, label in enumerate(labels) for k in range(label.shape[-1])]
    parts: Parts = {part: {} for part in PARTS}
    for tumour in (False, True):
        group = [(p, k) for p, k, has in slices if has is tumour]
        rng.shuffle(group)
        bounds = np.round(np.cumsum(fractions) * len(group)).astype(int)
        for part, (start, stop) in zip(PARTS, zip((0, *bounds[:-1]), bounds, strict=True), strict=True):
            for p, k in group[start:stop]:
                parts[part].setdefault(patients[p].name, []).append(patients[p].slices[k].number)
    parts = {part: {name: sorted(numbers) for name, numbers in sorted(of.items())} for part, of in parts.items()}
    for name, fraction in zip(PARTS, fractions, strict=True):
        if fraction > 0 and not parts[name]:
            raise ValueError(f"{len(slices)} slices leave none for {name} at a fraction of {fraction}; add patients")
    split = Split("slice", seed, list(fractions), fingerprint(patients, labels), [parts])
    split.leakage = leakage(patients, labels, parts)
    return split


def save_split(split: Split, path: str | Path) -> None:
    from monai_lgg.io.atomic import atomic_text

    atomic_text(Path(path), json.dumps(asdict(split), indent=1) + "\n")


def read_split(path: str | Path) -> Split:
    """Read a split without checking it against data.

    Raises:
        ValueError: not a split file, or a patient (patient level) or slice (slice level) is in two parts.
    """
    try:
        content = json.loads(Path(path).read_text())
        split = Split(**content)
        if split.level not in LEVELS or split.version != VERSION or not split.folds:
            raise ValueError(f"level {split.level!r}, version {split.version!r}, {len(split.folds)} fold(s)")
        folds = [{part: dict(fold[part]) for part in PARTS} for fold in split.folds]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a split file of monai-lgg ({error}); make one with 'data split'") from error
    split.folds = folds
    for fold in folds:
        _check_disjoint(fold, split.level, path)
    return split


def load_split(path: str | Path, root: str | Path) -> Split:
    """Read a split and check that it belongs to the data below ``root``.

    Raises:
        ValueError: as :func:`read_split`; an unknown patient or slice; data with another fingerprint; the same images
            in two parts, under two names.
    """
    split = read_split(path)
    names = {name for fold in split.folds for part in fold.values() for name in part}
    patients, labels = _load(root)
    known = {patient.name: {item.number for item in patient.slices} for patient in patients}
    unknown = sorted(names - known.keys())
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} patient(s) of the split are not below {root}, first {unknown[0]}; "
            "give the data it was made from, or make a new split"
        )
    for fold in split.folds:
        for name, numbers in (entry for part in fold.values() for entry in part.items()):
            if not known[name].issuperset(numbers):
                lost = sorted(set(numbers) - known[name])
                raise ValueError(f"{path}: {name} has no slices {lost}; the file was edited, make a new split")
    if fingerprint(patients, labels) != split.fingerprint:
        raise ValueError(f"{path}: made from other data than {root} (fingerprints differ); make a new split")
    if split.level == "patient":
        _check_copies(split, dict(zip(known, persons(patients, labels), strict=True)), path)
    return split


def ensure_split(
    root: str | Path, path: str | Path, seed: int = 0, fractions: Sequence[float] = DEFAULT_FRACTIONS
) -> Split:
    """Load the split at ``path``, or make a patient-level one there when the file does not exist."""
    if not Path(path).exists():
        save_split(split_patients(root, fractions, seed), path)
    return load_split(path, root)


def training_slices(
    root: str | Path,
    path: str | Path,
    part: str,
    fold: int = 0,
    seed: int = 0,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> list[dict[str, Any]]:
    """Slice records of one part, each with its volume's intensity ranges, for a bundle's 2D training data set.

    Makes a split of ``seed`` and ``fractions`` when there is none.

    Raises:
        ValueError: the part is empty.
    """
    numbers = _nonempty(ensure_split(root, path, seed, fractions).part(part, fold), part, path)
    patients = read_patients(root, sorted(numbers))
    ranges = {patient.name: volume_ranges(patient) for patient in patients}
    records = slice_records(patients, numbers)
    return [{**record, "intensity_range": ranges[record["patient"]]} for record in records]


def part_volumes(
    root: str | Path,
    path: str | Path | None,
    part: str,
    fold: int = 0,
    seed: int = 0,
    make_fractions: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Volume records (one a patient) of one part, for a bundle's validation and evaluation.

    ``all`` takes every patient below ``root`` and needs no split. Only training may make a split (of
    ``make_fractions``): one made for an evaluation could test on patients that the training has seen.

    Raises:
        ValueError: no split, or the part is empty.
    """
    if part == "all":
        return volume_records(read_patients(root))
    if path is None or not (make_fractions is not None or Path(path).is_file()):
        raise ValueError(f"part {part!r}: no split file ({path}); give the one that the training used")
    split = ensure_split(root, path, seed, make_fractions or DEFAULT_FRACTIONS)
    numbers = _nonempty(split.part(part, fold), part, path)
    patients = read_patients(root, sorted(numbers))
    records = volume_records(patients, numbers)
    if split.level == "slice":  # the slices of a part are not the whole volume, whose range the training used
        return [{**r, "intensity_range": volume_ranges(p)} for r, p in zip(records, patients, strict=True)]
    return records


def count_parts(split: Split, root: str | Path) -> list[dict[str, Any]]:
    """One row a fold and part: ``fold``, ``part``, ``patients``, ``slices``, ``tumour_slices``."""
    tumour = {
        patient.name: {item.number for k, item in enumerate(patient.slices) if label[..., k].any()}
        for patient, label in zip(*_load(root), strict=True)
    }
    return [
        {
            "fold": k,
            "part": part,
            "patients": len(fold[part]),
            "slices": sum(len(numbers) for numbers in fold[part].values()),
            "tumour_slices": sum(len(tumour[name].intersection(numbers)) for name, numbers in fold[part].items()),
        }
        for k, fold in enumerate(split.folds)
        for part in PARTS
    ]


def _nonempty(numbers: dict[str, list[int]], part: str, path: str | Path) -> dict[str, list[int]]:
    if not numbers:
        raise ValueError(f"{path}: its {part} part is empty; make a split with a fraction above 0 for it")
    return numbers


def _load(root: str | Path) -> tuple[list[Patient], list[np.ndarray]]:
    patients = read_patients(root)
    return patients, [read_labels(patient) for patient in patients]


def _check_fractions(fractions: Sequence[float]) -> None:
    if not (len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-6 and fractions[0] > 0):
        raise UsageError(
            f"fractions {list(fractions)}: give training, validation and test, none negative, training above 0, sum 1"
        )


def _stratified_order(
    patients: Sequence[Patient], labels: Sequence[np.ndarray], whose: Sequence[str], seed: int
) -> list[int]:
    """Indices ordered by institution, then tercile of tumour volume, then at random; one index a person."""
    volumes = np.array([np.count_nonzero(label) for label in labels])
    tercile = np.searchsorted(np.quantile(volumes, [1 / 3, 2 / 3]), volumes)
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    ordered = sorted(shuffled.tolist(), key=lambda i: (patients[i].institution, int(tercile[i])))
    return [i for i in ordered if whose.index(whose[i]) == i]


def _take(order: list[int], fraction: float) -> tuple[list[int], list[int]]:
    """Systematic sample: evenly spread over ``order``, so every stratum gives its share. (taken, rest)."""
    taken = [
        i
        for k, i in enumerate(order)
        if math.floor((k + 0.5) * fraction + 0.5) > math.floor((k - 0.5) * fraction + 0.5)
    ]
    return taken, [i for i in order if i not in taken]


def _parts(patients: Sequence[Patient], whose: Sequence[str], *members: list[int]) -> Parts:
    """All studies of a person are in the part of the index that stands for the person."""
    part_of = {whose[i]: part for part, of in zip(PARTS, members, strict=True) for i in of}
    parts: Parts = {part: {} for part in PARTS}
    for patient, of in zip(patients, whose, strict=True):
        parts[part_of[of]][patient.name] = [item.number for item in patient.slices]
    return parts


def _check_disjoint(fold: Parts, level: str, path: str | Path) -> None:
    seen: dict[Any, str] = {}
    for part in PARTS:
        for name, numbers in fold[part].items():
            units: list[Any] = [person(name)] if level == "patient" else [(name, number) for number in numbers]
            for unit in units:
                if unit in seen and (level == "slice" or seen[unit] != part):
                    what = name if level == "patient" else unit
                    raise ValueError(
                        f"{path}: {what} is in {seen[unit]} and in {part}; a {level} may be in one part only"
                    )
                seen[unit] = part


def _check_copies(split: Split, whose: Mapping[str, str], path: str | Path) -> None:
    for fold in split.folds:
        seen: dict[str, tuple[str, str]] = {}
        for part in PARTS:
            for name in fold[part]:
                other, where = seen.setdefault(whose[name], (name, part))
                if where != part:
                    raise ValueError(
                        f"{path}: {other} is in {where} and {name} in {part}, but they hold the same images; make a "
                        "new split, which keeps them together"
                    )
