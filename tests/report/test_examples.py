import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from monai_lgg.cases import read_patient, read_patients
from monai_lgg.report import examples
from monai_lgg.results import read_results


def patient(name: str, dice: float, tp: int = 1, fn: int = 1) -> dict[str, Any]:
    return {"patient": name, "dice": dice, "tp": tp, "fn": fn}


def test_choose_cases() -> None:
    rows = [patient("a", 0.9), patient("b", 0.5), patient("c", 0.1), patient("d", 0.7), patient("e", math.nan, 0, 0)]
    chosen = examples.choose_cases(rows, {"a": 2.0, "b": 0.9, "c": math.nan, "d": 1.5})
    assert chosen == {"a": ["best", "faint"], "b": ["median", "faint"], "c": ["worst", "missed"], "d": ["faint"]}
    assert list(chosen) == ["a", "b", "c", "d"]


def test_choose_the_one_patient() -> None:
    assert examples.choose_cases([patient("a", 0.5)], {}) == {"a": ["best", "median", "worst"]}
    assert examples.choose_cases([patient("a", math.nan)], {"a": math.nan}) == {}


def test_missed_needs_a_tumour() -> None:
    rows = [patient("false alarm", 0.0, 0, 0), patient("low", 0.19), patient("at the bound", 0.2), patient("zero", 0.0)]
    assert [row["patient"] for row in examples.missed_tumours(rows)] == ["zero", "low"]


def test_at_most_four_missed_are_shown() -> None:
    rows = [patient(f"p{n}", n / 100) for n in range(10)]
    assert sum("missed" in roles for roles in examples.choose_cases(rows, {}).values()) == 4


def write_slice(folder: Path, number: int, image: np.ndarray, mask: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"{folder.name}_{number}.tif", np.repeat(image[..., None], 3, -1).astype(np.uint8))
    if mask is not None:
        tifffile.imwrite(folder / f"{folder.name}_{number}_mask.tif", mask.astype(np.uint8) * 255)


def test_contrast_by_hand(tmp_path: Path) -> None:
    image = np.zeros((10, 10))
    image[2:8, 2:8] = 100  # 36 head pixels
    mask = np.zeros((10, 10), bool)
    mask[2:4, 2:4] = True
    image[mask] = 150
    write_slice(tmp_path / "P", 1, image, mask)
    assert examples.tumour_contrast(read_patient(tmp_path / "P")) == pytest.approx(1.5)


def test_contrast_is_undefined_without_tumour_or_masks(tmp_path: Path) -> None:
    write_slice(tmp_path / "A", 1, np.eye(8) * 90, np.zeros((8, 8), bool))
    write_slice(tmp_path / "B", 1, np.eye(8) * 90)
    write_slice(tmp_path / "C", 1, np.full((8, 8), 7), np.ones((8, 8), bool))
    assert all(math.isnan(examples.tumour_contrast(one)) for one in read_patients(tmp_path))


def row(number: int, tp: int, fp: int, fn: int) -> dict[str, Any]:
    return {"patient": "P", "slice": float(number), "tp": tp, "fp": fp, "fn": fn}


@pytest.mark.parametrize(
    ("slices", "wanted"),
    [
        ([row(1, 0, 0, 0), row(2, 9, 0, 1), row(3, 4, 5, 0)], [(2, "largest"), (3, "error")]),
        ([row(1, 1, 0, 0), row(2, 5, 0, 4)], [(2, "largest and error")]),
        ([row(1, 3, 0, 0), row(2, 5, 0, 0)], [(2, "largest")]),
        ([row(1, 0, 0, 0), row(2, 0, 7, 0)], [(2, "plain error")]),
        ([row(1, 0, 0, 0), row(2, 0, 0, 0), row(3, 0, 0, 0)], [(2, "empty")]),
    ],
)
def test_chosen_slices(slices: list[dict[str, Any]], wanted: list[tuple[int, str]]) -> None:
    assert [(of["slice"], kind) for of, kind in examples._chosen_slices(slices)] == wanted


def show(root: Path, folder: Path, name: str) -> examples.Case:
    results = read_results(folder)
    of = next(row for row in results.patients if row["patient"] == name)
    slices = [row for row in results.slices if row["patient"] == name]
    return examples.show_case(root, folder, of, slices, ["worst"], 1.234)


def test_show_case(cohort: Path, evaluated: Path) -> None:
    name = read_results(evaluated).patients[2]["patient"]
    case = show(cohort, evaluated, name)
    assert case.facts.startswith("Dice 0.")
    assert case.facts.endswith("1.23 times as bright as the head")
    assert 2 <= len(case.pictures) <= 3
    assert case.pictures[0].caption.endswith(", FLAIR")
    assert "largest tumour area" in case.pictures[1].caption
    assert "orange outline: prediction" in case.pictures[1].alt
    assert all(picture.pixelated and picture.uri.startswith("data:image/png") for picture in case.pictures)


def test_figures_of_a_slice_are_those_of_the_table(cohort: Path, evaluated: Path) -> None:
    found = read_results(evaluated)
    name = found.patients[-1]["patient"]  # nothing predicted
    area = max(row["fn"] for row in found.slices if row["patient"] == name)
    assert f"0 px found, {area:,.0f} missed, 0 too many" in show(cohort, evaluated, name).pictures[1].caption


@pytest.fixture
def copied(cohort: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cohort, tmp_path / "copy")


def largest_slice(evaluated: Path, name: str) -> int:
    rows = [row for row in read_results(evaluated).slices if row["patient"] == name]
    return int(max(rows, key=lambda row: row["tp"] + row["fn"])["slice"])


def test_predicted_mask_of_another_size(cohort: Path, evaluated: Path) -> None:
    name = read_results(evaluated).patients[2]["patient"]
    n = largest_slice(evaluated, name)
    tifffile.imwrite(evaluated / "masks" / name / f"{name}_{n}_mask.tif", np.zeros((20, 20), np.uint8))
    with pytest.raises(ValueError, match=rf"{name}: {name}_{n}_mask.tif is 20 x 20, its image 48 x 40"):
        show(cohort, evaluated, name)


def test_true_mask_of_another_size(copied: Path, evaluated: Path) -> None:
    name = read_results(evaluated).patients[2]["patient"]
    n = largest_slice(evaluated, name)
    tifffile.imwrite(copied / name / f"{name}_{n}_mask.tif", np.zeros((40, 48), np.uint8))
    with pytest.raises(ValueError, match=rf"{name}_{n}_mask.tif is 40 x 48, its image 48 x 40"):
        show(copied, evaluated, name)


def test_all_true_masks_of_another_size(copied: Path) -> None:
    folder = sorted(path for path in copied.iterdir() if path.is_dir())[0]
    for path in folder.glob("*_mask.tif"):
        tifffile.imwrite(path, np.ones((40, 48), np.uint8))
    with pytest.raises(ValueError, match=rf"{folder.name}: masks \(40, 48\) and images \(48, 40\) differ in size"):
        examples.tumour_contrast(read_patient(folder))


def test_missing_predicted_mask(cohort: Path, evaluated: Path) -> None:
    name = read_results(evaluated).patients[2]["patient"]
    shutil.rmtree(evaluated / "masks" / name)
    with pytest.raises(FileNotFoundError, match=rf"{name}: no mask .*; run 'monai-lgg evaluate' again"):
        show(cohort, evaluated, name)


def test_data_without_the_slice(copied: Path, evaluated: Path) -> None:
    name = read_results(evaluated).patients[2]["patient"]
    n = largest_slice(evaluated, name)
    (copied / name / f"{name}_{n}.tif").unlink()
    with pytest.raises(ValueError, match=rf"{name}: the results have slice {n}"):
        show(copied, evaluated, name)


def test_slices_are_read_one_by_one(cohort: Path, evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_lgg.io import tiff

    opened: list[str] = []
    read: Callable[[Any], Any] = tiff._read
    monkeypatch.setattr(tiff, "_read", lambda path: opened.append(str(path)) or read(path))
    show(cohort, evaluated, read_results(evaluated).patients[2]["patient"])
    assert len(opened) <= 6  # image, truth and prediction of two slices, not of all five
