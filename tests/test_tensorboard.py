import io
import itertools
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from monai_lgg import bundle as bundles
from monai_lgg.handlers import BestModelSaver, TrainingState
from monai_lgg.report.overlay import LINE, PREDICTION_COLOUR, TRUTH_COLOUR
from monai_lgg.tensorboard import (
    THRESHOLDS,
    DiceHistogram,
    EpochLine,
    KeptModel,
    LearningRate,
    OutlineImages,
    PrecisionRecall,
    RunEvents,
    Throughput,
    hyperparameters,
    log_config,
    write_test_figures,
)


@pytest.fixture
def writer(tmp_path: Path) -> SummaryWriter:
    return SummaryWriter(str(tmp_path / "events"))


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0}).Reload()


def written(writer: SummaryWriter) -> EventAccumulator:
    writer.close()
    return events_of(Path(writer.log_dir))


def engine_of(*outputs: Any, records: list[dict[str, str]] | None = None) -> Engine:
    """Gives one of ``outputs`` an iteration, with a record of its own as the batch."""

    def step(engine: Engine, batch: Any) -> Any:
        engine.state.batch = [(records or [{} for _ in outputs])[batch]]
        return [outputs[batch]]

    return Engine(step)


def run_folder(root: Path) -> Path:
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text('{"name": "A U-Net for lower-grade glioma"}')
    (root / "configs" / "train.json").write_text("{}")
    return root


class TestRunEvents:
    """A training of 3 epochs of 2 iterations that writes a point each."""

    @pytest.fixture(autouse=True)
    def a_second_between_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Event files are read in the order of their names, which a start has from the second and its process."""
        seconds = itertools.count(1_700_000_000)
        monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(seconds)))

    @staticmethod
    def train(root: Path, stop_in: int = 0, epochs: int = 3) -> None:
        """``stop_in``: of all iterations, the one that ends in an exception, after its point is written."""
        events = RunEvents(str(root / "eval"), str(root), {"learning_rate": 0.1})

        def step(engine: Engine, batch: Any) -> None:
            assert events.writer is not None
            events.writer.add_scalar("loss", engine.state.iteration, engine.state.iteration)
            if engine.state.iteration == stop_in:
                raise RuntimeError("stopped")

        trainer = Engine(step)
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: events.writer.add_scalar("epoch", e.state.epoch, e.state.epoch)
        )
        TrainingState(str(root / "models" / "checkpoint.pt"), {"events": events}).attach(trainer)
        events.attach(trainer)
        try:
            trainer.run([0, 1], max_epochs=epochs)
        except RuntimeError:
            assert stop_in
        events.close()

    @pytest.mark.parametrize("stops", [[], [1], [3], [4], [5], [1, 1], [4, 4], [1, 3, 6]])
    def test_stopped_training_leaves_no_gap_and_no_point_twice(self, tmp_path: Path, stops: list[int]) -> None:
        root = run_folder(tmp_path)
        for stop in (*stops, 0):
            self.train(root, stop)
        events = events_of(root / "eval")
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(k, k) for k in range(1, 7)]
        assert [event.step for event in events.Scalars("epoch")] == [1, 2, 3]
        assert len(events.Tensors("settings/text_summary")) == 1
        assert [event.step for event in events.Tensors("config/train.json/text_summary")] == [0]

    def test_finished_training_started_again_adds_nothing_to_see(self, tmp_path: Path) -> None:
        root = run_folder(tmp_path)
        self.train(root)
        write_test_figures(root, {"per_patient_dice": {"mean": 0.5}})
        for _ in range(2):
            self.train(root)
        events = events_of(root / "eval")
        assert len(events.Scalars("loss")) == 6
        assert [event.value for event in events.Scalars("kept_model/dice_test")] == [0.5]
        assert set(events.PluginTagToContent("hparams")) == {SESSION_START_INFO_TAG, SESSION_END_INFO_TAG}

    def test_only_a_training_that_ends_says_so(self, tmp_path: Path) -> None:
        root = run_folder(tmp_path)
        self.train(root, stop_in=5)
        events = events_of(root / "eval").PluginTagToContent("hparams")
        assert list(events) == [SESSION_START_INFO_TAG]
        info = parse_session_start_info_plugin_data(events[SESSION_START_INFO_TAG])
        assert {name: value.number_value or value.string_value for name, value in info.hparams.items()} == {
            "bundle": "A U-Net", "learning_rate": 0.1,
        }  # fmt: skip

    def test_files_of_others_stay(self, tmp_path: Path) -> None:
        root = run_folder(tmp_path)
        (root / "eval").mkdir()
        other = root / "eval" / "events.out.tfevents.1.other"
        other.write_bytes(b"mine")
        self.train(root, stop_in=1)
        self.train(root)
        assert other.read_bytes() == b"mine"

    def test_ranks_that_write_nothing(self, tmp_path: Path) -> None:
        events = RunEvents(str(tmp_path / "eval"), str(tmp_path), {}, enabled=False)
        assert events.writer is None
        events.attach(Engine(lambda engine, batch: None))
        assert events.state_dict() == {}
        events.load_state_dict({"events.out.tfevents.1.train": 5})
        events.close()
        assert not (tmp_path / "eval").exists()


def test_hyperparameters_are_settings_and_what_was_set_but_no_paths(tmp_path: Path) -> None:
    root = run_folder(tmp_path)
    settings = {"learning_rate": 1e-3, "image_size": [64, 64], "device": "cpu", "amp": True, "dataset_dir": "/secret",
                "split_file": "/secret"}  # fmt: skip
    wanted = {"bundle": "A U-Net", "learning_rate": 1e-3, "image_size": "[64, 64]"}
    assert hyperparameters(str(root), settings) == wanted
    given = {"dataset_dir": "/secret", "network_def#features": [8, 8], "amp": False, "loss#_target_": "DiceLoss"}
    (root / "configs" / "overrides.json").write_text(json.dumps(given))
    assert hyperparameters(str(root), settings) == {
        **wanted, "network_def#features": "[8, 8]", "amp": "false", "loss#_target_": "DiceLoss",
    }  # fmt: skip


def test_log_config(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("train", "overrides", "inference"):
        (tmp_path / "configs" / f"{name}.json").write_text(f'{{\n"name": "{name}"}}\n')
    writer = SummaryWriter(str(tmp_path / "events"))
    log_config(writer, str(tmp_path), {"max_epochs": 3, "device": "cpu"})

    events = written(writer)
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert sorted(texts) == [
        "config/overrides.json/text_summary", "config/train.json/text_summary", "settings/text_summary"
    ]  # fmt: skip
    assert "| max_epochs | 3 |\n| device | cpu |" in texts["settings/text_summary"]
    assert texts["config/train.json/text_summary"] == '    {\n    "name": "train"}\n'


def test_outline_images(writer: SummaryWriter) -> None:
    """A picture of 8 x 6, enlarged 34 times to be at least 200 wide, with a legend below."""
    label = torch.zeros(1, 8, 6, 3)
    label[0, 1:4, 1:4, 0] = 1
    label[0, 1:7, 1:5, 2] = 1
    pred = torch.zeros_like(label)
    pred[0, 0, :2, 2] = 1
    image = torch.arange(8 * 6 * 3.0).reshape(1, 8, 6, 3).repeat(3, 1, 1, 1)
    item = {"image": image, "pred": pred, "label": label}
    engine = engine_of(item, item, item, records=[{"case": name} for name in ("anna", "bo", "cy")])
    OutlineImages(writer, cases=2).attach(engine)
    engine.run([0, 1, 2], max_epochs=2)

    events = written(writer)
    assert sorted(events.Tags()["images"]) == ["outlines/anna", "outlines/bo"]
    entries = events.Images("outlines/anna")
    assert [entry.step for entry in entries] == [1, 2]
    assert (entries[0].height, entries[0].width) == (8 * 34 + LINE, 6 * 34)
    picture = np.asarray(Image.open(io.BytesIO(entries[0].encoded_image_string)))
    assert tuple(picture[1 * 34 + 5, 4 * 34 + 5]) == TRUTH_COLOUR, "the outline of slice 2, the largest"
    assert tuple(picture[3 * 34 + 5, 3 * 34 + 5]) not in (TRUTH_COLOUR, PREDICTION_COLOUR)
    assert tuple(picture[5, 1 * 34 + 5]) == PREDICTION_COLOUR


@pytest.mark.parametrize("decollated", [True, False])
def test_epoch_line_learning_rate_and_throughput(
    writer: SummaryWriter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, decollated: bool
) -> None:
    now = [100.0]
    monkeypatch.setattr("monai_lgg.tensorboard.time.perf_counter", lambda: now[0])
    losses = iter([1.0, 2.0, 3.0, 5.0])

    def step(engine: Engine, batch: int) -> Any:
        now[0] += 2.0  # seconds
        return [{"loss": next(losses)}] * batch if decollated else {"loss": next(losses), "image": torch.zeros(batch)}

    trainer, validator = Engine(step), Engine(lambda engine, batch: None)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    LearningRate(writer, optimizer).attach(trainer)
    Throughput(writer).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: optimizer.param_groups[0].update(lr=0.25))

    def validate(engine: Engine) -> None:
        now[0] += 1000
        validator.run([0], max_epochs=1)
        validator.state.epoch, validator.state.metrics = engine.state.epoch, {"dice": 0.25}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    EpochLine(validator, writer).attach(trainer)
    with caplog.at_level(logging.INFO, logger="monai_lgg.tensorboard"):
        trainer.run([8, 4], max_epochs=2)  # 12 slices in 4 s

    events = written(writer)
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "learning_rate": [(1, 0.5), (2, 0.25)], "slices_per_second": [(1, 3.0), (2, 3.0)],
        "train_loss_epoch": [(1, 1.5), (2, 4.0)],
    }  # fmt: skip
    state: Any = trainer.state
    assert (state.learning_rate, state.slices_per_second, state.train_loss_epoch) == (0.25, 3.0, 4.0)
    assert "epoch 2/2: loss 4.0000 dice 0.2500 (1004 s)" in caplog.messages


def test_precision_recall_by_hand(writer: SummaryWriter) -> None:
    """Six voxels of two cases; each epoch counts anew."""
    first = {"prob": torch.tensor([0.9, 0.8, 0.4, 0.0]), "label": torch.tensor([1.0, 0, 1, 0])}
    second = {"prob": torch.tensor([1.0, 0.3]), "label": torch.tensor([1.0, 0])}
    engine = engine_of(first, second)
    PrecisionRecall(writer).attach(engine)
    engine.run([0, 1], max_epochs=2)

    events = written(writer)
    assert [event.step for event in events.Tensors("validation")] == [1, 2]
    for event in events.Tensors("validation"):
        data = np.array(event.tensor_proto.float_val).reshape(6, THRESHOLDS)
        tp, fp, tn, fn, precision, recall = data[:, int(0.5 * (THRESHOLDS - 1))]
        assert (tp, fp, tn, fn) == (2, 1, 2, 1)
        assert (precision, recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
        assert data[:4, 0].tolist() == [3, 3, 0, 0]
        assert data[:4, -1].tolist() == [1, 0, 3, 2]
    assert events.PluginTagToContent("pr_curves").keys() == {"validation"}


def test_precision_recall_agrees_with_tensorboards_own(writer: SummaryWriter) -> None:
    generator = torch.Generator().manual_seed(0)
    prob = torch.rand(1, 20, 30, 4, generator=generator)
    label = (torch.rand(prob.shape, generator=generator) < prob**2).float()
    engine = engine_of({"prob": prob, "label": label})
    PrecisionRecall(writer).attach(engine)
    engine.run([0])
    writer.add_pr_curve("theirs", label.numpy().ravel(), prob.numpy().ravel())
    events = written(writer)
    ours, theirs = (np.array(events.Tensors(tag)[0].tensor_proto.float_val) for tag in ("validation", "theirs"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_precision_recall_without_any_tumour(writer: SummaryWriter) -> None:
    engine = engine_of({"prob": torch.full((1, 2, 2, 2), 0.1), "label": torch.zeros(1, 2, 2, 2)})
    PrecisionRecall(writer).attach(engine)
    engine.run([0])
    data = np.array(written(writer).Tensors("validation")[0].tensor_proto.float_val).reshape(6, THRESHOLDS)
    assert np.isfinite(data).all()
    assert data[1].tolist() == [8.0] * 13 + [0.0] * (THRESHOLDS - 13)  # 0.1 x 126 = 12.6: levels 0 to 12


def validated(**state: Any) -> Any:
    return SimpleNamespace(state=SimpleNamespace(key_metric_name="dice", **state))


def test_histogram_of_dice(writer: SummaryWriter) -> None:
    handler = DiceHistogram(writer)
    values = torch.tensor([[0.02], [0.82], [0.84], [1.0], [math.nan]])
    handler(validated(metric_details={"dice": values}, epoch=3))
    handler(validated(metric_details={"dice": values[4:]}, epoch=4))  # nothing to show
    (event,) = written(writer).Histograms("dice_per_patient")
    assert event.step == 3
    histogram = event.histogram_value
    assert (histogram.num, histogram.min, histogram.max) == (4, pytest.approx(0.02), 1.0)
    counts = dict(zip(np.round(histogram.bucket_limit, 2), histogram.bucket, strict=True))
    assert {limit: count for limit, count in counts.items() if count} == {0.05: 1, 0.85: 2, 1.0: 1}


def test_kept_model(writer: SummaryWriter, tmp_path: Path) -> None:
    saver = BestModelSaver(torch.nn.Linear(1, 1), str(tmp_path / "model.pt"))
    handler = KeptModel(writer, saver)
    for epoch, value in enumerate([math.nan, 0.2, 0.1, 0.5], start=1):
        engine = validated(metrics={"dice": value}, epoch=epoch)
        saver(engine)
        handler(engine)
    events = written(writer)
    scores = [(event.step, event.value) for event in events.Scalars("kept_model/dice_validation")]
    assert scores == [(2, pytest.approx(0.2)), (3, pytest.approx(0.2)), (4, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("kept_model/epoch")] == [(2, 2), (3, 2), (4, 4)]


def test_figures_of_the_test_patients(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """Of the run's own split only, the latest evaluation, none in a bundle without a training."""
    summary = bundles.evaluate(run, phantoms, tmp_path / "e", progress=False)
    first = events_of(run / "eval")
    (event,) = first.Scalars("kept_model/dice_test")
    assert event.value == pytest.approx(summary["per_patient_dice"]["mean"])
    assert event.step == first.Scalars("kept_model/epoch")[-1].value
    write_test_figures(run, {"per_patient_dice": {"mean": 0.25, "median": None}, "pooled": {"pr_auc": math.inf}})
    again = events_of(run / "eval")
    assert [event.value for event in again.Scalars("kept_model/dice_test")] == [0.25]
    assert [tag for tag in again.Tags()["scalars"] if tag.endswith("_test")] == ["kept_model/dice_test"]
    bundles.evaluate(run, phantoms, tmp_path / "v", part="validation", progress=False)
    assert [event.value for event in events_of(run / "eval").Scalars("kept_model/dice_test")] == [0.25]
    write_test_figures(tmp_path, summary)
    assert not (tmp_path / "eval").exists()


def test_a_run_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "events.out.tfevents.1.train").touch()
    monkeypatch.setattr("monai_lgg.tensorboard.SummaryWriter", refuse)
    write_test_figures(tmp_path, {})
    assert "cannot be added to TensorBoard: [Errno 13]" in caplog.text
