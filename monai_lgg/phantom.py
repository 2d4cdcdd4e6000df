"""Synthetic brain-MRI patients in the public ``kaggle_3m`` layout, for the demo and the tests.

Anatomy is drawn in head units, not pixels: u runs to the right of the image, v downwards (front of the head to the
back), both 0 at the image centre and about 1 at its border; z is 0 at the base and 1 at the vertex.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from monai_lgg.errors import UsageError

Field = NDArray[Any]  # float32, (S, H, W) or broadcastable to it
Mask = NDArray[np.bool_]  # (S, H, W)

# Raise it whenever the same arguments give other pixels: patients written by an older version are then refused.
VERSION = 1
MIN_SIZE = 32  # px; below it the skull is thinner than a pixel
DEFAULT_SLICES = (16, 28)  # inclusive
CYCLE = 12  # patients
# Fixed places in a cycle, not draws, so that the first six patients already contain both kinds of missing sequence;
# the places differ modulo 3 so that no institution owns them. Patient 9 lacks both, the common case in the real data.
WITHOUT_PRE = (2, 9)
WITHOUT_POST = (4, 9)

# Signal of each tissue in (pre-contrast, FLAIR, post-contrast); 1 is the brightest an 8-bit image can show.
# Scalp, orbital fat, caps and spots are as bright on FLAIR as a lesion, or a threshold would find the tumour.
AIR = (0.0, 0.0, 0.0)
SCALP = (0.74, 0.66, 0.72)
FACE = (0.34, 0.32, 0.40)
FAT = (0.72, 0.68, 0.70)
EYEBALL = (0.14, 0.12, 0.16)
BONE = (0.06, 0.05, 0.07)
FLUID = (0.13, 0.09, 0.14)
GREY = (0.34, 0.38, 0.38)
WHITE = (0.43, 0.31, 0.46)
CAP = (0.39, 0.64, 0.42)
SPOT = (0.38, 0.68, 0.42)
LESION = (0.26, 0.67, 0.29)
NECROSIS = (0.17, 0.44, 0.17)
RIM = (0.29, 0.66, 0.80)
SINUS = (0.20, 0.15, 0.78)

SYNTHETIC = re.compile(r"TCGA_P[123]_\d{4,}")  # Patient column of data.csv; no real patient here has such a code

COLUMNS: dict[str, tuple[int, int, float]] = {  # of data.csv: lowest value, highest value, share of blank cells
    "RNASeqCluster": (1, 4, 0.16),
    "MethylationCluster": (1, 5, 0.01),
    "miRNACluster": (1, 4, 0.0),
    "CNCluster": (1, 3, 0.02),
    "RPPACluster": (1, 4, 0.11),
    "OncosignCluster": (1, 3, 0.05),
    "COCCluster": (1, 3, 0.0),
    "histological_type": (1, 3, 0.0),
    "neoplasm_histologic_grade": (1, 2, 0.0),
    "tumor_tissue_site": (1, 1, 0.0),
    "laterality": (1, 3, 0.0),
    "tumor_location": (1, 6, 0.0),
    "gender": (1, 2, 0.0),
    "age_at_initial_pathologic": (20, 75, 0.0),
    "race": (1, 4, 0.02),
    "ethnicity": (1, 2, 0.07),
    "death01": (0, 1, 0.01),
}


@dataclass(frozen=True)
class PhantomPatient:
    """One synthetic patient.

    Attributes:
        name: ``TCGA_<institution>_<index>_<date>``, the folder name.
        image: uint8, (S, H, W, 3); channels pre-contrast, FLAIR, post-contrast; slices from base to vertex.
        mask: bool, (S, H, W); the tumour.
        missing: which of ``"pre"`` and ``"post"`` were not acquired; their channel is a copy of FLAIR.
        institution: ``"P1"``, ``"P2"`` or ``"P3"``; sets intensity scale, gamma and noise.
    """

    name: str
    image: NDArray[np.uint8]
    mask: Mask
    missing: tuple[str, ...]
    institution: str


@dataclass(frozen=True)
class _Scanner:
    """How an institution's images differ: overall brightness, contrast curve and noise (in signal units)."""

    scale: float
    gamma: float
    noise: float


SCANNERS = {"P1": _Scanner(1.0, 1.0, 0.014), "P2": _Scanner(0.72, 1.15, 0.020), "P3": _Scanner(0.88, 0.85, 0.010)}


@dataclass(frozen=True)
class _Head:
    """Coordinates and shape of one head.

    Attributes:
        z: (S, 1, 1); u, v: (1, H, W), in head units, after the patient's own shift, tilt and scale.
        outer: (S, H, W); 0 on the head's axis, 1 on the skin.
        inner: (S, H, W); the same for the brain, 1 on its surface.
        ventricle: (S, H, W); below 1 inside the lateral ventricles.
    """

    z: Field
    u: Field
    v: Field
    outer: Field
    inner: Field
    ventricle: Field


def make_patient(
    index: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    slices: int | None = None,
    tumour: bool = True,
) -> PhantomPatient:
    """Draw one synthetic patient; the same arguments always give the same pixels.

    Args:
        index: the patient's number, from 0; names, institution and missing sequences depend on it alone.
        seed: of the whole cohort.
        size: (H, W) in pixels.
        slices: number of slices S; None draws one from 16 to 28.
        tumour: False gives an all-false mask.
    Returns:
        The patient, image (S, H, W, 3) and mask (S, H, W).
    Raises:
        ValueError: index or seed below 0, a side below 32 pixels, or slices below 1.
    """
    _check(index, seed, size, slices)
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(DEFAULT_SLICES[0], DEFAULT_SLICES[1] + 1))
    head = _draw_head(rng, size, count if slices is None else slices)
    signal = _draw_tissue(rng, head)
    mask = np.zeros(head.outer.shape, dtype=np.bool_)
    if tumour:
        mask, depth = _draw_lesion(rng, head)
        _paint_lesion(rng, signal, head, mask, depth)
    institution = _institution(index)
    image = _acquire(rng, signal, head, SCANNERS[institution])
    missing = _missing(index)
    for channel, sequence in ((0, "pre"), (2, "post")):
        if sequence in missing:
            image[..., channel] = image[..., 1]
    return PhantomPatient(_name(index), image, mask, missing, institution)


def write_patients(
    root: Path,
    patients: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    slices: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Write patients 0 to ``patients - 1`` and ``data.csv`` below ``root`` in the public ``kaggle_3m`` layout.

    A patient's folder appears only when complete, so an interrupted run can be repeated; finished ones are kept.

    Args:
        root: created if absent.
        patients: how many; a patient's files do not depend on it.
        seed: of the whole cohort.
        size: (H, W) in pixels.
        slices: per patient; None draws 16 to 28 for each.
        progress: called with (done, total) after each patient.
    Returns:
        The patients' folder names, in index order; ``data.csv`` lists exactly these.
    Raises:
        ValueError: a bad argument; a patient's folder was written with other arguments; data.csv lists real patients.
    """
    if patients < 1:
        raise UsageError(f"patients is {patients}; it must be at least 1: ask for one or more patients")
    _check(0, seed, size, slices)
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    _check_table(root / "data.csv")
    for index in range(patients):
        label = _label(index, seed, size, slices)
        if (root / _name(index)).exists():
            _check_same(root / _name(index), label)
        else:
            _write_patient(root, make_patient(index, seed=seed, size=size, slices=slices), label)
        if progress is not None:
            progress(index + 1, patients)
    _write_table(root, patients, seed)
    return [_name(index) for index in range(patients)]


def _check(index: int, seed: int, size: tuple[int, int], slices: int | None) -> None:
    if index < 0:
        raise UsageError(f"index is {index}; it must be at least 0: number patients from 0")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be at least 0: use a non-negative seed")
    if len(size) != 2 or min(size) < MIN_SIZE:
        raise UsageError(f"size is {size}; it must be (height, width), each at least {MIN_SIZE} px: use a larger size")
    if slices is not None and slices < 1:
        raise UsageError(f"slices is {slices}; it must be at least 1: use None for a drawn number of slices")


def _institution(index: int) -> str:
    return f"P{index % 3 + 1}"


def _name(index: int) -> str:
    return f"TCGA_{_institution(index)}_{index:04d}_{date(2000, 1, 1) + timedelta(days=index):%Y%m%d}"


def _missing(index: int) -> tuple[str, ...]:
    place = index % CYCLE
    return ("pre",) * (place in WITHOUT_PRE) + ("post",) * (place in WITHOUT_POST)


def _ramp(value: Field, width: float) -> Field:
    """0 to 1 over ``width`` around value 0: a mask with soft edges, as partial volume gives."""
    soft: Field = np.clip(value * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return soft


def _smooth_field(rng: np.random.Generator, head_z: Field, size: tuple[int, int], step: float, step_z: float) -> Field:
    """Gaussian random field of mean 0 and variance 1, (S, H, W), smooth over ``step`` head units and ``step_z``.

    White noise on a coarse grid, spread by one small matrix per axis: far cheaper than filtering at full size.
    """
    v, u = _axes(size)
    along = [_spread(head_z.ravel(), 0, 1, step_z), _spread(v, -1.1, 1.1, step), _spread(u, -1.1, 1.1, step)]
    noise = rng.standard_normal([matrix.shape[1] for matrix in along], dtype=np.float32)
    # One large product per axis: one per slice makes BLAS threads wait for each other on a busy machine.
    rows = np.tensordot(np.tensordot(along[0], noise, axes=1), along[1], axes=(1, 1))  # (S, columns' knots, H)
    field: Field = np.tensordot(rows.swapaxes(1, 2), along[2].T, axes=1)
    return field


def _spread(position: NDArray[Any], low: float, high: float, step: float) -> NDArray[Any]:
    """Gaussian weights (positions, knots); rows of unit length keep the variance of white noise at 1."""
    knots = np.arange(low - 2 * step, high + 3 * step, step)
    weights = np.exp(-0.5 * ((np.clip(position, low, high)[:, None] - knots) / (0.8 * step)) ** 2)
    unit: NDArray[Any] = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _axes(size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    height, width = size
    half = min(height / 2, width / 2 / 0.85)  # a head is narrower than long, so a narrow image may cut less air
    v = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / half
    u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / half
    return v.astype(np.float32), u.astype(np.float32)


def _draw_head(rng: np.random.Generator, size: tuple[int, int], slices: int) -> _Head:
    z = ((np.arange(slices, dtype=np.float32) + 0.5) / slices)[:, None, None]
    row, column = (axis - rng.uniform(-0.02, 0.02) for axis in _axes(size))
    tilt = rng.uniform(-0.03, 0.03)  # radians
    scale = rng.uniform(0.94, 1.03)
    u = ((column[None, :] + tilt * row[:, None]) / scale).astype(np.float32)[None]
    v = ((row[:, None] - tilt * column[None, :]) / scale).astype(np.float32)[None]
    wobble = _smooth_field(rng, z, size, 0.45, 0.5)
    # Heads are wider behind, and one side of the back bulges (petalia): flips of the image can then be detected.
    wide = u / (0.72 + 0.06 * v - 0.17 * v * u)
    profile = np.sqrt(1 - ((z - 0.42) / 0.63) ** 2)
    outer = np.sqrt(wide**2 + (v / 0.90) ** 2) / profile + 0.012 * wobble
    # Below the brain there is a face in front: the brain shrinks and moves back. At the vertex the cut is oblique, so
    # the scalp looks thicker.
    base = np.clip((0.34 - z) / 0.34, 0, 1)
    share = 0.83 * (1 - 0.45 * base) * (1 - 0.9 * np.clip(z - 0.82, 0, 1))
    inner = np.sqrt(wide**2 + ((v - 0.36 * base) / 0.90) ** 2) / (profile * share) + 0.018 * wobble
    return _Head(z, u, v, outer, inner, _ventricle(rng, z, u, v))


def _ventricle(rng: np.random.Generator, z: Field, u: Field, v: Field) -> Field:
    """Below 1 inside the two lateral ventricles; the left one in the image is the wider."""
    width = rng.uniform(0.045, 0.065) * np.where(u < 0, 1.25, 0.95)
    aside = (np.abs(u) - 0.065 - 0.9 * v**2) / width
    plane = aside**2 + (v / rng.uniform(0.27, 0.33)) ** 2
    return (plane + ((z - 0.54) / 0.13) ** 2).astype(np.float32)


def _paint(signal: Field, where: Field, tissue: tuple[float, float, float]) -> None:
    """Blend a tissue into the signal (3, S, H, W), in place."""
    for channel, value in zip(signal, tissue, strict=True):
        channel += where * (np.float32(value) - channel)


def _draw_tissue(rng: np.random.Generator, head: _Head) -> Field:
    """Signal (3, S, H, W) of the head without tumour, before the scanner's bias and noise."""
    size = (head.u.shape[1], head.u.shape[2])
    coarse = _smooth_field(rng, head.z, size, 0.16, 0.2)
    folds = np.abs(_smooth_field(rng, head.z, size, 0.055, 0.12))
    signal = np.zeros((3, *head.outer.shape), dtype=np.float32)
    brain = _ramp(1 - head.inner, 0.03)
    _paint(signal, _ramp(1 - head.outer, 0.03), SCALP)
    _paint_face(signal, head, folds)
    _paint(signal, _ramp(1.10 - head.inner, 0.03), BONE)
    _paint(signal, _ramp(1.03 - head.inner, 0.03), FLUID)
    _paint(signal, brain, GREY)
    white = _ramp(0.66 + 0.24 * folds - head.inner, 0.06) * brain
    nuclei = ((np.abs(head.u) - 0.20) / 0.09) ** 2 + ((head.v - 0.03) / 0.17) ** 2 + ((head.z - 0.47) / 0.10) ** 2
    _paint(signal, white * (1 - 0.8 * _ramp(1 - nuclei, 0.5)), WHITE)
    sulci = _ramp(0.12 - folds, 0.20) * _ramp(head.inner - 0.80, 0.12)
    fissure = _ramp(0.010 - np.abs(head.u), 0.012) * np.maximum(_ramp(np.abs(head.v) - 0.33, 0.08), head.z > 0.68)
    _paint(signal, brain * np.maximum(0.75 * sulci, 0.75 * fissure), FLUID)
    caps = _ramp(2.1 - head.ventricle, 0.9) * _ramp(np.abs(head.v) - 0.21, 0.06) * _ramp(coarse + 0.6, 1.5)
    _paint(signal, caps * brain, CAP)
    _paint(signal, _draw_spots(rng, head) * brain, SPOT)
    _paint(signal, _ramp(1 - head.ventricle, 0.5), FLUID)
    sinus = _ramp(0.035 - np.abs(head.u), 0.02) * _ramp(0.035 - np.abs(head.inner - 1), 0.02) * (head.v > 0)
    _paint(signal, sinus, SINUS)
    signal *= 1 + 0.05 * coarse + 0.05 * (folds - 0.8)
    return signal


def _paint_face(signal: Field, head: _Head, folds: Field) -> None:
    """Muscle, air cells, orbital fat and eyes of the base slices; higher up the skull covers all of it."""
    rows = int(np.searchsorted(head.z.ravel(), 0.36))
    low = signal[:, :rows]
    z, deep = head.z[:rows], _ramp(0.90 - head.outer[:rows], 0.04)
    _paint(low, deep, FACE)
    _paint(low, deep * _ramp(folds[:rows] - 1.3, 0.3), FAT)
    _paint(low, deep * _ramp(0.22 - folds[:rows], 0.2), AIR)
    orbit = ((np.abs(head.u) - 0.27) / 0.15) ** 2 + ((head.v + 0.56) / 0.17) ** 2 + ((z - 0.22) / 0.12) ** 2
    eyeball = ((np.abs(head.u) - 0.28) / 0.09) ** 2 + ((head.v + 0.62) / 0.09) ** 2 + ((z - 0.22) / 0.10) ** 2
    _paint(low, deep * _ramp(1 - orbit, 0.3), FAT)
    _paint(low, deep * _ramp(1 - eyeball, 0.3), EYEBALL)


def _draw_spots(rng: np.random.Generator, head: _Head) -> Field:
    """Small white-matter spots, each in one slice: bright on FLAIR, no tumour."""
    spots = np.zeros(head.outer.shape, dtype=np.float32)
    for _ in range(int(rng.integers(4, 11))):
        place = int(rng.uniform(0.35, 0.85) * len(spots))
        angle, distance, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.45), rng.uniform(0.012, 0.03)
        squared = (head.u[0] - distance * np.cos(angle)) ** 2 + (head.v[0] - distance * np.sin(angle)) ** 2
        spots[place] = np.maximum(spots[place], _ramp(radius - np.sqrt(squared), 0.02))
    return spots


def _draw_lesion(rng: np.random.Generator, head: _Head) -> tuple[Mask, Field]:
    """The tumour's mask and its deformed radius (0 at the centre, 1 at the edge), both (S, H, W)."""
    size = (head.u.shape[1], head.u.shape[2])
    heights = head.z.ravel()
    centre_z = heights[np.argmin(np.abs(heights - rng.uniform(0.42, 0.70)))]  # on a slice: never an empty mask
    side = rng.choice([-1.0, 1.0])
    centre_u, centre_v = side * rng.uniform(0.24, 0.36), rng.uniform(-0.36, 0.36)
    radius_u, radius_v, radius_z = rng.uniform(0.19, 0.30), rng.uniform(0.23, 0.36), rng.uniform(0.06, 0.17)
    turn = rng.uniform(0, np.pi)
    along = (head.u - centre_u) * np.cos(turn) + (head.v - centre_v) * np.sin(turn)
    across = (head.v - centre_v) * np.cos(turn) - (head.u - centre_u) * np.sin(turn)
    squared = (along / radius_v) ** 2 + (across / radius_u) ** 2 + ((head.z - centre_z) / radius_z) ** 2
    deform = 0.20 * _smooth_field(rng, head.z, size, 0.13, 0.15) + 0.10 * _smooth_field(rng, head.z, size, 0.05, 0.08)
    depth = (np.sqrt(squared) + deform).astype(np.float32)
    # A glioma stays on its side of the falx and displaces neither cortex nor ventricle here.
    inside = (depth < 1) & (head.inner < 0.97) & (head.ventricle > 1) & (head.u * side > 0.02)
    return _largest_component(inside), depth


def _largest_component(inside: Mask) -> Mask:
    labels, count = ndimage.label(inside)
    if count < 2:
        return inside
    return np.asarray(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)


def _paint_lesion(rng: np.random.Generator, signal: Field, head: _Head, mask: Mask, depth: Field) -> None:
    """Paint the tumour where the mask is, with a soft edge; half of the tumours enhance after contrast, in place."""
    enhances, dense = rng.random() < 0.5, rng.uniform(0.75, 0.95)
    slab = np.flatnonzero(mask.any(axis=(1, 2)))
    # Only the slices with tumour: filtering the whole volume would cost more than all the rest.
    rows = slice(int(slab[0]), int(slab[-1]) + 1)
    low, depth = signal[:, rows], depth[rows]
    texture = _smooth_field(rng, head.z[rows], (head.u.shape[1], head.u.shape[2]), 0.06, 0.08)
    sigma = mask.shape[2] / 140  # px
    soft = ndimage.gaussian_filter(mask[rows].astype(np.float32), (0, sigma, sigma), truncate=2)
    _paint(low, soft * np.clip(dense + 0.10 * texture - 0.35 * np.clip(depth - 0.6, 0, 1), 0, 1), LESION)
    if enhances:
        _paint(low, soft * _ramp(0.42 - depth, 0.1), NECROSIS)
        _paint(low, soft * _ramp(0.07 - np.abs(depth - 0.48), 0.08) * _ramp(texture + 1.2, 1.0), RIM)


def _acquire(rng: np.random.Generator, signal: Field, head: _Head, scanner: _Scanner) -> NDArray[np.uint8]:
    """Image (S, H, W, 3) as a scanner gives it: coil bias, brightness, contrast curve, near-black ends, noise."""
    size = (head.u.shape[1], head.u.shape[2])
    bias = np.exp(0.12 * _smooth_field(rng, head.z, size, 0.9, 0.9))
    bias *= _black_ends(rng, len(bias))
    image = np.empty((*bias.shape, 3), dtype=np.uint8)
    for channel, plain in enumerate(signal):
        scale = scanner.scale * rng.uniform(0.85, 1.1)
        gamma = scanner.gamma * rng.uniform(0.93, 1.07)
        measured = scale * np.maximum(plain * bias, 0) ** np.float32(gamma)
        # Rician: the magnitude of a complex signal with noise in both parts, so air is dark but never empty.
        noise = scanner.noise * rng.standard_normal((2, *bias.shape), dtype=np.float32)
        magnitude = np.sqrt((measured + noise[0]) ** 2 + noise[1] ** 2)
        image[..., channel] = np.clip(magnitude * 255 + 0.5, 0, 255)
    return image


def _black_ends(rng: np.random.Generator, slices: int) -> Field:
    """Factor (S, 1, 1), about 0 at the first or last slice, or both, of half of the patients."""
    factor = np.ones((slices, 1, 1), dtype=np.float32)
    ends = ((), (), (), (0,), (-1,), (0, -1))[int(rng.integers(6))]
    if slices >= 5:  # fewer slices have no ends to spare
        factor[list(ends)] = 0.02
    return factor


def _label(index: int, seed: int, size: tuple[int, int], slices: int | None) -> str:
    """ImageDescription of every image: says that it is synthetic, and from which arguments."""
    count = "drawn" if slices is None else slices
    return f"monai-lgg phantom {VERSION}: index {index}, seed {seed}, size {size[0]}x{size[1]}, slices {count}"


def _check_same(folder: Path, label: str) -> None:
    path = folder / f"{folder.name}_1.tif"
    found = None
    if path.is_file():
        with tifffile.TiffFile(path) as file:
            found = file.pages.first.description
    if found != label:
        raise ValueError(
            f"{folder} holds {found!r}; an existing patient must be {label!r}: choose another folder or delete this one"
        )


def _check_table(path: Path) -> None:
    """Refuse to overwrite the data.csv of a real cohort."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        names = [row[0] for row in list(csv.reader(file))[1:] if row]
    foreign = [name for name in names if not SYNTHETIC.fullmatch(name)]
    if foreign:
        raise ValueError(f"{path} lists {foreign[0]!r}; it must list phantoms only: choose an empty folder")


def _write_patient(root: Path, patient: PhantomPatient, label: str) -> None:
    options: dict[str, Any] = {"description": label, "metadata": None}
    with tempfile.TemporaryDirectory(dir=root, prefix=".phantom-") as scratch:
        folder = Path(scratch) / patient.name
        folder.mkdir()
        for number, (image, mask) in enumerate(zip(patient.image, patient.mask, strict=True), start=1):
            stem = f"{patient.name}_{number}"
            tifffile.imwrite(folder / f"{stem}.tif", image, photometric="rgb", **options)
            truth = mask.astype(np.uint8) * 255
            tifffile.imwrite(folder / f"{stem}_mask.tif", truth, photometric="minisblack", **options)
        os.rename(folder, root / patient.name)


def _write_table(root: Path, patients: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(dir=root, prefix=".phantom-") as scratch:
        path = Path(scratch) / "data.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["Patient", *COLUMNS])
            writer.writerows(_clinical_row(index, seed) for index in range(patients))
        os.replace(path, root / "data.csv")


def _clinical_row(index: int, seed: int) -> list[str]:
    rng = np.random.default_rng([seed, index, 1])  # its own stream: a change here leaves the images as they are
    row = [_name(index).rsplit("_", 1)[0]]
    for low, high, blank in COLUMNS.values():
        value, draw = int(rng.integers(low, high + 1)), rng.random()
        row.append("" if draw < blank else str(value))
    return row
