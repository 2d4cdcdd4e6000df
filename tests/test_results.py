import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.metrics.case import CaseMeasures, measure_case
from monai_lgg.results import (
    load_cases,
    pool_results,
    read_results,
    save_cases,
    save_masks,
    start_masks,
    without_nan,
    write_results,
)

SHAPE = (10, 8, 4)


def case(name: str, seed: int, **options: object) -> CaseMeasures:
    rng = np.random.default_rng(seed)
    probability = rng.random(SHAPE, dtype=np.float32)
    return measure_case(name, probability > 0.7, rng.random(SHAPE) > 0.8, probability, numbers=[2, 3, 5, 8], **options)


def healthy(name: str = "healthy") -> CaseMeasures:
    empty = np.zeros(SHAPE, dtype=bool)
    return measure_case(name, empty, empty, missing_sequences="")


def same(a: CaseMeasures, b: CaseMeasures) -> None:
    for field in dataclasses.fields(CaseMeasures):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            left, right = list(left.values()), list(right.values())
        np.testing.assert_array_equal(left, right, err_msg=field.name)


def write(folder: Path, cases: list[CaseMeasures], **context: object) -> Path:
    unfinished = start_masks(folder)
    for of in cases:
        save_masks(unfinished, of.name, of.numbers, np.arange(np.prod(SHAPE)).reshape(SHAPE) % len(of.name) == 0)
    write_results(folder, cases, {"part": "test", "split_level": "patient", "warning": None, **context}, unfinished)
    return folder


def test_the_tables_are_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "e", [healthy(), case("TCGA_DU_1_1", 0, missing_sequences="pre")])
    results = read_results(folder)
    assert [row["patient"] for row in results.patients] == ["TCGA_DU_1_1", "healthy"]
    first, second = results.patients
    assert (first["institution"], first["missing_sequences"], second["missing_sequences"]) == ("DU", "pre", "")
    assert first["dice"] == pytest.approx(results.summary["per_patient"]["dice"]["mean"], rel=1e-7)
    assert all(math.isnan(second[name]) for name in ("dice", "hd95", "roc_auc", "lesion_sensitivity"))
    assert second["tn"] == np.prod(SHAPE)
    assert [row["slice"] for row in results.slices] == [2, 3, 5, 8, 1, 2, 3, 4]
    assert isinstance(first["slices"], float)
    assert results.folder == folder


def test_infinity_is_written_as_such(tmp_path: Path) -> None:
    full, empty = np.ones(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    results = read_results(write(tmp_path, [measure_case("a", empty, full)]))
    assert results.patients[0]["hd95"] == math.inf
    assert "Infinity" not in (tmp_path / "summary.json").read_text()


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"summary\.json is missing.*monai-lgg evaluate"):
        read_results(tmp_path)
    write(tmp_path / "e", [healthy()])
    (tmp_path / "e" / "slices.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"slices\.csv is missing"):
        read_results(tmp_path / "e")


def test_the_store_keeps_everything(tmp_path: Path) -> None:
    cases = [case("a", 0), healthy("b"), case("c", 1, spacing_mm=(0.5, 0.5, 4), missing_sequences="pre+post")]
    save_cases(tmp_path / "cases.npz", cases)
    for left, right in zip(cases, load_cases(tmp_path / "cases.npz"), strict=True):
        same(left, right)


def test_a_store_without_any_probabilities(tmp_path: Path) -> None:
    save_cases(tmp_path / "cases.npz", [healthy()])
    same(load_cases(tmp_path / "cases.npz")[0], healthy())


@pytest.mark.parametrize("content", ["text", "cut", "other", "later"])
def test_a_store_that_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cases.npz"
    if content == "text":
        path.write_text("not a store")
    elif content == "cut":
        save_cases(path, [healthy()])
        path.write_bytes(path.read_bytes()[:-40])
    elif content == "other":
        np.savez(path, names=np.array(["a"]))
    else:
        save_cases(path, [healthy()])
        with np.load(path) as file:
            np.savez(path, **{**file, "version": np.array(99)})
    with pytest.raises(ValueError, match=r"cases\.npz: not the store of an evaluation"):
        load_cases(path)


def test_a_store_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "cases.npz"
    np.savez(path, version=np.array(1), names=np.array([Path("x")], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_cases(path)


def test_pooled_results_are_those_of_one_evaluation(tmp_path: Path) -> None:
    """Three folders, their patients interleaved, against all in one: each file is the same."""
    cases = [case(f"TCGA_{of}_{i}_1", i, missing_sequences="") for i, of in enumerate(("DU", "HT", "CS", "DU", "FG"))]
    folders = [write(tmp_path / f"f{k}", cases[k::3], fold=k) for k in range(3)]
    whole = write(tmp_path / "whole", cases)
    pooled = tmp_path / "pooled"
    summary = pool_results(folders, pooled, {"model_file": "five folds"})
    for name in ("patients.csv", "slices.csv"):
        assert (pooled / name).read_text() == (whole / name).read_text()
    expected = json.loads((whole / "summary.json").read_text())
    written = json.loads((pooled / "summary.json").read_text())
    assert written.pop("pooled_from") == [str(folder) for folder in folders]
    assert written.pop("model_file") == "five folds"
    assert written == expected
    assert "fold" not in written  # they differ
    assert without_nan(summary)["pooled"] == expected["pooled"]
    masks = sorted(path.relative_to(whole) for path in whole.glob("masks/*/*.tif"))
    assert len(masks) == 5 * 4
    assert masks == sorted(path.relative_to(pooled) for path in pooled.glob("masks/*/*.tif"))
    assert all((pooled / path).read_bytes() == (whole / path).read_bytes() for path in masks)


def test_pooled_results_can_be_pooled(tmp_path: Path) -> None:
    cases = [case(name, seed) for seed, name in enumerate("abc")]
    folders = [write(tmp_path / of.name, [of]) for of in cases]
    pool_results(folders[:2], tmp_path / "ab")
    pool_results([tmp_path / "ab", folders[2]], tmp_path / "abc")
    whole = write(tmp_path / "whole", cases)
    assert (tmp_path / "abc" / "patients.csv").read_text() == (whole / "patients.csv").read_text()


def test_warnings_are_not_lost_by_pooling(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, [healthy(name)], warning=text) for name, text in (("a", "leaks"), ("b", None))]
    assert pool_results(folders, tmp_path / "p", {"warning": "few"})["warning"] == "leaks few"
    assert pool_results(folders[1:], tmp_path / "q")["warning"] is None


def test_pooling_refuses(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, [case(name, 0)]) for name in "ab")
    c = write(tmp_path / "c", [case("a", 0)])
    d = write(tmp_path / "d", [case("d", 0, spacing_mm=(1, 1, 5))])
    with pytest.raises(ValueError, match=r"patient a is in .*/a and in .*/c; pool disjoint"):
        pool_results([a, b, c], tmp_path / "p")
    with pytest.raises(ValueError, match="d: distances in mm, but a in px"):
        pool_results([a, d], tmp_path / "p")
    with pytest.raises(ValueError, match="is one of the folders to pool"):
        pool_results([a, b], b)
    with pytest.raises(ValueError, match="at least one folder"):
        pool_results([], tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="no results at"):
        pool_results([a, tmp_path / "nowhere"], tmp_path / "p")
    assert not (tmp_path / "p" / "summary.json").exists()


def test_masks_have_the_public_names_and_the_pixels(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random(SHAPE) > 0.5
    save_masks(tmp_path, "P_1", [3, 4, 10, 11], mask)
    for k, number in enumerate((3, 4, 10, 11)):
        written = tifffile.imread(tmp_path / "P_1" / f"P_1_{number}_mask.tif")
        assert written.dtype == np.uint8
        np.testing.assert_array_equal(written, mask[..., k] * 255)


def test_masks_of_an_earlier_evaluation_go(tmp_path: Path) -> None:
    write(tmp_path, [case("a", 0)])
    write(tmp_path, [case("b", 0)])
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["b"]
    write_results(tmp_path, [case("b", 0)], {}, start_masks(tmp_path))  # an evaluation that was to write none
    assert not (tmp_path / "masks").exists()
    assert not list(tmp_path.glob(".*"))


def test_masks_of_an_interrupted_evaluation_are_not_seen(tmp_path: Path) -> None:
    write(tmp_path, [case("a", 0)])
    save_masks(start_masks(tmp_path), "b", [1, 2, 3, 4], np.ones(SHAPE, dtype=bool))
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a"]
    write(tmp_path, [case("c", 0)])
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["c"]


def test_two_evaluations_at_a_time_keep_their_masks_apart(tmp_path: Path) -> None:
    one, other = start_masks(tmp_path), start_masks(tmp_path)
    for name, masks in (("a", one), ("b", other)):
        save_masks(masks, name, [1, 2, 3, 4], np.ones(SHAPE, dtype=bool))
    for name, masks in (("a", one), ("b", other)):
        write_results(tmp_path, [case(name, 0)], {}, masks)
        assert [path.name for path in (tmp_path / "masks").iterdir()] == [name]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["patients", "slices"])
def test_damaged_tables_are_noticed(tmp_path: Path, name: str) -> None:
    write(tmp_path, [case("a", 0), case("b", 1)])
    table = tmp_path / f"{name}.csv"
    whole = table.read_text()
    lines = whole.splitlines(keepends=True)
    for damaged in ("", "".join(lines[:-1])):
        table.write_text(damaged)
        with pytest.raises(
            ValueError, match=rf"{name}\.csv has \d rows, its summary\.json \d {name}: .*evaluate again"
        ):
            read_results(tmp_path)
    table.write_text("".join([*lines[:-1], lines[-1].partition(",")[0]]))
    with pytest.raises(ValueError, match=rf"{name}\.csv is damaged \(a row is cut off\); evaluate again"):
        read_results(tmp_path)
    for damaged in (whole + "c,unknown,3x" + "," * 60, whole[:-1] + "x\n", "\xff\xfe"):
        table.write_bytes(damaged.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name}\.csv (is damaged|has \d rows)"):
            read_results(tmp_path)
    table.write_text(whole)
    assert len(read_results(tmp_path).patients) == 2
    (tmp_path / "summary.json").write_text("")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        read_results(tmp_path)


def test_masks_that_a_person_keeps_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "mine.tif").write_text("")
    with pytest.raises(ValueError, match="is not from an evaluation"):
        start_masks(tmp_path)
    assert (tmp_path / "masks" / "mine.tif").exists()


def test_without_nan() -> None:
    assert without_nan({"a": [math.nan, 1.0, math.inf], "b": (2, "x", None)}) == {
        "a": [None, 1, None],
        "b": [2, "x", None],
    }
