import logging
from pathlib import Path

import pytest

from monai_lgg import budget
from monai_lgg.budget import Budget, budget_epochs, parse_budget, slices_of, time_epoch
from monai_lgg.bundle import find_bundle
from monai_lgg.splits import save_split, split_patients


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3epochs", Budget(3, "epochs")),
        ("1 epoch", Budget(1, "epochs")),
        ("50000slices", Budget(50000, "slices")),
        ("30min", Budget(30, "min")),
        ("1.5 minutes", Budget(1.5, "min")),
    ],
)
def test_budgets(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected
    assert parse_budget(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "3", "epochs", "3 hours", "-3epochs", "3epochs 2"])
def test_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="is not understood; give for example 3epochs"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["0min", "2.5epochs", "0slices"])
def test_impossible_budget(text: str) -> None:
    with pytest.raises(ValueError, match=f"budget '{text}': give more than 0, and whole epochs"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("amount", "unit", "seconds", "epochs"),
    [
        (7, "epochs", None, 7),
        (1000, "slices", None, 10),
        (1049, "slices", None, 10),
        (1051, "slices", None, 11),
        (3, "slices", None, 1),
        (2, "min", 40.0, 3),
        (2, "min", 41.0, 2),
        (1, "min", 600.0, 1),
    ],
)
def test_epochs_of_a_budget(amount: float, unit: str, seconds: float | None, epochs: int) -> None:
    assert budget_epochs(Budget(amount, unit), training_slices=100, seconds_per_epoch=seconds) == epochs


def test_minutes_need_a_timing() -> None:
    with pytest.raises(ValueError, match="budget 2 min needs the seconds of an epoch"):
        budget_epochs(Budget(2, "min"), 100)


def test_an_epoch_is_scaled_from_iterations_and_patients(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_patients(phantoms, (0.5, 0.3, 0.2))
    save_split(split, tmp_path / "split.json")
    assert (slices_of(split, "train"), slices_of(split, "validation")) == (30, 18)
    monkeypatch.setattr(budget, "_time_one_epoch", lambda parser: (2.0, 1.0))
    settings = {"batch_size": 4, "val_interval": 2, "image_size": [64, 64]}
    seconds = time_epoch(find_bundle("unet_cosine"), phantoms, tmp_path / "split.json", settings, "cpu")
    # 30 slices in batches of 4 are 8 iterations; 2 of 3 validation patients took 1 s, every other epoch
    assert seconds == pytest.approx(8 * 2.0 + 1.5 / 2)
    assert logging.getLogger("monai_lgg.handlers").level == logging.NOTSET


def test_a_recipe_that_stops_early_is_timed(phantoms: Path, tmp_path: Path) -> None:
    save_split(split_patients(phantoms, (0.5, 0.3, 0.2)), tmp_path / "split.json")
    settings = {"batch_size": 2, "image_size": [32, 32], "early_stopping_patience": 5}
    assert time_epoch(find_bundle("unet_cosine"), phantoms, tmp_path / "split.json", settings, "cpu") > 0


def test_an_epoch_of_drawn_slices(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_split(split_patients(phantoms, (0.5, 0.3, 0.2)), tmp_path / "split.json")
    monkeypatch.setattr(budget, "_time_one_epoch", lambda parser: (2.0, 1.0))
    settings = {"batch_size": 4, "image_size": [64, 64], "crop_size": [64, 64], "slices_per_epoch": 100}
    seconds = time_epoch(find_bundle("unet_25d"), phantoms, tmp_path / "split.json", settings, "cpu")
    assert seconds == pytest.approx(25 * 2.0 + 1.5)
