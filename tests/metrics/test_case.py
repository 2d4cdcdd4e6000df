import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from monai_lgg.metrics import METRICS
from monai_lgg.metrics.case import UNKNOWN, CaseMeasures, measure_case, patient_row, slice_rows
from monai_lgg.metrics.ranking import bin_centres

SHAPE = (12, 10, 4)


def square(*box: slice) -> np.ndarray:
    result = np.zeros(SHAPE, dtype=bool)
    result[box] = True
    return result


def nbytes(case: CaseMeasures) -> int:
    arrays = [case.counts, case.histogram, case.calibration, *case.slice_figures.values()]
    return sum(array.nbytes for array in arrays if array is not None)


def test_a_patient_by_hand() -> None:
    """Truth of 2 x 2 in slices 1 and 2; the prediction is one column wider in slice 1 and has a spot in slice 3."""
    truth = square(np.s_[2:4], np.s_[2:4], np.s_[1:3])
    prediction = truth | square(np.s_[2:4], np.s_[4:5], np.s_[1:2]) | square(np.s_[9:10], np.s_[3:4], np.s_[3:4])
    case = measure_case("TCGA_DU_1_2", prediction, truth, numbers=[5, 6, 7, 9], missing_sequences="pre")
    row = patient_row(case)
    assert row["patient"] == "TCGA_DU_1_2"
    assert row["institution"] == "DU"
    assert row["missing_sequences"] == "pre"
    assert (row["tp"], row["fp"], row["fn"], row["tn"]) == (8, 3, 0, 12 * 10 * 4 - 11)
    assert row["dice"] == pytest.approx(16 / 19)
    assert row["precision"] == pytest.approx(8 / 11)
    assert row["recall"] == 1
    assert (row["volume_truth"], row["volume_prediction"], row["volume_difference"]) == (8, 11, 3)
    assert row["volume_error"] == pytest.approx(3 / 8)
    assert (row["lesions"], row["lesions_found"], row["false_positive_lesions"]) == (1, 1, 1)
    assert row["surface_dice"] == pytest.approx(18 / 19)  # only the spot is farther than 2 from the truth
    # 11 distances 0 x 8, 1 x 2 and the spot's sqrt(6^2 + 1): place 0.95 * 10 lies halfway between the last two
    assert row["hd95"] == pytest.approx((1 + math.sqrt(37)) / 2)
    slices = slice_rows(case)
    assert [of["slice"] for of in slices] == [5, 6, 7, 9]
    assert [of["hd95"] for of in slices] == pytest.approx([math.nan, 1, 0, math.inf], nan_ok=True)
    assert [of["surface_dice"] for of in slices] == pytest.approx([math.nan, 1, 1, 0], nan_ok=True)
    assert [of["volume_difference"] for of in slices] == [0, 2, 0, 1]
    assert [of["fp"] for of in slices] == [0, 2, 0, 1]


def test_known_spacing_gives_mm_and_ml() -> None:
    truth, prediction = square(np.s_[2:4], np.s_[2:4], np.s_[1:3]), square(np.s_[2:4], np.s_[2:4], np.s_[2:4])
    row = patient_row(measure_case("a", prediction, truth, spacing_mm=(0.5, 0.5, 4), tolerance=3.9))
    assert row["hd95"] == 4
    assert row["surface_dice"] == 0.5
    assert row["volume_truth"] == pytest.approx(8 * 0.5 * 0.5 * 4 / 1000)
    assert row["volume_difference"] == 0
    slices = slice_rows(measure_case("a", prediction, truth, spacing_mm=(0.5, 0.5, 4)))
    assert [of["volume_difference"] for of in slices] == pytest.approx([0, -0.004, 0, 0.004])
    moved = square(np.s_[2:3], np.s_[2:3]), square(np.s_[4:5], np.s_[2:3])  # two rows
    slices = slice_rows(measure_case("a", *moved, spacing_mm=(0.5, 0.7, 4)))
    assert [of["hd95"] for of in slices] == [1] * 4


def test_probabilities_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(SHAPE) > 0.6
    truth[..., 3] = False
    probability = bin_centres()[rng.integers(2000, 2100, SHAPE)]
    case = measure_case("a", probability >= 0.5, truth, probability)
    row, slices = patient_row(case), slice_rows(case)
    for of, found in ((np.s_[...], row), *((np.s_[..., k], slices[k]) for k in range(3))):
        flat = truth[of].ravel(), probability[of].ravel()
        assert found["roc_auc"] == pytest.approx(roc_auc_score(*flat), abs=1e-12)
        assert found["pr_auc"] == pytest.approx(average_precision_score(*flat), abs=1e-12)
        assert found["brier"] == pytest.approx(brier_score_loss(*flat), rel=1e-12)
    assert math.isnan(slices[3]["roc_auc"])
    assert math.isnan(slices[3]["pr_auc"])
    assert slices[3]["brier"] == pytest.approx((probability[..., 3] ** 2).mean())
    assert 0 < row["ece"] < 1


def test_undefined_figures_of_a_patient_without_anything() -> None:
    empty = square(np.s_[:0])
    row = patient_row(measure_case("a", empty, empty, np.zeros(SHAPE, dtype=np.float32)))
    undefined = {name for name in METRICS if math.isnan(row[name])}
    assert undefined == {
        "dice", "iou", "precision", "recall", "roc_auc", "pr_auc", "hd95", "surface_dice", "volume_error",
        "lesion_sensitivity",
    }  # fmt: skip
    assert row["specificity"] == row["accuracy"] == 1
    assert row["brier"] == row["ece"] == row["false_positive_lesions"] == 0


def test_a_missed_tumour() -> None:
    row = patient_row(measure_case("a", square(np.s_[:0]), square(np.s_[1:2], np.s_[1:2], np.s_[1:2])))
    assert row["hd95"] == math.inf
    assert row["dice"] == row["surface_dice"] == row["recall"] == row["lesion_sensitivity"] == 0
    assert math.isnan(row["precision"])
    assert row["volume_error"] == 1


def test_without_probabilities() -> None:
    mask = square(np.s_[1:3])
    case = measure_case("a", mask, mask)
    assert case.histogram is None
    assert case.numbers == [1, 2, 3, 4]
    assert case.missing_sequences == UNKNOWN
    for row in (patient_row(case), *slice_rows(case)):
        assert all(math.isnan(row[name]) for name in ("roc_auc", "pr_auc", "brier", "ece"))


def test_nothing_kept_grows_with_the_image() -> None:
    rng = np.random.default_rng(0)
    sizes = []
    for side in (16, 128):
        probability = rng.random((side, side, 3), dtype=np.float32)
        sizes.append(nbytes(measure_case("a", probability > 0.5, probability > 0.4, probability)))
    assert sizes[0] == sizes[1] < 100_000


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        (np.full(SHAPE, 1.5), "P_7: probabilities from 1.5 to 1.5; give 0 to 1"),
        (np.full(SHAPE, -0.1), "P_7: probabilities from -0.1"),
        (np.full(SHAPE, np.nan), "P_7: probabilities from nan"),
        (np.zeros((2, 2, 4)), r"P_7: probabilities \(2, 2, 4\) and truth \(12, 10, 4\) differ"),
    ],
)
def test_refuses_probabilities(probability: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_case("P_7", square(np.s_[1:3]), square(np.s_[1:3]), probability)


def test_refuses_other_shapes() -> None:
    mask = square(np.s_[1:3])
    with pytest.raises(ValueError, match="differ in shape"):
        measure_case("P_7", mask, mask[:5])
    with pytest.raises(ValueError, match="P_7: 2 slice numbers for 4 slices"):
        measure_case("P_7", mask, mask, numbers=[1, 2])
