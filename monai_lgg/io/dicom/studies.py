"""Studies in a set of DICOM files, each as one record to predict: its FLAIR, and its T1 series where they are."""

import filecmp
import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from monai_lgg.io.dicom.damaged import Damaged, by_study, damaged, may_belong
from monai_lgg.io.dicom.geometry import OFF_PLACE, Stack, covered, stack
from monai_lgg.io.dicom.headers import Header, read_header
from monai_lgg.io.dicom.sequences import has_contrast, in_words, is_derived, is_flair, is_localizer, t1_role

_log = logging.getLogger(__name__)

#: A T1 series must show at least this share of FLAIR's volume.
LEAST_COVERED = 0.5
#: Cosine between the normals of two series of one plane.
SAME_PLANE = 0.9
#: Hexadecimal digits of a hash that names a study.
_DIGITS = 10


@dataclass
class Series:
    """The MR images of one SeriesInstanceUID, without localizers; ``notes`` say what was left out."""

    headers: list[Header]
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> Header:
        return self.headers[0]

    @property
    def images(self) -> int:
        return sum(len(header.frames) for header in self.headers)

    @cached_property
    def stack(self) -> Stack | ValueError:
        """The volume, or why there is none."""
        try:
            return stack(self.headers)
        except ValueError as error:
            return error

    @property
    def files(self) -> list[str]:
        """In the order of the slices."""
        if isinstance(self.stack, ValueError):
            return [header.path for header in self.headers]
        return list(dict.fromkeys(self.headers[file].path for file, _ in self.stack.order))

    def words(self, identify: bool) -> str:
        return in_words(self.first, self.images, identify)


def dicom_records(
    files: Iterable[str], *, flair_series: str | None = None, keep_identifiers: bool = False
) -> list[dict[str, Any]]:
    """One record a study, in the order of their names; a study that cannot be used has ``broken`` (the reason).

    Files without images (reports, DICOMDIR, segmentations) are passed over; several FLAIR series: the original one
    before one made of it, without contrast medium, axial, of most images, of the lowest number.

    A study is refused when a file that cannot be read may be a slice of its FLAIR: by what is left of the header, or
    (where nothing is) by lying in a folder with it. Of other unreadable files the facts give the number.

    Args:
        files: DICOM files of any number of patients, studies and series, in any order.
        flair_series: names FLAIR where it is not to be found by its parameters: a SeriesInstanceUID, a series number,
            or a part of the series description.
        keep_identifiers: names and messages may hold what identifies the patient.
    Returns:
        Records with ``image`` (files of FLAIR, or of pre-contrast, FLAIR and post-contrast in this order, FLAIR's again
        for a missing one), ``case``, ``dicom`` (JSON: files of FLAIR, and facts for the result) and, unless
        identifiers are kept, ``source`` (hashes of the series).
    """
    studies: dict[str, list[Header]] = defaultdict(list)
    lost: list[Damaged] = []
    for path in files:
        try:
            header = read_header(path)
        except ValueError as error:
            item = damaged(path)
            if item is not None:
                lost.append(item)
                _log.warning("%s: %s; passed over", path if keep_identifiers else "a file", error)
            continue
        if header.study:
            studies[header.study].append(header)
    unreadable = by_study(lost, [header for headers in studies.values() for header in headers])
    records = [
        _Study(headers, flair_series, keep_identifiers, unreadable.pop(study, [])).record()
        for study, headers in studies.items()
    ]
    records += [_lost_study(study, items, keep_identifiers) for study, items in unreadable.items()]
    return sorted(records, key=lambda record: str(record["case"]))


def _lost_study(uid: str, items: Sequence[Damaged], keep_identifiers: bool) -> dict[str, Any]:
    """A study of which no file can be read, but some still tell that they are of it."""
    reason = f"none of its {len(items)} file(s) can be read; export the study again"
    record = {"image": [items[0].path], "case": f"study-{_hash(uid)}", "broken": reason}
    return record if keep_identifiers else {**record, "source": []}


def study_name(header: Header, keep_identifiers: bool) -> str:
    """``study-`` and ten hexadecimal digits of the SHA-256 of the StudyInstanceUID.

    With identifiers: patient's id, date of the study, and the same digits.
    """
    digits = _hash(header.study)
    if not keep_identifiers:
        return f"study-{digits}"
    parts = [re.sub(r"[^\w.-]+", "-", part).strip(".-") for part in (header.patient, header.study_date)]
    return "_".join([part for part in parts if part] + [digits])


def _hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:_DIGITS]


@dataclass
class _Study:
    headers: list[Header]
    flair_series: str | None
    identify: bool
    unreadable: list[Damaged]

    def record(self) -> dict[str, Any]:
        case = study_name(self.headers[0], self.identify)
        try:
            self._check_patient()
            return self._record(case)
        except ValueError as error:
            return {"image": [self.headers[0].path], "case": case, "broken": str(error)} | self._hidden([])

    def _check_patient(self) -> None:
        patients = {header.patient for header in self.headers}
        if len(patients) > 1:
            raise ValueError(f"files of {len(patients)} patients (PatientID) in one study; export it again")

    def _check_whole(self, flair: Series) -> None:
        """A lost first or last slice leaves no gap, so a file that may be one is a reason to refuse the study."""
        mine = [item for item in self.unreadable if may_belong(item, flair.headers, self.headers)]
        if mine:
            raise ValueError(
                f"{len(mine)} file(s) that may belong to FLAIR cannot be read (damaged, or no permission), so slices "
                "may be missing; export the study again, or take away what is no FLAIR image"
            )

    def _record(self, case: str) -> dict[str, Any]:
        series = self._series()
        flair = self._flair(series)
        self._check_whole(flair)
        pre, post, notes = self._companions(series, flair)
        notes = [*flair.notes, *self._end_notes(flair), *_regular_notes(flair), *notes]
        for note in notes:
            _log.info("%s: %s", case, note)
        chosen = {"pre": pre, "flair": flair, "post": post}
        paths = flair.files
        if pre or post:
            paths = [*(pre or flair).files, *flair.files, *(post or flair).files]
        facts: dict[str, Any] = {name: self._facts(item) if item else None for name, item in chosen.items()}
        facts |= {"notes": notes, "unreadable_files": len(self.unreadable)}
        if self.identify:
            facts |= {"patient_id": flair.first.patient, "study_instance_uid": flair.first.study}
        used = [item for item in chosen.values() if item]
        return {
            "image": paths,
            "case": case,
            "dicom": json.dumps({"files": flair.files, "facts": facts, "identify": self.identify}),
        } | self._hidden(used)

    def _hidden(self, used: list[Series]) -> dict[str, Any]:
        """What a result says of its input in place of paths."""
        return {} if self.identify else {"source": [f"series {_hash(item.first.series)}" for item in used]}

    def _series(self) -> list[Series]:
        groups: dict[str, list[Header]] = defaultdict(list)
        for header in self.headers:
            if header.is_image and header.modality == "MR":
                groups[header.series].append(header)
        if not groups:
            kinds = ", ".join(sorted({header.modality or "unknown" for header in self.headers}))
            raise ValueError(f"no MR images in this study (modality {kinds}); give MR images with FLAIR")
        return [_usable(headers) for headers in groups.values()]

    def _flair(self, series: list[Series]) -> Series:
        found = [item for item in series if self._is_flair(item)]
        if not found:
            listed = "; ".join(item.words(self.identify) for item in sorted(series, key=_number))
            what = "no FLAIR" if self.flair_series is None else "no series of the name given by --flair-series"
            raise ValueError(
                f"{what} among the {len(series)} MR series: {listed}{self._lost()}; "
                "name it with --flair-series (number, UID or a part of the description)"
            )
        good = [item for item in found if isinstance(item.stack, Stack)]
        if not good:
            reasons = "; ".join(f"{item.words(self.identify)}: {item.stack}" for item in found)
            raise ValueError(f"FLAIR cannot be used: {reasons}{self._lost()}")
        best, *others = sorted(good, key=_flair_order)
        best.notes += [f"another FLAIR was not used: {item.words(self.identify)}" for item in others]
        for item in found:
            if item not in good:
                best.notes.append(f"a FLAIR cannot be used: {item.words(self.identify)}: {item.stack}")
        return best

    def _lost(self) -> str:
        return f" ({len(self.unreadable)} damaged files were passed over)" if self.unreadable else ""

    def _is_flair(self, series: Series) -> bool:
        first, name = series.first, self.flair_series
        if name is None:
            return is_flair(first)
        if name.isdigit():
            return first.series_number == int(name)
        return first.series == name or name.lower() in first.description.lower()

    def _companions(self, series: list[Series], flair: Series) -> tuple[Series | None, Series | None, list[str]]:
        chosen: dict[str, Series] = {}
        notes = []
        for item in sorted(series, key=lambda other: _t1_order(other, flair)):
            role = t1_role(item.first) if item is not flair else None
            if role is None:
                continue
            reason = _refused(item, flair)
            if reason:
                notes.append(f"a T1 series ({role}-contrast) cannot be used: {item.words(self.identify)}: {reason}")
            elif role not in chosen:
                chosen[role] = item
        return chosen.get("pre"), chosen.get("post"), notes

    def _end_notes(self, flair: Series) -> list[str]:
        """Slices that may be missing at an end, where the distances do not tell."""
        expected = flair.first.images_in_acquisition
        if expected and not flair.first.enhanced and flair.images < expected:
            return [f"FLAIR has {flair.images} images, but its header speaks of {expected}; slices may be missing"]
        return []

    def _facts(self, series: Series) -> dict[str, Any]:
        first = series.first
        found = series.stack
        facts: dict[str, Any] = {
            "series_number": first.series_number,
            "images": series.images,
            "plane": found.plane if isinstance(found, Stack) else None,
            "repetition_time_ms": first.repetition_time,
            "echo_time_ms": first.echo_time,
            "inversion_time_ms": first.inversion_time,
        }
        if self.identify:
            facts |= {"series_description": first.description, "series_instance_uid": first.series}
        return facts


def _regular_notes(flair: Series) -> list[str]:
    """Every second slice missing, say; distances alone do not tell, and some scanners state the gap in this field."""
    stated, stack = flair.first.slice_spacing, flair.stack
    if not stated or stated <= 0 or not isinstance(stack, Stack) or stack.shape[2] == 1:
        return []
    gap = float(np.linalg.norm(stack.affine[:3, 2]))
    times = round(gap / stated)
    if times < 2 or abs(gap / stated - times) > OFF_PLACE:
        return []
    return [f"slices are {gap:.2f} mm apart, {times} times what the header states; some may be missing in between"]


def _usable(headers: list[Header]) -> Series:
    """Without localizers among other images, and without second copies of a file."""
    notes = []
    kept = [header for header in headers if not is_localizer(header)]
    if kept and len(kept) < len(headers):
        notes.append(f"{len(headers) - len(kept)} localizer images in the series were left out")
    once: dict[str, Header] = {}
    for header in kept or headers:
        first = once.setdefault(header.sop_uid or header.path, header)
        if first is not header and not filecmp.cmp(first.path, header.path, shallow=False):
            once[header.path] = header  # two images that claim to be one: doubled slices
    copies = len(kept or headers) - len(once)
    if copies:
        notes.append(f"{copies} files were there twice")
    return Series(list(once.values()), notes)


def _number(series: Series) -> tuple[bool, int]:
    number = series.first.series_number
    return number is None, number or 0


def _flair_order(series: Series) -> tuple[Any, ...]:
    plane = series.stack.plane if isinstance(series.stack, Stack) else ""
    first = series.first
    return is_derived(first), has_contrast(first), plane != "axial", -series.images, *_number(series)


def _t1_order(series: Series, flair: Series) -> tuple[Any, ...]:
    return is_derived(series.first), not _same_plane(series, flair), -series.images, *_number(series)


def _same_plane(series: Series, flair: Series) -> bool:
    one, other = series.stack, flair.stack
    if isinstance(one, ValueError) or isinstance(other, ValueError):
        return False
    return bool(abs(one.normal @ other.normal) > SAME_PLANE)


def _refused(series: Series, flair: Series) -> str | None:
    """Why a series cannot stand beside FLAIR; None when it can."""
    one, other = series.stack, flair.stack
    if isinstance(one, ValueError):
        return str(one)
    if isinstance(other, ValueError):
        return str(other)
    if not series.first.frame_of_reference or series.first.frame_of_reference != flair.first.frame_of_reference:
        return "another frame of reference than FLAIR, so how the patient lay between them is unknown"
    share = covered(one.shape, one.affine, other.affine, other.shape)
    if share < LEAST_COVERED:
        return f"it covers {share:.0%} of FLAIR's volume only"
    return None


def sorted_stack(headers: Sequence[Header]) -> tuple[list[Header], Stack]:
    """Files in the order of their slices, and the volume. One multi-frame file stays one."""
    found = stack(headers)
    if len(headers) == 1:
        return list(headers), found
    return [headers[file] for file, _ in found.order], found
