"""Charts of the pages, in colours that colour-blind readers tell apart. Each is legible at the width of a phone."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito, Color Universal Design, 2008; without its yellow, which is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
#: Inches. On a phone the text is 0.85 of its size here.
WIDTH, HEIGHT = 4.2, 3.1


def new_chart(height: float = HEIGHT) -> tuple["Figure", "Axes"]:
    from cycler import cycler
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(cycler(color=COLOURS))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def group_chart(groups: Mapping[str, Sequence[float]], title: str, label: str = "Dice per patient") -> "Figure":
    """A row a group, with values from 0 to 1: a dot a patient, and the mean as a line. NaN is left out."""
    figure, axes = new_chart(0.9 + 0.42 * len(groups))
    rng = np.random.default_rng(0)
    for row, values in enumerate(groups.values()):
        defined = np.array([value for value in values if not math.isnan(value)])
        heights = row + rng.uniform(-0.18, 0.18, len(defined))
        axes.plot(defined, heights, "o", color=COLOURS[0], alpha=0.55, markersize=5, markeredgewidth=0)
        if len(defined):
            axes.plot([defined.mean()] * 2, [row - 0.32, row + 0.32], color=COLOURS[1], linewidth=2.5)
    axes.set_yticks(range(len(groups)), [f"{name} ({len(values)})" for name, values in groups.items()])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure


def reliability_chart(reliability: Mapping[str, Any]) -> "Figure":
    """Observed share of tumour against predicted probability, and below it how many pixels have it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    points = [
        (predicted, observed)
        for predicted, observed in zip(reliability["mean_probability"], reliability["observed"], strict=True)
        if predicted is not None and observed is not None
    ]
    upper.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="perfect")
    upper.plot(*zip(*points, strict=True), marker="o", color=COLOURS[0], label="model") if points else None
    upper.set_ylabel("observed share of tumour")
    upper.set_ylim(-0.03, 1.03)
    upper.set_title("Reliability", fontsize=10)
    upper.legend(frameon=False)
    upper.grid(alpha=0.3)
    edges = np.asarray(reliability["edges"], float)
    lower.bar(edges[:-1], reliability["count"], np.diff(edges), align="edge", color=COLOURS[0], edgecolor="white")
    if max(reliability["count"], default=0) > 0:
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.5)
    lower.set_ylabel("pixels")
    lower.set_xlabel("predicted probability")
    lower.set_xlim(-0.03, 1.03)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def roc_chart(roc: Mapping[str, Any], area: float | None) -> "Figure":
    figure, axes = new_chart()
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="chance")
    axes.plot(*_known(roc["fpr"], roc["tpr"]), color=COLOURS[0], label=_with_area("model", area))
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("sensitivity")
    axes.set_title("ROC, all pixels pooled", fontsize=10)
    return _unit_square(figure, axes)


def pr_chart(pr: Mapping[str, Any], area: float | None, prevalence: float | None) -> "Figure":
    """Precision against recall; ``prevalence`` is the precision of chance."""
    figure, axes = new_chart()
    if prevalence is not None:
        axes.axhline(prevalence, color="0.5", linestyle=":", label=f"chance ({prevalence:.3f})")
    axes.plot(*_known(pr["recall"], pr["precision"]), color=COLOURS[0], label=_with_area("model", area))
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision")
    axes.set_title("Precision and recall, all pixels pooled", fontsize=10)
    return _unit_square(figure, axes)


def line_chart(x: np.ndarray, lines: Mapping[str, np.ndarray], title: str, x_label: str, y_label: str) -> "Figure":
    """One line a name; lines differ by colour and by style."""
    figure, axes = new_chart()
    for (name, y), colour, style in zip(lines.items(), cycle(COLOURS), cycle(LINES), strict=False):
        axes.plot(x, y, color=colour, linestyle=style, label=name)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(frameon=False, fontsize=8)
    return figure


def bar_chart(values: Sequence[float], title: str, x_label: str, bins: Any, log: bool = False) -> "Figure":
    """A histogram of patients, with the median marked and named in the title, where it cannot hide a bar."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    figure, axes = new_chart()
    axes.hist(values, bins=bins, color=COLOURS[4], edgecolor="white")
    if len(values):
        median = float(np.median(values))
        axes.axvline(median, color=COLOURS[1], linestyle="--")
        title += f" (dashed: median {median:,.1f})".replace(".0)", ")")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.tick_params(axis="x", labelrotation=30)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel("patients")
    return figure


def location_chart(patients: np.ndarray, head: np.ndarray, aspect: float) -> "Figure":
    """How many patients have tumour below each point of the axial plane, over the outline of the mean head.

    Args:
        patients: (G, G) counts; rows to posterior, columns to the patient's left.
        head: (G, G) share of the patients whose head covers the point; outlined at one half.
        aspect: height of the images by their width.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_chart(3.6)
    extent = (0.0, 1.0, 1.0, 0.0)
    image = axes.imshow(patients, cmap="inferno", extent=extent, aspect=aspect, vmin=0, vmax=max(1, patients.max()))
    if (head > 0.5).any() and not (head > 0.5).all():
        axes.contour(head, [0.5], colors="white", linewidths=1, extent=extent, origin="upper")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("anterior", fontsize=10)
    axes.set_xlabel("posterior", fontsize=10)
    axes.set_ylabel("R", rotation=0, va="center", fontsize=10)
    axes.text(1.03, 0.5, "L", transform=axes.transAxes, va="center", fontsize=10)
    figure.colorbar(
        image, ax=axes, shrink=0.85, label="patients with tumour here", ticks=MaxNLocator(integer=True, min_n_ticks=1)
    )
    return figure


def _known(x: Sequence[float | None], y: Sequence[float | None]) -> tuple[list[float], list[float]]:
    points = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [a for a, _ in points], [b for _, b in points]


def _with_area(name: str, area: float | None) -> str:
    return name if area is None else f"{name} (area {area:.3f})"


def _unit_square(figure: "Figure", axes: "Axes") -> "Figure":
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
