import json
import shutil
from pathlib import Path

import pytest
import tifffile
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from monai_lgg import experiments
from monai_lgg.bundle import find_bundle
from monai_lgg.experiments import agreed_settings, is_trained, own_split, training_progress, training_seconds
from monai_lgg.splits import read_split, save_split, split_folds, split_patients
from tests.conftest import TINY
from tests.fake_runs import Fakes, write_checkpoint


def test_settings_are_begun_and_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.json"
    assert agreed_settings(path, {"budget": "3 epochs", "settings": ["a=1"]}) == {
        "budget": "3 epochs",
        "settings": ["a=1"],
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "timing": 2.5}))
    assert agreed_settings(path, {"budget": "3 epochs", "settings": ["a=1"]})["timing"] == 2.5
    with pytest.raises(ValueError, match=r"new was begun with budget '3 epochs', now '4 epochs'; repeat the first"):
        agreed_settings(path, {"budget": "4 epochs", "settings": ["a=1"]})
    with pytest.raises(ValueError, match=r"begun with settings \['a=1'\], now \[\]"):
        agreed_settings(path, {"budget": "3 epochs", "settings": []})


def test_split_of_an_output(phantoms: Path, tmp_path: Path) -> None:
    save_split(split_folds(phantoms, 2), tmp_path / "given.json")
    first = own_split(tmp_path / "a", phantoms, tmp_path / "given.json")
    assert len(first.folds) == 2
    assert own_split(tmp_path / "a", phantoms, None) == first
    assert own_split(tmp_path / "b", phantoms, None) == split_patients(phantoms)
    with pytest.raises(ValueError, match=r"b was begun with another split than .*given\.json; leave --split out"):
        own_split(tmp_path / "b", phantoms, tmp_path / "given.json")


def test_progress_of_a_run(tmp_path: Path) -> None:
    assert training_progress(tmp_path) == {}
    assert not is_trained(tmp_path)
    write_checkpoint(tmp_path, epochs=3, max_epochs=9, best=0.25)
    found = training_progress(tmp_path)
    assert found == {
        "epochs": 3, "max_epochs": 9, "stopped_early": False, "pretrained": None, "environments": [], "best_epoch": 1,
        "best": 0.25,
    }  # fmt: skip
    (tmp_path / "models" / "checkpoint.pt").unlink()
    experiments.write_settings(tmp_path / experiments.TRAINED, found)
    assert training_progress(tmp_path) == found


def test_lost_weights_are_never_replaced_silently(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, epochs=3, max_epochs=9)
    with pytest.raises(FileNotFoundError, match=r"its weights .*model\.pt are gone; put the file back, or remove"):
        is_trained(tmp_path)
    torch.save({}, tmp_path / "models" / "model.pt")
    assert not is_trained(tmp_path)  # interrupted: goes on
    experiments.write_settings(tmp_path / experiments.TRAINED, {})
    assert is_trained(tmp_path)
    for path in (tmp_path / "models").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="are gone"):
        is_trained(tmp_path)


def test_a_trained_run_is_not_taken_for_one_of_other_settings(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes({})
    monkeypatch.setattr(experiments.bundles, "train", fakes.train)
    save_split(split_patients(phantoms), tmp_path / "split.json")
    bundle, more = find_bundle("unet_cosine"), {"device": "cpu", "progress": False}

    def train(loss: str, data: Path = phantoms) -> None:
        settings = (*TINY, "loss=" + loss)
        experiments.train_once(
            bundle, data, tmp_path / "run", split_file=tmp_path / "split.json", settings=settings, **more
        )

    train("dice_focal")
    train("dice_focal")
    shutil.copytree(phantoms, tmp_path / "moved")
    train("dice_focal", tmp_path / "moved")
    assert len(fakes.calls) == 1
    assert experiments.bundles.stored_settings(tmp_path / "run")["loss"]["_target_"] == "DiceFocalLoss"
    with pytest.raises(
        ValueError, match=r"run was trained with \{'loss': .*DiceFocalLoss.*now .*Tversky.*; repeat those"
    ):
        train("tversky")
    with pytest.raises(ValueError, match="tversky"):
        train("tverski")


def test_an_evaluation_is_repeated_when_the_rule_of_decision_changed(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes({})
    monkeypatch.setattr(experiments.bundles, "train", fakes.train)
    monkeypatch.setattr(experiments.bundles, "evaluate", fakes.evaluate)
    save_split(split_patients(phantoms), tmp_path / "split.json")
    run, more = tmp_path / "run", {"device": "cpu", "progress": False}
    experiments.train_once(
        find_bundle("unet_cosine"), phantoms, run, split_file=tmp_path / "split.json", settings=TINY, **more
    )
    for _ in range(2):
        experiments.evaluate_once(run, phantoms, tmp_path / "results", **more)
    assert len(fakes.calls) == 2
    path = run / "configs" / "evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threshold": 0.3}))
    experiments.evaluate_once(run, phantoms, tmp_path / "results", **more)
    assert len(fakes.calls) == 3


def test_an_evaluation_is_repeated_when_the_data_changed(run: Path, phantoms: Path, tmp_path: Path) -> None:
    data, more = tmp_path / "data", {"device": "cpu", "progress": False}
    shutil.copytree(phantoms, data)
    found = experiments.evaluate_once(run, data, tmp_path / "out", **more)
    written = (tmp_path / "out" / "summary.json").stat().st_mtime_ns
    assert experiments.evaluate_once(run, data, tmp_path / "out", **more) == found
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns == written
    (name, *_) = read_split(run / "eval" / "split.json").part("test")
    image, mask = (data / name / f"{name}_3{end}.tif" for end in ("", "_mask"))
    tifffile.imwrite(image, 255 - tifffile.imread(image))
    experiments.evaluate_once(run, data, tmp_path / "out", **more)
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns > written
    tifffile.imwrite(mask, 255 - tifffile.imread(mask))
    with pytest.raises(ValueError, match="made from other data than"):
        experiments.evaluate_once(run, data, tmp_path / "out", **more)
    with pytest.raises((FileNotFoundError, ValueError), match="nothing"):
        experiments.evaluate_once(run, tmp_path / "nothing", tmp_path / "out", **more)


def test_a_run_is_not_taken_for_one_of_another_recipe(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments.bundles, "train", Fakes({}).train)
    save_split(split_patients(phantoms), tmp_path / "split.json")

    def train(bundle: Path) -> None:
        experiments.train_once(
            bundle,
            phantoms,
            tmp_path / "run",
            split_file=tmp_path / "split.json",
            settings=TINY,
            device="cpu",
            progress=False,
        )

    train(find_bundle("unet_cosine"))
    words = r"run was begun with another recipe than that of .*unet_dice \(.*train\.json differs in .*\); choose a new"
    with pytest.raises(ValueError, match=words):
        train(find_bundle("unet_dice"))  # the first has ended
    (tmp_path / "run" / experiments.TRAINED).unlink()
    with pytest.raises(ValueError, match=words):
        train(find_bundle("unet_dice"))
    train(tmp_path / "run")  # as the error says


def test_an_evaluation_by_hand_is_not_taken_for_that_of_a_comparison(run: Path, phantoms: Path, tmp_path: Path) -> None:
    more = {"device": "cpu", "progress": False}
    found = experiments.evaluate_once(run, phantoms, tmp_path, **more)
    assert found["settings"] == []
    by_hand = ("threshold=0.999", "image_size=[64,64]")
    other = experiments.bundles.evaluate(run, phantoms, tmp_path, settings=by_hand, **more)
    assert other["settings"] == list(by_hand)
    assert other["per_patient_dice"] != found["per_patient_dice"]
    again = experiments.evaluate_once(run, phantoms, tmp_path, **more)
    assert again["per_patient_dice"] == found["per_patient_dice"]


def test_training_seconds_leave_interruptions_out(tmp_path: Path) -> None:
    assert training_seconds(tmp_path) is None
    (tmp_path / "eval").mkdir()
    for name, times in (("1", [100.0, 104.0, 110.5]), ("2", [5000.0, 5002.0])):
        with (tmp_path / "eval" / f"events.out.tfevents.{name}").open("wb") as file:
            writer = RecordWriter(file)
            for wall_time in times:
                writer.write(Event(wall_time=wall_time, step=1).SerializeToString())
            writer.flush()
    assert training_seconds(tmp_path) == pytest.approx(10.5 + 2.0)


def test_facts_of_a_real_run(run: Path) -> None:
    found = training_progress(run)
    assert (found["epochs"], found["max_epochs"], found["stopped_early"]) == (2, 2, False)
    seconds = training_seconds(run)
    assert seconds is not None
    assert 0 < seconds < 600
    state = torch.load(run / "models" / "model.pt", weights_only=True)
    weights = sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k)
    assert experiments.parameter_count(run) == weights
