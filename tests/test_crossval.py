import json
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_lgg import bundle as bundles
from monai_lgg.crossval import CrossValidation, build_ensemble, cross_validate, merged_weights
from monai_lgg.reference import load_reference
from monai_lgg.results import read_results
from monai_lgg.splits import read_split, save_split, split_folds, split_patients, split_slices
from tests.conftest import TINY
from tests.fake_runs import copies, install


def crossval(phantoms: Path, tmp_path: Path, **options: Any) -> CrossValidation:
    (bundle,) = copies(tmp_path / "b", "tiny")
    return cross_validate(Path(bundle), phantoms, tmp_path / "out", progress=False, **options)


def test_folds_pooled_and_resumed(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch, **{"0": 0, "1": 2, "2": 4})
    fakes.fail = {"train 2": KeyboardInterrupt()}
    (bundle,) = copies(tmp_path / "b", "tiny")
    with pytest.raises(KeyboardInterrupt):
        cross_validate(Path(bundle), phantoms, tmp_path / "out", folds=3, settings=("max_epochs=4",), progress=False)
    assert fakes.since() == ["train 0", "evaluate 0", "train 1", "evaluate 1", "train 2"]
    fakes.fail = {}
    result = crossval(phantoms, tmp_path, folds=3, settings=("max_epochs=4",))
    assert fakes.since() == ["train 2", "evaluate 2"]

    split = read_split(tmp_path / "out" / "split.json")
    for fold in range(3):
        run = tmp_path / "out" / "folds" / str(fold)
        assert bundles.stored_settings(run)["fold"] == fold
        assert bundles.stored_settings(run)["max_epochs"] == 4
        tested = {row["patient"] for row in read_results(run / "eval" / "test").patients}
        assert tested == set(split.part("test", fold))
    pooled = read_results(tmp_path / "out" / "oof")
    assert len(pooled.patients) == len(set(row["patient"] for row in pooled.patients)) == 10
    assert result.summary["patients"] == 10
    assert result.summary["part"] == "out-of-fold"
    assert [summary["patients"] for summary in result.folds] == [len(split.part("test", k)) for k in range(3)]
    mean = sum(sum(row["dice"] for row in read_results(tmp_path / "out" / "folds" / str(k) / "eval" / "test").patients)
               for k in range(3)) / 10  # fmt: skip
    assert result.summary["per_patient_dice"]["mean"] == pytest.approx(mean)


def test_ensemble_averages_the_folds(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    result = crossval(phantoms, tmp_path, folds=2, settings=("learning_rate=0.25", "train::inferer::amp=false"))
    runs = [tmp_path / "out" / "folds" / str(k) for k in range(2)]
    config = bundles.read_config([result.ensemble / "configs" / "inference.json"])
    network = config.get_parsed_content("network_def").eval()
    bundles.load_weights(network, result.ensemble / "models" / "model.pt")
    image = torch.rand(1, 3, 32, 48)
    probabilities = []
    for run in runs:
        files = [run / "configs" / "train.json", run / "configs" / "overrides.json"]
        single = bundles.read_config(files).get_parsed_content("network_def").eval()
        bundles.load_weights(single, run / "models" / "model.pt")
        with torch.no_grad():
            probabilities.append(torch.sigmoid(single(image)))
    with torch.no_grad():
        together = torch.sigmoid(network(image))
    assert not torch.allclose(*probabilities)
    torch.testing.assert_close(together, (probabilities[0] + probabilities[1]) / 2)

    training = bundles.read_config([result.ensemble / "configs" / "train.json"])
    assert training["network_def"] == config["network_def"]
    assert (training["learning_rate"], training["train"]["inferer"]["amp"]) == (0.25, False)
    assert training["image_size"] == config["image_size"] == [64, 64]
    assert training["fold"] == 0
    reference = load_reference(result.ensemble / "models" / "reference.json")
    assert reference is not None
    assert reference.patients == 10  # all of them are in its training
    assert bundles.stored_settings(result.ensemble) == {}
    assert bundles.find_bundle(result.ensemble) == result.ensemble.resolve()
    card = (result.ensemble / "docs" / "README.md").read_text()
    assert "trained on all 10 patients of the data, so no patient of this data is a test patient" in card.replace(
        "\n", " "
    )
    metadata = json.loads((result.ensemble / "configs" / "metadata.json").read_text())
    assert metadata["name"].endswith("ensemble of 2 folds")
    assert not (result.ensemble / "recipe.json").exists()
    everyone = read_split(result.ensemble / "eval" / "split.json")
    assert len(everyone.part("train")) == 10
    assert everyone.part("test") == {}
    seen = bundles.seen_in_training(result.ensemble, phantoms, None, "all", 0)
    assert seen is not None
    assert seen.startswith("10 of the 10 patients were used in this run's training")


def test_ensemble_is_built_again_from_other_weights_in_one_step(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    result = crossval(phantoms, tmp_path, folds=2)
    runs = [tmp_path / "out" / "folds" / str(k) for k in range(2)]
    split = read_split(tmp_path / "out" / "split.json")
    (result.ensemble / "old.txt").write_text("of an earlier call")
    build_ensemble(runs, split, result.ensemble)
    assert (result.ensemble / "old.txt").exists()  # same weights: left alone
    network = torch.load(runs[1] / "models" / "model.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in network.items()}, runs[1] / "models" / "model.pt")
    build_ensemble(runs, split, result.ensemble)
    assert not (result.ensemble / "old.txt").exists()

    before = (result.ensemble / "models" / "model.pt").read_bytes()
    torch.save({}, runs[0] / "models" / "model.pt")
    monkeypatch.setattr(torch, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_ensemble(runs, split, result.ensemble)
    assert (result.ensemble / "models" / "model.pt").read_bytes() == before
    assert sorted(path.name for path in result.ensemble.parent.iterdir()) == [
        "crossval-settings.json", "ensemble", "folds", "oof", "split.json"
    ]  # fmt: skip


def test_merged_names(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name / "models").mkdir(parents=True)
        torch.save({"conv.weight": torch.tensor(value)}, tmp_path / name / "models" / "model.pt")
    merged = merged_weights([tmp_path / "a", tmp_path / "b"])
    assert {key: tensor.item() for key, tensor in merged.items()} == {
        "networks.0.conv.weight": 1.0,
        "networks.1.conv.weight": 2.0,
    }


def test_a_fold_that_lost_its_checkpoint(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch)
    crossval(phantoms, tmp_path, folds=2)
    fakes.since()
    models = tmp_path / "out" / "folds" / "1" / "models"
    for path in models.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"fold 1 \(.*1\): it has been trained, but its weights .* are gone; put") as e:
        crossval(phantoms, tmp_path, folds=2)
    assert f"remove the folder {(tmp_path / 'out' / 'folds' / '1')}" in str(e.value)
    assert fakes.since() == []


def test_a_fold_that_fails_is_named(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch)
    fakes.fail = {"train 1": RuntimeError("no memory")}
    with pytest.raises(ValueError, match=r"fold 1 \(.*\): no memory; finished folds are kept"):
        crossval(phantoms, tmp_path, folds=2)


def test_begun_with_something_else(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    crossval(phantoms, tmp_path, folds=2)
    with pytest.raises(ValueError, match=r"split\.json has 2 folds, not 5; give that number, or another split"):
        crossval(phantoms, tmp_path, folds=5)
    with pytest.raises(ValueError, match=r"begun with settings \[\], now \['seed=3'\]"):
        crossval(phantoms, tmp_path, folds=2, settings=("seed=3",))
    (other,) = copies(tmp_path / "b", "other")
    with pytest.raises(ValueError, match="begun with bundle 'tiny', now 'other'"):
        cross_validate(Path(other), phantoms, tmp_path / "out", folds=2)
    save_split(split_folds(phantoms, 2, seed=8), tmp_path / "given.json")
    with pytest.raises(ValueError, match=r"begun with another split than .*given\.json"):
        crossval(phantoms, tmp_path, split_file=tmp_path / "given.json")


def test_given_folds(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    given = split_folds(phantoms, 2, seed=8)
    save_split(given, tmp_path / "given.json")
    assert len(crossval(phantoms, tmp_path, split_file=tmp_path / "given.json").folds) == 2
    assert read_split(tmp_path / "out" / "split.json") == given
    assert len(crossval(phantoms, tmp_path).folds) == 2  # goes on without naming it again


@pytest.mark.parametrize(
    ("kind", "message"),
    [("one", r"1 fold\(s\) by patient"), ("slices", r"1 fold\(s\) by slice"), ("twice", "is a test patient of fold 0")],
)
def test_unfit_splits(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str) -> None:
    fakes = install(monkeypatch)
    split = split_slices(phantoms) if kind == "slices" else split_patients(phantoms)
    if kind == "twice":
        split.folds = [split.folds[0], split.folds[0]]
    save_split(split, tmp_path / "split.json")
    with pytest.raises(ValueError, match=message):
        crossval(phantoms, tmp_path, split_file=tmp_path / "split.json")
    assert fakes.calls == []
    assert not (tmp_path / "out").exists()


def test_settings_that_folds_need_for_themselves(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="setting 'fold' is made by the cross-validation itself"):
        crossval(phantoms, tmp_path, folds=2, settings=(*TINY, "fold=1"))
    with pytest.raises(ValueError, match="no number of folds; give --folds K"):
        crossval(phantoms, tmp_path)
