import dataclasses
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from monai_lgg.metrics import METRICS
from monai_lgg.metrics.case import CaseMeasures, measure_case
from monai_lgg.metrics.cohort import dice_by_volume, summarise_cohort
from monai_lgg.metrics.ranking import bin_centres

SHAPE = (8, 9, 3)


def draw(name: str, seed: int, missing: str = "") -> tuple[CaseMeasures, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = bin_centres()[rng.integers(2000, 2100, SHAPE)]
    truth = rng.random(SHAPE) > 0.7
    return measure_case(name, probability >= 0.5, truth, probability, missing_sequences=missing), truth, probability


def cohort() -> list[CaseMeasures]:
    empty = np.zeros(SHAPE, dtype=bool)
    dot = empty.copy()
    dot[2, 3, 1] = True
    nothing = np.zeros(SHAPE, dtype=np.float32)
    return [
        draw("TCGA_DU_1_1", 1)[0],
        draw("TCGA_DU_2_1", 2, "post")[0],
        measure_case("TCGA_HT_1_1", empty, dot, nothing, missing_sequences="post"),
        measure_case("healthy", empty, empty, nothing, missing_sequences="pre+post"),
    ]


def test_undefined_and_infinite_values_are_counted_and_not_averaged() -> None:
    summary = summarise_cohort(cohort())
    distance = summary["per_patient"]["hd95"]
    assert (distance["defined"], distance["infinite"], distance["undefined"]) == (2, 1, 1)
    assert math.isfinite(distance["mean"])
    assert math.isfinite(distance["max"])
    assert summary["undefined"]["dice"] == summary["undefined"]["hd95"] == 1
    assert summary["undefined"]["precision"] == 2
    assert summary["undefined"]["accuracy"] == 0
    assert summary["undefined"].keys() == summary["per_patient"].keys() == METRICS.keys()
    for name, figures in summary["per_patient"].items():
        assert figures["defined"] + figures["infinite"] + figures["undefined"] == 4, name
    assert summary["per_patient"]["dice"] == summary["per_patient_dice"]
    assert summary["per_patient"]["iou"] == summary["per_patient_iou"]


def test_slices_have_no_interval() -> None:
    per_slice = summarise_cohort(cohort())["per_slice"]
    assert per_slice.keys() == METRICS.keys() - {"lesion_sensitivity", "false_positive_lesions"}
    for figures in per_slice.values():
        assert "mean_ci95" not in figures
        assert figures["defined"] + figures["infinite"] + figures["undefined"] == 12


def test_pooled_figures_are_those_of_all_pixels() -> None:
    cases, truths, probabilities = zip(*(draw(f"p{seed}", seed) for seed in range(3)), strict=True)
    truth, probability = (np.concatenate([of.ravel() for of in all_]) for all_ in (truths, probabilities))
    summary = summarise_cohort(cases)
    pooled = summary["pooled"]
    assert pooled["roc_auc"] == pytest.approx(roc_auc_score(truth, probability), abs=1e-12)
    assert pooled["pr_auc"] == pytest.approx(average_precision_score(truth, probability), abs=1e-12)
    assert pooled["brier"] == pytest.approx(brier_score_loss(truth, probability), rel=1e-12)
    assert pooled["f1"] == pooled["dice"] == pytest.approx(f1_score(truth, probability >= 0.5), rel=1e-12)
    assert pooled["volume_truth"] == truth.sum()
    assert pooled["lesions"] == sum(case.figures["lesions"] for case in cases)
    assert sum(summary["reliability"]["count"]) == truth.size
    assert summary["roc"]["tpr"][-1] == summary["pr"]["recall"][-1] == 1
    assert summary["roc_auc_error"] < 0.01


def test_groups() -> None:
    summary = summarise_cohort(cohort())
    assert list(summary["by_institution"]) == ["DU", "HT", "unknown"]
    assert summary["by_institution"]["DU"]["defined"] == 2
    assert summary["by_institution"]["unknown"]["undefined"] == 1
    assert list(summary["by_missing_sequences"]) == ["none", "post", "pre+post"]
    assert summary["by_missing_sequences"]["post"]["min"] == 0


def test_thirds_by_volume() -> None:
    volumes = {"a": 3000.0, "b": 10.0, "c": 0.0, "d": 200.0, "e": 40.0, "f": 5000.0, "g": 150.0}
    scores = {"a": 0.9, "b": 0.2, "c": math.nan, "d": 0.6, "e": 0.4, "f": 0.8, "g": 0.5}
    rows = [{"dice": scores[name], "volume_truth": volumes[name]} for name in volumes]
    groups = dice_by_volume(rows, "voxels")
    assert list(groups) == [
        "smallest third: 10 to 40 voxels", "middle third: 150 to 200 voxels", "largest third: 3,000 to 5,000 voxels",
    ]  # fmt: skip
    assert [of["mean"] for of in groups.values()] == pytest.approx([0.3, 0.55, 0.85])
    assert [of["defined"] for of in groups.values()] == [2, 2, 2]
    assert next(iter(dice_by_volume(rows, "ml"))) == "smallest third: 10.0 to 40.0 ml"
    assert dice_by_volume(rows[:3], "voxels") == {}
    assert next(iter(summarise_cohort(cohort())["by_tumour_volume"].values()))["defined"] == 1


def test_one_case_without_probabilities_leaves_the_pooled_curves_undefined() -> None:
    mask = np.ones(SHAPE, dtype=bool)
    summary = summarise_cohort([*cohort(), measure_case("z", mask, mask)])
    assert all(math.isnan(summary["pooled"][name]) for name in ("roc_auc", "pr_auc", "brier", "ece"))
    assert math.isnan(summary["roc_auc_error"])
    assert summary["roc"] == {"fpr": [], "tpr": []}
    assert summary["pr"] == {"recall": [], "precision": []}
    assert sum(summary["reliability"]["count"]) == 0
    assert summary["undefined"]["brier"] == 1
    assert summary["undefined"]["roc_auc"] == 2


def test_units() -> None:
    mask = np.ones(SHAPE, dtype=bool)
    known = measure_case("b", mask, mask, spacing_mm=(1, 1, 5))
    summary = summarise_cohort([known])
    assert (summary["distance_unit"], summary["volume_unit"]) == ("mm", "ml")
    assert summary["pooled"]["volume_truth"] == pytest.approx(8 * 9 * 3 * 5 / 1000)
    unknown = measure_case("a", mask, mask, tolerance=1.5)
    summary = summarise_cohort([unknown])
    assert (summary["distance_unit"], summary["volume_unit"]) == ("px", "voxels")
    assert summary["surface_tolerance"] == 1.5
    with pytest.raises(ValueError, match="b: distances in mm, but a in px"):
        summarise_cohort([unknown, known])


def test_refuses() -> None:
    first = cohort()[0]
    with pytest.raises(ValueError, match="no patients"):
        summarise_cohort([])
    with pytest.raises(ValueError, match="TCGA_DU_1_1 is there twice"):
        summarise_cohort([first, first])
    with pytest.raises(ValueError, match=r"other: surface Dice at a tolerance of 1\.0, but TCGA_DU_1_1 at 2\.0"):
        summarise_cohort([first, dataclasses.replace(first, name="other", tolerance=1.0)])
