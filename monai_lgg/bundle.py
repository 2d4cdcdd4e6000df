"""Finding, checking and running bundles."""

import ctypes
import difflib
import json
import logging
import os
import pydoc
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai
import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow

from monai_lgg.cases import read_patients
from monai_lgg.errors import UsageError
from monai_lgg.io.atomic import atomic_text, partial_folder
from monai_lgg.io.stored import read_json
from monai_lgg.leakage import person
from monai_lgg.losses import find_loss
from monai_lgg.networks import NETWORKS
from monai_lgg.splits import Split, load_split, read_split, save_split

_PACKAGE = Path(__file__).parent
#: A run is a copy of the bundle, so that it can be used wherever a bundle can.
NOT_COPIED = shutil.ignore_patterns("models", "eval", "__pycache__", "recipe.json", ".*")
OVERRIDES = "overrides.json"
_NUMBER = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?")
#: In ``models``: what the scans of the training look like.
REFERENCE = "reference.json"
#: Keys that have options of their own, which warn of patients seen in training, among other things.
OPTIONS = {
    "dataset_dir": "--data",
    "split_file": "--split",
    "part": "--part",
    "results_dir": "--output",
}
#: Numbers of glibc's mallopt options (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
#: Their values where nothing was set.
_TRIM_THRESHOLD, _MMAP_MAX = 128 * 1024, 65536


def bundles_dir() -> Path:
    """The folder of the shipped bundles: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "bundles"
    return installed if installed.is_dir() else _PACKAGE.parent / "bundles"


def bundle_names() -> list[str]:
    return sorted(path.parent.parent.name for path in bundles_dir().glob("*/configs/metadata.json"))


def find_bundle(name_or_path: str | Path) -> Path:
    """The folder of a bundle given by name, or by path (a run is a bundle too).

    Raises:
        UsageError: neither; the nearest name is suggested.
    """
    named = bundles_dir() / str(name_or_path)
    for folder in (Path(name_or_path).expanduser(), named):
        if (folder / "configs" / "metadata.json").is_file():
            return folder.resolve()
    near = difflib.get_close_matches(str(name_or_path), bundle_names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a folder or one of: {', '.join(bundle_names())}"
    raise UsageError(f"no bundle {str(name_or_path)!r}; {hint}")


def is_shipped(bundle: Path) -> bool:
    """True for a bundle of the installation, where nothing is written."""
    return bundle.resolve().is_relative_to(bundles_dir().resolve())


def checked_root(path: str) -> Path:
    """The bundle's folder, checked, because a wrong ``bundle_root`` would write models into the caller's folder.

    Raises:
        FileNotFoundError: ``path`` is not a bundle.
    """
    root = Path(path).expanduser().resolve()
    if not (root / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"bundle_root {path!r} ({root}) has no configs/metadata.json; give the bundle's folder as bundle_root"
        )
    return root


def keep_freed_memory() -> None:
    """Lets the C library keep freed blocks for the next batch instead of returning them to the system.

    A network's activations are tens of megabytes each; glibc maps and unmaps every one, and the page faults cost more
    time than the convolutions (``scripts/benchmark_training.py`` shows the ratio). Memory stays at its peak instead.
    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Undoes :func:`keep_freed_memory`, for work on blocks so large that keeping them would take too much memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, _MMAP_MAX)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        ctypes.CDLL(None).malloc_trim(0)


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` takes the GPU when there is one; any other name must exist.

    Raises:
        UsageError: an unknown device.
        ValueError: a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:<n>") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device {name!r}: {torch.cuda.device_count()} CUDA GPU(s) found; use device cpu or auto")
    return device


def amp_pays(device: torch.device | str) -> bool:
    """Whether 16-bit arithmetic is faster there: on a GPU, and on a CPU that multiplies bfloat16 tiles (AMX).

    On other CPUs it takes 1.2 to 1.5 times as long as float32 (``scripts/benchmark_training.py``).
    """
    return torch.device(device).type == "cuda" or bool(torch.cpu._is_amx_tile_supported())


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load a plain state_dict into ``network``.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: not a weights file, or of another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; train the bundle first, or give a trained run as the bundle")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: not a weights file that can be loaded safely ({type(error).__name__})") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: weights of another network ({first}); use the bundle they were trained by"
        ) from error


def read_config(files: list[Path]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    return parser


def parse_settings(settings: tuple[str, ...], files: list[Path]) -> dict[str, Any]:
    """``key=value`` pairs as a dictionary; values are JSON, else text; ``loss`` may be a name.

    Raises:
        UsageError: no ``=``, a key that the configuration does not have (MONAI itself would ignore it) or that is one
            of :data:`OPTIONS`, or an unknown loss.
    """
    parser = read_config(files)
    result = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r}: give key=value")
        _check_key(parser, key)
        if key in OPTIONS:
            raise UsageError(f"setting {key!r} would go round the checks of {OPTIONS[key]}; give that instead")
        result[key] = setting_value(text)
        if key == "loss" and isinstance(result[key], str) and not result[key].startswith(("@", "$")):
            result[key] = find_loss(result[key])
        if key.endswith("_target_"):
            _check_target(str(result[key]))
    return result


def setting_value(text: str) -> Any:
    """JSON, or Python's True, False and None, or a number as Python writes it (``.5``), or else text."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return float(text) if _NUMBER.fullmatch(text) else text


def _check_key(parser: ConfigParser, key: str) -> None:
    if key in parser:
        return
    known = [name for name in parser.get() if not name.startswith("_")]
    known += [f"{name}#{inner}" for name in known if isinstance(parser.get(name), dict) for inner in parser.get(name)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"top-level names: {', '.join(k for k in known if '#' not in k)}"
    raise UsageError(f"setting {key!r} is not in the configuration; {hint}")


def _check_target(name: str) -> None:
    """A component (network, loss, ...) must exist under its dotted path or, for MONAI's own, its short name."""
    short = ComponentLocator().get_component_module_name(name)
    if short is not None or pydoc.locate(name) is not None:
        return
    known = {
        **{of.__name__: f"{of.__module__}.{of.__name__}" for of in NETWORKS.values()},
        **{of: of for of in dir(monai.networks.nets) if of[0].isupper()},
    }
    near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1, cutoff=0.5)
    hint = f"did you mean {known[near[0]]}?" if near else "give the dotted path of a class, or a class name of MONAI"
    raise UsageError(f"no component {name!r}; {hint}")


def workflow(
    root: Path,
    configs: list[str],
    kind: str,
    run_id: str,
    overrides: Mapping[str, Any],
    tracking: dict[str, Any] | None = None,
) -> ConfigWorkflow:
    """A bundle's configuration files, merged in order, as an initialized workflow.

    A run's own settings (``configs/overrides.json``) come after the files, ``overrides`` last, in which a Path may have
    any name. A setting of a component that these files do not have (``train#inferer#amp`` in an inference) is left out.
    ``tracking``: MONAI's settings of experiment tracking.
    """
    files = [root / "configs" / name for name in configs if (root / "configs" / name).is_file()]
    known = read_config(files)
    own = {key: value for key, value in stored_settings(root).items() if _has_parent(known, key)}
    own |= {"dataset_dir": Path(own["dataset_dir"])} if "dataset_dir" in own else {}
    chosen = {"bundle_root": root, **own, **overrides}
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it prints to standard output
    # of a reader that MONAI sets up wherever pydicom is installed, and that is not used here
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")
    flow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        run_id=run_id,
        tracking=tracking,
        **{key: f"${quoted(value)}" if isinstance(value, Path) else value for key, value in chosen.items()},
    )
    flow.initialize()
    return flow


def quoted(path: Path | str) -> str:
    """A path or text as a Python string for a configuration, in which MONAI would take #, @ and % for references."""
    text = repr(str(path))
    for sign in "#@%":
        text = text.replace(sign, f"\\x{ord(sign):02x}")
    return text


def _has_parent(config: ConfigParser, key: str) -> bool:
    parent = key.rpartition("#")[0]
    return not parent or parent in config


def _trained_fold(bundle: Path, split: Split) -> int:
    fold = int(stored_settings(bundle).get("fold", 0))
    return fold if len(split.folds) > fold else 0


def prepare_run(bundle: Path, run: Path, overrides: Mapping[str, Any]) -> None:
    """Make ``run`` a copy of the bundle with the overrides beside its configuration, or check that it fits.

    The data may have moved since it was begun.

    Raises:
        ValueError: the folder holds something else, or a run begun with other settings.
    """
    stored = run / "configs" / OVERRIDES
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        run.parent.mkdir(parents=True, exist_ok=True)
        if run.exists():  # it may be the working folder, a link or a mounted volume, which cannot be replaced
            _copy_bundle(bundle, run, overrides)
            return
        with partial_folder(run) as partial:
            _copy_bundle(bundle, partial, overrides)
            partial.rename(run)
        return
    if not stored.is_file():
        raise ValueError(f"{run} exists and is not a run of monai-lgg; choose a new folder for the run")
    check_recipe(bundle, run)
    begun = stored_settings(run)
    moved = {**begun, "dataset_dir": overrides.get("dataset_dir")}
    if moved == dict(overrides) != begun and _is_data_of(run, moved["dataset_dir"]):
        atomic_text(stored, json.dumps(moved, indent=1) + "\n")
    elif begun != dict(overrides):
        empty = "" if any((run / "models").glob("*.pt")) else " (nothing has been trained in this one: remove it)"
        raise ValueError(
            f"{run} was begun with {begun}, now {dict(overrides)}; repeat those to go on, or choose a new folder{empty}"
        )


def _copy_bundle(bundle: Path, run: Path, overrides: Mapping[str, Any]) -> None:
    """The overrides come last: a folder without them is no run."""
    shutil.copytree(bundle, run, ignore=NOT_COPIED, dirs_exist_ok=True)
    atomic_text(run / "configs" / OVERRIDES, json.dumps(dict(overrides), indent=1) + "\n")


def _is_data_of(run: Path, dataset_dir: str) -> bool:
    """Whether the run's own split is of the patients and masks in that folder."""
    own = run / "eval" / "split.json"
    try:
        return own.is_file() and bool(load_split(own, dataset_dir))
    except ValueError:
        return False


def check_recipe(bundle: Path, run: Path) -> None:
    """That a run is a copy of this bundle, so that going on with it trains what the caller names.

    Raises:
        ValueError: its recipe is another.
    """
    recipe = Path("configs") / "train.json"
    ours, theirs = (read_json(of / recipe, f"put a copy of {recipe} back") for of in (bundle, run))
    if ours != theirs:
        differs = ", ".join(sorted(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)))
        raise ValueError(
            f"{run} was begun with another recipe than that of {bundle} ({recipe} differs in {differs}); choose a new "
            f"folder, or, to go on with the recipe it has, give {run} in the place of the bundle"
        )


def stored_settings(bundle: Path) -> dict[str, Any]:
    """The settings that a run differs by from the bundle it was copied from; empty for a shipped bundle."""
    stored = bundle / "configs" / OVERRIDES
    return read_json(stored, "put a copy back, or train in a new folder") if stored.is_file() else {}


def run_settings(bundle: Path, dataset_dir: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """What a run of the bundle with these ``key=value`` settings stores as its own."""
    return {
        **stored_settings(bundle),
        "dataset_dir": str(dataset_dir.resolve()),
        **parse_settings(settings, [bundle / "configs" / "train.json"]),
    }


def training_split(bundle: Path) -> Split | None:
    """The split that the bundle's weights were trained by: of a run, or of weights that ship; None without one."""
    own = [bundle / "eval" / "split.json", bundle / "models" / "split.json"]
    return next((read_split(path) for path in own if path.is_file()), None)


def seen_in_training(bundle: Path, dataset_dir: Path, split_file: Path | None, part: str, fold: int) -> str | None:
    """A warning that names how many of the patients to evaluate this run was trained or validated on; None for none.

    Args:
        part, fold: that are evaluated; ``all`` needs no split file. The run may be of another fold.
    """
    split = training_split(bundle)
    if split is None:
        return None
    if split.level == "slice" and part != "all" and split_file is not None and read_split(split_file).level == "slice":
        return None  # says so itself
    used = {person(name) for of in ("train", "validation") for name in split.part(of, _trained_fold(bundle, split))}
    chosen = {patient.name for patient in read_patients(dataset_dir)}
    if part != "all" and split_file is not None:
        other = read_split(split_file)
        chosen = set(other.part(part, fold if len(other.folds) > fold else 0))
    seen = sum(person(name) in used for name in chosen)
    if not seen:
        return None
    return (
        f"{seen} of the {len(chosen)} patients were used in this run's training or validation; these are no test "
        "figures."
    )


def train(
    bundle: Path,
    dataset_dir: Path,
    run: Path,
    *,
    split_file: Path | None = None,
    settings: tuple[str, ...] = (),
    device: str = "auto",
    progress: bool = True,
    tracking: str | None = None,
    before_run: Callable[[ConfigParser], None] | None = None,
) -> Path:
    """Train ``bundle`` in the folder ``run``, or go on where an earlier call was stopped.

    Args:
        bundle: of :func:`find_bundle`.
        dataset_dir: in the public layout.
        run: becomes a copy of the bundle with ``models/model.pt`` (the best, or as ``keep_model`` says),
            ``models/checkpoint.pt`` (to go on from), ``models/reference.json`` (what the scans look like, for the flags
            of predictions; from 10 training patients on), ``eval/split.json`` and TensorBoard events in ``eval``.
        split_file: None makes a patient-level split.
        settings: ``key=value`` overrides of the configuration.
        tracking: ``mlflow`` follows the training in MLflow too.
        before_run: is called with the parsed configuration when all is built, for example to attach a handler.
    Returns:
        Path of the weights.
    Raises:
        ValueError: the run was begun with another recipe, split or settings.
        RuntimeError: the training kept no weights.
    """
    from monai_lgg.tracking import tracking_settings

    overrides = run_settings(bundle, dataset_dir, settings)
    pick_device(device)
    followed = None if tracking is None else tracking_settings(run.resolve(), tracking)
    split = load_split(split_file, dataset_dir) if split_file is not None else None
    read_patients(dataset_dir)  # before anything is written
    prepare_run(bundle, run, overrides)
    own_split = run / "eval" / "split.json"
    if split is not None and not own_split.exists():
        save_split(split, own_split)
    elif split is not None and load_split(own_split, dataset_dir) != split:
        raise ValueError(f"{run} was begun with another split than {split_file}; choose a new folder for the run")
    flow = workflow(
        run.resolve(),
        ["train.json"],
        "train",
        "training",
        {"device_name": device, "show_progress": progress},
        followed,
    )
    try:
        if before_run is not None:
            before_run(flow.parser)
        flow.run()
    finally:
        flow.finalize()
    weights = run / "models" / "model.pt"
    if not weights.is_file():
        raise RuntimeError(
            f"{run}: no weights at {weights}; lower val_interval where the training ended without a validation; put "
            "the file back, or train in a new folder, where it was removed"
        )
    _measure_training_scans(run, dataset_dir)
    return weights


def _measure_training_scans(run: Path, dataset_dir: Path) -> None:
    """``models/reference.json``, by which predictions are told that an input is unlike the training."""
    from monai_lgg.reference import write_reference

    path = run / "models" / REFERENCE
    split = training_split(run)
    if split is not None and not path.is_file():
        write_reference(path, dataset_dir, sorted(split.part("train", stored_settings(run).get("fold", 0))))


def evaluate(
    bundle: Path,
    dataset_dir: Path,
    output: Path,
    *,
    split_file: Path | None = None,
    part: str = "test",
    settings: tuple[str, ...] = (),
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a trained bundle on one part of a split, by the bundle's own evaluation configuration.

    Args:
        split_file: None takes the run's own.
        part: ``test``, ``validation``, ``train``, or ``all`` for every patient below ``dataset_dir`` without a split.
    Returns:
        The summary, as written to ``output/summary.json``.
    Raises:
        FileNotFoundError: no split.
    """
    from monai_lgg.experiments import EVALUATED
    from monai_lgg.tensorboard import write_test_figures

    configs = ["train.json", "evaluate.json"]
    chosen = parse_settings(settings, [bundle / "configs" / name for name in configs])
    fold = chosen.get("fold", stored_settings(bundle).get("fold", 0))
    if part != "all":
        split_file = split_file or bundle / "eval" / "split.json"
        if not split_file.is_file():
            raise FileNotFoundError(
                f"no split at {split_file}; give the split that kept the test patients out of training, or "
                "--part all for data that no training has seen"
            )
        load_split(split_file, dataset_dir)
    overrides = {
        "dataset_dir": dataset_dir.resolve(),
        "split_file": None if part == "all" else split_file,
        "part": part,
        "device_name": device,
        "show_progress": progress,
        "results_dir": output,
        "given_settings": [f"${quoted(text)}" for text in settings],
        "warning": seen_in_training(bundle, dataset_dir, split_file, part, fold),
        **chosen,
    }
    flow = workflow(bundle, configs, "train", "evaluating", overrides)
    (output / EVALUATED).unlink(missing_ok=True)  # what it says was made from, and that is now replaced
    try:
        flow.run()
    finally:
        flow.finalize()
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text())
    own = training_split(bundle)
    given = None if part != "test" or split_file is None else read_split(split_file)
    if own is not None and own == given and fold == _trained_fold(bundle, own):
        write_test_figures(bundle, summary)
    return summary
