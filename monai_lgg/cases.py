"""Files -> patients -> ordered slices: the public ``kaggle_3m`` layout.

``<root>/<patient>/<patient>_<n>.tif`` with an optional ``<patient>_<n>_mask.tif`` and ``<root>/data.csv``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: The head is what lies above this share of the way from a volume's background to its bright end.
HEAD_SHARE = 0.1
#: A volume's bright end, without single hot voxels.
BRIGHT_PERCENTILE = 99.5
#: The first is the background, if it differs from the second by less than :data:`FLAT` of what the others differ by.
BACKGROUND_PERCENTILES = (10, 30, 90)
FLAT = 0.25
#: A value that all corners have, and this share of the voxels, is the background...
FLAT_SHARE = 0.2
#: ...and lies among those of tissue where it is above the lowest voxel by more than this share of the range.
AMONG_TISSUE = 0.05
#: Intensities above this multiple of the head's median (fat, vessels, artefacts) are clipped.
TOP_MEDIANS = 3.0

_SLICE_NAME = re.compile(r"^(?P<patient>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?\Z", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Slice:
    """One axial slice; ``label`` is None when there is no mask."""

    number: int
    image: Path
    label: Path | None

    @property
    def written_number(self) -> str:
        """As the image's name has it: ``001`` of ``<patient>_001.tif``."""
        return self.image.stem.rpartition("_")[2]


@dataclass(frozen=True)
class Patient:
    """One patient's slices in ascending order of their number (base to vertex in the public data)."""

    name: str
    slices: tuple[Slice, ...]

    @property
    def institution(self) -> str:
        return institution_of(self.name)

    @property
    def has_labels(self) -> bool:
        return all(item.label is not None for item in self.slices)


def institution_of(patient: str) -> str:
    """Institution code of a TCGA-like name (``TCGA_DU_5849_1995...`` -> ``DU``); ``unknown`` for other names."""
    words = patient.split("_")
    return words[1] if len(words) >= 4 and words[0] == "TCGA" else "unknown"


def parse_slice_name(file_name: str) -> tuple[str, int, bool] | None:
    """(patient, slice number, is a mask) of a file name in the public layout; None for any other name."""
    match = _SLICE_NAME.match(file_name)
    if match is None:
        return None
    return match["patient"], int(match["number"]), match["mask"] is not None


def missing_numbers(numbers: Iterable[int], first: int) -> list[str]:
    """What is left out of the slice numbers from ``first`` on: ``3``, or ``3 to 9`` for several after each other."""
    gaps, expected = [], first
    for number in sorted(numbers):
        if number > expected:
            gaps.append(str(expected) if number == expected + 1 else f"{expected} to {number - 1}")
        expected = number + 1
    return gaps


def data_root(path: str | Path) -> Path:
    """The folder that holds the patient folders: ``path`` itself or a ``kaggle_3m`` folder inside it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist; give the folder that holds the patient folders")
    inner = root / "kaggle_3m"
    return inner if inner.is_dir() else root


def read_patient(folder: Path) -> Patient:
    """Find the slices of one patient.

    Args:
        folder: ``<root>/<patient>``, holding ``<patient>_<n>.tif`` and masks.
    Raises:
        ValueError: no slices, a name of another patient, or a slice number used twice.
    """
    images: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        parsed = parse_slice_name(path.name)
        if parsed is None or path.name.startswith("."):
            continue
        patient, number, is_mask = parsed
        if patient != folder.name:
            raise ValueError(f"{path}: file of patient {patient} in the folder of {folder.name}; move it")
        target = labels if is_mask else images
        if number in target:
            raise ValueError(f"{path}: slice number {number} is used twice ({target[number].name}); keep one")
        target[number] = path
    if not images:
        raise ValueError(f"{folder}: no slices named {folder.name}_<number>.tif; check the layout")
    return Patient(folder.name, tuple(Slice(n, images[n], labels.get(n)) for n in sorted(images)))


def patient_folders(root: str | Path) -> list[Path]:
    """The sub-folders of ``root`` that hold at least one file named like a slice, sorted by name.

    One that may not be listed counts as a patient's: :func:`read_patient` then says why.
    """
    folders = sorted(data_root(root).iterdir())
    return [of for of in folders if of.is_dir() and not of.name.startswith(".") and _has_slices(of)]


def _has_slices(folder: Path) -> bool:
    try:
        return any(parse_slice_name(path.name) for path in folder.iterdir())
    except PermissionError:
        return True


def read_patients(root: str | Path, names: Iterable[str] | None = None) -> list[Patient]:
    """All patients below ``root`` in the order of their names, or only the named ones.

    Raises:
        ValueError: no patients, or a named one is missing.
    """
    folders = {folder.name: folder for folder in patient_folders(root)}
    if not folders:
        raise ValueError(f"{root}: no patient folders in the layout <patient>/<patient>_<n>.tif")
    wanted = sorted(folders) if names is None else list(names)
    missing = [name for name in wanted if name not in folders]
    if missing:
        raise ValueError(f"{root}: no folder for {len(missing)} patient(s), first {missing[0]}; is it the same data?")
    return [read_patient(folders[name]) for name in wanted]


def slice_records(patients: Sequence[Patient], numbers: dict[str, list[int]] | None = None) -> list[dict[str, Any]]:
    """One record a labelled slice: image and label path, patient, slice number. For 2D training.

    Args:
        patients: with labels.
        numbers: patient name -> slice numbers to keep; None keeps all.
    Raises:
        ValueError: a slice has no mask.
    """
    records = []
    for patient in patients:
        for item in patient.slices:
            if numbers is not None and item.number not in numbers.get(patient.name, ()):
                continue
            records.append(
                {
                    "image": str(item.image),
                    "label": _label_path(patient, item),
                    "patient": patient.name,
                    "slice": item.number,
                }
            )
    return records


def volume_records(
    patients: Sequence[Patient], numbers: dict[str, list[int]] | None = None, labels: bool = True
) -> list[dict[str, Any]]:
    """One record a patient: paths of its images (and labels) in order, its name, slice numbers as written in names."""
    records = []
    for patient in patients:
        keep = [item for item in patient.slices if numbers is None or item.number in numbers.get(patient.name, ())]
        if not keep:
            continue
        record: dict[str, Any] = {
            "image": [str(item.image) for item in keep],
            "case": patient.name,
            "slices": [item.written_number for item in keep],
        }
        if labels:
            record["label"] = [_label_path(patient, item) for item in keep]
        records.append(record)
    return records


def intensity_range(channel: np.ndarray) -> tuple[float, float]:
    """(background, background + 3 x (median of the head - background)) of one sequence of a whole volume.

    The background is the minimum, or the 10th percentile where the 30th is nearer to it than to the 90th by four
    times, as in air with noise. The head is what lies above the background by more than a tenth of the way to the
    99.5th percentile of all that is above the background. Its median is that of tissue, so neither the share of
    background in the field of view nor the brightness of fat moves it, and a tumour lies at about the same place in
    every scan.
    """
    if channel.dtype == np.uint8:
        return _range_of_bytes(np.bincount(channel.ravel(), minlength=256))
    low = _background(channel.min(), *np.percentile(channel, BACKGROUND_PERCENTILES, method="lower"))
    inside = channel[channel > low]
    if not inside.size:
        return low, low
    bright = float(np.percentile(inside, BRIGHT_PERCENTILE))
    head = inside[inside > low + HEAD_SHARE * (bright - low)]
    return low, low + TOP_MEDIANS * (float(np.median(head)) - low)


def _range_of_bytes(counts: np.ndarray) -> tuple[float, float]:
    """The same from the number of voxels of each value, which is ten times faster: the public data have 8 bits."""
    values = np.flatnonzero(counts)
    ranks = [(counts.sum() - 1) * percent // 100 for percent in BACKGROUND_PERCENTILES]
    low = _background(values[0], *values[np.searchsorted(np.cumsum(counts[values]), ranks, side="right")])
    inside = values[values > low]
    if not inside.size:
        return low, low
    bright = _percentile(inside, counts[inside], BRIGHT_PERCENTILE)
    head = inside[inside > low + HEAD_SHARE * (bright - low)]
    return low, low + TOP_MEDIANS * (_percentile(head, counts[head], 50) - low)


def _background(minimum: float, dark: float, middle: float, light: float) -> float:
    """Level of the background: ``dark`` where the darker part of the volume is flat, as air with noise is.

    The minimum would be that of the noise. Where the head fills the field of view, nothing is flat, and the minimum
    stands.
    """
    minimum, dark, middle, light = map(float, (minimum, dark, middle, light))  # int16 would overflow
    return dark if middle - dark < FLAT * (light - middle) else minimum


def background_among_tissue(volume: np.ndarray) -> bool:
    """Whether a volume was normalized within the head, and so has tissue darker than its background.

    Z-scores of the head with zeros around it, as other pipelines prepare their images, are such a volume. How dark
    black was cannot be told from them, so nothing mends them.
    """
    corner = volume[(0,) * volume.ndim]
    if (volume[np.ix_(*[[0, -1]] * volume.ndim)] != corner).any():
        return False
    lowest, highest = float(volume.min()), float(volume.max())
    if float(corner) - lowest <= AMONG_TISSUE * (highest - lowest):
        return False
    return bool((volume == corner).mean() >= FLAT_SHARE)


def _percentile(values: np.ndarray, counts: np.ndarray, percent: float) -> float:
    """np.percentile of the voxels that were counted: linear between two ranks."""
    ends = np.cumsum(counts)
    rank = (ends[-1] - 1) * percent / 100
    below, above = (values[np.searchsorted(ends, at, side="right")] for at in (np.floor(rank), np.ceil(rank)))
    return float(below + (above - below) * (rank - np.floor(rank)))


def volume_ranges(patient: Patient) -> list[tuple[float, float]]:
    """The intensity range of each sequence over all slices of a patient, whichever part they are in.

    FLAIR's stands for that of a sequence that is missing, as :class:`monai_lgg.transforms.ThreeSequencesd` puts FLAIR
    in its place: where there is one channel only, or a contrast sequence is of one grey.

    Raises:
        ValueError: an image is unreadable or of another size than the first.
    """
    from monai_lgg.io.reader import CaseReader

    volume, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
    channels = [volume[..., channel] for channel in range(volume.shape[-1])]
    ranges = [intensity_range(channel) for channel in channels]
    if len(channels) == 1:
        return ranges * 3
    if len(channels) != 3 or channels[1].min() == channels[1].max():
        return ranges
    missing = [channel.min() == channel.max() for channel in channels]
    return [ranges[1] if gone else own for own, gone in zip(ranges, missing, strict=True)]


def _label_path(patient: Patient, item: Slice) -> str:
    if item.label is None:
        raise ValueError(f"{patient.name}: slice {item.number} has no mask ({item.image.stem}_mask.tif); add it")
    return str(item.label)


def read_labels(patient: Patient) -> np.ndarray:
    """The patient's masks as a bool volume (H, W, D).

    Raises:
        ValueError: a mask is missing, unreadable, or of another size than the others.
    """
    from monai_lgg.io.tiff import read_tiff

    masks = [read_tiff(_label_path(patient, item)) > 0 for item in patient.slices]
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1 or masks[0].ndim != 2:
        raise ValueError(f"{patient.name}: masks have the shapes {sorted(shapes)}, they must be one (rows, columns)")
    return np.stack(masks, axis=-1)
