"""The page of a comparison: who is better, on which patients, and by how much it could be chance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup  # comes with jinja2

from monai_lgg.metrics import Metric
from monai_lgg.report import charts
from monai_lgg.report.page import Cell, Picture, cell, chart, save_page
from monai_lgg.report.tables import Table, html_table
from monai_lgg.results import Results


def write_comparison_report(path: Path, table: Table, metric: Metric, results: Mapping[str, Results]) -> Path:
    """Write the page.

    Args:
        table: the ranked one, with its notes.
        metric: that ranks.
        results: bundle -> results, from best to worst.
    """
    decided = metric.title if not metric.unit else f"{metric.title} ({metric.unit})"
    return save_page(
        path,
        "comparison.html.j2",
        title=table.title,
        ranking=Markup(html_table(table)),  # escaped there
        notes=table.notes,
        metric=decided,
        names=list(results),
        picture=_picture(metric, results),
        patients=_patients(metric, results),
        institutions=_institutions(metric, results),
    )


def _picture(metric: Metric, results: Mapping[str, Results]) -> Picture | None:
    """Every patient's value by bundle; only of what is from 0 to 1."""
    values = [float(row[metric.name]) for of in results.values() for row in of.patients]
    if not all(0 <= value <= 1 for value in values if not np.isnan(value)) or not values or metric.unit:
        return None
    groups = {name: [row[metric.name] for row in of.patients] for name, of in results.items()}
    figure = charts.group_chart(groups, f"{metric.title} of each patient", f"{metric.title} per patient")
    alt = f"{metric.title} of each patient and the mean of each bundle; the table below has the figures"
    return chart(figure, alt, "A dot is a patient, the orange line the mean.")


def _values(metric: Metric, of: Results) -> dict[str, float]:
    return {row["patient"]: float(row[metric.name]) for row in of.patients}


def _patients(metric: Metric, results: Mapping[str, Results]) -> list[list[Cell]]:
    """A row a patient: institution, the value by each bundle, and how far apart the best and the worst are."""
    values = [_values(metric, of) for of in results.values()]
    places = {row["patient"]: row["institution"] for of in results.values() for row in of.patients}
    rows = []
    for name, place in places.items():
        found = [own.get(name, np.nan) for own in values]
        finite = [value for value in found if np.isfinite(value)]
        spread = max(finite) - min(finite) if finite else np.nan
        rows.append([cell(name), cell(place), *(cell(value) for value in [*found, spread])])
    return rows


def _institutions(metric: Metric, results: Mapping[str, Results]) -> list[list[Cell]]:
    """A row an institution: patients, and the mean of the finite values by each bundle."""
    members: dict[str, dict[str, None]] = {}
    for of in results.values():
        for row in of.patients:
            members.setdefault(row["institution"], {})[row["patient"]] = None
    return [
        [cell(place), cell(len(names)), *(cell(_mean(_values(metric, of), list(names))) for of in results.values())]
        for place, names in sorted(members.items())
    ]


def _mean(values: Mapping[str, float], names: Sequence[str]) -> Any:
    finite = [values[name] for name in names if np.isfinite(values.get(name, np.nan))]
    return float(np.mean(finite)) if finite else None
