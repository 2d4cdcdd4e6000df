"""The warning that patients to evaluate were used in the training of the run."""

import json
from pathlib import Path

import pytest

from monai_lgg.bundle import OPTIONS, OVERRIDES, find_bundle, parse_settings, seen_in_training
from monai_lgg.errors import UsageError
from monai_lgg.splits import Split, save_split, split_folds, split_patients, split_slices


def run_of(folder: Path, split: Split, fold: int = 0) -> Path:
    save_split(split, folder / "eval" / "split.json")
    (folder / "configs").mkdir()
    (folder / "configs" / OVERRIDES).write_text(json.dumps({"fold": fold}))
    return folder


@pytest.mark.parametrize(("trained", "evaluated"), [(0, 0), (2, 2), (0, 1), (2, 0)])
def test_of_another_fold(phantoms: Path, tmp_path: Path, trained: int, evaluated: int) -> None:
    split = split_folds(phantoms, 3)
    run = run_of(tmp_path / "run", split, trained)
    found = seen_in_training(run, phantoms, run / "eval" / "split.json", "test", evaluated)
    if trained == evaluated:
        assert found is None
    else:
        tested = set(split.part("test", evaluated))
        assert not tested & set(split.part("test", trained))  # every one was in training or validation
        assert str(found).startswith(f"{len(tested)} of the {len(tested)} patients were used")


def test_of_a_fold_that_the_other_split_does_not_have(phantoms: Path, tmp_path: Path) -> None:
    folds, other = split_folds(phantoms, 3), split_patients(phantoms, seed=5)
    run = run_of(tmp_path / "run", folds, 1)
    save_split(other, tmp_path / "other.json")
    used = {*folds.part("train", 1), *folds.part("validation", 1)}
    tested = set(other.part("test"))
    assert used & tested
    found = seen_in_training(run, phantoms, tmp_path / "other.json", "test", 0)
    assert str(found).startswith(f"{len(used & tested)} of the {len(tested)} patients were used")


def test_a_run_trained_by_slice(phantoms: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", split_slices(phantoms))
    assert seen_in_training(run, phantoms, run / "eval" / "split.json", "test", 0) is None  # the split says so itself
    by_patient = split_patients(phantoms)
    save_split(by_patient, tmp_path / "by patient.json")
    count = len(by_patient.part("test"))
    found = seen_in_training(run, phantoms, tmp_path / "by patient.json", "test", 0)
    assert str(found).startswith(f"{count} of the {count} patients were used")
    assert str(seen_in_training(run, phantoms, None, "all", 0)).startswith("10 of the 10 patients were used")


@pytest.mark.parametrize("key", sorted(OPTIONS))
def test_what_the_warning_goes_by_is_no_setting(key: str) -> None:
    files = [find_bundle("unet_25d") / "configs" / name for name in ("train.json", "evaluate.json")]
    with pytest.raises(UsageError, match=f"setting '{key}' would go round the checks of {OPTIONS[key]}"):
        parse_settings((f"{key}=train",), files)
