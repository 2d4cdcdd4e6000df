"""What a prediction is run on: patient folders, TIFFs, NIfTI volumes and DICOM studies, as one record a case."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_lgg.cases import parse_slice_name, patient_folders, read_patient, volume_records
from monai_lgg.errors import UsageError
from monai_lgg.io.dicom import find_dicom, is_dicom, require_dicom
from monai_lgg.io.nifti import SUFFIXES, is_nifti
from monai_lgg.io.tiff import is_tiff
from monai_lgg.saving import MANIFEST, TABLE

#: Inputs that were left out, of which so many are named.
NAMED = 5

_log = logging.getLogger(__name__)


def prediction_records(
    inputs: str | Path | Iterable[str | Path], *, flair_series: str | None = None, keep_identifiers: bool = False
) -> list[dict[str, Any]]:
    """Cases below the inputs: a patient folder, a folder of patients, single TIFFs, NIfTI volumes or folders of them.

    DICOM files are found by their content, at any depth, and make one case a study, over all inputs.

    Args:
        inputs: files and folders.
        flair_series, keep_identifiers: of DICOM; see :func:`monai_lgg.io.dicom.studies.dicom_records`.
    Returns:
        Records with ``image`` (paths) and ``case`` (unique name); patient folders also have ``slices`` (numbers) and,
        when every slice has a mask, ``truth`` (mask paths). A folder that cannot be read has ``broken`` (the reason).
    Raises:
        ImportError: DICOM without the packages of the extra ``dicom``.
        FileNotFoundError: an input does not exist.
        ValueError: an input holds no case, or two cases have one name.
    """
    paths = [_named(Path(path)) for path in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    files: list[str] = []
    records = [record for path in paths for record in _records_of(path, files)]
    if files:
        require_dicom()
        from monai_lgg.io.dicom.studies import dicom_records

        studies = dict.fromkeys(files)  # an input may lie in another one
        records += dicom_records(studies, flair_series=flair_series, keep_identifiers=keep_identifiers)
        if not records:
            raise ValueError(f"{', '.join(map(str, paths))}: DICOM files, but none with a study; give MR images")
    if not records:
        raise ValueError(f"{', '.join(map(str, paths))}: only masks, no images; give the images")
    check_names(records)
    return records


def _named(path: Path) -> Path:
    """``.`` and ``..`` as absolute paths, because a patient's folder is known by its name."""
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def check_names(records: list[dict[str, Any]]) -> None:
    """Two cases of one name would overwrite each other, and one named as a table its place.

    Raises:
        ValueError: there are two, or there is such a one.
    """
    names: dict[str, Any] = {}
    for record in records:
        if record["case"] in (TABLE, MANIFEST):
            raise ValueError(f"a case is named {record['case']} ({record['image'][0]}), as the output's own; rename it")
        if record["case"] in names:
            raise ValueError(
                f"two cases are named {record['case']} ({names[record['case']]}, {record['image'][0]}); "
                "predict them into two folders"
            )
        names[record["case"]] = record["image"][0]


def _records_of(path: Path, files: list[str]) -> list[dict[str, Any]]:
    """Records of all but DICOM, whose files are added to ``files``."""
    if not path.exists():
        raise FileNotFoundError(f"input {path} does not exist")
    if path.is_file():
        if not (is_tiff(path) or is_nifti(path)) and is_dicom(path):
            files.append(str(path.resolve()))
            return []
        parsed = parse_slice_name(path.name)
        return [] if parsed is not None and parsed[2] else [_file_record(path)]  # a mask is no case
    if any(parse_slice_name(item.name) for item in path.iterdir() if item.is_file()):
        return [_patient_record(path)]
    patients = patient_folders(path)
    visible = sorted(item for item in path.iterdir() if not item.name.startswith("."))
    volumes = [item for item in visible if is_nifti(item) and not _is_mask(item)]
    records = [*map(_patient_record, patients), *map(_file_record, volumes)]
    found = find_dicom([path])
    files += found
    left = [item.name for item in sorted({*visible} - {*patients}) if _has_other_images(item)]
    if left:
        _log.warning(
            f"{path}: not predicted: {', '.join(left[:NAMED])}{', ...' if len(left) > NAMED else ''} (neither patient "
            "folders nor NIfTI volumes); give them as inputs of their own"
        )
    if not records and not found:
        raise ValueError(
            f"{path}: no patient folders (<patient>/<patient>_<n>.tif), no .nii or .nii.gz files and no DICOM files"
        )
    return records


def _is_mask(volume: Path) -> bool:
    """``x_mask.nii.gz`` beside ``x.nii.gz``."""
    name = _stem(volume)
    return name.endswith("_mask") and any(
        volume.with_name(name.removesuffix("_mask") + suffix).exists() for suffix in SUFFIXES
    )


def _has_other_images(item: Path) -> bool:
    """A TIFF file, or a folder with images below it that is not the output of a prediction."""
    if not item.is_dir():
        return is_tiff(item)
    if (item / TABLE).exists():
        return False
    inside = (Path(folder, file) for folder, _, files in os.walk(item) for file in files)
    return any((is_tiff(file) or is_nifti(file)) and not file.name.startswith(".") for file in inside)


def _patient_record(folder: Path) -> dict[str, Any]:
    """A folder that cannot be read still gives a record, which then fails as a case and stops nothing else."""
    try:
        patient = read_patient(folder)
    except (OSError, ValueError) as error:
        return {"image": [str(folder)], "case": folder.name, "broken": str(error)}
    record = volume_records([patient], labels=False)[0]
    if patient.has_labels:
        record["truth"] = [str(item.label) for item in patient.slices]
    return record


def _file_record(path: Path) -> dict[str, Any]:
    if not (is_tiff(path) or is_nifti(path)):
        raise UsageError(f"input {path}: unknown format; give .tif, .tiff, .nii, .nii.gz, DICOM or a folder")
    return {"image": [str(path)], "case": _safe_name(_stem(path))}


def _stem(path: Path) -> str:
    """The name without ``.nii.gz`` or another suffix."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def _safe_name(text: str) -> str:
    """``text`` as a file name: anything but letters, digits, ``.``, ``-`` and ``_`` becomes ``_``."""
    return re.sub(r"[^\w.-]+", "_", text).strip(".") or "case"


def sequences_record(flair: Path, pre: Path | None = None, post: Path | None = None) -> dict[str, Any]:
    """One case of separate NIfTI volumes; a missing sequence is replaced by FLAIR, as in the public data.

    Raises:
        ValueError: a file that is no NIfTI.
    """
    for path in (flair, pre, post):
        if path is not None and not is_nifti(path):
            raise ValueError(
                f"{path}: separate sequences are given as .nii or .nii.gz; put TIFF sequences in one image"
            )
    record = _file_record(flair)
    if pre is not None or post is not None:
        record["image"] = [str(pre or flair), str(flair), str(post or flair)]
    return record
