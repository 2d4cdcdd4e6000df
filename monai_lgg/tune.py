"""Hyperparameter search with Optuna: a study in SQLite that resumes and that several processes share.

Only the validation part of one split is used, never the test part: a figure from the search is no test figure.
"""

import contextlib
import gc
import logging
import math
import shutil
import sqlite3
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_lgg import bundle as bundles
from monai_lgg.errors import UsageError, deepest
from monai_lgg.experiments import agreed_settings, own_split, split_hash, training_progress, write_settings
from monai_lgg.leakage import leakage_in_words
from monai_lgg.search_space import Parameter, parse_parameter, setting_text, values_of

_log = logging.getLogger(__name__)

SETTINGS = "tune-settings.json"
STUDY = "tune"
VALIDATION_ONLY = (
    "Tuned on the validation part only; the test patients were in no trial. The validation Dice of the best trial is "
    "optimistic, because it chose: train it anew and evaluate that run."
)
#: Seconds between signs of life of a running trial, and without one until it counts as killed.
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
#: Seconds to wait for another process that writes to the study.
LOCK_SECONDS = 60
#: How often a killed trial is taken up again.
RETRIES = 3
#: Trials that are never pruned, so that there is a median to compare with.
STARTUP_TRIALS = 5
#: Of the sampling; a trial's depends on it and on the trials before.
SEED = 0
#: When the first trials all fail, so will the rest.
HOPELESS = 3


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    Args:
        settings: ``KEY=VALUE`` that all trials share.
        epochs: of each trial; None keeps the recipe's.
    """

    bundle: Path
    dataset_dir: Path
    output: Path
    parameters: tuple[Parameter, ...]
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    split_file: Path | None = None
    device: str = "auto"
    progress: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a study found so far.

    Args:
        number: of the best trial, with its best validation Dice and the values it was trained with (a loss as its
            fragment); None while no trial is complete.
        states: name of a trial's state -> how many trials; ``interrupted`` are those taken up again later.
        warning: of the split, when it leaks.
    """

    number: int | None
    value: float | None
    values: dict[str, Any]
    states: dict[str, int]
    warning: str = ""

    def settings(self) -> list[str]:
        """The values as ``KEY=VALUE`` for ``--set``."""
        return [setting_text(key, value) for key, value in self.values.items()]


def parse_parameters(texts: Sequence[str], bundle: Path) -> tuple[Parameter, ...]:
    """``--param`` arguments as search space, checked against the bundle's configuration.

    Raises:
        ValueError: not understood, a key that the configuration does not have, or a key twice.
    """
    parameters = tuple(parse_parameter(text) for text in texts)
    keys = [parameter.key for parameter in parameters]
    if not keys:
        raise UsageError("nothing to tune; give for example --param learning_rate=log:1e-5:1e-2")
    bundles.parse_settings(tuple(f"{key}=0" for key in keys), [bundle / "configs" / "train.json"])
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(f"parameter {twice[0]!r} is given more than once; give each once")
    return parameters


def tune(task: Tuning, trials: int) -> Outcome:
    """Run trials until the study has ``trials`` of them, those of other processes and earlier calls included.

    Each trial is a run in ``output/trials/<n>``; one that is pruned keeps its curves but not its weights. A trial whose
    process was killed is taken up from its checkpoint. Writes ``best.json`` and the plots.

    Raises:
        ValueError: the output was begun with something else; a parameter is also set.
        RuntimeError: the first trials all failed.
        OSError: another program holds the study.
        ImportError: Optuna is missing.
    """
    optuna = import_optuna()
    config = [task.bundle / "configs" / "train.json"]
    fixed = bundles.parse_settings(task.settings, config)
    tuned = {parameter.key for parameter in task.parameters}
    given = {*fixed, *(["max_epochs"] if task.epochs else [])}
    both = sorted(tuned & given) + (["max_epochs"] if task.epochs and "max_epochs" in fixed else [])
    if both:
        raise UsageError(f"{both[0]!r} is both tuned and set, or set twice; leave out one of the two")
    bundles.pick_device(task.device)
    with _turn(task.output):
        split = own_split(task.output, task.dataset_dir, task.split_file)
        wanted = {
            "bundle": task.bundle.name,
            "split_sha256": split_hash(split),
            "epochs": task.epochs,
            "parameters": [str(parameter) for parameter in task.parameters],
            "settings": list(task.settings),
        }
        agreed_settings(task.output / SETTINGS, wanted)
    epochs = task.epochs or int(fixed.get("max_epochs", bundles.read_config(config)["max_epochs"]))
    with _clear_lock_error(optuna, task.output), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with _turn(task.output):  # two processes would both make the tables
            study = _open_study(optuna, task.output, epochs)
        _run_trials(optuna, study, task, trials)
        return _save_results(optuna, study, task, leakage_in_words(split.leakage))


def import_optuna() -> Any:
    """Optuna.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError('tuning needs the package optuna: pip install "monai-lgg[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # this module says what happens
    return optuna


def _open_study(optuna: Any, output: Path, epochs: int) -> Any:
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{output.resolve() / 'study.db'}",
        engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=_retry(optuna),
    )
    return optuna.create_study(
        storage=storage,
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=epochs // 4),
    )


def _retry(optuna: Any) -> Any:
    return optuna.storages.RetryHeartbeatStaleTrialCallback(RETRIES, inherit_intermediate_values=True)


def _run_trials(optuna: Any, study: Any, task: Tuning, trials: int) -> None:
    """Trials begun count, whoever runs them; with none left to begin, wait until killed ones can be told."""
    states = optuna.trial.TrialState
    idle_since, waited = time.monotonic(), False
    while True:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_turn(task.output))  # until this process has begun a trial
            optuna.storages.fail_stale_trials(study)
            found = study.get_trials(deepcopy=False)
            waiting = any(trial.state == states.WAITING for trial in found)
            running = any(trial.state == states.RUNNING for trial in found)
            if waiting or len({_origin(trial) for trial in found}) < trials:
                _run_one(optuna, study, task, len(found), stack.close)
                _check_hope(study, states)
                idle_since, waited = time.monotonic(), False
                continue
        if not running:
            return
        if not waited:
            _log.info(f"all trials are begun; waiting up to {GRACE_SECONDS + HEARTBEAT_SECONDS} s for killed ones")
            waited = True
        if time.monotonic() - idle_since > GRACE_SECONDS + HEARTBEAT_SECONDS:
            _log.warning("all trials are begun; other processes are still running some, which the results then lack")
            return
        time.sleep(1)


def _origin(trial: Any) -> int:
    """The number of the trial that this one takes up again, or its own."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def _taken_up(trials: Sequence[Any]) -> set[int]:
    """Numbers of the trials that were interrupted and go on, or went on, as later ones."""
    return {int(number) for trial in trials for number in trial.system_attrs.get("retry_history", [])}


def _run_one(optuna: Any, study: Any, task: Tuning, before: int, begun: Any) -> None:
    study.sampler = optuna.samplers.TPESampler(seed=SEED + before, constant_liar=True)
    number = []

    def objective(trial: Any) -> float:
        number.append(trial.number)
        values = {parameter.key: parameter.suggest(trial) for parameter in task.parameters}
        begun()
        origin = _origin(study.get_trials(deepcopy=False)[trial.number])
        return _train_trial(optuna, task, trial, task.output / "trials" / str(origin), values)

    try:
        study.optimize(objective, n_trials=1, catch=(RuntimeError, ValueError))
    except KeyboardInterrupt:
        for trial in (study.trials[n] for n in number):
            _retry(optuna)(study, trial)  # so that the next call goes on with it
        raise


def _check_hope(study: Any, states: Any) -> None:
    trials = study.get_trials(deepcopy=False)
    again = _taken_up(trials)
    failed = [trial for trial in trials if trial.state == states.FAIL and trial.number not in again]
    if len(failed) >= HOPELESS and not any(trial.state in (states.COMPLETE, states.PRUNED) for trial in trials):
        reason = failed[-1].user_attrs.get("error", "no reason is known")
        raise RuntimeError(f"all {len(failed)} trials so far failed, the last with: {reason}")


def _train_trial(optuna: Any, task: Tuning, trial: Any, run: Path, values: dict[str, Any]) -> float:
    """Train one run, or go on with it; its best validation Dice."""
    number = trial.number
    shown = ", ".join(f"{key} {value}" for key, value in values.items())
    _log.info(f"trial {number}: {shown}")
    try:
        pruned = _train(task, run.resolve(), values_of(task.parameters, values), trial)
    except Exception as error:
        cause = deepest(error)
        if isinstance(cause, (OSError, *_study_errors(optuna))):
            raise cause from cause.__cause__  # a full disk or a locked study: no trial can go on
        trial.set_user_attr("error", f"{type(cause).__name__}: {cause}")
        _log.warning(f"trial {number} failed: {cause}")
        raise ValueError(f"trial {number}: {cause}") from error
    finally:
        gc.collect()  # a cached data set is in reference cycles, and the next one comes
    best = training_progress(run).get("best")
    if pruned:
        shutil.rmtree(run / "models", ignore_errors=True)
        _log.info(f"trial {number}: pruned")
        raise optuna.TrialPruned
    if best is None or not math.isfinite(best):
        raise ValueError(f"trial {number} ({run}) has no validation Dice; lower val_interval")
    _log.info(f"trial {number}: validation Dice {best:.4f}")
    return float(best)


def _train(task: Tuning, run: Path, values: dict[str, Any], trial: Any) -> bool:
    """Train in ``run`` and report each validation to the trial; True if it was pruned."""
    reporters = []

    def attach(config: Any) -> None:
        reporters.append(Reporter(trial, config.get_parsed_content("train#trainer")))
        reporters[0].attach(config.get_parsed_content("validate#evaluator"))

    epochs = {"max_epochs": task.epochs} if task.epochs else {}
    bundles.train(
        task.bundle,
        task.dataset_dir,
        run,
        split_file=task.output / "split.json",
        settings=(*task.settings, *(setting_text(key, value) for key, value in {**epochs, **values}.items())),
        device=task.device,
        progress=task.progress,
        before_run=attach,
    )
    return reporters[0].pruned


class Reporter:
    """Reports the validation's key metric to an Optuna trial after each epoch and ends the training if it is pruned.

    Attach to the evaluator.
    """

    def __init__(self, trial: Any, trainer: Engine) -> None:
        self.trial = trial
        self.trainer = trainer
        self.pruned = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state  # MONAI's engines add key_metric_name
        self.trial.report(float(state.metrics[state.key_metric_name]), state.epoch)
        if self.trial.should_prune():
            self.pruned = True
            self.trainer.terminate()


def _save_results(optuna: Any, study: Any, task: Tuning, warning: str) -> Outcome:
    """``best.json``, an overlay of the bundle's ``train.json``, and pictures of the study in ``plots``.

    The overlay has the values found, the settings of all trials and their split, whose test patients no trial has seen.
    """
    trials = study.get_trials(deepcopy=False)
    again = _taken_up(trials)
    states = dict(Counter("interrupted" if t.number in again else t.state.name.lower() for t in trials))
    if "complete" not in states:
        return Outcome(None, None, {}, states, warning)
    best = study.best_trial
    values = values_of(task.parameters, best.params)
    fixed = bundles.parse_settings(task.settings, [task.bundle / "configs" / "train.json"])
    split_file = f"${bundles.quoted((task.output / 'split.json').resolve())}"
    write_settings(task.output / "best.json", {**fixed, **values, "split_file": split_file})
    _plots(optuna, study, task.output / "plots")
    return Outcome(best.number, best.value, values, states, warning)


def _plots(optuna: Any, study: Any, folder: Path) -> None:
    import matplotlib.pyplot as plt
    import numpy as np

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    draw = optuna.visualization.matplotlib
    plots = {
        "history": draw.plot_optimization_history,
        "parallel": draw.plot_parallel_coordinate,
        "slice": draw.plot_slice,
        "epochs": draw.plot_intermediate_values,
        "importances": draw.plot_param_importances,
    }
    folder.mkdir(exist_ok=True)
    for name, plot in plots.items():
        target = {} if name == "epochs" else {"target_name": "Validation Dice"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few trials, of scales without a range
                axes = np.atleast_1d(plot(study, **target))
                axes[0].figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
        except (ValueError, RuntimeError) as error:  # importances need several different trials
            _log.info(f"no plot {name}: {error}")
        finally:
            plt.close("all")


@contextlib.contextmanager
def _turn(output: Path) -> Iterator[None]:
    """Only one process at a time begins a trial, so that no two take the same number. A killed one lets go."""
    output.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(output / ".turn.db", timeout=LOCK_SECONDS, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    except sqlite3.OperationalError as error:
        raise OSError(_locked(output / ".turn.db", error)) from error
    finally:
        connection.close()


@contextlib.contextmanager
def _clear_lock_error(optuna: Any, output: Path) -> Iterator[None]:
    try:
        yield
    except _study_errors(optuna) as error:
        raise OSError(_locked(output / "study.db", error.__cause__ or error)) from error


def _study_errors(optuna: Any) -> tuple[type[Exception], ...]:
    """What comes out when the study's database cannot be used: its own errors, or in Optuna's words."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError, optuna.exceptions.StorageInternalError


def _locked(path: Path, error: BaseException) -> str:
    return (
        f"{path} cannot be used ({' '.join(str(error).split())[:200]}). Several 'monai-lgg tune' may share a study, "
        f"but no other program may hold it for more than {LOCK_SECONDS} s: close what has it open (a database viewer, "
        "a backup), then run the same command again. It must lie on a local disk"
    )
