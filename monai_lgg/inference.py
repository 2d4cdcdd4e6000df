"""Finding the cases of a prediction and running a bundle on them."""

import csv
import errno
import hashlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.data import DataLoader, Dataset

from monai_lgg.bundle import workflow
from monai_lgg.cases import parse_slice_name, patient_folders, read_patient, volume_records
from monai_lgg.errors import deepest
from monai_lgg.io.atomic import atomic_text
from monai_lgg.io.nifti import is_nifti
from monai_lgg.io.tiff import is_tiff
from monai_lgg.saving import RESULT

_log = logging.getLogger(__name__)

COLUMNS = (
    "case", "status", "voxels", "volume_ml", "components", "confidence", "flags", "spacing_mm", "format", "seconds",
    "error",
)  # fmt: skip
#: Errors that concern every case that follows, so the batch stops: no space left, read-only, quota.
_FATAL_ERRNO = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def prediction_records(inputs: str | Path | Iterable[str | Path]) -> list[dict[str, Any]]:
    """Cases below the inputs: a patient folder, a folder of patients, single TIFFs, NIfTI volumes or folders of them.

    Returns:
        Records with ``image`` (paths) and ``case`` (unique name); patient folders also have ``slices`` (numbers) and,
        when every slice has a mask, ``truth`` (mask paths). A folder that cannot be read has ``broken`` (the reason).
    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: an input holds no case, or two cases have one name.
    """
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    records = [record for path in paths for record in _records_of(Path(path))]
    if not records:
        raise ValueError(f"{', '.join(map(str, paths))}: only masks, no images; give the images")
    _check_names(records)
    return records


def _check_names(records: list[dict[str, Any]]) -> None:
    names: dict[str, Any] = {}
    for record in records:
        if record["case"] in names:
            raise ValueError(
                f"two cases are named {record['case']} ({names[record['case']]}, {record['image'][0]}); "
                "predict them into two folders"
            )
        names[record["case"]] = record["image"][0]


def _records_of(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(f"input {path} does not exist")
    if path.is_file():
        parsed = parse_slice_name(path.name)
        return [] if parsed is not None and parsed[2] else [_file_record(path)]  # a mask is no case
    if any(parse_slice_name(item.name) for item in path.iterdir() if item.is_file()):
        return [_patient_record(path)]
    records = [_patient_record(folder) for folder in patient_folders(path)]
    records += [
        _file_record(item) for item in sorted(path.iterdir()) if is_nifti(item) and not item.name.startswith(".")
    ]
    if not records:
        raise ValueError(f"{path}: no patient folders (<patient>/<patient>_<n>.tif) and no .nii or .nii.gz files")
    return records


def _patient_record(folder: Path) -> dict[str, Any]:
    """A folder that cannot be read still gives a record, which then fails as a case and stops nothing else."""
    try:
        patient = read_patient(folder)
    except ValueError as error:
        return {"image": [str(folder)], "case": folder.name, "broken": str(error)}
    record = volume_records([patient], labels=False)[0]
    if patient.has_labels:
        record["truth"] = [str(item.label) for item in patient.slices]
    return record


def _file_record(path: Path) -> dict[str, Any]:
    if not (is_tiff(path) or is_nifti(path)):
        raise ValueError(f"input {path}: unknown format; give .tif, .tiff, .nii, .nii.gz or a folder")
    name = path.name
    for suffix in (".nii.gz", path.suffix):
        name = name.removesuffix(suffix)
    return {"image": [str(path)], "case": _safe_name(name)}


def _safe_name(text: str) -> str:
    """``text`` as a file name: anything but letters, digits, ``.``, ``-`` and ``_`` becomes ``_``."""
    return re.sub(r"[^\w.-]+", "_", text).strip(".") or "case"


def sequences_record(flair: Path, pre: Path | None = None, post: Path | None = None) -> dict[str, Any]:
    """One case of separate NIfTI volumes; a missing sequence is replaced by FLAIR, as in the public data."""
    for path in (flair, pre, post):
        if path is not None and not is_nifti(path):
            raise ValueError(
                f"{path}: separate sequences are given as .nii or .nii.gz; put TIFF sequences in one image"
            )
    record = _file_record(flair)
    if pre is not None or post is not None:
        record["image"] = [str(pre or flair), str(flair), str(post or flair)]
    return record


@dataclass(frozen=True)
class CaseResult:
    """Outcome of one case: status ``done``, ``skipped`` (finished earlier) or ``failed`` with the error."""

    case: str
    status: str
    error: str = ""
    seconds: float = 0.0


def predict(
    records: list[dict[str, Any]],
    bundle: Path,
    output: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]] = iter,
) -> list[CaseResult]:
    """Run a bundle's inference configuration on each case; a case that fails is reported and the rest goes on.

    Args:
        records: of :func:`prediction_records`.
        bundle: with weights at ``models/model.pt``.
        output: gets a folder a case and ``results.csv``.
        settings: checked overrides of ``inference.json``.
        overwrite: do finished cases again.
        progress: wraps the records, for example in a progress bar.
    Raises:
        OSError: the output folder cannot be written, or the disk is full.
    """
    _check_names(records)
    check_writable(output)
    results, todo = [], []
    made_by = {"weights_sha256": _weights_hash(bundle), "settings": dict(settings or {})}
    for record in records:
        record = {**record, "made_from": json.dumps({"input": _absolute(record["image"]), **made_by}, sort_keys=True)}
        if overwrite or not _finished(output, record["case"]):
            todo.append(record)
        else:
            results.append(_skipped(output, record))
    try:
        for result in _run(todo, bundle, output, settings or {}, device, progress):
            results.append(result)
    finally:
        write_table(output, results)
    return results


def _run(
    todo: list[dict[str, Any]],
    bundle: Path,
    output: Path,
    settings: Mapping[str, Any],
    device: str,
    progress: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]],
) -> Iterator[CaseResult]:
    flow = None
    for record in progress(todo):
        began = time.perf_counter()
        try:
            if "broken" in record:
                raise ValueError(record["broken"])
            flow = flow or _inference_workflow(bundle, output, settings, device, todo)
            _run_case(flow, record)
            if not _finished(output, record["case"]):
                raise RuntimeError("the bundle's configuration wrote no result; it needs SaveCased")
            result = CaseResult(record["case"], "done", seconds=time.perf_counter() - began)
        except Exception as error:
            if flow is None and "broken" not in record:
                raise  # the bundle itself does not load, so no case can be done
            flow = None  # an Ignite engine that raised silently does nothing on its next run
            result = _failure(record["case"], error, time.perf_counter() - began)
        yield result


def _weights_hash(bundle: Path) -> str | None:
    weights = bundle / "models" / "model.pt"
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None


def _absolute(paths: list[str]) -> list[str]:
    return [str(Path(path).resolve()) for path in paths]


def _skipped(output: Path, record: Mapping[str, Any]) -> CaseResult:
    """A finished case is skipped only when it was made from the same input, weights and settings."""
    found = json.loads((output / record["case"] / RESULT).read_text()).get("made_from")
    wanted = json.loads(record["made_from"])
    if found == wanted:
        return CaseResult(record["case"], "skipped")
    differs = ", ".join(key for key in wanted if (found or {}).get(key) != wanted[key])
    return CaseResult(
        record["case"],
        "failed",
        f"{output / record['case']} was made from other {differs}; use --overwrite, or another output folder",
    )


def _inference_workflow(
    bundle: Path, output: Path, settings: Mapping[str, Any], device: str, todo: list[dict[str, Any]]
) -> Any:
    overrides = {"device_name": device, "output_dir": str(output), "data": todo[:1], **settings}
    return workflow(bundle, ["inference.json"], "infer", "inferring", overrides)


def _run_case(flow: Any, record: dict[str, Any]) -> None:
    evaluator = flow.evaluator
    evaluator.state.epoch_length = 1  # Ignite keeps the length of the loader it was built with
    evaluator.data_loader = DataLoader(Dataset([record], flow.preprocessing), batch_size=1, num_workers=0)
    evaluator.run()


def _failure(case: str, error: Exception, seconds: float) -> CaseResult:
    cause = deepest(error)
    if isinstance(cause, OSError) and cause.errno in _FATAL_ERRNO:
        raise cause from error
    _log.debug("case %s failed", case, exc_info=error)
    return CaseResult(case, "failed", f"{type(cause).__name__}: {cause}", seconds)


def check_writable(folder: Path) -> None:
    """Create ``folder`` and prove that a file can be written there.

    Raises:
        OSError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"0")
        probe.unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"output folder {folder} cannot be written ({error.strerror}); choose another"
        ) from error


def _finished(output: Path, case: str) -> bool:
    return (output / case / RESULT).is_file()


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
    atomic_text(output / "results.csv", text.getvalue())
