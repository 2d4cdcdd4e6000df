"""Running a bundle on cases: one is read while another is in the network and a third is written."""

import csv
import gc
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate

from monai_lgg.backends import INT8_FILE, BackendError
from monai_lgg.bundle import OVERRIDES, keep_freed_memory, read_config, return_freed_memory, workflow
from monai_lgg.errors import DiskError, deepest
from monai_lgg.inferers import BackendInferer
from monai_lgg.io.atomic import atomic_text, remove_leftovers
from monai_lgg.io.stored import read_json
from monai_lgg.prediction_inputs import check_names
from monai_lgg.saving import MANIFEST, RESULT, TABLE, weights_sha256

_log = logging.getLogger(__name__)

COLUMNS = (
    "case", "status", "voxels", "volume_ml", "longest_axial_diameter_mm", "components", "confidence", "flags",
    "spacing_mm", "format", "seconds", "error",
)  # fmt: skip
#: Voxels times channels from which a case goes through all stages before the next is read, to spare memory.
LARGE = 30_000_000
#: Of an inference, that say how a mask is made.
CONFIGS = ("inference.json", OVERRIDES)
#: What a result was made from, in words.
MADE_FROM = {
    "input": "input",
    "input_sha256": "content of the input",
    "weights_sha256": "weights",
    "int8_sha256": "INT8 file",
    "config_sha256": "configuration of the bundle",
    "settings": "settings",
}
#: Parts of the work on one case, in their order.
STAGES = ("reading", "network", "writing")


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one case: status ``done``, ``skipped`` (finished earlier) or ``failed`` with the error.

    ``seconds`` is the work on this case, the sum of its ``stages`` (:data:`STAGES`), which overlap with other cases'.
    """

    case: str
    status: str
    error: str = ""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def predict(
    records: list[dict[str, Any]],
    bundle: Path,
    output: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    ensemble: bool = False,
    overwrite: bool = False,
    progress: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]] = iter,
) -> list[CaseResult]:
    """Run a bundle's inference configuration on each case; a case that fails is reported and the rest goes on.

    Args:
        records: of :func:`monai_lgg.prediction_inputs.prediction_records`.
        bundle: with weights at ``models/model.pt``.
        output: gets a folder a case and ``results.csv``.
        settings: checked overrides of ``inference.json``.
        ensemble: with the networks of ``models/ensemble.pt`` in place of the one of ``models/model.pt``.
        overwrite: do finished cases again.
        progress: wraps the records, for example in a progress bar.
    Raises:
        OSError: the output folder cannot be written, or the disk is full.
        FileNotFoundError: an ensemble of a bundle without ``models/ensemble.pt``.
        ValueError: two cases of one name; an ensemble in INT8.
        monai_lgg.backends.BackendError: the backend cannot run this network, whatever the case.
    """
    check_names(records)
    check_writable(output)
    remove_leftovers(output)
    made_by = _made_by(bundle, settings or {}, ensemble)
    settings = {**(settings or {}), **(_ensemble_settings(bundle, settings or {}) if ensemble else {})}
    todo = [record for record in records if overwrite or not _finished(output, record["case"])]
    again = [record for record in records if record not in todo]
    if (settings or {}).get("output_format") == "dicomseg":
        todo = [_for_segmentation(record) for record in todo]
    results = [_skipped(output, record, made_by) for record in again]

    def make_flow() -> Any:
        return _inference_workflow(bundle, output, settings, device)

    line = _Line(make_flow, output, made_by) if todo else None
    if any(_finished(output, record["case"]) for record in todo):  # the tables must not outlive what they say
        for name in (TABLE, MANIFEST):
            (output / name).unlink(missing_ok=True)
    try:
        for result in _run(todo, line, progress) if line else ():
            results.append(result)
    finally:
        write_table(output, [*results, *_not_reached(output, todo, results)])
    return results


def _not_reached(output: Path, todo: list[dict[str, Any]], results: list[CaseResult]) -> list[CaseResult]:
    """Where a call that does finished cases again was interrupted: those that it left as they were."""
    reached = {result.case for result in results}
    left = [record["case"] for record in todo if record["case"] not in reached]
    return [CaseResult(case, "skipped") for case in left if _finished(output, case)]


class Predictor:
    """A bundle's inference that stays loaded, for a server that gets a case now and then. Not for two threads at once.

    Args:
        bundle: with weights at ``models/model.pt``.
        output: gets a folder a case.
        settings: checked overrides of ``inference.json``.
    Raises:
        OSError: the output folder cannot be written.
    """

    def __init__(
        self, bundle: Path, output: Path, *, settings: Mapping[str, Any] | None = None, device: str = "auto"
    ) -> None:
        check_writable(output)
        chosen = dict(settings or {})
        made_by = _made_by(bundle, chosen, ensemble=False)
        self._line = _Line(lambda: _inference_workflow(bundle, output, chosen, device), output, made_by)

    def __call__(self, record: dict[str, Any]) -> CaseResult:
        """The same as :func:`predict` of this record alone; a case that was done before is done again."""
        return self._line.write(self._line.infer(self._line.read(record)))


def _made_by(bundle: Path, settings: Mapping[str, Any], ensemble: bool) -> dict[str, Any]:
    int8 = {"int8_sha256": _hash([_int8_file(bundle, settings)])} if settings.get("precision") == "int8" else {}
    return {
        "weights_sha256": weights_sha256(bundle, ensemble),
        **int8,
        "config_sha256": _hash(bundle / "configs" / name for name in CONFIGS),
        "settings": {**settings, **({"ensemble": True} if ensemble else {})},
    }


def _int8_file(bundle: Path, settings: Mapping[str, Any]) -> Path:
    """By the settings, or where ``inference.json`` has it."""
    return Path(settings.get("int8_file") or bundle / INT8_FILE)


def _run(
    todo: list[dict[str, Any]],
    line: "_Line",
    progress: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]],
) -> Iterator[CaseResult]:
    """At most one case waits before the network and one after it, so memory does not grow with their number."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[_Case] | None = None
        behind: Future[CaseResult] | None = None
        for number, record in enumerate(progress(todo)):
            case = ahead.result() if ahead else line.read(record)
            following = todo[number + 1 : number + 2]
            alone = case.is_large
            if alone and behind is not None:
                yield behind.result()
                behind = None
            ahead = reader.submit(line.read, following[0]) if following and not alone else None
            case = line.infer(case)
            if behind is not None:
                yield behind.result()
            behind = writer.submit(line.write, case)
            if alone:
                yield behind.result()
                behind = None
        if behind is not None:
            yield behind.result()


@dataclass
class _Case:
    """A case on its way: its record, its transforms, what the last stage made of it, its error, seconds by stage."""

    record: dict[str, Any]
    transforms: tuple[Any, Any]
    data: Any = None
    error: Exception | None = None
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def is_large(self) -> bool:
        return self.data is not None and self.data["image"].numel() > LARGE


class _Line:
    """The stages of one call. An error stays with its case, and the stages after it do nothing.

    Args:
        make_flow: builds the bundle's inference, whose evaluator has no post-processing: that is the writer's.
        output: of the case folders.
        made_by: what made the results, beside the input; goes into each of them.
    """

    def __init__(self, make_flow: Callable[[], Any], output: Path, made_by: Mapping[str, Any]) -> None:
        self.make_flow = make_flow
        self.output = output
        self.made_by = made_by
        self.flow = make_flow()
        _ = self.flow.evaluator  # built now, because what is wrong with it concerns all cases
        # a transform that is being inverted must not be used meanwhile, and three cases are on their way at a time
        pair = (self.flow.preprocessing, self.flow.postprocessing)
        self.transforms = cycle([deepcopy(pair) for _ in STAGES])

    def read(self, record: dict[str, Any]) -> _Case:
        return self._stage("reading", _Case(record, next(self.transforms)), self._read)

    def infer(self, case: _Case) -> _Case:
        return self._stage("network", case, self._infer)

    def write(self, case: _Case) -> CaseResult:
        case = self._stage("writing", case, self._write)
        name, seconds = case.record["case"], sum(case.stages.values())
        if case.error is None:
            return CaseResult(name, "done", seconds=seconds, stages=case.stages)
        return _failure(case.record, case.error, seconds)

    def _stage(self, name: str, case: _Case, work: Callable[[_Case], Any]) -> _Case:
        began = time.perf_counter()
        if case.error is None:
            try:
                case.data = work(case)
            except Exception as error:
                case.error, case.data = error, None
        case.stages[name] = time.perf_counter() - began
        return case

    def _read(self, case: _Case) -> Any:
        if "broken" in case.record:
            raise ValueError(case.record["broken"])
        case.record["made_from"] = json.dumps(_made_from(case.record, self.made_by), sort_keys=True)
        return case.transforms[0](case.record)

    def _infer(self, case: _Case) -> Any:
        if self.flow is None:
            self.flow = self.make_flow()
        evaluator = self.flow.evaluator
        (return_freed_memory if case.is_large else keep_freed_memory)()  # kept, it is quicker for PyTorch
        try:
            evaluator.state.epoch_length = 1  # Ignite keeps the length of the loader it was built with
            evaluator.data_loader = [list_data_collate([case.data])]
            case.data = None  # it was copied
            evaluator.run()
            return {**evaluator.state.batch[0], **evaluator.state.output[0], "run_by": run_by(evaluator)}
        except Exception:
            self.flow = None  # an Ignite engine that raised silently does nothing on its next run
            gc.collect()  # its parts refer to each other, and the next one needs as much memory
            raise
        finally:
            evaluator.data_loader = []
            evaluator.state.batch = evaluator.state.output = None

    def _write(self, case: _Case) -> None:
        data, case.data = case.data, None
        for transform in case.transforms[1].transforms:  # one by one, so that each step's input is freed
            data = transform(data)
        if not _finished(self.output, case.record["case"]):
            raise RuntimeError("the bundle's configuration wrote no result; it needs SaveCased")


def run_by(evaluator: Any) -> dict[str, str | None]:
    """``backend`` and ``precision`` that a case was run by; they say what ``auto`` chose.

    ``fp16`` is PyTorch's autocast on a GPU. None where no slice reached the network yet, or the bundle has no
    BackendInferer.
    """
    inferer = evaluator.inferer
    while inferer is not None and not isinstance(inferer, BackendInferer):
        inferer = getattr(inferer, "inferer", None)
    if inferer is None:
        return {"backend": None, "precision": None}
    if inferer.loaded is not None:
        return {"backend": inferer.loaded[1].name, "precision": inferer.loaded[1].precision}
    autocast = torch.device(evaluator.state.device).type == "cuda"
    return {"backend": "torch", "precision": "fp16"} if autocast else {"backend": None, "precision": None}


def _made_from(record: Mapping[str, Any], made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Input (where it lies, or its neutral name, and what is in it), weights, configuration and settings of a result.

    A DICOM study has a neutral name, because its path mostly has the patient's.
    """
    paths = [Path(path).resolve() for path in record["image"]]
    return {
        "input": record.get("source", [str(path) for path in paths]),
        "input_sha256": _hash(dict.fromkeys(paths)),
        **made_by,
    }


def _hash(paths: Iterable[Path]) -> str:
    """SHA-256 of the files that are there, one after the other."""
    found = hashlib.sha256()
    for path in paths:
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def _skipped(output: Path, record: Mapping[str, Any], made_by: Mapping[str, Any]) -> CaseResult:
    """A finished case is skipped only when it was made from the same input, weights, configuration and settings."""
    if "broken" in record:
        return CaseResult(record["case"], "failed", record["broken"])
    try:
        found = read_json(output / record["case"] / RESULT, "use --overwrite").get("made_from")
        wanted = json.loads(json.dumps(_made_from(record, made_by)))
    except (OSError, ValueError) as error:
        return _failure(record, error, 0.0)
    if found == wanted:
        return CaseResult(record["case"], "skipped")
    differs = ", ".join(MADE_FROM[key] for key in wanted if (found or {}).get(key) != wanted[key])
    return CaseResult(
        record["case"],
        "failed",
        f"{output / record['case']} was made from other {differs}; use --overwrite, or another output folder",
    )


def _inference_workflow(bundle: Path, output: Path, settings: Mapping[str, Any], device: str) -> Any:
    """Its evaluator gets its data case by case; the list must not be empty, and paths in it would be evaluated."""
    own: dict[str, Any] = {
        "device_name": device,
        "output_dir": output,
        "data": [{}],
        "evaluator#postprocessing": None,
    }
    return workflow(bundle, ["inference.json"], "infer", "inferring", {**own, **settings})


def _ensemble_settings(bundle: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``inference.json`` that put the networks of ``models/ensemble.pt`` in the place of the bundle's one.

    Raises:
        FileNotFoundError: the bundle has no such file.
        ValueError: precision int8, which is made of one network.
    """
    if settings.get("precision") == "int8":
        raise ValueError("precision int8 is made of one network; predict without it, or without an ensemble")
    path = bundle / "models" / "ensemble.pt"
    if not path.is_file():
        raise FileNotFoundError(
            f"bundle {bundle.name} has no models/ensemble.pt; predict without an ensemble, or make one: "
            f"'monai-lgg crossval {bundle.name} --data DIR --folds 5 -o OUT', then predict with --bundle OUT/ensemble "
            "and without --ensemble"
        )
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    members = {name.split(".")[1] for name in state}
    configs = [bundle / "configs" / name for name in CONFIGS]
    network = read_config([path for path in configs if path.is_file()])["network_def"]
    ensemble = {"_target_": "monai_lgg.networks.ensemble.Ensemble", "networks": [network for _ in members]}
    return {"network_def": ensemble, "model_file": path}


def _for_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    """DICOM SEG refers to DICOM images: what has none fails before it costs time."""
    if "dicom" in record or "broken" in record:
        return record
    return {**record, "broken": "DICOM SEG needs DICOM input; give the DICOM study, or --format nifti"}


def _failure(record: Mapping[str, Any], error: Exception, seconds: float) -> CaseResult:
    case, cause = record["case"], deepest(error)
    if isinstance(cause, DiskError | BackendError):  # they concern every case that follows
        raise cause from error
    _log.debug("case %s failed", case, exc_info=error)
    return CaseResult(case, "failed", f"{type(cause).__name__}: {_neutral(str(cause), record)}", seconds)


def _neutral(text: str, record: Mapping[str, Any]) -> str:
    """Without the paths of a DICOM study, which mostly have the patient's name: any library may put one in an error."""
    if "source" not in record:
        return text
    for path in dict.fromkeys(record["image"]):
        text = text.replace(path, "a file of the study")
    for folder in sorted({str(Path(path).parent) for path in record["image"]}, key=len, reverse=True):
        text = text.replace(folder, "the study's folder")
    return text


def check_writable(folder: Path) -> None:
    """Create ``folder`` and prove that a file can be written there.

    Raises:
        OSError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        try:
            probe.write_bytes(b"0")
        finally:
            probe.unlink(missing_ok=True)  # a full disk lets it be made, but not filled
    except OSError as error:
        raise OSError(
            error.errno, f"output folder {folder} cannot be written ({error.strerror}); choose another"
        ) from error


def _finished(output: Path, case: str) -> bool:
    """The result is there, and so are the images that it names."""
    path = output / case / RESULT
    if not path.is_file():
        return False
    try:
        names = read_json(path, "").get("files", [])
    except (OSError, ValueError):  # is told where results are compared with what they would be made from
        return True
    return all((path.parent / name).is_file() for name in names)


def write_table(output: Path, results: list[CaseResult]) -> None:
    """``results.csv``: one row a case of this call, in the order of their names; flags by name, between semicolons."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for result in sorted(results, key=lambda item: item.case):
        path = output / result.case / RESULT
        facts = json.loads(path.read_text()) if result.status != "failed" and path.is_file() else {}
        row = {**facts, "case": result.case, "status": result.status, "error": result.error}
        row["flags"] = ";".join(flag["name"] for flag in facts.get("flags", []))
        writer.writerow(row | {"seconds": f"{result.seconds:.2f}"})
    atomic_text(output / TABLE, text.getvalue())
