"""What a scanner, an export or a hospital may do to a volume: the perturbations that robustness is measured by.

Each is listed in :data:`PERTURBATIONS` at three strengths (mild, medium, strong), or at one where there is only one way
to do it. They are made to measure, not to train: fixed in strength and, where chance is needed, in seed (of the case's
name), so that a measurement can be repeated. Source arrays are never changed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import AdjustContrast, GibbsNoise, RandBiasField, RandRicianNoise
from scipy import ndimage

from monai_lgg.cases import TOP_MEDIANS, intensity_range
from monai_lgg.io.tiff import DISPLAY_AFFINE

#: Raise it whenever a perturbation gives other voxels: rows of an older version are then measured anew.
VERSION = 2
#: Rounding error of a half.
HALF = 1e-3
LEVELS = ("mild", "medium", "strong")
#: (rows, columns, slices). The public slices do not state theirs; this is a field of view of 240 mm over 256 pixels,
#: in slices of 5 mm, and stands for it wherever a perturbation must state some spacing.
NOMINAL_SPACING_MM = (0.9375, 0.9375, 5.0)
PRE, FLAIR, POST = range(3)
#: Of the rough brain mask: tissue, in medians of the head, and the radius of what is worn off and put back, as a share
#: of the head's width (the square root of its largest section).
TISSUE, PEEL = 0.6, 0.045


@dataclass(frozen=True)
class Volume:
    """A case in display order.

    Args:
        case: name; the seed of noise.
        sequences: (3, rows, columns, slices) pre-contrast, FLAIR, post-contrast as read; or (1, ...), FLAIR alone.
        mask: bool, (rows, columns, slices); the same axes as ``sequences``.
        affine: RAS, mm; None where the spacing is unknown. Only :func:`reoriented` gives other axes than display order.
    """

    case: str
    sequences: np.ndarray
    mask: np.ndarray
    affine: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.sequences.ndim != 4 or len(self.sequences) not in (1, 3):
            raise ValueError(f"{self.case}: sequences of shape {self.sequences.shape}; give (1 or 3, X, Y, Z)")
        if self.mask.dtype != bool or self.mask.shape != self.sequences.shape[1:]:
            raise ValueError(
                f"{self.case}: mask {self.mask.dtype} {self.mask.shape}; give bool {self.sequences.shape[1:]}"
            )


@dataclass(frozen=True)
class Strength:
    """One strength: its level, what it is in words with the unit, and what the function takes."""

    level: str
    words: str
    value: Any


@dataclass(frozen=True)
class Perturbation:
    """One way in which a volume may differ from what a network was trained on.

    Args:
        name: as in tables and on the command line.
        words: what it is, for people.
        strengths: three, mild to strong; or one.
        function: (volume, value of the strength) -> a new volume with a mask that fits it. When only intensities
            change, the mask is the very same array, which says that the geometry is the same.
    """

    name: str
    words: str
    strengths: tuple[Strength, ...]
    function: Callable[[Volume, Any], Volume]

    def apply(self, volume: Volume, strength: Strength) -> Volume:
        return self.function(volume, strength.value)


def seed_of(case: str, perturbation: str) -> int:
    """The seed of a case's noise: the same in every process, different for each case and perturbation."""
    return int.from_bytes(hashlib.sha256(f"{case} {perturbation}".encode()).digest()[:4], "big")


def head_median(channel: np.ndarray) -> float:
    """Median of the head above the volume's background, by :func:`monai_lgg.cases.intensity_range`."""
    low, high = intensity_range(channel)
    return (high - low) / TOP_MEDIANS


# Sequences


def flair_only(volume: Volume, form: str) -> Volume:
    """FLAIR without the others: ``repeated`` in their places, ``alone`` as the only channel, others ``black``."""
    flair = volume.sequences[_flair(volume)][None]
    if form == "alone":
        return replace(volume, sequences=flair.copy())
    sequences = np.repeat(flair, 3, axis=0)
    if form == "black":
        sequences[[PRE, POST]] = 0
    return replace(volume, sequences=sequences)


def missing(volume: Volume, value: tuple[int, str]) -> Volume:
    """(sequence, form): a sequence replaced by ``flair``, by the ``other`` contrast sequence, or ``black``."""
    sequence, form = value
    sequences = _three(volume)
    stands_in = {"flair": sequences[FLAIR], "other": sequences[PRE + POST - sequence], "black": 0}
    sequences[sequence] = stands_in[form]
    return replace(volume, sequences=sequences)


def pre_post_swapped(volume: Volume, _: None) -> Volume:
    return replace(volume, sequences=_three(volume)[[POST, FLAIR, PRE]])


# Intensities


def scale_offset(volume: Volume, value: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Volume:
    """(scales, offsets) of pre-contrast, FLAIR, post-contrast; float32."""
    scales, offsets = (np.array(item, np.float32).reshape(3, 1, 1, 1) for item in value)
    return replace(volume, sequences=_three(volume) * scales + offsets)


def gamma(volume: Volume, power: float) -> Volume:
    """Each sequence to a power between its own minimum and maximum."""
    adjust = AdjustContrast(power)
    return _each_sequence(volume, lambda channel: np.asarray(adjust(torch.as_tensor(channel))))


def raw_16bit(volume: Volume, value: tuple[str, float, float, int]) -> Volume:
    """(dtype, scale, offset, hot): integers as scanners store them; ``hot`` single voxels are the dtype's largest."""
    dtype, scale, offset, hot = value
    info = np.iinfo(dtype)
    raw = np.rint(_float(volume) * scale + offset).clip(info.min, info.max).astype(dtype, order="C")
    places = np.random.default_rng(seed_of(volume.case, "raw_16bit")).integers(raw[0].size, size=hot)
    raw.reshape(len(raw), -1)[:, places] = info.max  # of the contiguous array, a view
    return replace(volume, sequences=raw)


def quantized(volume: Volume, bits: int) -> Volume:
    """2 ** bits levels between each sequence's minimum and maximum."""
    top = 2**bits - 1

    def coarse(channel: np.ndarray) -> np.ndarray:
        low, high = channel.min(), channel.max()
        return np.rint((channel - low) / max(high - low, 1e-6) * top) * (high - low) / top + low

    return _as_read(volume, _each_sequence(volume, coarse))


# Image quality


def noise(volume: Volume, share: float) -> Volume:
    """Rician noise; the standard deviation of its two parts is a share of each sequence's head median."""
    seed = seed_of(volume.case, "noise")

    def noisy(channel: np.ndarray, number: int) -> np.ndarray:
        transform = RandRicianNoise(prob=1.0, std=share * head_median(channel), sample_std=False)
        transform.set_random_state(seed + number)
        low = channel.min()  # magnitudes begin at 0
        return np.asarray(transform(torch.as_tensor(channel - low))) + low

    return replace(volume, sequences=np.stack([noisy(channel, k) for k, channel in enumerate(_float(volume))]))


def bias_field(volume: Volume, ratio: float) -> Volume:
    """A smooth field over all sequences, whose largest value in the head is ``ratio`` times its smallest."""
    transform = RandBiasField(degree=3, coeff_range=(-1.0, 1.0), prob=1.0)
    transform.set_random_state(seed_of(volume.case, "bias_field"))
    exponent = np.log(np.asarray(transform(torch.ones((1, *volume.mask.shape)))))[0]
    inside = exponent[_head(volume)]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (-1.0, 1.0)
    power = np.log(ratio) / max(high - low, 1e-6)
    # no more outside the head than inside it: a polynomial runs away towards the corners
    field = np.exp((exponent.clip(low, high) - (low + high) / 2) * power).astype(np.float32)
    return _each_sequence(volume, lambda channel: (channel - channel.min()) * field + channel.min())


def blur(volume: Volume, sigma: float) -> Volume:
    """Gaussian within the slice; the standard deviation is in pixels."""
    return _as_read(volume, _each_sequence(volume, lambda c: ndimage.gaussian_filter(c, (sigma, sigma, 0))))


def gibbs(volume: Volume, alpha: float) -> Volume:
    """Ringing: the outer part of each slice's k-space is cut off (MONAI GibbsNoise)."""
    transform = GibbsNoise(alpha)

    def ringing(channel: np.ndarray) -> np.ndarray:
        slices = torch.as_tensor(channel).permute(2, 0, 1)  # each slice a channel: a two-dimensional transform
        return np.abs(np.asarray(transform(slices)).transpose(1, 2, 0))  # magnitudes

    return _each_sequence(volume, ringing)


def ghosting(volume: Volume, share: float) -> Volume:
    """Every second line of k-space is weaker by ``share``: a ghost of half of that, half a field of view away."""

    def ghosted(channel: np.ndarray) -> np.ndarray:
        lines = np.fft.fft(channel, axis=0)
        lines[1::2] *= 1 - share
        return np.abs(np.fft.ifft(lines, axis=0))

    return _each_sequence(volume, ghosted)


def skull_stripped(volume: Volume, margin: float) -> Volume:
    """Black outside :func:`rough_brain`, which is moved out (in, when negative) by a share of the head's width.

    What is cut off is no longer tumour in the mask either.
    """
    brain = rough_brain(volume)
    by = margin * _width(_head(volume))
    if by > 0:
        brain = _by_slice(brain, lambda m: ndimage.distance_transform_edt(~m) <= by if m.any() else m)
    elif by < 0:
        brain = _by_slice(brain, lambda m: ndimage.distance_transform_edt(m) > -by)
    low = volume.sequences.min(axis=(1, 2, 3), keepdims=True)
    return replace(volume, sequences=np.where(brain, volume.sequences, low), mask=volume.mask & brain)


def rough_brain(volume: Volume) -> np.ndarray:
    """A rough brain mask: tissue, worn off within each slice, its largest piece, grown back, holes filled.

    The bone is dark, so wearing off parts brain from scalp. Looked at on six public patients: within two or three
    pixels of the brain's surface in the middle of the head; muscles and eyes are kept at the base, and scalp in the
    uppermost slices; up to 5 % of a tumour that touches the skull is cut off. A stripping tool does better.

    Returns:
        bool, (rows, columns, slices).
    """
    head = _head(volume)
    radius = PEEL * _width(head)
    tissue = _medians(volume) > TISSUE
    deep = _by_slice(tissue, lambda m: ndimage.distance_transform_edt(m) > radius)
    pieces, count = ndimage.label(deep)
    if count == 0:
        return head
    largest = pieces == 1 + int(np.argmax(ndimage.sum_labels(deep, pieces, range(1, count + 1))))
    grown = _by_slice(largest, lambda m: ndimage.distance_transform_edt(~m) <= 1.15 * radius if m.any() else m)
    return _by_slice(grown, ndimage.binary_fill_holes)


# Geometry


def matrix_size(volume: Volume, factor: float) -> Volume:
    """Rows and columns resampled to ``factor`` as many, with nothing said about it."""
    return _zoomed(volume, (factor, factor, 1.0))


def in_plane_spacing(volume: Volume, spacing_mm: float) -> Volume:
    """Resampled within the slice to a spacing that the file states, from a nominal one."""
    factor = NOMINAL_SPACING_MM[0] / spacing_mm
    moved = _zoomed(volume, (factor, factor, 1.0))
    lengths = [
        mm * old / new for mm, old, new in zip(NOMINAL_SPACING_MM, volume.mask.shape, moved.mask.shape, strict=True)
    ]
    return replace(moved, affine=display_affine(lengths))


def fewer_slices(volume: Volume, step: int) -> Volume:
    """Every ``step``-th slice, so that the slice distance grows by as much."""
    return replace(volume, sequences=volume.sequences[..., ::step].copy(), mask=volume.mask[..., ::step].copy())


def more_slices(volume: Volume, factor: float) -> Volume:
    """Slices interpolated between the true ones, to ``factor`` as many."""
    return _zoomed(volume, (1.0, 1.0, factor))


def flipped(volume: Volume, axis: int) -> Volume:
    """Reversed rows (0), columns (1) or slices (2), with nothing said about it."""
    return replace(volume, sequences=np.flip(volume.sequences, axis + 1).copy(), mask=np.flip(volume.mask, axis).copy())


def reoriented(volume: Volume, axes: str) -> Volume:
    """The same head stored along other axes (three letters of R L A P S I), as the affine says.

    A reader that heeds the affine gives exactly the same result for all of them.
    """
    affine = display_affine(NOMINAL_SPACING_MM) if volume.affine is None else volume.affine
    start = nib.orientations.io_orientation(affine)
    transform = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
    last = nib.orientations.apply_orientation(np.moveaxis(volume.sequences, 0, -1), transform)
    mask = nib.orientations.apply_orientation(volume.mask, transform)
    moved = affine @ nib.orientations.inv_ornt_aff(transform, volume.mask.shape)
    return Volume(volume.case, np.ascontiguousarray(np.moveaxis(last, -1, 0)), np.ascontiguousarray(mask), moved)


def display_affine(spacing_mm: Any) -> np.ndarray:
    """RAS affine of (row, column, slice) in display order with a spacing, in mm."""
    return DISPLAY_AFFINE @ np.diag([*spacing_mm, 1.0])


def _flair(volume: Volume) -> int:
    return FLAIR if len(volume.sequences) == 3 else 0


def _three(volume: Volume) -> np.ndarray:
    """A copy with three sequences."""
    return volume.sequences.copy() if len(volume.sequences) == 3 else np.repeat(volume.sequences, 3, axis=0)


def _float(volume: Volume) -> np.ndarray:
    return volume.sequences.astype(np.float32)  # always a copy


def _each_sequence(volume: Volume, change: Callable[[np.ndarray], np.ndarray]) -> Volume:
    """``change`` maps float32 (rows, columns, slices) to the same; the mask stays."""
    changed = [np.asarray(change(channel), dtype=np.float32) for channel in _float(volume)]
    return replace(volume, sequences=np.stack(changed))


def _as_read(source: Volume, changed: Volume) -> Volume:
    """Back in the source's type: a file of integers stays one."""
    dtype, values = source.sequences.dtype, changed.sequences
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.rint(values).clip(info.min, info.max)
    return replace(changed, sequences=values.astype(dtype))


def _zoomed(volume: Volume, factors: tuple[float, float, float]) -> Volume:
    """Linear, over the same field of view; a voxel of the mask is tumour when more than half of it is.

    Where it is just half, as in a slice midway between two, it is what the nearest voxel is, which on the average
    makes tumours neither larger nor smaller.
    """

    def zoom(array: np.ndarray, order: int = 1) -> np.ndarray:
        return ndimage.zoom(array.astype(np.float32), factors, order=order, mode="nearest", grid_mode=True)

    share = zoom(volume.mask)
    half = np.abs(share - 0.5) < HALF
    mask = np.where(half, zoom(volume.mask, order=0) > 0.5, share > 0.5)
    changed = Volume(volume.case, np.stack([zoom(c) for c in volume.sequences]), mask)
    return _as_read(volume, changed)


def _medians(volume: Volume) -> np.ndarray:
    """Mean of the sequences in medians of the head, lightly smoothed within the slice."""
    channels = [(channel - channel.min()) / max(head_median(channel), 1e-6) for channel in _float(volume)]
    mean = np.mean([channel.clip(0, TOP_MEDIANS) for channel in channels], axis=0)
    return ndimage.gaussian_filter(mean, (1, 1, 0))


def _head(volume: Volume) -> np.ndarray:
    return _by_slice(_medians(volume) > 0.35, ndimage.binary_fill_holes)


def _width(head: np.ndarray) -> float:
    """Square root of the largest section, in pixels."""
    return float(np.sqrt(head.sum(axis=(0, 1)).max()))


def _by_slice(mask: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([change(mask[..., k]) for k in range(mask.shape[-1])], axis=-1)


def _three_strengths(*pairs: tuple[str, Any]) -> tuple[Strength, ...]:
    return tuple(Strength(level, words, value) for level, (words, value) in zip(LEVELS, pairs, strict=True))


def _one(words: str, value: Any) -> tuple[Strength, ...]:
    return (Strength("only", words, value),)


def _missing_strengths(sequence: int) -> tuple[Strength, ...]:
    return _three_strengths(
        ("FLAIR in its place, as in the public data", (sequence, "flair")),
        ("the other contrast sequence in its place", (sequence, "other")),
        ("black", (sequence, "black")),
    )


_LIST = (
    Perturbation(
        "flair_only",
        "FLAIR without the contrast sequences",
        _three_strengths(
            ("FLAIR in three channels", "repeated"), ("one channel", "alone"), ("the others black", "black")
        ),
        flair_only,
    ),
    Perturbation("pre_missing", "no pre-contrast sequence", _missing_strengths(PRE), missing),
    Perturbation("post_missing", "no post-contrast sequence", _missing_strengths(POST), missing),
    Perturbation(
        "pre_post_swapped", "pre- and post-contrast in each other's place", _one("all slices", None), pre_post_swapped
    ),
    Perturbation(
        "scale_offset",
        "intensities scaled and shifted, float32",
        _three_strengths(
            ("x 4 + 10", ((4, 4, 4), (10, 10, 10))),
            ("x 0.01 - 0.5", ((0.01,) * 3, (-0.5,) * 3)),
            ("x 0.3 - 200, x 25 + 1000, x 4 + 50 by sequence", ((0.3, 25, 4), (-200, 1000, 50))),
        ),
        scale_offset,
    ),
    Perturbation(
        "gamma",
        "intensities to a power between minimum and maximum",
        _three_strengths(("1.2", 1.2), ("0.7", 0.7), ("1.8", 1.8)),
        gamma,
    ),
    Perturbation(
        "raw_16bit",
        "16-bit integers",
        _three_strengths(
            ("unsigned, x 40 + 100", ("uint16", 40, 100, 0)),
            ("signed, x 40 - 1024", ("int16", 40, -1024, 0)),
            ("unsigned, x 40 + 1000, 20 voxels at 65535", ("uint16", 40, 1000, 20)),
        ),
        raw_16bit,
    ),
    Perturbation(
        "quantized",
        "low dynamic range",
        _three_strengths(("6 bits", 6), ("5 bits", 5), ("4 bits", 4)),
        quantized,
    ),
    Perturbation(
        "noise",
        "Rician noise, standard deviation in medians of the head",
        _three_strengths(("3 %", 0.03), ("7 %", 0.07), ("15 %", 0.15)),
        noise,
    ),
    Perturbation(
        "bias_field",
        "smooth field, largest over smallest value in the head",
        _three_strengths(("1.3", 1.3), ("1.8", 1.8), ("2.5", 2.5)),
        bias_field,
    ),
    Perturbation(
        "blur",
        "Gaussian within the slice, standard deviation",
        _three_strengths(("0.7 px", 0.7), ("1.2 px", 1.2), ("2 px", 2.0)),
        blur,
    ),
    Perturbation(
        "gibbs",
        "ringing: k-space cut off beyond a share of its corner's distance",
        _three_strengths(("60 %", 0.4), ("45 %", 0.55), ("30 %", 0.7)),
        gibbs,
    ),
    Perturbation(
        "ghosting",
        "ghost half a field of view away, share of the image",
        _three_strengths(("5 %", 0.1), ("10 %", 0.2), ("20 %", 0.4)),
        ghosting,
    ),
    Perturbation(
        "skull_stripped",
        "black outside a rough brain mask, moved by a share of the head's width",
        _three_strengths(("4 % outwards", 0.04), ("as found", 0.0), ("2 % inwards", -0.02)),
        skull_stripped,
    ),
    Perturbation(
        "matrix_size",
        "rows and columns resampled, spacing not stated",
        _three_strengths(("1.5 x", 1.5), ("2 x", 2.0), ("0.5 x", 0.5)),
        matrix_size,
    ),
    Perturbation(
        "in_plane_spacing",
        f"NIfTI that states its spacing, resampled from a nominal {NOMINAL_SPACING_MM[0]} mm",
        _three_strengths(("1.2 mm", 1.2), ("0.6 mm", 0.6), ("1.8 mm", 1.8)),
        in_plane_spacing,
    ),
    Perturbation(
        "fewer_slices",
        "slices left out",
        _three_strengths(("every 2nd kept", 2), ("every 3rd kept", 3), ("every 4th kept", 4)),
        fewer_slices,
    ),
    Perturbation(
        "more_slices",
        "slices interpolated",
        _three_strengths(("1.5 x", 1.5), ("2 x", 2.0), ("3 x", 3.0)),
        more_slices,
    ),
    Perturbation("mirrored", "left and right exchanged", _one("TIFF, not stated", 1), flipped),
    Perturbation("upside_down", "front and back exchanged", _one("TIFF, not stated", 0), flipped),
    Perturbation("slices_reversed", "slices from vertex to base", _one("TIFF, not stated", 2), flipped),
    Perturbation(
        "reoriented",
        "NIfTI along other axes, as its affine says; the results must be the same",
        _three_strengths(("PLS, display order", "PLS"), ("RAS", "RAS"), ("SAL, axes permuted", "SAL")),
        reoriented,
    ),
)

#: Name -> perturbation, in the order of tables.
PERTURBATIONS = {item.name: item for item in _LIST}
