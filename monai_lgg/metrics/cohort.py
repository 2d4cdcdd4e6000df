"""Cases -> the summary of an evaluation: per patient, per slice, pooled, and by group."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_lgg.metrics import METRICS
from monai_lgg.metrics.calibration import reliability
from monai_lgg.metrics.case import CaseMeasures, patient_row, probability_figures, slice_rows, volumes
from monai_lgg.metrics.lesions import lesion_sensitivity
from monai_lgg.metrics.overlap import OVERLAP
from monai_lgg.metrics.ranking import auc_error, pr_curve, roc_curve
from monai_lgg.metrics.summary import describe, summarise

#: Counted figures whose sum over the patients is pooled.
_ADDED = ("lesions", "lesions_found", "false_positive_lesions")


def summarise_cohort(cases: Sequence[CaseMeasures]) -> dict[str, Any]:
    """All figures of one evaluation, those of :func:`monai_lgg.metrics.summary.summarise` included.

    ``per_slice`` has no interval of its mean: slices of one patient are not independent, so one over slices would say
    too much. ``pooled`` is over all pixels of all patients; distances cannot be pooled. What needs probabilities is
    undefined unless every case has them.

    Raises:
        ValueError: no cases, two of one name, or cases in different units.
    """
    check_cohort(cases)
    rows = [patient_row(case) for case in cases]
    slices = [row for case in cases for row in slice_rows(case)]
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in METRICS}
    histogram, calibration = _total(cases, "histogram"), _total(cases, "calibration")
    none = np.zeros((2, 1))
    return {
        **summarise({case.name: case.counts for case in cases}),
        "per_patient": {name: describe(values) for name, values in columns.items()},
        "per_slice": {
            name: describe(np.array([row[name] for row in slices], dtype=np.float64), interval=False)
            for name in METRICS
            if name in slices[0]
        },
        "pooled": _pooled(cases, histogram, calibration),
        "by_institution": _dice_by(rows, "institution"),
        "by_missing_sequences": _dice_by(rows, "missing_sequences"),
        "by_tumour_volume": dice_by_volume(rows, units(cases[0])["volume_unit"]),
        "reliability": reliability(np.zeros((10, 4)) if calibration is None else calibration),
        "roc": roc_curve(none if histogram is None else histogram),
        "pr": pr_curve(none if histogram is None else histogram),
        "roc_auc_error": math.nan if histogram is None else float(auc_error(histogram)),
        **units(cases[0]),
        "surface_tolerance": cases[0].tolerance,
        "undefined": {name: int(np.isnan(values).sum()) for name, values in columns.items()},
    }


def units(case: CaseMeasures) -> dict[str, str]:
    known = case.voxel_ml is not None
    return {"distance_unit": "mm" if known else "px", "volume_unit": "ml" if known else "voxels"}


def check_cohort(cases: Sequence[CaseMeasures]) -> None:
    """Refuse cases that cannot be summarised together."""
    if not cases:
        raise ValueError("no patients to summarise; the part of the split is empty")
    names: set[str] = set()
    for case in cases:
        if case.name in names:
            raise ValueError(f"patient {case.name} is there twice; each may be counted once")
        names.add(case.name)
        check_comparable(cases[0], case)


def check_comparable(first: CaseMeasures, case: CaseMeasures) -> None:
    """Refuse a case in other units, or with another tolerance, than the first."""
    if units(case) != units(first):
        raise ValueError(
            f"{case.name}: distances in {units(case)['distance_unit']}, but {first.name} in "
            f"{units(first)['distance_unit']}; evaluate cases with and without known spacing apart"
        )
    if case.tolerance != first.tolerance:
        raise ValueError(
            f"{case.name}: surface Dice at a tolerance of {case.tolerance}, but {first.name} at {first.tolerance}; "
            "evaluate both with one"
        )


def _total(cases: Sequence[CaseMeasures], name: str) -> np.ndarray | None:
    parts = [getattr(case, name) for case in cases]
    return None if any(part is None for part in parts) else np.sum(parts, axis=0)


def _pooled(
    cases: Sequence[CaseMeasures], histogram: np.ndarray | None, calibration: np.ndarray | None
) -> dict[str, float]:
    counts = np.sum([case.counts.sum(axis=0) for case in cases], axis=0)
    overlap = {name: float(of(counts)) for name, of in OVERLAP.items()}
    volume = [volumes(case.counts.sum(axis=0), case.voxel_ml) for case in cases]
    added = {name: int(sum(case.figures[name] for case in cases)) for name in _ADDED}
    return {
        **overlap,
        "f1": overlap["dice"],
        **probability_figures(histogram, calibration),
        **{name: math.fsum(float(of[name]) for of in volume) for name in volume[0]},
        **added,
        "lesion_sensitivity": lesion_sensitivity(added["lesions"], added["lesions_found"]),
    }


def _dice_by(rows: Sequence[dict[str, Any]], column: str) -> dict[str, Any]:
    """The per-patient Dice of each group; ``none`` stands for an empty name."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row[column] or "none", []).append(row["dice"])
    return {name: describe(np.array(groups[name])) for name in sorted(groups)}


def dice_by_volume(rows: Sequence[dict[str, Any]], unit: str) -> dict[str, Any]:
    """The per-patient Dice of the third of the patients with the smallest tumours, the middle third and the largest.

    Patients without tumour belong to none. Fewer than three with one are no thirds: empty.

    Args:
        rows: of patients, with ``dice`` and ``volume_truth``.
        unit: of the volume; the names of the groups say their range in it.
    """
    tumours = sorted((float(row["volume_truth"]), row["dice"]) for row in rows if row["volume_truth"] > 0)
    if len(tumours) < 3:
        return {}
    found = {}
    for name, part in zip(("smallest", "middle", "largest"), np.array_split(np.array(tumours), 3), strict=True):
        low, high = (_round_volume(value, unit) for value in (part[0, 0], part[-1, 0]))
        found[f"{name} third: {low} to {high} {unit}"] = describe(part[:, 1])
    return found


def _round_volume(value: float, unit: str) -> str:
    return f"{value:,.1f}" if unit == "ml" else f"{value:,.0f}"
