"""The page about a run: protocol, baselines, figures, cases, curves, network, settings."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_lgg.cases import data_root, read_patients
from monai_lgg.environment import environment
from monai_lgg.experiments import training_progress
from monai_lgg.metrics import METRICS, unit_of
from monai_lgg.metrics.summary import CONVENTIONS
from monai_lgg.report import charts, curves, examples
from monai_lgg.report.architecture import draw, network_of
from monai_lgg.report.page import Cell, Picture, cell, chart, checked_output, is_undefined, save_page
from monai_lgg.report.settings import overrides_of, settings_of
from monai_lgg.results import Results, read_results
from monai_lgg.splits import PARTS, Split, read_split

_log = logging.getLogger(__name__)

#: Key of ``slice_dice`` -> key of the split's ``leakage`` with the score of copying the nearest training mask.
COPIES = {
    "slices_empty_is_1": "copy_nearest_slice_dice",
    "tumour_slices_only": "copy_nearest_tumour_slice_dice",
    "pooled": "copy_nearest_pooled_dice",
}
#: Of results that do not say: pooled ones, and those of an earlier version.
_DEFAULTS = {"part": "pooled", "distance_unit": "px", "volume_unit": "voxels"}
_PARTS = {"train": "training"}
SEQUENCES = {"": "none", "pre": "pre-contrast", "post": "post-contrast", "pre+post": "pre- and post-contrast"}
_EVALUATION = ("part", "fold", "settings", "model_file", "dataset_dir", "split_file", "fingerprint")
#: Columns of the table of patients that are not in METRICS -> heading.
_MORE_COLUMNS = {
    "slices": "Slices",
    "volume_truth": "True volume",
    "volume_prediction": "Predicted volume",
    "lesions": "Lesions",
    "lesions_found": "Lesions found",
    "f1": "F1",
}
_PATIENT_COLUMNS = (
    "slices", "dice", "iou", "precision", "recall", "hd95", "surface_dice", "volume_truth", "volume_prediction",
    "volume_difference", "lesions", "lesions_found", "false_positive_lesions",
)  # fmt: skip


def write_report(run: str | Path, output: Path | None = None, data: Path | None = None, part: str = "test") -> Path:
    """Write the page about ``run``.

    Args:
        run: a trained run with an evaluation, or a results folder itself (then without curves, network and settings).
        output: default ``report.html`` beside the results.
        data: the images and true masks; None takes the folder that the evaluation used, if it is still there.
        part: whose results.
    Returns:
        The path of the page.
    Raises:
        FileNotFoundError: no results; ``data`` does not exist; a predicted mask is missing.
        ValueError: the data lacks a patient or a slice of the results; a mask is not of its image's size.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give a run of monai-lgg train that was evaluated")
    own = (folder / "summary.json").is_file()
    results = read_results(folder if own else folder / "eval" / part)
    target = checked_output(output or results.folder / "report.html")
    return save_page(target, "run.html.j2", **gather(results, None if own else folder, data))


def gather(results: Results, run: Path | None, data: Path | None) -> dict[str, Any]:
    """All that the template shows."""
    summary = {**_DEFAULTS, **results.summary}
    results = replace(results, summary=summary)
    cases, no_cases = _cases(results, data)
    training = {} if run is None else training_progress(run)
    network, no_network = _try(lambda: None if run is None else network_of(run), "this is no run")
    return {
        "title": f"{_name(run or results.folder)}: results on {_PARTS.get(summary['part'], summary['part'])} patients",
        "summary": summary,
        "protocol": _protocol(summary, run),
        "conventions": _conventions(summary),
        "metrics": _metric_rows(summary, "per_patient"),
        "slice_metrics": _metric_rows(summary, "per_slice"),
        "pooled": [
            (_title(name, summary), cell(value, _digits(name, summary)))
            for name, value in summary.get("pooled", {}).items()
        ],
        "detection": summary["detection"],
        "institutions": summary.get("by_institution") or {},
        "sequences": {
            SEQUENCES.get("" if code == "none" else code, code): values
            for code, values in (summary.get("by_missing_sequences") or {}).items()
        },
        "volumes": summary.get("by_tumour_volume") or {},
        "group_charts": _group_charts(results),
        "heads": _patient_heads(results),
        "patients": _patient_rows(results),
        "curves": _curves(run),
        "cases": cases,
        "no_cases": no_cases,
        "missed": len(examples.missed_tumours(results.patients)),
        "missed_dice": examples.MISSED_DICE,
        "probabilities": _probability_charts(results),
        "network": network,
        "diagram": None if network is None else draw(network.stages),
        "no_network": no_network,
        "pretrained": training.get("pretrained"),
        "environments": training.get("environments", []),
        "environment": environment(),
        "overrides": {} if run is None else overrides_of(run),
        "settings": {} if run is None else settings_of(run),
        "evaluation": {name: summary[name] for name in _EVALUATION if summary.get(name) is not None},
    }


def _name(folder: Path) -> str:
    """The bundle's own name from its metadata, else the folder's."""
    file = folder / "configs" / "metadata.json"
    return json.loads(file.read_text())["name"] if file.is_file() else folder.resolve().name


def _try(make: Callable[[], Any], otherwise: str) -> tuple[Any, str]:
    """A part that the page can do without, or why it is not there."""
    try:
        made = make()
    except Exception as error:  # a configuration is code: anything can happen while it is built
        _log.warning("the page goes without the network: %s", error)
        return None, f"{type(error).__name__}: {error}"
    return made, otherwise if made is None else ""


def _protocol(summary: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """How patients or slices were divided: level, seed, and a row a part."""
    split = _split(summary, run)
    parts = [] if split is None else _part_rows(split, int(summary.get("fold") or 0))
    return {
        "level": summary.get("split_level", "none"),
        "seed": summary.get("split_seed"),
        "parts": parts,
        "folds": 1 if split is None else len(split.folds),
        "fold": int(summary.get("fold") or 0),
        "leakage": summary.get("leakage"),
        "warning": summary.get("warning"),
    }


def _split(summary: Mapping[str, Any], run: Path | None) -> Split | None:
    """The split that was used, from where the evaluation had it or from the run; None when it is nowhere any more."""
    used = summary.get("split_file")
    files = ([Path(used)] if used else []) + ([run / "eval" / "split.json"] if run is not None else [])
    facts = tuple(summary.get(name) for name in ("split_level", "split_seed", "fingerprint"))
    for file in (file for file in files if file.is_file()):
        split = read_split(file)
        if (split.level, split.seed, split.fingerprint) == facts and _has_part(split, summary):
            return split
    return None


def _has_part(split: Split, summary: Mapping[str, Any]) -> bool:
    """The evaluated part is one of the split and has as many patients."""
    fold = int(summary.get("fold") or 0)
    part = summary.get("part")
    return part in PARTS and fold < len(split.folds) and len(split.part(part, fold)) == summary["patients"]


def _part_rows(split: Split, fold: int) -> list[dict[str, Any]]:
    rows = []
    for part in PARTS:
        members = split.part(part, fold)
        rows.append({"part": part, "patients": len(members), "slices": sum(map(len, members.values()))})
    return rows


def _conventions(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    leakage = summary.get("leakage") or {}
    return [
        {
            "name": CONVENTIONS.get(key, key),
            "model": value,
            "empty": summary["always_empty"]["slice_dice"].get(key),
            "neighbour": leakage.get(COPIES.get(key, "")),
        }
        for key, value in summary["slice_dice"].items()
    ]


def _metric_rows(summary: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [
        {"title": _title(name, summary), "better": _better(name), "digits": _digits(name, summary), **values}
        for name, values in (summary.get(key) or {}).items()
    ]


def _title(name: str, summary: Mapping[str, Any]) -> str:
    if name in METRICS:
        title, unit = METRICS[name].title, unit_of(METRICS[name], summary)
    else:
        title = _MORE_COLUMNS.get(name) or name.replace("_", " ").capitalize()
        unit = summary["volume_unit"] if name.startswith("volume") else ""
    return f"{title} ({unit})" if unit else title


def _better(name: str) -> str:
    if name not in METRICS:
        return ""
    return {True: "higher", False: "lower", None: "nearer 0"}[METRICS[name].higher_is_better]


def _digits(name: str, summary: Mapping[str, Any]) -> int:
    """Decimals of a value of this name; means of counts have some."""
    if name in ("brier", "ece"):
        return 5
    if name in ("slices", "lesions", "lesions_found"):
        return 0
    unit = METRICS[name].unit if name in METRICS else "volume" if name.startswith("volume") else ""
    if unit == "volume":
        return 0 if summary["volume_unit"] == "voxels" else 1
    return 1 if unit == "distance" else 3


def _group_charts(results: Results) -> list[Picture]:
    pictures = []
    for column, title in (("institution", "institution"), ("missing_sequences", "missing sequences")):
        if column not in (results.patients[0] if results.patients else {}):
            continue
        groups: dict[str, list[float]] = {}
        for row in sorted(results.patients, key=lambda row: row[column]):
            name = SEQUENCES.get(row[column], row[column]) if column == "missing_sequences" else row[column]
            groups.setdefault(name, []).append(row["dice"])
        figure = charts.group_chart(groups, f"By {title}")
        alt = f"Dice of each patient and the mean of each group, by {title}; the table beside it has the figures"
        pictures.append(chart(figure, alt, f"A dot is a patient, the orange line the mean; by {title}."))
    return pictures


def _shown_columns(results: Results) -> list[str]:
    return [name for name in _PATIENT_COLUMNS if results.patients and name in results.patients[0]]


def _patient_heads(results: Results) -> list[str]:
    more = ["Missing sequences"] * ("missing_sequences" in (results.patients[0] if results.patients else {}))
    heads = [_title(name, results.summary) for name in _shown_columns(results)]
    return ["Patient", "Institution", *more, *heads]


def _patient_rows(results: Results) -> list[list[Cell]]:
    rows = []
    for row in results.patients:
        cells = [cell(row["patient"]), cell(row["institution"])]
        if "missing_sequences" in row:
            cells.append(cell(SEQUENCES.get(row["missing_sequences"], row["missing_sequences"])))
        for name in _shown_columns(results):
            whole = name == "false_positive_lesions"
            cells.append(cell(row[name], 0 if whole else _digits(name, results.summary)))
        rows.append(cells)
    return rows


def _curves(run: Path | None) -> list[Picture]:
    if run is None:
        return []
    try:
        found = curves.read_curves(run)
    except FileNotFoundError as error:
        _log.warning("the page goes without curves: %s", error)
        return []
    pictures = []
    for title, tags in curves.PANELS.items():
        lines = {name: found[tag] for tag, name in tags.items() if found.get(tag)}
        if not lines:
            continue
        figure, axes = charts.new_chart()
        curves.draw_panel(axes, title, found)
        last = "; ".join(f"{name} {points[-1][1]:.4g} in epoch {points[-1][0]}" for name, points in lines.items())
        pictures.append(chart(figure, f"{title} by epoch; last: {last}"))
    return pictures


def _probability_charts(results: Results) -> list[Picture]:
    summary = results.summary
    pooled: Mapping[str, Any] = summary.get("pooled") or {}
    pictures = []
    if any(summary.get("reliability", {}).get("count", [])):
        ece = _said(pooled.get("ece"))
        alt = f"Reliability diagram: observed share of tumour against predicted probability; calibration error {ece}"
        caption = "On the dotted line, of the pixels predicted with 0.7, 70 % are tumour. Below: how many pixels."
        pictures.append(chart(charts.reliability_chart(summary["reliability"]), alt, caption))
    if pooled.get("roc_auc") is not None:
        area = pooled.get("roc_auc")
        alt = f"ROC curve of all pixels, area {_said(area)}"
        caption = "Most pixels are plain background, so this area is high for any model that finds something."
        pictures.append(chart(charts.roc_chart(summary["roc"], area), alt, caption))
    if pooled.get("pr_auc") is not None:
        area, prevalence = pooled.get("pr_auc"), _prevalence(results.patients)
        alt = f"Precision-recall curve of all pixels, area {_said(area)}; chance {_said(prevalence)}"
        caption = "The dotted line is chance: the share of tumour in all pixels."
        pictures.append(chart(charts.pr_chart(summary["pr"], area, prevalence), alt, caption))
    return pictures


def _said(value: float | None) -> str:
    return "undefined" if value is None or is_undefined(value) else f"{value:.3f}"


def _prevalence(patients: Sequence[Mapping[str, Any]]) -> float | None:
    pixels = sum(row[name] for row in patients for name in ("tp", "fp", "fn", "tn"))
    return sum(row["tp"] + row["fn"] for row in patients) / pixels if pixels else None


def _cases(results: Results, data: Path | None) -> tuple[list[examples.Case], str]:
    """The cases shown, or none and why not."""
    used = results.summary.get("dataset_dir")
    folder = data or (Path(used) if used else None)
    if folder is None or (data is None and not folder.is_dir()):
        return [], f"The images are not at hand ({folder or 'the results name no folder'}); give it with --data."
    root = data_root(folder)
    if not (results.folder / "masks").is_dir():
        return [], "These results hold no predicted masks; run monai-lgg evaluate again to have them written."
    by_name = {row["patient"]: row for row in results.patients}
    patients = read_patients(root, by_name)
    contrasts = {patient.name: examples.tumour_contrast(patient) for patient in patients}
    slices: dict[str, list[Mapping[str, Any]]] = {}
    for row in results.slices:
        slices.setdefault(row["patient"], []).append(row)
    chosen = examples.choose_cases(results.patients, contrasts)
    if not chosen:
        return [], "No patient has a tumour or a prediction."
    lost = [name for name in chosen if name not in slices]
    if lost:
        raise ValueError(f"{results.folder}: slices.csv has no slices of {lost[0]}; run 'monai-lgg evaluate' again")
    return [
        examples.show_case(root, results.folder, by_name[name], slices[name], roles, contrasts[name])
        for name, roles in chosen.items()
    ], ""
