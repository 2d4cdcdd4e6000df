import math

import numpy as np
import pytest

from monai_lgg.report import charts


def test_group_chart_shows_every_defined_patient_and_the_means() -> None:
    figure = charts.group_chart({"AA": [0.2, 0.4, math.nan], "BB": [math.nan]}, "By place")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["AA (3)", "BB (1)"]
    assert list(axes.lines[0].get_xdata()) == [0.2, 0.4]
    assert list(axes.lines[1].get_xdata()) == pytest.approx([0.3, 0.3])
    assert len(axes.lines) == 3  # no mean of BB


def test_reliability_leaves_empty_bins_out() -> None:
    figure = charts.reliability_chart(
        {"edges": [0, 0.5, 1], "count": [9, 0], "mean_probability": [0.1, None], "observed": [0.3, None]}
    )
    model = figure.axes[0].lines[1]
    assert (list(model.get_xdata()), list(model.get_ydata())) == ([0.1], [0.3])
    assert [bar.get_height() for bar in figure.axes[1].patches] == [9, 0]


def test_reliability_of_nothing() -> None:
    nothing = {"edges": [0, 1], "count": [0], "mean_probability": [None], "observed": [None]}
    assert len(charts.reliability_chart(nothing).axes[0].lines) == 1


def test_roc_and_pr_name_their_areas() -> None:
    roc = charts.roc_chart({"fpr": [0, 1], "tpr": [0.5, 1]}, 0.75)
    assert [text.get_text() for text in roc.axes[0].get_legend().get_texts()] == ["chance", "model (area 0.750)"]
    pr = charts.pr_chart({"recall": [0, 1], "precision": [None, 0.5]}, None, 0.01)
    assert [text.get_text() for text in pr.axes[0].get_legend().get_texts()] == ["chance (0.010)", "model"]
    assert list(pr.axes[0].lines[1].get_xdata()) == [1]


def test_lines_differ_by_colour_and_style() -> None:
    lines = {f"place {n}": np.arange(3.0) for n in range(len(charts.COLOURS) + 1)}
    drawn = charts.line_chart(np.arange(3), lines, "t", "x", "y").axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == len(lines)


def test_histogram_marks_the_median() -> None:
    axes = charts.bar_chart([1, 2, 9], "t", "x", [0.5, 1.5, 2.5, 9.5]).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [1, 1, 1]
    assert axes.get_title() == "t (dashed: median 2)"
    assert list(axes.lines[0].get_xdata()) == [2, 2]
    assert charts.bar_chart([1, 2], "t", "x", 2).axes[0].get_title() == "t (dashed: median 1.5)"
    assert charts.bar_chart([], "t", "x", 2).axes[0].get_title() == "t"


def test_location_has_the_patients_right_on_the_left_and_anterior_on_top() -> None:
    tumours = np.zeros((4, 4))
    tumours[0, 0] = 3
    head = np.zeros((4, 4))
    head[1:3, 1:3] = 1
    axes = charts.location_chart(tumours, head, 1.5).axes[0]
    assert axes.get_title() == "anterior"
    assert axes.get_xlabel() == "posterior"
    assert axes.get_ylabel() == "R"  # labels of the y axis stand at its left
    image = axes.images[0]
    assert image.get_extent() == [0, 1, 1, 0]  # row 0 on top, column 0 on the left
    assert not axes.xaxis_inverted()
    assert axes.yaxis_inverted()
    assert image.get_clim() == (0, 3)
    assert axes.get_aspect() == 1.5


def test_location_contour_is_not_upside_down() -> None:
    head = np.zeros((10, 10))
    head[1:3, 4:6] = 1  # near the top
    axes = charts.location_chart(np.zeros((10, 10)), head, 1.0).axes[0]
    outline = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert outline[:, 1].max() < 0.4  # y runs downwards from 0
    assert outline[:, 0].min() > 0.3
    assert outline[:, 0].max() < 0.7
