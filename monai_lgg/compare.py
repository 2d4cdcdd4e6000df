"""Several bundles, one split, one code: trained or taken, evaluated, ranked, and tested against each other."""

import difflib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_lgg import bundle as bundles
from monai_lgg.budget import Budget, budget_epochs, slices_an_epoch, time_epoch
from monai_lgg.errors import UsageError, deepest
from monai_lgg.experiments import (
    agreed_settings,
    evaluate_once,
    own_split,
    parameter_count,
    split_hash,
    train_once,
    training_progress,
    training_seconds,
    write_settings,
)
from monai_lgg.leaderboard import Comparison, notes, rank
from monai_lgg.metrics import Metric, find_metric
from monai_lgg.results import Results, read_results
from monai_lgg.splits import PARTS, Split, load_split, read_split

_log = logging.getLogger(__name__)

SETTINGS = "comparison-settings.json"
#: NAME:KEY=VALUE; ``::`` belongs to a key.
_LABELLED = re.compile(r"([^=:]+):(?!:)([^=]+=.*)", re.DOTALL)
#: Settings of a run that do not change its recipe, or stand in columns of their own.
_NO_CHANGE = ("dataset_dir", "max_epochs", "fold", "split_file")


@dataclass(frozen=True)
class Task:
    """What a comparison is made of and where it goes.

    Args:
        dataset_dir: in the public layout.
        output: gets ``comparison.*``, ``comparison-settings.json`` and the folders of runs or evaluations.
        split_file: bundles are trained on it (None makes one by patient); runs must be of it.
        settings: ``KEY=VALUE`` for all, ``NAME:KEY=VALUE`` for one: of the training of bundles, of the evaluation of
            runs.
        rank_by: a name of :data:`monai_lgg.metrics.METRICS`.
    """

    dataset_dir: Path
    output: Path
    split_file: Path | None = None
    settings: tuple[str, ...] = ()
    rank_by: str = "dice"
    device: str = "auto"
    progress: bool = True


@dataclass(frozen=True)
class Entry:
    """A trained run, where its results go, and settings of its evaluation."""

    name: str
    run: Path
    results: Path
    settings: tuple[str, ...] = ()


def compare_bundles(names: Sequence[str], task: Task, budget: Budget | None = None) -> Comparison:
    """Train bundles on one split with one budget in ``output/runs``, evaluate and rank them.

    A second call goes on where the first was stopped; more bundles may be named in it. A bundle that fails is
    reported, the others go on.

    Args:
        names: of shipped bundles, or folders.
        budget: None keeps each recipe's own epochs. Nothing else of a recipe changes; early stopping stays.
    Raises:
        ValueError: an unknown name; the output was begun with another split, budget or setting.
    """
    metric = _ranking_metric(task.rank_by)
    folders = labels([bundles.find_bundle(name) for name in names])
    chosen = settings_of_each(task.settings, folders)
    for name, folder in folders.items():
        _check_settings(name, folder, chosen[name], budget)
    bundles.pick_device(task.device)
    split = own_split(task.output, task.dataset_dir, task.split_file)
    wanted = {
        "split_sha256": split_hash(split),
        "budget": None if budget is None else str(budget),
        "settings": [text for text in task.settings if not _LABELLED.fullmatch(text)],
    }
    stored = agreed_settings(task.output / SETTINGS, wanted)
    entries, failed = [], {}
    for name, folder in folders.items():
        try:
            run = _trained(name, folder, chosen[name], task, budget, split, stored).resolve()
            entries.append(Entry(name, run, run / "eval" / "test"))
        except Exception as error:
            failed[name] = _reason(name, error)
    return _evaluated(entries, failed, task, metric, stored)


def compare_runs(runs: Sequence[str | Path], task: Task) -> Comparison:
    """Evaluate trained runs, all of one split, into ``output/evaluations`` and rank them.

    Raises:
        ValueError: an unknown name; runs of different splits, named; a run without a split, and none given.
    """
    metric = _ranking_metric(task.rank_by)
    folders = labels([bundles.find_bundle(run) for run in runs])
    chosen = settings_of_each(task.settings, folders)
    given = None if task.split_file is None else load_split(task.split_file, task.dataset_dir)
    splits = {name: _split_of(name, folder, given) for name, folder in folders.items()}
    first = next(iter(folders))
    for name in folders:
        check_same_split(first, splits[first], name, splits[name])
    stored = agreed_settings(task.output / SETTINGS, {"split_sha256": split_hash(splits[first]), "budget": None})
    evaluations = task.output / "evaluations"
    entries = [Entry(name, folder, evaluations / name, chosen[name]) for name, folder in folders.items()]
    return _evaluated(entries, {}, task, metric, stored)


def labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Short names of folders, with the parent's where two are alike.

    Raises:
        ValueError: none, or one twice.
    """
    if not folders:
        raise UsageError("nothing to compare; give runs, or bundles")
    names = [folder.name for folder in folders]
    found = [f"{of.parent.name}/{of.name}" if names.count(of.name) > 1 else of.name for of in folders]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise UsageError(f"{twice[0]} is given more than once; name each once, or rename a folder")
    return dict(zip(found, folders, strict=True))


def settings_of_each(settings: Sequence[str], names: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """``KEY=VALUE`` goes to every name, ``NAME:KEY=VALUE`` to that one.

    Raises:
        ValueError: a name that is not compared; the nearest one is suggested.
    """
    result: dict[str, list[str]] = {name: [] for name in names}
    for setting in settings:
        match = _LABELLED.fullmatch(setting)
        if match is None:
            for own in result.values():
                own.append(setting)
        elif match[1] in result:
            result[match[1]].append(match[2])
        else:
            near = difflib.get_close_matches(match[1], result, n=1)
            hint = f"did you mean {near[0]}?" if near else f"compared are: {', '.join(result)}"
            raise UsageError(f"setting {setting!r} is for {match[1]!r}, which is not compared; {hint}")
    return {name: tuple(own) for name, own in result.items()}


def check_same_split(first: str, one: Split, second: str, other: Split) -> None:
    """Two runs may be compared only when the same patients trained, validated and test them.

    Args:
        one: with the fold that was used as its only one.
    Raises:
        ValueError: they differ; both are named, with what differs.
    """
    remedy = "their figures cannot be compared: train both on one split (--split FILE)"
    if one.level != other.level:
        raise ValueError(f"{first} was split by {one.level}, {second} by {other.level}; {remedy}")
    if one.fingerprint != other.fingerprint:
        prints = f"(fingerprints {one.fingerprint[:12]} and {other.fingerprint[:12]})"
        raise ValueError(f"{first} and {second} are of different data {prints}; {remedy}")
    for part in reversed(PARTS):
        mine, theirs = one.part(part), other.part(part)
        differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if differing:
            raise ValueError(
                f"{first} and {second} have different splits: {len(differing)} patient(s) differ in their {part} "
                f"parts, first {differing[0]}; {remedy}"
            )


def _ranking_metric(name: str) -> Metric:
    metric = find_metric(name)
    if metric.higher_is_better is None:
        raise UsageError(f"{name} has no better end, 0 is best; rank by another metric, for example volume_error")
    return metric


def _check_settings(name: str, bundle: Path, settings: tuple[str, ...], budget: Budget | None) -> None:
    try:
        chosen = bundles.parse_settings(settings, [bundle / "configs" / "train.json"])
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    if budget is not None and "max_epochs" in chosen:
        raise UsageError(f"{name}: max_epochs comes from the budget {budget}; leave out one of the two")


def _trained(
    name: str,
    bundle: Path,
    settings: tuple[str, ...],
    task: Task,
    budget: Budget | None,
    split: Split,
    stored: dict[str, Any],
) -> Path:
    """The bundle's run, trained to its end."""
    run, split_file = task.output / "runs" / name, task.output / "split.json"
    if budget is not None:
        chosen = bundles.parse_settings(settings, [bundle / "configs" / "train.json"])
        timings = stored.setdefault("seconds_per_epoch", {})
        if budget.unit == "min" and name not in timings:  # once: a call that goes on uses the same
            _log.info(f"{name}: timing an epoch")
            timings[name] = time_epoch(bundle, task.dataset_dir, split_file, chosen, task.device)
            write_settings(task.output / SETTINGS, stored)
        config = {**bundles.read_config([bundle / "configs" / "train.json"]).get(), **bundles.stored_settings(bundle)}
        config |= chosen
        epochs = budget_epochs(budget, slices_an_epoch(config, split, int(config["fold"])), timings.get(name))
        settings = (*settings, f"max_epochs={epochs}")
        _log.info(f"{name}: a budget of {budget} is {epochs} epoch(s)")
    _log.info(f"{name}: training in {run}")
    train_once(
        bundle,
        task.dataset_dir,
        run,
        split_file=split_file,
        settings=settings,
        device=task.device,
        progress=task.progress,
    )
    return run


def _split_of(name: str, run: Path, given: Split | None) -> Split:
    """The fold that a run was trained on, as a split of that one fold."""
    own = run / "eval" / "split.json"
    fold = bundles.stored_settings(run).get("fold", 0)
    if own.is_file():
        split = _only(read_split(own), fold)
    elif given is not None:
        split = _only(given, fold)
    else:
        raise ValueError(f"{name} ({run}) has no split of its own; give the one that its training used (--split FILE)")
    if given is not None:
        check_same_split(name, split, "--split", _only(given, fold if len(given.folds) > fold else 0))
    return split


def _only(split: Split, fold: int) -> Split:
    folds = [{part: split.part(part, fold) for part in PARTS}]
    return Split(split.level, split.seed, split.fractions, split.fingerprint, folds, split.leakage)


def _reason(name: str, error: Exception) -> str:
    cause = deepest(error)
    _log.debug("%s failed", name, exc_info=error)
    _log.warning(f"{name} failed: {cause}")
    return f"{type(cause).__name__}: {cause}"


def _evaluated(
    entries: Sequence[Entry], failed: dict[str, str], task: Task, metric: Metric, stored: dict[str, Any]
) -> Comparison:
    """Evaluate, rank and write."""
    results, facts = {}, {}
    for entry in entries:
        try:
            _log.info(f"{entry.name}: evaluation")
            has_split = (entry.run / "eval" / "split.json").is_file()
            evaluate_once(
                entry.run,
                task.dataset_dir,
                entry.results,
                split_file=None if has_split else task.split_file,
                settings=entry.settings,
                device=task.device,
                progress=task.progress,
            )
            of = read_results(entry.results)
            facts[entry.name], results[entry.name] = _facts(entry, of), of
        except Exception as error:
            failed[entry.name] = _reason(entry.name, error)
    rows = [{**row, **facts[row["name"]]} for row in rank(results, metric)]
    comparison = Comparison(metric, rows, notes(rows, results, failed, stored), failed, stored, results)
    comparison.write(task.output)
    return comparison


def _facts(entry: Entry, results: Results) -> dict[str, Any]:
    """What a row says about the run itself."""
    convention = json.loads((entry.run / "configs" / "metadata.json").read_text()).get("reported_convention")
    known = results.summary["slice_dice"]
    if convention is not None and convention not in known:
        raise ValueError(f"metadata.json: reported_convention {convention!r} is not one of {', '.join(known)}")
    trained = training_progress(entry.run)
    return {
        "convention": convention,
        "slice_dice": None if convention is None else known[convention],
        "parameters": parameter_count(entry.run),
        **{key: trained.get(key) for key in ("epochs", "max_epochs", "stopped_early", "pretrained")},
        "training_seconds": training_seconds(entry.run),
        "distance_unit": results.summary["distance_unit"],
        "changed": {key: value for key, value in bundles.stored_settings(entry.run).items() if key not in _NO_CHANGE},
        "run": str(entry.run),
        "results": str(entry.results),
    }
