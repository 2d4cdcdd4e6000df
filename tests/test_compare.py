import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_lgg import compare
from monai_lgg.budget import Budget
from monai_lgg.compare import Task, check_same_split, compare_bundles, compare_runs, labels, settings_of_each
from monai_lgg.leaderboard import rank
from monai_lgg.metrics import find_metric
from monai_lgg.results import Results
from monai_lgg.splits import save_split, split_folds, split_patients, split_slices
from tests.fake_runs import copies, edit, install, write_checkpoint

TWO = Budget(2, "epochs")


@pytest.fixture
def task(phantoms: Path, tmp_path: Path) -> Task:
    return Task(phantoms, tmp_path / "out", progress=False)


def order(folder: Path) -> list[str]:
    return [row["name"] for row in csv.DictReader((folder / "comparison.csv").read_text().splitlines())]


def test_trains_evaluates_ranks_and_repeats_nothing(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = install(monkeypatch, worst=5, good=1, fair=3)
    names = copies(tmp_path / "b", "worst", "good", "fair")
    result = compare_bundles(names[:2], task, TWO)
    assert fakes.since() == ["train worst", "train good", "evaluate worst", "evaluate good"]
    assert [row["name"] for row in result.rows] == ["good", "worst"]

    result = compare_bundles(names, task, TWO)  # one more
    assert fakes.since() == ["train fair", "evaluate fair"]
    assert [row["name"] for row in result.rows] == order(task.output) == ["good", "fair", "worst"]
    compare_bundles(names, task, TWO)
    assert fakes.since() == []

    best = result.rows[0]
    # two test patients of 8 tumour pixels miss 1 and 2: Dice 14/15 and 12/14
    assert best["mean"] == pytest.approx((14 / 15 + 12 / 14) / 2)
    assert best["difference"] == pytest.approx(best["mean"] - (10 / 13 + 8 / 12) / 2)
    assert best["p_value"] == pytest.approx(0.5)
    assert (best["epochs"], best["max_epochs"]) == (2, 2)
    assert best["parameters"] > 1000
    assert result.rows[-1]["p_value"] is None
    assert best["convention"] == "tumour_slices_only"
    summary = json.loads((Path(best["results"]) / "summary.json").read_text())
    assert best["slice_dice"] == summary["slice_dice"]["tumour_slices_only"]
    for suffix in ("md", "tex", "html"):
        text = (task.output / f"comparison.{suffix}").read_text()
        assert "The unit of all intervals and tests is the patient, not the slice" in text
        assert "Budget of each bundle: 2 epochs. Its recipe is unchanged but for what is named here." in text
    assert "All: trained with image_size [64, 64], network_def#features [8, 8, 8, 8, 8, 8]." in result.notes
    assert "mean over tumour slices only" in (task.output / "comparison.md").read_text()
    heading = next(line for line in (task.output / "comparison.tex").read_text().splitlines() if line.startswith(r"\#"))
    assert heading.count("&") == 11  # what is legible on a page of paper
    assert json.loads((task.output / "comparison.json").read_text())["rows"][1]["name"] == "fair"


def test_one_that_fails_is_reported_and_the_others_go_on(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = install(monkeypatch, a=2)
    fakes.fail = {"train bad": ValueError("no memory"), "evaluate late": RuntimeError("broken")}
    names = copies(tmp_path / "b", "bad", "a", "late")
    result = compare_bundles(names, task, TWO)
    assert result.failed == {"bad": "ValueError: no memory", "late": "RuntimeError: broken"}
    assert [row["name"] for row in result.rows] == ["a"]
    assert "bad FAILED and is not ranked: ValueError: no memory" in (task.output / "comparison.md").read_text()
    fakes.fail, fakes.calls = {}, []
    assert compare_bundles(names, task, TWO).failed == {}
    assert fakes.since() == ["train bad", "evaluate bad", "evaluate late"]


def test_all_fail(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch)
    fakes.fail = {"train a": ValueError("no")}
    result = compare_bundles(copies(tmp_path / "b", "a"), task, TWO)
    assert (result.rows, result.failed) == ([], {"a": "ValueError: no"})
    assert order(task.output) == []


def test_killed_comparison_resumes(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch, a=1, b=2)
    fakes.fail = {"evaluate b": KeyboardInterrupt()}
    names = copies(tmp_path / "b", "a", "b")
    with pytest.raises(KeyboardInterrupt):
        compare_bundles(names, task, TWO)
    fakes.fail, fakes.calls = {}, []
    assert len(compare_bundles(names, task, TWO).rows) == 2
    assert fakes.since() == ["evaluate b"]


def test_an_evaluation_of_other_weights_or_a_broken_one_is_repeated(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = install(monkeypatch, a=1)
    names = copies(tmp_path / "b", "a")
    run = task.output / "runs" / "a"
    compare_bundles(names, task, TWO)
    torch.save({"other": torch.zeros(1)}, run / "models" / "model.pt")
    fakes.since()
    compare_bundles(names, task, TWO)
    assert fakes.since() == ["evaluate a"]
    (run / "eval" / "test" / "patients.csv").unlink()
    compare_bundles(names, task, TWO)
    assert fakes.since() == ["evaluate a"]


def test_lost_weights(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch, a=1, b=2)
    names = copies(tmp_path / "b", "a", "b")
    compare_bundles(names, task, TWO)
    fakes.since()
    (task.output / "runs" / "a" / "models" / "model.pt").unlink()
    result = compare_bundles(names, task, TWO)
    assert "model.pt are gone; put the file back, or remove the folder" in result.failed["a"]
    assert [row["name"] for row in result.rows] == ["b"]
    assert fakes.since() == []


def test_another_split_or_budget(task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, a=1)
    names = copies(tmp_path / "b", "a")
    compare_bundles(names, task, TWO)
    with pytest.raises(ValueError, match="begun with budget '2 epochs', now '50 slices'"):
        compare_bundles(names, task, Budget(50, "slices"))
    with pytest.raises(ValueError, match="begun with budget '2 epochs', now None"):
        compare_bundles(names, task)
    save_split(split_patients(phantoms, seed=5), tmp_path / "other.json")
    other = Task(phantoms, task.output, tmp_path / "other.json", progress=False)
    with pytest.raises(ValueError, match=r"begun with another split than .*other\.json"):
        compare_bundles(names, other, TWO)


def test_budgets_become_epochs_and_a_timing_is_kept(
    task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, a=1)
    timed: list[str] = []

    def time_epoch(bundle: Path, *_: Any) -> float:
        timed.append(bundle.name)
        return 25.0

    monkeypatch.setattr(compare, "time_epoch", time_epoch)
    names = copies(tmp_path / "b", "a", "b")
    minutes = Budget(2, "min")
    assert compare_bundles(names[:1], task, minutes).rows[0]["epochs"] == 4  # 120 s of 25 s each
    monkeypatch.setattr(compare, "time_epoch", lambda *_: timed.append("again") or 60.0)
    result = compare_bundles(names, task, minutes)
    assert {row["name"]: row["epochs"] for row in result.rows} == {"a": 4, "b": 2}
    assert timed == ["a", "again"]
    stored = json.loads((task.output / compare.SETTINGS).read_text())
    assert stored["seconds_per_epoch"] == {"a": 25.0, "b": 60.0}

    slices = Task(phantoms, tmp_path / "slices", progress=False)  # 7 of 10 patients with 6 slices train: 42
    assert compare_bundles(names[:1], slices, Budget(130, "slices")).rows[0]["epochs"] == 3


def test_settings_for_all_and_for_one(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    names = copies(tmp_path / "b", "a", "b")
    settings = ("batch_size=4", "b:learning_rate=0.5")
    compare_bundles(names, Task(phantoms, tmp_path / "o", settings=settings, progress=False), TWO)
    a, b = (
        json.loads((tmp_path / "o" / "runs" / name / "configs" / "overrides.json").read_text()) for name in ("a", "b")
    )
    assert (a["batch_size"], b["batch_size"]) == (4, 4)
    assert "learning_rate" not in a
    assert b["learning_rate"] == 0.5
    assert a["max_epochs"] == b["max_epochs"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("a:learning_rat=1",), "a: setting 'learning_rat' is not in the configuration; did you mean learning_rate"),
        (("unet_1:seed=1",), r"is for 'unet_1', which is not compared; compared are: a"),
        (("max_epochs=3",), "a: max_epochs comes from the budget 2 epochs; leave out one"),
    ],
)
def test_bad_settings_before_any_training(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], message: str
) -> None:
    fakes = install(monkeypatch)
    with pytest.raises(ValueError, match=message):
        compare_bundles(copies(tmp_path / "b", "a"), Task(phantoms, tmp_path / "o", settings=settings), TWO)
    assert fakes.calls == []
    assert not (tmp_path / "o").exists()


def test_labelled_settings() -> None:
    names = {"unet": Path("x/unet"), "two/run": Path("two/run")}
    settings = ("seed=1", "unet:seed=2", "two/run:train#sampler=a:b=c", "train::sampler=a:b")
    assert settings_of_each(settings, names) == {
        "unet": ("seed=1", "seed=2", "train::sampler=a:b"),
        "two/run": ("seed=1", "train#sampler=a:b=c", "train::sampler=a:b"),
    }
    with pytest.raises(ValueError, match=r"'unt:seed=2' is for 'unt', which is not compared; did you mean unet\?"):
        settings_of_each(("unt:seed=2",), names)


def test_labels() -> None:
    assert list(labels([Path("/x/a"), Path("/y/run"), Path("/z/run")])) == ["a", "y/run", "z/run"]
    with pytest.raises(ValueError, match="a is given more than once"):
        labels([Path("/x/b"), Path("/x/a"), Path("/x/a")][1:])
    with pytest.raises(ValueError, match="nothing to compare"):
        labels([])


def runs_of(tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch, split: Any, *names: str) -> list[str]:
    """Runs trained (by a fake) on one split."""
    fakes = install(monkeypatch, **{name: 1 + k for k, name in enumerate(names)})
    save_split(split, tmp_path / f"{names[0]}.json")
    for name, bundle in zip(names, copies(tmp_path / f"bundles {names[0]}", *names), strict=True):
        options = {"split_file": tmp_path / f"{names[0]}.json", "settings": ()}
        fakes.train(Path(bundle), phantoms, tmp_path / name, **options)
    return [str(tmp_path / name) for name in names]


def test_runs_are_taken_as_they_are(
    task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runs_of(tmp_path, phantoms, monkeypatch, split_patients(phantoms), "a", "b")
    write_checkpoint(tmp_path / "b", epochs=3, max_epochs=9)
    fakes = install(monkeypatch, a=3, b=1)
    result = compare_runs(runs, task)
    assert fakes.since() == ["evaluate a", "evaluate b"]
    assert [row["name"] for row in result.rows] == ["b", "a"]
    assert result.rows[0]["results"] == str(task.output / "evaluations" / "b")
    assert not (tmp_path / "b" / "eval" / "test").exists()
    assert "b: unfinished, 3 of 9 epochs trained." in result.notes
    compare_runs(runs, task)
    assert fakes.since() == []


def test_a_run_without_the_pretrained_weights_of_its_recipe_is_named(
    task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runs_of(tmp_path, phantoms, monkeypatch, split_patients(phantoms), "a", "b", "c", "d")
    for name, pretrained in {"a": True, "b": False, "c": None, "d": False}.items():
        write_checkpoint(tmp_path / name, epochs=3, pretrained=pretrained)
    edit(
        tmp_path / "d" / "configs" / "overrides.json", lambda text: text.replace("{", '{"pretrained_weights": null,', 1)
    )
    install(monkeypatch, a=3, b=1, c=4, d=5)
    notes = [note for note in compare_runs(runs, task).notes if "pretrained" in note]
    assert len(notes) == 2
    assert any(note.startswith("b: began from random weights, because") for note in notes)
    assert any("d: trained with " in note and "pretrained_weights None" in note for note in notes)


def test_runs_of_different_splits(task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = runs_of(tmp_path, phantoms, monkeypatch, split_patients(phantoms), "a")
    (b,) = runs_of(tmp_path, phantoms, monkeypatch, split_patients(phantoms, (0.6, 0.1, 0.3)), "b")
    (c,) = runs_of(tmp_path, phantoms, monkeypatch, split_slices(phantoms), "c")
    with pytest.raises(ValueError, match=r"a and b have different splits: \d+ patient\(s\) differ in their test parts"):
        compare_runs([a, b], task)
    with pytest.raises(ValueError, match="a was split by patient, c by slice; their figures cannot be compared"):
        compare_runs([a, c], task)
    with pytest.raises(ValueError, match="a and --split have different splits"):
        compare_runs([a], Task(phantoms, task.output, tmp_path / "b.json"))
    assert not task.output.exists()


def test_folds_of_one_split_differ(task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(tmp_path, phantoms, monkeypatch, split_folds(phantoms, 2), "a", "b")
    assert len(compare_runs(runs, task).rows) == 2
    overrides = tmp_path / "b" / "configs" / "overrides.json"
    overrides.write_text(json.dumps({**json.loads(overrides.read_text()), "fold": 1}))
    with pytest.raises(ValueError, match="a and b have different splits: 10 patient"):
        compare_runs(runs, task)


def test_run_without_a_split(task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (a,) = runs_of(tmp_path, phantoms, monkeypatch, split_patients(phantoms), "a")
    (tmp_path / "a" / "eval" / "split.json").unlink()
    with pytest.raises(ValueError, match=r"a \(.*\) has no split of its own; give the one that its training used"):
        compare_runs([a], task)
    assert len(compare_runs([a], Task(phantoms, task.output, tmp_path / "a.json")).rows) == 1


def test_a_leaking_split_is_said_in_every_table(
    task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = runs_of(tmp_path, phantoms, monkeypatch, split_slices(phantoms), "a", "b")
    result = compare_runs(runs, task)
    assert sum("This split is by slice and leaks" in note for note in result.notes) == 1
    for suffix in ("md", "tex", "html", "json"):
        assert "This split is by slice and leaks" in (task.output / f"comparison.{suffix}").read_text(), suffix


def test_same_split_is_about_members_not_seeds(phantoms: Path) -> None:
    split = split_patients(phantoms)
    other = split_patients(phantoms)
    other.seed = 99
    check_same_split("a", split, "b", other)
    other.fingerprint = "0" * 64
    with pytest.raises(ValueError, match=r"a and b are of different data \(fingerprints \w{12} and 000000000000\)"):
        check_same_split("a", split, "b", other)


def test_authors_convention(task: Task, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(tmp_path, phantoms, monkeypatch, split_patients(phantoms), "a", "b")
    edit(tmp_path / "a" / "configs" / "metadata.json", lambda text: text.replace('"tumour_slices_only"', '"pooledd"'))
    edit(tmp_path / "b" / "configs" / "metadata.json", lambda text: text.replace("reported_convention", "unrelated"))
    result = compare_runs(runs, task)
    assert "reported_convention 'pooledd' is not one of slices_empty_is_1" in result.failed["a"]
    (row,) = result.rows
    assert (row["name"], row["slice_dice"], row["convention"]) == ("b", None, None)


def results(**patients: Any) -> Results:
    rows = [{"patient": name, **dict.fromkeys(("iou", "precision", "recall", "surface_dice"), 0.5), "dice": dice,
             "hd95": hd95} for name, (dice, hd95) in patients.items()]  # fmt: skip
    return Results(Path(), {}, rows, [])


def test_ranking_by_a_distance_lower_first_misses_last() -> None:
    entries = {
        "far": results(p=(0.9, 8.0), q=(0.9, 9.0)),
        "near": results(p=(0.8, 2.0), q=(0.8, 3.0)),
        "misses": results(p=(0.8, 1.0), q=(0.0, math.inf)),
        "nothing": results(p=(math.nan, math.nan), q=(math.nan, math.nan)),
    }
    rows = rank(entries, find_metric("hd95"))
    assert [row["name"] for row in rows] == ["near", "far", "misses", "nothing"]
    assert [row["missed"] for row in rows] == [0, 0, 1, 0]
    assert rows[0]["difference"] == pytest.approx(-6.0)
    assert rows[3]["undefined"] == 2
    by_dice = rank(entries, find_metric("dice"))
    assert [row["name"] for row in by_dice] == ["far", "near", "misses", "nothing"]
    assert by_dice[0]["difference"] == pytest.approx(0.1)


def test_unknown_names(task: Task) -> None:
    with pytest.raises(ValueError, match=r"no metric 'dic'; did you mean dice\?"):
        compare_bundles(["unet_cosine"], Task(task.dataset_dir, task.output, rank_by="dic"), TWO)
    with pytest.raises(ValueError, match="volume_difference has no better end, 0 is best; rank by another metric"):
        compare_runs(["unet_cosine"], Task(task.dataset_dir, task.output, rank_by="volume_difference"))
    with pytest.raises(ValueError, match=r"no bundle 'unet_cosin'; did you mean unet_cosine\?"):
        compare_bundles(["unet_cosin"], task, TWO)
