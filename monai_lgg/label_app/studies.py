"""The studies folder of a label server: made of patients in the public layout, and turned back into it for training.

Images lie flat in it, as NIfTI volumes or TIFFs; finished labels have the same names below ``labels/final``.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from monai_lgg.cases import Patient, parse_slice_name, patient_folders, read_labels, read_patient
from monai_lgg.io.atomic import atomic_write
from monai_lgg.io.nifti import is_nifti, write_nifti
from monai_lgg.io.reader import CaseReader
from monai_lgg.io.tiff import is_tiff, write_tiff
from monai_lgg.saving import to_display

LABELS = Path("labels") / "final"
#: What the datastore takes as images.
PATTERNS = ("*.nii.gz", "*.nii", "*.tif")
#: Of an image's id or a label's tag, which become parts of paths.
_PLAIN = re.compile(r"\w[\w .+()@-]*")
#: Of a voxel's shortest side, by which the corners of a label may lie off those of its image.
OFF = 0.5


@dataclass(frozen=True)
class Pair:
    """An image of the studies folder with its finished label."""

    image: Path
    label: Path


@dataclass
class Prepared:
    """What :func:`prepare_studies` did.

    Attributes:
        patients: that were written, or were there already.
        written, kept: files; those that were there are never written over, because a label may be an annotator's.
        failed: patient -> reason.
    """

    patients: list[str] = field(default_factory=list)
    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def check_plain(what: str, name: str) -> None:
    """That a name which others send can be no path.

    Raises:
        ValueError: it has a slash, or begins with a dot, or is empty.
    """
    if not _PLAIN.fullmatch(name):
        raise ValueError(f"{what} {name!r} is no plain name; give letters, digits, spaces and . - _ + ( ) @")


def prepare_studies(
    source: Path,
    studies: Path,
    *,
    slices: bool = False,
    labelled: int | None = None,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Prepared:
    """Fill a studies folder from patients in the public layout; a patient that cannot be read stops no other.

    Args:
        source: of the patients.
        studies: gets a FLAIR volume ``<patient>.nii.gz`` a patient, which 3D Slicer loads, and labels of 0 and 1.
        slices: write the slices as they are, ``<patient>_<n>.tif`` with all channels, in place of volumes.
        labelled: of the patients with masks, how many get their labels, the first by name; None for all.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no patient folders in it.
    """
    folders = patient_folders(source)
    (studies / LABELS).mkdir(parents=True, exist_ok=True)
    done = Prepared()
    left = labelled
    for folder in progress(folders):
        try:
            patient = read_patient(folder)
            with_labels = patient.has_labels and (left is None or left > 0)
            (_write_slices if slices else _write_volume)(patient, studies, with_labels, done)
        except (OSError, ValueError) as error:
            done.failed[folder.name] = str(error)
            continue
        done.patients.append(patient.name)
        left = left - 1 if with_labels and left is not None else left
    if not done.patients and not done.failed:
        raise ValueError(f"{source}: no patient folders in the layout <patient>/<patient>_<n>.tif")
    return done


def _write_volume(patient: Patient, studies: Path, with_labels: bool, done: Prepared) -> None:
    pixels, meta = CaseReader().get_data([str(item.image) for item in patient.slices])
    flair = pixels[..., 1 if pixels.shape[-1] == 3 else 0]
    label = read_labels(patient).astype(np.uint8) if with_labels else None
    if label is not None and label.shape != flair.shape:
        raise ValueError(f"{patient.name}: masks of {label.shape}, images of {flair.shape}; export them again")
    name = f"{patient.name}.nii.gz"
    _once(studies / name, lambda path: write_nifti(path, flair, meta), done)
    if label is not None:
        _once(studies / LABELS / name, lambda path: write_nifti(path, label, meta), done)


def _write_slices(patient: Patient, studies: Path, with_labels: bool, done: Prepared) -> None:
    labels = read_labels(patient) if with_labels else None
    for k, item in enumerate(patient.slices):
        name = f"{patient.name}_{item.number}.tif"
        _once(studies / name, lambda path, image=item.image: _copy(image, path), done)  # type: ignore[misc]
        if labels is not None:
            mask = labels[..., k].astype(np.uint8)
            _once(studies / LABELS / name, lambda path, mask=mask: write_tiff(path, mask), done)  # type: ignore[misc]


def _once(path: Path, write: Callable[[Path], Any], done: Prepared) -> None:
    if path.exists():
        done.kept += 1
        return
    write(path)
    done.written += 1


def _copy(image: Path, path: Path) -> None:
    atomic_write(path, lambda partial: shutil.copyfile(image, partial))


def check_label(image: Path, label: Path, name: str) -> int:
    """That a label can be used for training with its image.

    Args:
        name: of the label, for the error.
    Returns:
        Its voxels of tumour.
    Raises:
        ValueError: it is unreadable, of another format, shape or place than the image, or has several channels.
    """
    try:
        return int(np.count_nonzero(_read_pair(Pair(image, label))[1]))
    except ValueError as error:
        raise ValueError(f"label of {name}: {error}") from error


def write_binary(label: Path, folder: Path) -> Path:
    """Write a label with 1 for whatever is above 0, under its name in a folder; returns the file."""
    pixels, meta = CaseReader().get_data([str(label)])
    mask = (pixels[..., 0] > 0).astype(np.uint8)
    path = folder / label.name
    if is_nifti(label):
        write_nifti(path, mask, meta)
    else:
        write_tiff(path, mask[..., 0] if mask.shape[2] == 1 else np.moveaxis(mask, 2, 0))
    return path


def _read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (X, Y, Z, C), label (X, Y, Z) bool, and the image's affine."""
    for path in (pair.image, pair.label):
        if not (is_nifti(path) or is_tiff(path)):
            raise ValueError(f"{path.name}: unknown format; save labels as .nii.gz, or as .tif for TIFF images")
    image, meta = CaseReader().get_data([str(pair.image)])
    label, other = CaseReader().get_data([str(pair.label)])
    if label.shape[-1] != 1:
        raise ValueError(f"{pair.label.name}: {label.shape[-1]} channels; a label has one")
    if label.shape[:3] != image.shape[:3]:
        raise ValueError(
            f"{pair.label.name}: label of {_size(label)} voxels, but image {pair.image.name} of {_size(image)}; "
            "save the label on the grid of its image"
        )
    if _states_place(meta) and _states_place(other):  # viewers make up a place for images that state none
        _check_place(pair, meta, other, image.shape[:3])
    return image, label[..., 0] > 0, np.asarray(meta["affine"])


def _size(volume: np.ndarray) -> str:
    return " x ".join(map(str, volume.shape[:3]))


def _states_place(meta: Mapping[str, Any]) -> bool:
    return bool(meta.get("qform_code") or meta.get("sform_code"))


def _check_place(pair: Pair, meta: Mapping[str, Any], other: Mapping[str, Any], shape: Sequence[int]) -> None:
    affine = meta["affine"]
    corners = np.array([[*corner, 1] for corner in product(*[(0, length - 1) for length in shape])]).T
    off = float(np.linalg.norm(((affine - other["affine"]) @ corners)[:3], axis=0).max())
    if off > OFF * np.linalg.norm(affine[:3, :3], axis=0).min():
        unit = "mm" if meta["spacing_known"] else "voxels"
        raise ValueError(
            f"{pair.label.name}: its corners lie up to {off:.1f} {unit} from those of image {pair.image.name}; save "
            "the label on the grid of its image"
        )


def patients_of(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Pairs by patient: the slices ``<patient>_<n>.tif`` of one belong together; a volume is a patient of its own."""
    found: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda item: _place(item.image)):
        found.setdefault(_place(pair.image)[0], []).append(pair)
    return found


def _place(image: Path) -> tuple[str, int, str]:
    """Patient, number of the slice, and the name itself, which parts what is named alike."""
    parsed = parse_slice_name(image.name)
    return (_case_name(image), 0, image.name) if parsed is None else (parsed[0], parsed[1], image.name)


def export_patients(pairs: Sequence[Pair], root: Path) -> tuple[list[str], dict[str, str]]:
    """Write labelled images in the public layout, with three channels and in display order, for a bundle's training.

    Intensities are kept as they are, whatever their type. FLAIR alone is repeated, as the data's authors did.

    Args:
        pairs: of the studies folder.
        root: gets ``<patient>/<patient>_<n>.tif`` and masks.
    Returns:
        Names of the patients, and image -> reason for those that cannot be used.
    """
    failed: dict[str, str] = {}
    names = []
    for name, own in patients_of(pairs).items():
        written = 0
        for pair in own:
            try:
                image, label, affine = _read_pair(pair)
                written = _write_training_slices(root, name, pair, image, label, affine, written)
            except (OSError, ValueError) as error:
                failed[pair.image.name] = str(error)
        names += [name] if written else []
    return names, failed


def _write_training_slices(
    root: Path, name: str, pair: Pair, image: np.ndarray, label: np.ndarray, affine: np.ndarray, written: int
) -> int:
    """Returns how many slices the patient has then."""
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"{pair.image.name}: {image.shape[-1]} channels; give 1 (FLAIR) or 3")
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    pixels, mask = _storable(to_display(image, affine)), to_display(label, affine)
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(mask.shape[2]):
        stem = f"{name}_{written + k + 1}"
        tifffile.imwrite(folder / f"{stem}.tif", np.ascontiguousarray(pixels[:, :, k]), photometric="rgb")
        write_tiff(folder / f"{stem}_mask.tif", mask[..., k].astype(np.uint8) * 255)
    return written + mask.shape[2]


def _storable(pixels: np.ndarray) -> np.ndarray:
    """In a type that TIFF has: 64 bits become 32-bit floats, and bytes are in the machine's order."""
    if pixels.dtype.itemsize > 4 or pixels.dtype == np.float16:
        return pixels.astype(np.float32)
    return pixels.astype(np.uint8 if pixels.dtype == bool else pixels.dtype.newbyteorder("="))


def _case_name(image: Path) -> str:
    return re.sub(r"(\.nii\.gz|\.nii|\.tif)$", "", image.name, flags=re.IGNORECASE)
