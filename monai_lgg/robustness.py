"""How much worse a bundle gets when a scan differs from what it was trained on, measured the way that users predict.

Each perturbed volume is written as files (a folder of TIFF slices, or NIfTI where it has an affine), predicted by
:func:`monai_lgg.inference.predict`, and the mask is read back from its files: readers, orientation and writers are part
of what is measured. Scores are taken in the perturbed geometry, against the truth moved to it.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile

from monai_lgg import inference, prediction_inputs
from monai_lgg.bundle import stored_settings, training_split
from monai_lgg.cases import patient_folders, read_labels, read_patient
from monai_lgg.errors import deepest
from monai_lgg.experiments import weights_hash
from monai_lgg.io.nifti import read_nifti
from monai_lgg.io.reader import CaseReader
from monai_lgg.io.tiff import read_tiff
from monai_lgg.metrics.overlap import dice, slice_counts
from monai_lgg.perturbations import PERTURBATIONS, VERSION, Perturbation, Strength, Volume
from monai_lgg.robustness_rows import CLEAN, ROWS, Key, Row, identity, key_of, read_rows, write_rows, write_tables
from monai_lgg.splits import load_split

#: Volumes that are on disk at one time.
BATCH = 8
#: Of the affine that comes back, in mm.
AFFINE_TOLERANCE = 1e-3
#: Pictures change no mask and take time.
SETTINGS = {"save_overlay": False}
Job = tuple[Perturbation, Strength]
Predict = Callable[..., list[inference.CaseResult]]

_CLEAN_JOB: Job = (CLEAN, CLEAN.strengths[0])


@dataclass(frozen=True)
class _Outcome:
    """A prediction that came back, with the truth in its geometry; or the error."""

    truth: np.ndarray | None = None
    prediction: np.ndarray | None = None
    error: str = ""


def measure_robustness(
    bundle: Path,
    dataset_dir: Path,
    names: Sequence[str],
    perturbations: Sequence[str] | None = None,
    *,
    output: Path,
    device: str = "auto",
    predict: Predict = inference.predict,
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> list[Row]:
    """Predict each patient under each perturbation and strength, and write the rows and their table.

    A row that ``output/rows.csv`` has from the same weights, settings and voxels is not done again; failed ones are. A
    patient or case that fails gives rows that say why, and the rest goes on.

    Args:
        bundle: with weights.
        dataset_dir: in the public layout, with masks.
        names: patients.
        perturbations: names; None takes all.
        output: gets ``rows.csv``, ``robustness.csv`` and ``robustness.md``.
        predict: as :func:`monai_lgg.inference.predict`.
        progress: wraps the names, for example in a progress bar.
    Returns:
        The rows asked for, by patient, the clean ones first.
    Raises:
        FileNotFoundError: the bundle has no weights.
        ValueError: an unknown perturbation, a patient without a folder, or none named.
        OSError: the output folder cannot be written, or the disk is full.
    """
    jobs = _jobs(perturbations)
    folders = _folders(dataset_dir, names)
    blank = Row("", "", "", "", weights=weights_hash(bundle)[:12])
    inference.check_writable(output)
    stored = read_rows(output / ROWS)
    done: dict[Key, Row] = {}

    def run(records: list[dict[str, Any]], folder: Path) -> list[inference.CaseResult]:
        return predict(records, bundle, folder, settings=SETTINGS, device=device)

    for name in progress(list(folders)):
        try:
            volume = read_volume(folders[name])
        except Exception as error:
            rows = [replace(_of_job(blank, name, job), error=_words(error)) for job in jobs]
            stored = write_rows(output / ROWS, stored, rows)
        else:
            rows = []
            made = replace(blank, made_from=_made_from(bundle, volume))
            for some in _patient_rows(volume, jobs, made, stored, run):
                rows += some
                stored = write_rows(output / ROWS, stored, some)
        done |= {identity(row): row for row in rows}
    measured = [done[identity(_of_job(blank, name, job))] for name in folders for job in jobs]
    write_tables(measured, output, _notes(bundle, folders))
    return measured


def chosen_patients(
    dataset_dir: Path, split_file: Path, part: str = "test", fold: int = 0, patients: int | None = None
) -> list[str]:
    """Names of a part of a split, or of ``all`` patients without one; ``patients`` of them, evenly spaced.

    Raises:
        FileNotFoundError: no split file.
        ValueError: the split is not of this data, or the part is empty.
    """
    if part == "all":
        names = [folder.name for folder in patient_folders(dataset_dir)]
    elif split_file.is_file():
        names = sorted(load_split(split_file, dataset_dir).part(part, fold))
    else:
        raise FileNotFoundError(f"no split at {split_file}; give the one of the training, or part all")
    if not names:
        raise ValueError(f"the {part} part of {split_file} has no patients; choose another")
    if patients is not None and not 1 <= patients <= len(names):
        raise ValueError(f"{patients} patients asked for; the {part} part has {len(names)}")
    count = len(names) if patients is None else patients
    return [names[i * len(names) // count] for i in range(count)]


def _jobs(names: Sequence[str] | None) -> list[Job]:
    unknown = [name for name in names or () if name not in PERTURBATIONS]
    if unknown:
        raise ValueError(f"no perturbation {unknown[0]!r}; there are {', '.join(PERTURBATIONS)}")
    chosen = PERTURBATIONS.values() if names is None else [PERTURBATIONS[name] for name in dict.fromkeys(names)]
    return [(item, strength) for item in (CLEAN, *chosen) for strength in item.strengths]


def _folders(dataset_dir: Path, names: Sequence[str]) -> dict[str, Path]:
    folders = {folder.name: folder for folder in patient_folders(dataset_dir)}
    absent = [name for name in names if name not in folders]
    if absent:
        raise ValueError(f"{dataset_dir}: no folder for {len(absent)} patient(s), first {absent[0]}; is it the data?")
    if not names:
        raise ValueError("no patients are named; name at least one")
    return {name: folders[name] for name in names}


def _made_from(bundle: Path, volume: Volume) -> str:
    """Of all that a patient's rows depend on, save the program itself."""
    configs = [bundle / "configs" / name for name in ("inference.json", "overrides.json")]
    texts = [path.read_text() if path.is_file() else "" for path in configs]
    digest = hashlib.sha256(json.dumps([weights_hash(bundle), texts, SETTINGS, VERSION]).encode())
    for array in (volume.sequences, volume.mask):
        digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def read_volume(folder: Path) -> Volume:
    """A patient of the public layout, with masks.

    Raises:
        ValueError: unreadable, without masks, or mask and image differ in size.
    """
    patient = read_patient(folder)
    pixels, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
    return Volume(patient.name, np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), read_labels(patient))


def write_volume(volume: Volume, folder: Path) -> Path:
    """``<folder>/<case>/<case>_<n>.tif`` without an affine, ``<folder>/<case>.nii.gz`` with one; returns its path."""
    pixels = np.moveaxis(volume.sequences, 0, -1)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if volume.affine is not None:
        image = nib.Nifti1Image(pixels, volume.affine)
        image.header.set_xyzt_units("mm")
        path = folder / f"{volume.case}.nii.gz"
        nib.save(image, path)
        return path
    path = folder / volume.case
    path.mkdir(parents=True)
    photometric = "rgb" if pixels.ndim == 4 else "minisblack"
    for k in range(pixels.shape[2]):
        slice_ = np.ascontiguousarray(pixels[:, :, k])
        tifffile.imwrite(path / f"{volume.case}_{k + 1}.tif", slice_, photometric=photometric)
    return path


def read_prediction(folder: Path, volume: Volume) -> np.ndarray:
    """The mask that a prediction of ``volume`` wrote to ``folder/<case>``, bool on the grid of the volume.

    Raises:
        ValueError: it lies elsewhere: another affine or number of slices.
    """
    if volume.affine is None:
        paths = sorted((folder / volume.case).glob(f"{volume.case}_*_mask.tif"))
        by_number = {int(path.name.split("_")[-2]): path for path in paths}
        slices = volume.mask.shape[2]
        if sorted(by_number) != list(range(1, slices + 1)):
            raise ValueError(f"{volume.case}: {slices} slices were given, masks came back for {sorted(by_number)}")
        return np.stack([read_tiff(by_number[number]) > 0 for number in sorted(by_number)], axis=-1)
    voxels, meta = read_nifti(folder / volume.case / f"{volume.case}_mask.nii.gz")
    if not np.allclose(meta["affine"], volume.affine, atol=AFFINE_TOLERANCE):
        raise ValueError(
            f"{volume.case}: the mask came back with the affine {meta['affine'].tolist()}, the image has "
            f"{volume.affine.tolist()}"
        )
    return np.asarray(voxels[..., 0] > 0)


def _patient_rows(
    volume: Volume,
    jobs: Sequence[Job],
    blank: Row,
    stored: Mapping[Key, Row],
    run: Callable[[list[dict[str, Any]], Path], list[inference.CaseResult]],
) -> Iterator[list[Row]]:
    """The rows that are there already, then those of each batch."""
    found = [stored[key] for job in jobs if (key := key_of(_of_job(blank, volume.case, job))) in stored]
    found = [row for row in found if not row.error]
    yield found
    there = {identity(row) for row in found}
    todo = [job for job in jobs if identity(_of_job(blank, volume.case, job)) not in there]
    if not todo:
        return
    clean: np.ndarray | None = None
    ordered = [_CLEAN_JOB, *(job for job in todo if job != _CLEAN_JOB)]  # all others are compared with it
    for start in range(0, len(ordered), BATCH):
        some = ordered[start : start + BATCH]
        rows = []
        for job, outcome in zip(some, _predict_batch(volume, some, run), strict=True):
            clean = outcome.prediction if job == _CLEAN_JOB else clean
            if job in todo:
                rows.append(_scored(_of_job(blank, volume.case, job), volume, job, outcome, clean))
        yield rows


def _predict_batch(
    volume: Volume, jobs: Sequence[Job], run: Callable[[list[dict[str, Any]], Path], list[inference.CaseResult]]
) -> list[_Outcome]:
    """Perturb, write, predict, read back; in the order of the jobs."""
    outcomes: dict[str, _Outcome] = {}
    given: dict[str, Volume] = {}
    with tempfile.TemporaryDirectory(prefix="monai-lgg-robustness-") as temporary:
        inputs, outputs = Path(temporary) / "in", Path(temporary) / "out"
        inputs.mkdir()
        for perturbation, strength in jobs:
            case = f"{perturbation.name}_{strength.level}"
            try:
                perturbed = replace(perturbation.apply(volume, strength), case=case)
                write_volume(perturbed, inputs)
                given[case] = replace(perturbed, sequences=np.broadcast_to(np.uint8(0), (1, *perturbed.mask.shape)))
            except OSError:
                raise  # of the temporary folder, so of all that follow
            except Exception as error:
                outcomes[case] = _Outcome(error=_words(error))
        for result in run(prediction_inputs.prediction_records(inputs), outputs) if given else []:
            outcomes[result.case] = _outcome(given[result.case], result, outputs)
    return [outcomes[f"{perturbation.name}_{strength.level}"] for perturbation, strength in jobs]


def _outcome(given: Volume, result: inference.CaseResult, folder: Path) -> _Outcome:
    if result.status == "failed":
        return _Outcome(error=result.error)
    try:
        prediction = read_prediction(folder, given)
    except (OSError, ValueError) as error:
        return _Outcome(error=_words(error))
    if prediction.shape != given.mask.shape:
        return _Outcome(error=f"the mask came back as {prediction.shape}, the image is {given.mask.shape}")
    return _Outcome(given.mask, prediction)


def _scored(row: Row, volume: Volume, job: Job, outcome: _Outcome, clean: np.ndarray | None) -> Row:
    if outcome.prediction is None or outcome.truth is None:
        return replace(row, error=outcome.error)
    perturbation, strength = job
    score = _dice(outcome.prediction, outcome.truth)
    before = agreement = None
    if clean is not None:
        before = _dice(clean, volume.mask)
        same_place = outcome.truth is volume.mask
        moved = clean if same_place else perturbation.apply(replace(volume, mask=clean), strength).mask
        agreement = _dice(outcome.prediction, moved)
    return replace(
        row,
        dice=score,
        dice_clean=before,
        difference=None if score is None or before is None else score - before,
        agreement=agreement,
        voxels=int(outcome.prediction.sum()),
        voxels_truth=int(outcome.truth.sum()),
    )


def _dice(first: np.ndarray, second: np.ndarray) -> float | None:
    value = float(dice(slice_counts(first, second).sum(axis=0)))
    return None if math.isnan(value) else value


def _of_job(blank: Row, patient: str, job: Job) -> Row:
    perturbation, strength = job
    return replace(
        blank, patient=patient, perturbation=perturbation.name, level=strength.level, strength=strength.words
    )


def _words(error: Exception) -> str:
    cause = deepest(error)
    return f"{type(cause).__name__}: {cause}"


def _notes(bundle: Path, names: Iterable[str]) -> list[str]:
    chosen = set(names)
    notes = [
        f"{bundle.name}, weights {weights_hash(bundle)[:12]}, {len(chosen)} patient(s). Dice is per patient, against "
        "the truth in the perturbed geometry; a patient without tumour and without prediction has none.",
    ]
    split = training_split(bundle)
    if split is not None:
        fold = int(stored_settings(bundle).get("fold", 0))
        seen = chosen & {name for part in ("train", "validation") for name in split.part(part, fold)}
        if seen:
            notes.append(f"{len(seen)} of the patients were used in the training or its validation.")
    return notes
