"""The ranked table of a comparison: figures per patient, paired tests between neighbours, and what to know with it."""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.io.atomic import atomic_text
from monai_lgg.metrics import Metric, find_metric, unit_of
from monai_lgg.metrics.summary import CONVENTIONS, describe
from monai_lgg.report.comparison_report import write_comparison_report
from monai_lgg.report.tables import Column, Table, write_table
from monai_lgg.results import Results, without_nan
from monai_lgg.statistics import paired_test

#: Metrics beside the one that ranks.
SHOWN = ("dice", "iou", "precision", "recall", "hd95", "surface_dice")
#: Columns that a terminal, and a page of paper, have no room for.
NOT_ON_TERMINAL = (*SHOWN, "convention", "training_seconds")
NOT_PRINTED = ("precision", "recall", "slice_dice", "convention", "epochs", "training_seconds")
TEST_NOTE = (
    "The unit of all intervals and tests is the patient, not the slice. Each row is compared with the next one: "
    "difference of the means with its 95 % paired bootstrap interval, and the two-sided Wilcoxon signed-rank test; "
    "p values are not corrected for the number of rows."
)
CONVENTION_NOTE = (
    "Slice Dice is in the convention that the recipe's authors use or, where they do not state it, probably used (the "
    "model cards say which), blank for others; conventions differ from row to row, so this column does not rank."
)


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Args:
        rows: of :func:`rank`, with facts about each run.
        failed: name of each bundle that could not be trained or evaluated -> its error.
        settings: what all rows share, as stored.
        results: name of a row -> what it was made from.
    """

    metric: Metric
    rows: list[dict[str, Any]]
    notes: list[str]
    failed: dict[str, str]
    settings: dict[str, Any]
    results: dict[str, Results]

    def table(self, without: Collection[str] = ()) -> Table:
        """The table for people; ``rows`` hold more.

        Args:
            without: keys of columns to leave out, as :data:`NOT_ON_TERMINAL` and :data:`NOT_PRINTED`.
        """
        unit = self.rows[0]["distance_unit"] if self.rows else "px"
        columns = [
            Column("rank", "#"),
            Column("name", "Bundle"),
            _column("mean", self.metric, unit),
            Column("mean_ci95", "95 % CI", _digits(self.metric)),
            Column("median", "Median", _digits(self.metric)),
            Column("difference", "Difference to next", _digits(self.metric)),
            Column("difference_ci95", "95 % CI", _digits(self.metric)),
            Column("p_value", "Wilcoxon p", 4, positive=True),
            *(_column(name, find_metric(name), unit) for name in SHOWN if name != self.metric.name),
            Column("slice_dice", "Slice Dice"),
            Column("convention", "in the convention"),
            Column("parameters", "Parameters"),
            Column("epochs", "Epochs"),
            Column("training_seconds", "Training (s)", 0),
        ]
        rows = [{**row, "convention": CONVENTIONS.get(row["convention"])} for row in self.rows]
        shown = [column for column in columns if column.key not in without]
        return Table(f"Ranked by {self.metric.title} per patient", shown, rows, self.notes)

    def to_dict(self) -> dict[str, Any]:
        content = {"rank_by": self.metric.name, "rows": self.rows, "notes": self.notes, "failed": self.failed}
        return dict(without_nan({**content, "settings": self.settings}))

    def write(self, folder: Path) -> None:
        """``comparison.csv``, ``.md``, ``.tex``, ``.html`` and ``.json``."""
        table = self.table()
        write_table(table, folder, "comparison", printed=self.table(NOT_PRINTED))
        ranked = {row["name"]: self.results[row["name"]] for row in self.rows}
        write_comparison_report(folder / "comparison.html", table, self.metric, ranked)
        atomic_text(folder / "comparison.json", json.dumps(self.to_dict(), indent=1) + "\n")


def _digits(metric: Metric) -> int:
    if metric.name in ("brier", "ece"):  # over all voxels, most of them background
        return 5
    return 1 if metric.unit else 3


def _column(key: str, metric: Metric, distance: str) -> Column:
    unit = unit_of(metric, {"distance_unit": distance, "volume_unit": "ml" if distance == "mm" else "voxels"})
    return Column(key, metric.title + (f" ({unit})" if unit else ""), _digits(metric))


def rank(results: Mapping[str, Results], metric: Metric) -> list[dict[str, Any]]:
    """Rows from best to worst by the mean over patients, each compared with the next by paired tests.

    An infinite distance (one of the two masks is empty) is in no mean and worse than any finite one: rows with fewer
    of them come first.

    Returns:
        Rows with ``rank``, ``name``, ``mean``, ``mean_ci95``, ``median`` and ``undefined`` of the metric, the means of
        :data:`SHOWN`, ``missed`` (patients whose HD95 is infinite), and against the next row (None in the last one)
        ``difference``, ``difference_ci95``, ``p_value``, ``test_patients`` and ``test_note``.
    """
    values = {name: {row["patient"]: row[metric.name] for row in of.patients} for name, of in results.items()}
    described = {name: describe(np.array(list(of.values()), dtype=float)) for name, of in values.items()}

    def worse(name: str) -> tuple[bool, int, float]:
        of = described[name]
        mean = of["mean"] if of["defined"] else 0.0
        return of["defined"] + of["infinite"] == 0, of["infinite"], -mean if metric.higher_is_better else mean

    rows = []
    order = sorted(described, key=worse)
    for place, (name, following) in enumerate(itertools.zip_longest(order, order[1:]), start=1):
        kept = {key: described[name][key] for key in ("mean", "mean_ci95", "median", "undefined")}
        test = _against(values[name], values.get(following))
        rows.append({"rank": place, "name": name, **kept, **_means(results[name]), **test})
    return rows


def _means(results: Results) -> dict[str, Any]:
    columns = {name: np.array([row[name] for row in results.patients], dtype=float) for name in SHOWN}
    described = {name: describe(column, interval=False) for name, column in columns.items()}
    return {**{name: of["mean"] for name, of in described.items()}, "missed": described["hd95"]["infinite"]}


def _against(own: Mapping[str, float], following: Mapping[str, float] | None) -> dict[str, Any]:
    keys = ("difference", "difference_ci95", "p_value", "test_patients", "test_note")
    if following is None:
        return dict.fromkeys(keys)
    test = paired_test(own, following)
    return dict(zip(keys, (test.difference, test.interval, test.p_value, test.patients, test.note), strict=True))


def notes(
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, Results],
    failed: Mapping[str, str],
    settings: Mapping[str, Any],
) -> list[str]:
    """What to know with the table: leaks first, then baselines, budget, tests, and what failed."""
    lost = [f"{name} FAILED and is not ranked: {error}" for name, error in failed.items()]
    if not results:
        return lost
    summary = next(iter(results.values())).summary
    empty = summary["always_empty"]["slice_dice"]["slices_empty_is_1"]
    budget = settings.get("budget")
    return [
        *_warnings(results),
        f"Figures are means over {summary['patients']} test patients ({summary['slices']} slices, split by "
        f"{summary['split_level']}). A prediction that is always empty has a slice Dice of {empty:.3f} where empty and "
        "rightly empty counts 1.",
        *([f"Budget of each bundle: {budget}. Its recipe is unchanged but for what is named here."] if budget else []),
        *([TEST_NOTE] if len(rows) > 1 else []),
        CONVENTION_NOTE,
        *(note for row, following in itertools.pairwise(rows) for note in _test_notes(row, following)),
        *_change_notes(rows),
        *(note for row in rows for note in _row_notes(row)),
        *lost,
    ]


def _warnings(results: Mapping[str, Results]) -> list[str]:
    """What the evaluations warn of (a leaking split, patients seen in training); once when all say the same."""
    texts = {name: of.summary.get("warning") for name, of in results.items()}
    said = set(texts.values())
    if len(said) == 1 and None not in said:
        return [f"WARNING: {said.pop()}"]
    return [f"WARNING, {name}: {text}" for name, text in texts.items() if text]


def _test_notes(row: Mapping[str, Any], following: Mapping[str, Any]) -> list[str]:
    return [f"{row['name']} and {following['name']}: {row['test_note']}."] if row["test_note"] else []


def _change_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was set in the trainings, one note for all that have the same."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row["changed"]:
            names.setdefault(", ".join(f"{key} {of}" for key, of in row["changed"].items()), []).append(row["name"])
    return [
        f"{'All' if len(of) == len(rows) > 1 else ', '.join(of)}: trained with {text}." for text, of in names.items()
    ]


def _row_notes(row: Mapping[str, Any]) -> list[str]:
    found = []
    if row["missed"]:
        found.append(
            f"{row['name']}: {row['missed']} patient(s) where either the true or the predicted mask is empty; their "
            "HD95 is infinite and in no mean and no test."
        )
    if row["undefined"]:
        found.append(f"{row['name']}: {row['undefined']} patient(s) without a value, which are in no mean and no test.")
    if row["epochs"] and row["epochs"] < row["max_epochs"] and not row["stopped_early"]:
        found.append(f"{row['name']}: unfinished, {row['epochs']} of {row['max_epochs']} epochs trained.")
    if row["pretrained"] is False and "pretrained_weights" not in row["changed"]:
        found.append(
            f"{row['name']}: began from random weights, because the pretrained ones of its recipe could not be had; "
            "the log of its training says why."
        )
    return found
