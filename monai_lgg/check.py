"""Integrity check of a data folder: looks at every file once and lists all that is wrong or odd, without stopping."""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.cases import data_root, institution_of, missing_numbers, parse_slice_name

#: Kind of finding -> its heading, in the order of a report.
KINDS = {
    "unreadable": "unreadable or truncated files",
    "no-images": "folders without images",
    "foreign-name": "files of another patient",
    "duplicate": "slice numbers used twice",
    "orphan-mask": "masks without an image",
    "missing-mask": "slices without a mask",
    "size": "images of another size than the patient's other slices",
    "channels": "images without exactly 3 channels",
    "mask-shape": "masks of another shape than their image",
    "mask-values": "masks that are not binary",
    "no-masks": "patients without any mask (cases for prediction)",
    "dtype": "pixels other than uint8",
    "unknown-name": "TIFF files that are ignored because of their name",
    "gap": "gaps in the numbering",
    "identical": "identical images in different patients",
    "missing-sequence": "missing sequences (channel equal to FLAIR)",
    "near-black": "near-black slices",
    "tumour-outside-head": "tumour outside the head",
    "tumour-at-end": "tumour in the first or last slice",
    "data-csv": "data.csv",
}
FLAIR = 1
OTHER_SEQUENCES = {0: "pre-contrast", 2: "post-contrast"}

#: A patient's bright FLAIR level is this percentile of all pixels; the two shares below are of that level.
BRIGHT_PERCENTILE = 99
#: A slice is near-black when fewer than NEAR_BLACK_SHARE of its FLAIR pixels exceed this share of the bright level.
NEAR_BLACK_LEVEL = 0.2
NEAR_BLACK_SHARE = 0.01
#: Smoothed FLAIR above this share of the bright level belongs to the head.
HEAD_LEVEL = 0.1
HEAD_SMOOTHING_PX = 5
#: A slice is reported when more than this share of its tumour lies outside the head. 0 in all 81 patients looked at.
OUTSIDE_SHARE = 0.1

_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (``error``) or worth a look (``warning``).

    Args:
        severity: ``error`` or ``warning``.
        kind: a key of :data:`KINDS`.
        where: patient folder, ``<patient>/<file>``, or ``data.csv``.
        items: all the file names, patients or slice numbers that the message sums up.
    """

    severity: str
    kind: str
    where: str
    message: str
    items: tuple[str, ...] = ()


@dataclass
class DataReport:
    """What a data folder holds and what is wrong with it.

    Args:
        slices: images, readable or not.
        mask_slices: readable masks.
        tumour_pixel_share: of the pixels of all readable masks; None without masks.
        institutions: code -> number of patients.
    """

    patients: int = 0
    slices: int = 0
    mask_slices: int = 0
    tumour_slices: int = 0
    tumour_pixel_share: float | None = None
    institutions: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "errors": len(self.errors), "warnings": len(self.warnings)}


def check_data(root: str | Path, progress: Callable[[int, int], None] | None = None) -> DataReport:
    """Look at every patient folder below ``root``. A bad file or patient becomes a finding and the scan goes on.

    Args:
        root: the folder with the patient folders, or one that holds ``kaggle_3m``.
        progress: called after each patient with the numbers of patients done and in all.
    Returns:
        The counts, and the findings: errors first, then in the order of :data:`KINDS` and of the names.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no folder below it is in the public layout.
    """
    from monai_lgg.io import tiff  # noqa: F401  (takes seconds; not inside the threads)

    base = data_root(root)
    folders = [path for path in sorted(base.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    scans: list[_Scan] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for scan in pool.map(_scan_patient, folders):
            scans.append(scan)
            if progress is not None:
                progress(len(scans), len(folders))
    if all(scan.empty for scan in scans):
        raise ValueError(f"{root}: no patient folders in the layout <patient>/<patient>_<n>.tif")
    return _report(base, scans)


def head_mask(flair: np.ndarray, level: float) -> np.ndarray:
    """The head in one slice: largest component of the smoothed FLAIR above ``level``, holes filled.

    Smoothing keeps single bright background pixels from joining; filling keeps dark ventricles, air and necrosis.

    Args:
        flair: (H, W).
    Returns:
        bool, (H, W); all False when nothing exceeds the level.
    """
    from scipy import ndimage

    above = ndimage.uniform_filter(flair.astype(np.float32), HEAD_SMOOTHING_PX) > level
    labels, count = ndimage.label(above)
    if count > 1:
        above = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return np.asarray(ndimage.binary_fill_holes(above))


@dataclass
class _Scan:
    """What is known of one folder; ``empty`` if no file in it is named like a slice."""

    name: str
    empty: bool = False
    slices: int = 0
    tumour_slices: int = 0
    tumour_pixels: int = 0
    mask_slices: int = 0
    mask_pixels: int = 0
    images_by_hash: dict[bytes, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def error(self, kind: str, message: str, file: str = "", items: Iterable[Any] = ()) -> None:
        self._add("error", kind, message, file, items)

    def warning(self, kind: str, message: str, file: str = "", items: Iterable[Any] = ()) -> None:
        self._add("warning", kind, message, file, items)

    def _add(self, severity: str, kind: str, message: str, file: str, items: Iterable[Any]) -> None:
        where = f"{self.name}/{file}" if file else self.name
        self.findings.append(Finding(severity, kind, where, message, tuple(str(item) for item in items)))


def _scan_patient(folder: Path) -> _Scan:
    scan = _Scan(folder.name)
    try:
        images, masks = _list_files(folder, scan)
    except OSError as error:
        scan.error("unreadable", f"folder cannot be listed ({error})")
        return scan
    scan.slices = len(images)
    if not images:
        scan.empty = not masks and all(finding.kind == "unknown-name" for finding in scan.findings)
        report = scan.warning if scan.empty else scan.error
        report("no-images", f"no file is named {folder.name}_<number>.tif; check the layout or remove the folder")
        return scan
    _check_numbers(scan, images, masks)
    pixels = {number: _read(path, scan) for number, path in images.items()}
    readable = {number: image for number, image in pixels.items() if image is not None}
    flair = _check_images(scan, images, readable)
    tumours = _check_masks(scan, images, masks, readable)
    _check_content(scan, readable, flair, tumours)
    return scan


def _list_files(folder: Path, scan: _Scan) -> tuple[dict[int, Path], dict[int, Path]]:
    """Images and masks by slice number; reports names and numbers that do not fit."""
    images: dict[int, Path] = {}
    masks: dict[int, Path] = {}
    foreign: dict[str, list[str]] = defaultdict(list)
    unknown: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        parsed = parse_slice_name(path.name)
        if parsed is None:
            if path.suffix.lower() in (".tif", ".tiff"):
                unknown.append(path.name)
            continue
        patient, number, is_mask = parsed
        target = masks if is_mask else images
        if patient != folder.name:
            foreign[patient].append(path.name)
        elif number in target:
            message = f"slice number {number} is used twice, by {target[number].name} too; keep one"
            scan.error("duplicate", message, path.name)
        else:
            target[number] = path
    for patient, names in foreign.items():
        scan.error("foreign-name", f"{_list(names)} belong to patient {patient}; move them", items=names)
    if unknown:
        scan.warning("unknown-name", f"ignored: {_list(unknown)}; slices are <patient>_<number>.tif", items=unknown)
    return dict(sorted(images.items())), dict(sorted(masks.items()))


def _check_numbers(scan: _Scan, images: dict[int, Path], masks: dict[int, Path]) -> None:
    for number in masks.keys() - images.keys():
        scan.error("orphan-mask", f"no image with the slice number {number}; add it", masks[number].name)
    if not masks:
        scan.warning("no-masks", f"{len(images)} slices without a mask: a case for prediction, not for training")
    else:
        for number in images.keys() - masks.keys():
            message = f"no mask {images[number].stem}_mask.tif; add it (all 0 where there is no tumour)"
            scan.error("missing-mask", message, images[number].name)
    gaps = missing_numbers(images, min(1, *images)) if len(images) > 1 else []
    if gaps:
        message = f"numbers {_list(gaps)} are missing between {min(1, *images)} and {max(images)}"
        scan.warning("gap", message, items=gaps)


def _read(path: Path, scan: _Scan) -> np.ndarray | None:
    """(rows, columns), or (rows, columns, channels)."""
    from monai_lgg.io.tiff import read_tiff_slice

    try:
        pixels = read_tiff_slice(path)[:, :, 0]
        return pixels[..., 0] if pixels.shape[2] == 1 else pixels
    except (OSError, ValueError) as error:
        scan.error("unreadable", str(error).removeprefix(f"{path}: "), path.name)
        return None


def _check_images(scan: _Scan, paths: dict[int, Path], images: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """FLAIR of the images with 1 or 3 channels, by slice number."""
    flair: dict[int, np.ndarray] = {}
    other_channels: dict[int, list[str]] = defaultdict(list)
    sizes = Counter(image.shape[:2] for image in images.values())
    usual = sizes.most_common(1)[0][0] if sizes else ()
    for number, image in images.items():
        name = paths[number].name
        if image.shape[:2] != usual:
            message = f"{_size(image.shape)} pixels, the patient's other slices have {_size(usual)}; export it again"
            scan.error("size", message, name)
        channels = image.shape[2] if image.ndim == 3 else 1
        if channels in (1, 3):
            flair[number] = image.reshape(*image.shape[:2], channels)[..., FLAIR if channels == 3 else 0]
        if channels != 3:
            other_channels[channels].append(name)
        if image.any():
            scan.images_by_hash.setdefault(_hash(image), name)
    for channels, names in other_channels.items():
        report = scan.warning if channels == 1 else scan.error
        report(
            "channels",
            f"{channels} channel(s) in {_list(names)}; 3 are needed: pre-contrast, FLAIR, post-contrast",
            items=names,
        )
    _check_dtypes(scan, {paths[number].name: image for number, image in images.items()})
    return flair


def _check_dtypes(scan: _Scan, files: dict[str, np.ndarray]) -> None:
    names: dict[str, list[str]] = defaultdict(list)
    for name, pixels in files.items():
        if pixels.dtype != np.uint8:
            names[str(pixels.dtype)].append(name)
    for dtype, of in names.items():
        scan.warning("dtype", f"{dtype} instead of uint8 in {_list(of)}", items=of)


def _check_masks(
    scan: _Scan, images: dict[int, Path], masks: dict[int, Path], pixels: dict[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """Tumour (bool) by slice number, of the sound masks that have some. Counts them all."""
    tumours: dict[int, np.ndarray] = {}
    read: dict[str, np.ndarray] = {}
    for number, path in masks.items():
        mask = _read(path, scan)
        if mask is None or number not in images:
            continue
        read[path.name] = mask
        if mask.ndim != 2:
            scan.error("mask-shape", f"shape {mask.shape}; a mask has one channel", path.name)
            continue
        size = pixels[number].shape[:2] if number in pixels else mask.shape
        if mask.shape != size:
            message = f"{_size(mask.shape)} pixels, its image has {_size(size)}; export both again"
            scan.error("mask-shape", message, path.name)
        top = mask.max()
        if top not in (0, 1, 255) or not ((mask == 0) | (mask == top)).all():
            values = np.unique(mask)
            message = f"has the values {_list(values.tolist())}; a mask has 0 and 255, or 0 and 1"
            scan.error("mask-values", message, path.name)
        scan.mask_slices += 1
        scan.mask_pixels += mask.size
        scan.tumour_pixels += int(np.count_nonzero(mask))
        scan.tumour_slices += bool(top)
        if top and mask.shape == size:
            tumours[number] = mask > 0
    _check_dtypes(scan, read)
    ends = [number for number in sorted({min(images), max(images)}) if number in tumours]
    if ends:
        message = f"tumour in slice {_list(ends)}, at the end of the stack; it may be cut off"
        scan.warning("tumour-at-end", message, items=ends)
    return tumours


def _check_content(
    scan: _Scan, images: dict[int, np.ndarray], flair: dict[int, np.ndarray], tumours: dict[int, np.ndarray]
) -> None:
    """Missing sequences, near-black slices, tumour outside the head."""
    if not flair:
        return
    colour = [image for image in images.values() if image.ndim == 3 and image.shape[2] == 3]
    for channel, sequence in OTHER_SEQUENCES.items():
        if colour and all(np.array_equal(image[..., channel], image[..., FLAIR]) for image in colour):
            scan.warning("missing-sequence", f"no {sequence}: channel {channel} equals FLAIR in all slices")
    sample = np.concatenate([pixels[::2, ::2].ravel() for pixels in flair.values()])
    bright = float(np.percentile(sample, BRIGHT_PERCENTILE))
    dark = [n for n, pixels in flair.items() if (pixels > NEAR_BLACK_LEVEL * bright).mean() < NEAR_BLACK_SHARE]
    if dark:
        scan.warning("near-black", f"slice {', '.join(map(str, dark))} of {scan.slices}", items=dark)
    outside = {}
    for number in sorted(tumours.keys() & flair.keys()):
        tumour = tumours[number]
        beyond = np.count_nonzero(tumour & ~head_mask(flair[number], HEAD_LEVEL * bright)) / np.count_nonzero(tumour)
        if beyond > OUTSIDE_SHARE:
            outside[number] = beyond
    if outside:
        shares = [f"{number} ({share:.0%} of its tumour)" for number, share in outside.items()]
        message = f"slice {_list(shares)}; does the mask belong to the image?"
        scan.warning("tumour-outside-head", message, items=outside)


def _report(base: Path, scans: Sequence[_Scan]) -> DataReport:
    patients = [scan for scan in scans if scan.slices]
    findings = [finding for scan in scans for finding in scan.findings]
    findings += _identical(patients) + _check_table(base, [scan.name for scan in patients])
    order = list(KINDS)
    findings.sort(key=lambda finding: (finding.severity != "error", order.index(finding.kind)))
    pixels = sum(scan.mask_pixels for scan in patients)
    return DataReport(
        patients=len(patients),
        slices=sum(scan.slices for scan in patients),
        mask_slices=sum(scan.mask_slices for scan in patients),
        tumour_slices=sum(scan.tumour_slices for scan in patients),
        tumour_pixel_share=sum(scan.tumour_pixels for scan in patients) / pixels if pixels else None,
        institutions=dict(sorted(Counter(institution_of(scan.name) for scan in patients).items())),
        findings=findings,
    )


def _identical(scans: Sequence[_Scan]) -> list[Finding]:
    """One finding for each set of patients that share images (compared by decoded pixels; all-black ones not)."""
    owners: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for scan in scans:
        for digest, name in scan.images_by_hash.items():
            owners[digest].append((scan.name, name))
    shared: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for entries in owners.values():
        if len(entries) > 1:
            shared[tuple(patient for patient, _ in entries)].append(" = ".join(name for _, name in entries))
    return [
        Finding("warning", "identical", " = ".join(of), f"{len(files)} image(s): {_list(files)}", tuple(files))
        for of, files in shared.items()
    ]


def _check_table(base: Path, folders: Sequence[str]) -> list[Finding]:
    """Rows of data.csv name a patient without the date at the end of the folder's name."""
    path = base / "data.csv"
    if not path.is_file():
        return [Finding("warning", "data-csv", "data.csv", "missing; only the genomic and clinical tables need it")]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = sorted({row[0].strip() for row in list(csv.reader(file))[1:] if row and row[0].strip()})
    except (OSError, ValueError, csv.Error) as error:
        return [Finding("warning", "data-csv", "data.csv", f"unreadable ({error})")]
    found = {folder: [row for row in rows if folder == row or folder.startswith(f"{row}_")] for folder in folders}
    matched = {row for names in found.values() for row in names}
    lost = [row for row in rows if row not in matched]
    unlisted = [folder for folder, names in found.items() if not names]
    findings = []
    for what, names in (("row(s) without a patient folder", lost), ("patient folder(s) without a row", unlisted)):
        if names:
            message = f"{len(names)} {what}: {_list(names)}"
            findings.append(Finding("warning", "data-csv", "data.csv", message, tuple(names)))
    return findings


def _hash(pixels: np.ndarray) -> bytes:
    digest = hashlib.blake2b(f"{pixels.shape} {pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _list(values: Sequence[Any]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(str(value) for value in values[:_SHOWN]) + more


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape[:2])
