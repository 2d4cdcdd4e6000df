"""Metrics with this project's policy on empty masks: undefined values are NaN and counted, never averaged silently."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_lgg.errors import UsageError


@dataclass(frozen=True)
class Metric:
    """One figure that every evaluation gives per patient.

    Args:
        name: its column in ``patients.csv`` and its key in the summary's ``per_patient``.
        title: for tables and plots.
        unit: empty for a plain number; ``distance`` and ``volume`` stand for the summary's ``distance_unit`` and
            ``volume_unit`` (:func:`unit_of`).
        higher_is_better: None where neither end is better (0 is).
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool | None


_ALL = (
    Metric("dice", "Dice", "", True),  # F1 of binary masks is the same number
    Metric("iou", "IoU", "", True),
    Metric("precision", "Precision", "", True),
    Metric("recall", "Recall", "", True),
    Metric("specificity", "Specificity", "", True),
    Metric("accuracy", "Pixel accuracy", "", True),
    Metric("roc_auc", "ROC-AUC", "", True),
    Metric("pr_auc", "PR-AUC", "", True),
    Metric("hd95", "HD95", "distance", False),
    Metric("surface_dice", "Surface Dice", "", True),
    Metric("volume_difference", "Volume difference", "volume", None),
    Metric("volume_error", "Relative volume error", "", False),
    Metric("lesion_sensitivity", "Lesion sensitivity", "", True),
    Metric("false_positive_lesions", "False-positive lesions", "", False),
    Metric("brier", "Brier score", "", False),
    Metric("ece", "Expected calibration error", "", False),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

#: Other names of the same numbers.
ALIASES = {
    "f1": "dice",
    "jaccard": "iou",
    "sensitivity": "recall",
    "ppv": "precision",
    "average_precision": "pr_auc",
    "nsd": "surface_dice",
}


def find_metric(name: str) -> Metric:
    """The metric of that name or alias.

    Raises:
        ValueError: there is none; the nearest name is suggested.
    """
    plain = name.lower().replace("-", "_")
    known = ALIASES.get(plain, plain)
    if known in METRICS:
        return METRICS[known]
    near = difflib.get_close_matches(plain, [*METRICS, *ALIASES], n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of: {', '.join(METRICS)}"
    raise UsageError(f"no metric {name!r}; {hint}")


def unit_of(metric: Metric, summary: Mapping[str, Any]) -> str:
    """The unit in words: px or mm, voxels or ml, as the summary of the evaluation says; empty for a plain number."""
    return str(summary[f"{metric.unit}_unit"]) if metric.unit else ""
