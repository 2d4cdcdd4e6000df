"""Ignite handlers that MONAI lacks: exact resume, averaged weights, an early stop that can be resumed."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.data import set_rnd
from monai.handlers import EarlyStopHandler, ValidationHandler
from monai.utils import set_determinism

from monai_lgg.environment import environment
from monai_lgg.io.atomic import remove_leftovers
from monai_lgg.io.stored import read_checkpoint, save_torch

_log = logging.getLogger(__name__)


class EpochSeed:
    """Seeds every random state from (seed, epoch) at the start of each epoch.

    A resumed training therefore draws the same batches and augmentations as one that was never interrupted.
    """

    def __init__(self, seed: int, dataset: Any, sampler: Any = None) -> None:
        self.seed = seed
        self.dataset = dataset
        self.sampler = sampler  # of a distributed training; it has an order of its own

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = self.seed + 100_003 * engine.state.epoch
        set_determinism(seed)
        set_rnd(self.dataset, seed=seed)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(engine.state.epoch)


class WeightAverage:
    """Keeps a moving average of a network's weights, which is often better than the last ones.

    Args:
        momentum: share of the new weights at each iteration; 0 keeps no average.
    Source: ignite.handlers.EMAHandler; batch statistics are averaged too.
    """

    def __init__(self, network: torch.nn.Module, momentum: float) -> None:
        self._handler = EMAHandler(network, momentum, handle_buffers="update") if momentum > 0 else None
        #: What to score and to keep: the average, or the network itself where no average is kept.
        self.network = network if self._handler is None else self._handler.ema_model

    def attach(self, engine: Engine) -> None:
        if self._handler is not None:
            self._handler.attach(engine)

    def state_dict(self) -> dict[str, Any]:
        return plain_state(self.network) if self._handler is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._handler is not None:
            self.network.load_state_dict(state)


class ValidationToTheEnd(ValidationHandler):
    """MONAI's ValidationHandler by epochs, that validates after the last epoch too.

    Otherwise the epochs after the last multiple of the interval would be trained for nothing: what is kept is decided
    in a validation.
    """

    def attach(self, engine: Engine) -> None:
        def due(engine: Engine, epoch: int) -> bool:
            return epoch % self.interval == 0 or epoch == engine.state.max_epochs

        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=due), self)


class BestModelSaver:
    """Saves the network's plain state_dict whenever the evaluator's key metric has a new best value.

    Unlike MONAI's CheckpointSaver it writes in one step (a kill never leaves half a file) and remembers the best
    value when training resumes. Attach to the evaluator.

    Args:
        keep: ``best``, or ``last`` for the newest: nothing is then chosen by the validation patients.
        save: False for ranks other than 0.
    Raises:
        ValueError: another ``keep``.
    """

    def __init__(self, network: torch.nn.Module, path: str, keep: str = "best", save: bool = True) -> None:
        if keep not in ("best", "last"):
            raise ValueError(f"keep {keep!r} must be best or last")
        self.network = network
        self.path = Path(path)
        self.keep = keep
        self.save = save
        self.best = -math.inf
        self.best_epoch = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state  # MONAI's engines add key_metric_name
        value = float(state.metrics[state.key_metric_name])
        if self.keep == "best" and (math.isnan(value) or value <= self.best):
            return
        self.best, self.best_epoch = value, engine.state.epoch
        if not self.save:
            return
        weights = plain_state(self.network)
        save_torch(weights, self.path)
        if self.keep == "best":
            _log.info(f"new best {state.key_metric_name} {value:.4f}: saved {self.path}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


def plain_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """state_dict without the wrapper of DistributedDataParallel, on the CPU, in the default memory layout."""
    inner = getattr(network, "module", network)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in inner.state_dict().items()}


class ResumableEarlyStop(EarlyStopHandler):
    """MONAI's early stop with a patience of 0 meaning never, and a state that can be saved."""

    def __init__(self, patience: int, score_function: Callable[[Engine], float]) -> None:
        self.enabled = patience > 0
        super().__init__(patience=max(1, patience), score_function=score_function)

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            super().attach(engine)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._handler.state_dict()) if self._handler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._handler and state:
            self._handler.load_state_dict(state)


class TrainingState:
    """Saves all that a training needs to go on after each epoch, and goes on from it at the start.

    The checkpoint also says in which environment each start of the training ran, where that changed.

    Args:
        path: of the checkpoint; replaced in one step.
        objects: name -> thing with state_dict / load_state_dict (network, optimizer, schedule, best, early stop).
        resume: False starts afresh even if the file exists.
        save: False for ranks other than 0.
        pretrained: whether the network began from pretrained weights, None for a recipe without any. Kept in the
            checkpoint; a resumed training keeps what it began with.
    """

    def __init__(
        self,
        path: str,
        objects: dict[str, Any],
        resume: bool = True,
        save: bool = True,
        pretrained: bool | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = objects
        self.resume = resume
        self.save = save
        self.pretrained = pretrained
        self.environments = [environment()]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        if self.save:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.store)

    def _all(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "scaler", None)  # of mixed precision on a GPU
        return self.objects | ({"scaler": scaler} if scaler is not None else {})

    def store(self, engine: Engine) -> None:
        state: dict[str, Any] = {
            name: plain_state(item) if isinstance(item, torch.nn.Module) else item.state_dict()
            for name, item in self._all(engine).items()
        }
        state["progress"] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "max_epochs": engine.state.max_epochs,
            "stopped_early": bool(engine.should_terminate),
            "pretrained": self.pretrained,
            "environments": self.environments,
        }
        save_torch(state, self.path)

    def load(self, engine: Engine) -> None:
        if self.save:
            remove_leftovers(self.path.parent)  # of a training that was killed as it saved
        if not (self.resume and self.path.exists()):
            return
        state = read_checkpoint(self.path)
        progress = state["progress"]
        if progress["max_epochs"] != engine.state.max_epochs:
            raise ValueError(
                f"{self.path}: began with max_epochs={progress['max_epochs']}, now {engine.state.max_epochs}; the "
                "schedule would not fit: resume with the same number, or start a new run"
            )
        for name, item in self._all(engine).items():
            if name == "scaler" and name not in state:
                continue  # begun on a CPU, which has no gradient scaler
            try:
                getattr(item, "module", item).load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise ValueError(
                    f"{self.path}: its {name} does not fit this configuration ({_short(error)}); resume with the "
                    "configuration it was made with, or start a new run"
                ) from error
        self.pretrained = progress.get("pretrained")
        earlier = progress.get("environments", [])
        self.environments = [*earlier, *(now for now in self.environments if now not in earlier[-1:])]
        engine.state.epoch, engine.state.iteration = progress["epoch"], progress["iteration"]
        if progress.get("stopped_early"):
            engine.terminate()  # nothing is left to train
        _log.info(f"resumed after epoch {progress['epoch']} from {self.path}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
