import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, LrScheduleHandler, ValidationHandler, from_engine
from monai.metrics import DiceMetric
from monai.transforms import Activationsd, AsDiscreted, Compose, RandFlipd, RandGaussianNoised

from monai_lgg import handlers
from monai_lgg.handlers import (
    BestModelSaver,
    EpochSeed,
    ResumableEarlyStop,
    TrainingState,
    ValidationToTheEnd,
    WeightAverage,
    plain_state,
)


def scored(value: float, epoch: int = 1) -> Any:
    """What a handler sees of an evaluator after its epoch."""
    return SimpleNamespace(state=SimpleNamespace(metrics={"dice": value}, key_metric_name="dice", epoch=epoch))


def network_of(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Conv2d(2, 1, 1)
    ).to(memory_format=torch.channels_last)


def records_of(count: int = 5) -> list[dict[str, torch.Tensor]]:
    images = torch.rand(count, 1, 8, 6, generator=torch.Generator().manual_seed(3))
    return [{"image": image, "label": (image > 0.5).float()} for image in images]


class Training:
    """A tiny run with shuffling, augmentation, validation, schedule and early stop, wired as in the bundles."""

    def __init__(self, folder: Path, max_epochs: int = 4, stop_after: int = 0, seed: int = 7) -> None:
        self.network = network_of(seed)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max_epochs)
        augment = Compose([RandFlipd(["image", "label"], prob=0.5), RandGaussianNoised("image", prob=0.8)])
        dataset = CacheDataset(records_of(), augment, progress=False)
        post = Compose([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.5)])
        self.best = BestModelSaver(self.network, str(folder / "model.pt"))
        self.early_stop = ResumableEarlyStop(3, lambda engine: engine.state.metrics["dice"])
        self.validator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(records_of(2), batch_size=1),
            network=self.network,
            postprocessing=post,
            key_val_metric={"dice": IgniteMetricHandler(DiceMetric(), output_transform=from_engine(["pred", "label"]))},
            val_handlers=[self.best, self.early_stop],
        )
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=DataLoader(dataset, batch_size=2, shuffle=True),
            network=self.network,
            optimizer=optimizer,
            loss_function=torch.nn.BCEWithLogitsLoss(),
            train_handlers=[
                EpochSeed(0, dataset),
                LrScheduleHandler(schedule, print_lr=False),
                ValidationHandler(1, self.validator),
            ],
        )
        self.losses: list[float] = []
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        self.early_stop.set_trainer(self.trainer)
        self.optimizer = optimizer
        self.objects = {
            "network": self.network, "optimizer": optimizer, "lr_scheduler": schedule,
            "best_model": self.best, "early_stop": self.early_stop,
        }  # fmt: skip
        self.state = TrainingState(str(folder / "checkpoint.pt"), self.objects)
        self.state.attach(self.trainer)
        if stop_after:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), self.trainer.terminate)

    def _collect(self, engine: Engine) -> None:
        self.losses.append(float(engine.state.output[0]["loss"]))

    def run(self) -> "Training":
        self.trainer.run()
        return self


def test_resumed_training_is_bit_identical(tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole").run()
    first = Training(tmp_path / "parts", stop_after=2).run()
    assert first.trainer.state.epoch == 2
    second = Training(tmp_path / "parts", seed=99).run()

    assert second.trainer.state.epoch == 4
    assert second.trainer.state.iteration == whole.trainer.state.iteration == 12
    assert first.losses + second.losses == whole.losses
    assert len(set(whole.losses)) == 12
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor), name
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]
    assert second.best.state_dict() == whole.best.state_dict()
    assert second.early_stop.state_dict() == whole.early_stop.state_dict()
    one, other = (torch.load(tmp_path / run / "model.pt", weights_only=True) for run in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_training_is_left_as_it_is(tmp_path: Path) -> None:
    whole = Training(tmp_path, max_epochs=1).run()
    again = Training(tmp_path, max_epochs=1, seed=99).run()
    assert again.losses == []
    assert torch.equal(again.network[0].weight, whole.network[0].weight)


def test_resume_false_starts_afresh(tmp_path: Path) -> None:
    first = Training(tmp_path, max_epochs=1).run()
    again = Training(tmp_path, max_epochs=1)
    again.state.resume = False
    assert again.run().losses == first.losses


def test_other_max_epochs(tmp_path: Path) -> None:
    Training(tmp_path, max_epochs=2, stop_after=1).run()
    with pytest.raises(ValueError, match=r"checkpoint\.pt: began with max_epochs=2, now 3"):
        Training(tmp_path, max_epochs=3).run()


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    Training(tmp_path, max_epochs=2, stop_after=1).run()
    other = Training(tmp_path, max_epochs=2)
    other.state.objects = {**other.objects, "network": torch.nn.Conv2d(1, 1, 3)}
    with pytest.raises(ValueError, match=r"checkpoint\.pt: its network does not fit this configuration \(Error"):
        other.run()


def test_checkpoint_that_lacks_a_part(tmp_path: Path) -> None:
    Training(tmp_path, max_epochs=2, stop_after=1).run()
    other = Training(tmp_path, max_epochs=2)
    other.state.objects = {**other.objects, "second_network": network_of()}
    with pytest.raises(ValueError, match="its second_network does not fit"):
        other.run()


def test_rank_that_does_not_save(tmp_path: Path) -> None:
    trainer = Engine(lambda engine, batch: None)
    TrainingState(str(tmp_path / "checkpoint.pt"), {}, save=False).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_scaler_of_mixed_precision_is_kept(tmp_path: Path) -> None:
    """MONAI's trainer holds it as ``scaler``; None on a CPU."""
    assert Training(tmp_path).trainer.scaler is None
    trainer, other = (Engine(lambda engine, batch: None) for _ in range(2))
    trainer.scaler, other.scaler = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 2.0))
    state = TrainingState(str(tmp_path / "checkpoint.pt"), {})
    state.store(trainer)
    state.load(other)
    assert other.scaler.get_scale() == 8


def test_interrupted_store_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(tmp_path, max_epochs=2, stop_after=1).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(handlers.torch, "save", _half)
    with pytest.raises(OSError, match="No space left"):
        training.state.store(training.trainer)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def _half(_: object, file: BinaryIO) -> None:
    file.write(b"half")
    raise OSError(28, "No space left on device")


def test_best_model_saves_improvements_only(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    saver = BestModelSaver(network, str(tmp_path / "new" / "model.pt"))
    kept = []
    for epoch, value in enumerate([math.nan, 0.2, 0.1, 0.2, 0.5, math.nan], start=1):
        torch.nn.init.constant_(network.weight, epoch)
        saver(scored(value, epoch))
        if saver.path.exists():
            kept.append(torch.load(saver.path, weights_only=True)["weight"].item())
    assert kept == [2, 2, 2, 5, 5]
    assert saver.state_dict() == {"best": 0.5, "best_epoch": 5}
    assert [item.name for item in saver.path.parent.iterdir()] == ["model.pt"]


def test_best_model_remembers_when_resumed(tmp_path: Path) -> None:
    saver = BestModelSaver(torch.nn.Linear(1, 1), str(tmp_path / "model.pt"))
    saver.load_state_dict({"best": 0.5, "best_epoch": 5})
    saver(scored(0.4))
    assert not saver.path.exists()


def test_best_model_interrupted_keeps_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = BestModelSaver(torch.nn.Linear(1, 1), str(tmp_path / "model.pt"))
    saver(scored(0.4))
    before = saver.path.read_bytes()
    monkeypatch.setattr(handlers.torch, "save", _half)
    with pytest.raises(OSError, match="No space left"):
        saver(scored(0.5))
    assert saver.path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


def test_plain_state_is_unwrapped_and_contiguous() -> None:
    network = network_of()
    wrapped = torch.nn.Module()
    wrapped.module = network
    state = plain_state(wrapped)
    assert list(state) == list(network.state_dict())
    assert all(tensor.is_contiguous() for tensor in state.values())
    network_of(5).load_state_dict(state)


def epochs_until_stop(patience: int, scores: list[float]) -> int:
    trainer = Engine(lambda engine, batch: None)
    validator = Engine(lambda engine, batch: None)
    stop = ResumableEarlyStop(patience, lambda engine: scores[trainer.state.epoch - 1])
    stop.set_trainer(trainer)
    stop.attach(validator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0], max_epochs=1) and None)
    trainer.run([0], max_epochs=len(scores))
    return trainer.state.epoch


@pytest.mark.parametrize(
    ("interval", "epochs", "wanted"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (3, 6, [3, 6]), (9, 4, [4])]
)
def test_the_last_epoch_is_validated(interval: int, epochs: int, wanted: list[int]) -> None:
    seen: list[int] = []
    trainer = Engine(lambda engine, batch: None)
    handler = ValidationToTheEnd(interval)
    handler.validator = SimpleNamespace(run=seen.append)
    handler.attach(trainer)
    trainer.run([0], max_epochs=epochs)
    assert seen == wanted


def test_early_stop_patience() -> None:
    assert epochs_until_stop(2, [0.1, 0.5, 0.4, 0.3, 0.9, 0.9]) == 4
    assert epochs_until_stop(0, [0.5, 0.4, 0.3, 0.2, 0.1]) == 5


def test_early_stop_state_without_a_trainer() -> None:
    stop = ResumableEarlyStop(0, lambda engine: 0.0)
    assert stop.state_dict() == {}
    stop.load_state_dict({})


def test_epoch_seed() -> None:
    flip = RandGaussianNoised("image", prob=1.0)
    seed = EpochSeed(5, SimpleNamespace(transform=flip))

    def draw(epoch: int) -> tuple[float, float, float]:
        seed(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        return torch.rand(1).item(), np.random.rand(), float(flip({"image": torch.zeros(1, 1)})["image"])

    first, second, again = draw(1), draw(2), draw(1)
    assert first == again
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_a_training_that_stopped_early_is_not_taken_up_again(tmp_path: Path) -> None:
    def trained(stop_at: int) -> int:
        engine = Engine(lambda engine, batch: None)
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=stop_at), engine.terminate)
        TrainingState(str(tmp_path / "checkpoint.pt"), {"network": network_of(1)}).attach(engine)
        seen: list[int] = []
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(1))
        engine.run([0], max_epochs=9)
        return len(seen)

    assert trained(stop_at=2) == 2
    assert trained(stop_at=9) == 0


def test_a_resumed_training_keeps_what_its_weights_began_with(tmp_path: Path) -> None:
    for began, epochs in ((True, 1), (False, 2)):  # the second would not find the pretrained weights
        engine = Engine(lambda engine, batch: None)
        state = TrainingState(str(tmp_path / "checkpoint.pt"), {"network": network_of(1)}, pretrained=began)
        engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "max_epochs", 2))
        state.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), engine.terminate)
        engine.run([0], max_epochs=2)
        assert torch.load(state.path, weights_only=True)["progress"]["pretrained"] is True


def test_a_checkpoint_says_where_its_training_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = {"torch": "1.0"}, {"torch": "2.0"}

    def killed_in(epoch: int, environment: dict[str, str]) -> list[dict[str, str]]:
        def step(engine: Engine, batch: Any) -> None:
            if engine.state.epoch == epoch:
                raise KeyboardInterrupt

        monkeypatch.setattr(handlers, "environment", lambda: environment)
        engine = Engine(step)
        state = TrainingState(str(tmp_path / "checkpoint.pt"), {"network": network_of(1)})
        state.attach(engine)
        with pytest.raises(KeyboardInterrupt):
            engine.run([0], max_epochs=9)
        found: list[dict[str, str]] = torch.load(state.path, weights_only=True)["progress"]["environments"]
        return found

    assert killed_in(2, old) == [old]
    assert killed_in(3, old) == [old]
    assert killed_in(4, new) == [old, new]


def test_the_last_model_is_kept_whatever_its_score(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    saver = BestModelSaver(network, str(tmp_path / "model.pt"), keep="last")
    for epoch, value in enumerate([0.5, 0.1, math.nan], start=1):
        torch.nn.init.constant_(network.weight, epoch)
        saver(scored(value, epoch))
        assert torch.load(saver.path, weights_only=True)["weight"].item() == epoch
    with pytest.raises(ValueError, match="keep 'first' must be best or last"):
        BestModelSaver(network, "model.pt", keep="first")


def test_weight_average_by_hand_and_its_state() -> None:
    network = torch.nn.BatchNorm1d(1)
    average = WeightAverage(network, 0.25)
    assert average.network is not network
    values = iter([2.0, 4.0])

    def step(engine: Engine, batch: Any) -> None:
        value = next(values)
        for tensor in (network.weight.data, network.running_mean):
            torch.nn.init.constant_(tensor, value)

    engine = Engine(step)
    average.attach(engine)
    engine.run([0, 1])
    # weights begin at 1: 0.75 * 1 + 0.25 * 2 = 1.25; 0.75 * 1.25 + 1 = 1.9375. Means begin at 0: 0.5; 1.375
    assert average.network.weight.item() == pytest.approx(1.9375)
    assert average.network.running_mean.item() == pytest.approx(1.375)  # type: ignore[operator, union-attr]
    other = WeightAverage(torch.nn.BatchNorm1d(1), 0.25)
    other.load_state_dict(average.state_dict())
    assert other.network.weight.item() == pytest.approx(1.9375)


def test_no_average_is_the_network_itself() -> None:
    network = torch.nn.Linear(1, 1)
    average = WeightAverage(network, 0)
    average.attach(Engine(lambda engine, batch: None))
    average.load_state_dict(average.state_dict())
    assert average.network is network
    assert average.state_dict() == {}
