import pytest

from monai_lgg.leakage import leakage, leakage_in_words, person
from tests.test_splits import patient_of


def test_leakage_by_hand():
    """Training holds the slices 1 and 3 of p. Its test slices 2, 4, 5 get the masks of 1 and 3 together, of 3, of 3.

    Dice: p2 2*2 of 5 px, p4 2*2 of 5 px, p5 0 of 3 px (truth empty). q is not in training and gets empty masks:
    q1 0 of 1 px, q2 rightly empty.
    """
    p, p_label = patient_of("p", ["0000", "1100", "1110", "0110", "0000"])
    q, q_label = patient_of("q", ["1000", "0000"])
    parts = {"train": {"p": [1, 3]}, "validation": {}, "test": {"p": [2, 4, 5], "q": [1, 2]}}

    assert leakage([p, q], [p_label, q_label], parts) == pytest.approx(
        {
            "patient_in_training": 3 / 5,
            "neighbour_in_training": 2 / 5,
            "copy_nearest_slice_dice": (0.8 + 0.8 + 0 + 0 + 1) / 5,
            "copy_nearest_tumour_slice_dice": (0.8 + 0.8 + 0) / 3,
            "copy_nearest_pooled_dice": 2 * (2 + 2) / (5 + 5 + 3 + 1),
        }
    )


def test_leakage_of_a_split_by_patient_is_none():
    p, p_label = patient_of("p", ["1", "1"])
    q, q_label = patient_of("q", ["1", "0"])
    facts = leakage([p, q], [p_label, q_label], {"train": {"p": [1, 2]}, "validation": {}, "test": {"q": [1, 2]}})

    assert facts["patient_in_training"] == facts["neighbour_in_training"] == 0
    assert facts["copy_nearest_slice_dice"] == 0.5  # what an always empty mask scores


def test_leakage_in_words():
    facts = {
        "patient_in_training": 1.0,
        "neighbour_in_training": 0.947,
        "copy_nearest_slice_dice": 0.872,
        "copy_nearest_tumour_slice_dice": 0.75,
        "copy_nearest_pooled_dice": 0.829,
    }
    words = leakage_in_words(facts)

    for figure in ("100.0%", "94.7%", "0.872", "0.750", "0.829", "leaks"):
        assert figure in words
    assert leakage_in_words(None) == ""


def test_other_names_are_persons_of_their_own():
    names = ["P_20000101", "P_20000102", "TCGA_AA_0001", "TCGA_AA_0002_20000101", "a_b"]
    assert len({person(name) for name in names}) == len(names)
    assert person("TCGA_AA_0001_20000101") == person("tcga_aa_0001")
