import gc
import json
import logging
import multiprocessing
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from ignite.engine import Engine, Events
from monai.losses import DiceLoss

from monai_lgg import bundle as bundles
from monai_lgg import tune as tuning
from monai_lgg.losses import LOSSES
from monai_lgg.splits import read_split, save_split, split_slices
from monai_lgg.tune import Outcome, Reporter, Tuning, parse_parameters, tune
from tests.fake_runs import copies, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore::UserWarning")

PARAMS = ("learning_rate=log:1e-4:1e-1", "loss=dice,dice_ce")


def task_of(phantoms: Path, tmp_path: Path, *params: str, **options: Any) -> Tuning:
    bundle = Path(copies(tmp_path / "b", "tiny")[0]) if not (tmp_path / "b").exists() else tmp_path / "b" / "tiny"
    parameters = parse_parameters(params or PARAMS, bundle)
    return Tuning(bundle, phantoms, tmp_path / "out", parameters, progress=False, **options)


class FakeTraining:
    """In place of ``tune._train``: the Dice is best for a learning rate of 0.01; remembers the runs."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.values: list[dict[str, Any]] = []
        self.raise_in: dict[int, BaseException] = {}
        self.prune: set[int] = set()

    def __call__(self, task: Tuning, run: Path, values: dict[str, Any], trial: Any) -> bool:
        self.runs.append(run.name)
        self.values.append(values)
        bundles.prepare_run(task.bundle, run, values)
        trial.report(0.1, 1)
        if trial.number in self.raise_in:
            raise self.raise_in[trial.number]
        write_checkpoint(run, epochs=2, best=1 / (1 + abs(values["learning_rate"] - 0.01)))
        return trial.number in self.prune


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    training = FakeTraining()
    monkeypatch.setattr(tuning, "_train", training)
    monkeypatch.setattr(tuning, "_plots", lambda *_: None)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow, and nothing large is made here
    monkeypatch.setattr(tuning, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(tuning, "GRACE_SECONDS", 1)
    return training


def test_total_over_calls_and_best_as_overlay(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    task = task_of(phantoms, tmp_path)
    tune(task, 2)
    outcome = tune(task, 4)
    assert fake.runs == ["0", "1", "2", "3"]
    assert tune(task, 4) == outcome
    assert len(fake.runs) == 4
    assert outcome.states == {"complete": 4}
    assert len({values["learning_rate"] for values in fake.values}) == 4

    best = max(fake.values, key=lambda values: -abs(values["learning_rate"] - 0.01))
    overlay = json.loads((task.output / "best.json").read_text())
    assert outcome.values == best == {key: overlay[key] for key in best}
    assert outcome.number == fake.values.index(best)
    assert outcome.value == pytest.approx(1 / (1 + abs(best["learning_rate"] - 0.01)))
    config = bundles.read_config([task.bundle / "configs" / "train.json", task.output / "best.json"])
    assert config["learning_rate"] == best["learning_rate"]
    assert config.get_parsed_content("split_file") == str((task.output / "split.json").resolve())
    assert overlay.keys() == {*best, "split_file"}
    assert isinstance(config.get_parsed_content("loss"), DiceLoss | torch.nn.Module)
    assert config["loss"] in LOSSES.values()
    again = bundles.parse_settings(tuple(outcome.settings()), [task.bundle / "configs" / "train.json"])
    assert again == best


def test_the_same_study_twice_is_the_same(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    task = task_of(phantoms, tmp_path)
    tune(task, 3)
    first, fake.values = fake.values, []
    other = Tuning(**{**vars(task), "output": tmp_path / "again"})
    tune(other, 1)
    tune(other, 3)
    assert fake.values == first


def test_pruned_trials_keep_no_weights(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    fake.prune = {1}
    task = task_of(phantoms, tmp_path)
    outcome = tune(task, 3)
    assert outcome.states == {"complete": 2, "pruned": 1}
    assert outcome.number != 1
    assert not (task.output / "trials" / "1" / "models").exists()
    assert (task.output / "trials" / "0" / "models" / "checkpoint.pt").exists()


def test_a_trial_that_fails_counts_and_the_rest_goes_on(
    phantoms: Path, tmp_path: Path, fake: FakeTraining, caplog: pytest.LogCaptureFixture
) -> None:
    fake.raise_in = {0: RuntimeError("out of memory")}
    with caplog.at_level(logging.WARNING):
        outcome = tune(task_of(phantoms, tmp_path), 3)
    assert outcome.states == {"fail": 1, "complete": 2}
    assert "trial 0 failed: out of memory" in caplog.text


def test_hopeless(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    fake.raise_in = {n: ValueError("no such data") for n in range(9)}
    with pytest.raises(RuntimeError, match="all 3 trials so far failed, the last with: ValueError: no such data"):
        tune(task_of(phantoms, tmp_path), 9)
    assert len(fake.runs) == 3


def test_full_disk_stops_the_study(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    fake.raise_in = {1: OSError(28, "No space left on device")}
    with pytest.raises(OSError, match="No space left"):
        tune(task_of(phantoms, tmp_path), 5)
    assert fake.runs == ["0", "1"]


def test_no_value(phantoms: Path, tmp_path: Path, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_train", lambda *_: False)
    outcome = tune(task_of(phantoms, tmp_path), 1)
    assert outcome == Outcome(None, None, {}, {"fail": 1})
    assert not (tmp_path / "out" / "best.json").exists()


def test_interrupted_trial_is_taken_up_again(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    fake.raise_in = {1: KeyboardInterrupt()}
    task = task_of(phantoms, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tune(task, 3)
    outcome = tune(task, 3)
    assert fake.runs == ["0", "1", "1", "3"]  # trial 2 is trial 1 again, in its folder
    assert fake.values[1] == fake.values[2]
    assert outcome.states == {"complete": 3, "interrupted": 1}


def test_trial_of_a_killed_process_is_taken_up_again(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    """A trial that runs, by the study, but whose process gives no sign of life."""
    task = task_of(phantoms, tmp_path)
    tune(task, 1)
    study = tuning._open_study(optuna, task.output, 2)
    killed = study.ask()
    for parameter in task.parameters:
        parameter.suggest(killed)
    study._storage.record_heartbeat(killed._trial_id)
    time.sleep(2.1)  # the database counts whole seconds
    outcome = tune(task, 2)
    assert fake.runs == ["0", "1"]
    assert fake.values[1]["learning_rate"] == killed.params["learning_rate"]
    assert outcome.states == {"complete": 2, "interrupted": 1}


def test_trials_of_living_processes_are_left_to_them(
    phantoms: Path, tmp_path: Path, fake: FakeTraining, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of(phantoms, tmp_path)
    tune(task, 1)
    tuning._open_study(optuna, task.output, 2).ask()  # no heartbeat at all: never counts as killed
    outcome = tune(task, 2)
    assert outcome.states == {"complete": 1, "running": 1}
    assert "other processes are still running some" in caplog.text


def _child(task: Tuning, both_in_a_trial: Any, done: Any) -> None:
    sys.modules["matplotlib.pyplot"] = None  # type: ignore[assignment]  # no plots
    training = FakeTraining()

    def train(*args: Any) -> bool:
        if not training.runs:
            both_in_a_trial.wait(600)  # so that neither has them all
        return training(*args)

    tuning._train = train
    tuning._plots = lambda *_: None
    tune(task, 6)
    done.put(training.runs)


def test_two_processes_share_a_study(phantoms: Path, tmp_path: Path) -> None:
    task = task_of(phantoms, tmp_path)
    context = multiprocessing.get_context("spawn")  # a fork can inherit the locks of other threads, and hang
    both_in_a_trial, done = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_child, args=(task, both_in_a_trial, done), daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    runs = [done.get(timeout=600) for _ in processes]  # of a hang; much of it is the import of torch
    for process in processes:
        process.join()
    assert sorted(runs[0] + runs[1]) == ["0", "1", "2", "3", "4", "5"]
    assert all(runs)  # both had a share
    study = tuning._open_study(optuna, task.output, 2)
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 6


def test_locked_study(phantoms: Path, tmp_path: Path, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(phantoms, tmp_path)
    tune(task, 1)
    for name in ("study.db", ".turn.db"):
        other = sqlite3.connect(task.output / name, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with monkeypatch.context() as patch:
            patch.setattr(tuning, "LOCK_SECONDS", 0.2)
            with pytest.raises(OSError, match=rf"{name} cannot be used .*locked.*close what has it open"):
                tune(task, 2)
        other.close()
    tune(task, 2)
    assert fake.runs == ["0", "1"]


def test_study_that_is_locked_during_a_trial(
    phantoms: Path, tmp_path: Path, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(phantoms, tmp_path)

    def train(task: Tuning, run: Path, values: dict[str, Any], trial: Any) -> bool:
        other = sqlite3.connect(task.output / "study.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        try:
            trial.report(0.1, 1)
        finally:
            other.close()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_train", train)
        patch.setattr(tuning, "LOCK_SECONDS", 0.2)
        patch.setattr(tuning, "HEARTBEAT_SECONDS", 60)
        with pytest.raises(OSError, match=r"study\.db cannot be used .*locked.*close what has it open"):
            tune(task, 1)


def test_begun_with_something_else(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    tune(task_of(phantoms, tmp_path), 1)
    with pytest.raises(ValueError, match=r"begun with parameters .*, now"):
        tune(task_of(phantoms, tmp_path, "learning_rate=log:1e-4:1e-2"), 1)
    with pytest.raises(ValueError, match="begun with epochs None, now 3"):
        tune(task_of(phantoms, tmp_path, epochs=3), 1)


def test_slice_level_split_is_said(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    save_split(split_slices(phantoms), tmp_path / "slices.json")
    outcome = tune(task_of(phantoms, tmp_path, split_file=tmp_path / "slices.json"), 1)
    assert outcome.warning.startswith("This split is by slice and leaks")


def test_set_and_tuned(phantoms: Path, tmp_path: Path, fake: FakeTraining) -> None:
    for options in ({"settings": ("learning_rate=1",)}, {"settings": ("max_epochs=2",), "epochs": 3}):
        with pytest.raises(ValueError, match="is both tuned and set, or set twice"):
            tune(task_of(phantoms, tmp_path, **options), 1)
    with pytest.raises(ValueError, match="'max_epochs' is both tuned and set"):
        tune(task_of(phantoms, tmp_path, "max_epochs=2,3", epochs=3), 1)


def test_bad_parameters(tmp_path: Path) -> None:
    bundle = bundles.find_bundle("unet_cosine")
    with pytest.raises(ValueError, match="setting 'learning_rat' is not in the configuration; did you mean learning_r"):
        parse_parameters(["learning_rat=log:1e-5:1"], bundle)
    with pytest.raises(ValueError, match="parameter 'seed' is given more than once"):
        parse_parameters(["seed=1,2", "seed=int:1:3"], bundle)
    with pytest.raises(ValueError, match="nothing to tune"):
        parse_parameters([], bundle)


def test_optuna_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r'needs the package optuna: pip install "monai-lgg\[tune\]"'):
        tuning.import_optuna()


def test_reporter_ends_a_pruned_training() -> None:
    reported = []
    trial = SimpleNamespace(
        report=lambda value, step: reported.append((value, step)), should_prune=lambda: len(reported) == 2
    )
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    reporter = Reporter(trial, trainer)
    evaluator.state.key_metric_name = "dice"
    reporter.attach(evaluator)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        evaluator.state.metrics["dice"] = engine.state.epoch / 10
        evaluator.state.epoch = engine.state.epoch - 1
        evaluator.run([0], max_epochs=engine.state.epoch)

    trainer.run([0], max_epochs=5)
    assert reported == [(0.1, 1), (0.2, 2)]
    assert reporter.pruned
    assert trainer.state.epoch == 2


def test_plots_and_a_real_pruning(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real trainings: the second trial is pruned by force."""
    calls = iter([False, True])
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: next(calls))
    task = task_of(phantoms, tmp_path, settings=("max_epochs=1",))
    outcome = tune(task, 2)
    assert outcome.states == {"complete": 1, "pruned": 1}
    assert not (task.output / "trials" / "1" / "models").exists()
    assert (task.output / "trials" / "0" / "models" / "model.pt").is_file()
    plots = {path.name for path in (task.output / "plots").iterdir()}
    assert {"history.png", "parallel.png", "slice.png", "epochs.png"} <= plots
    study = tuning._open_study(optuna, task.output, 1)
    assert study.trials[0].intermediate_values == {1: study.trials[0].value}
    own = read_split(task.output / "trials" / "0" / "eval" / "split.json")
    assert own == read_split(task.output / "split.json")
