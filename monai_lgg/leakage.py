"""How patients get into training and test at once, and what that does to the figures."""

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from monai_lgg.cases import Patient, Slice

_log = logging.getLogger(__name__)
#: <patient>_<date of the study>, in the names of the public data
_TCGA_STUDY = re.compile(r"^(TCGA_\w{2}_\w{4})_\d{8}$", re.IGNORECASE)


def person(name: str) -> str:
    """Whose study a patient folder holds: its name without the date of a TCGA study, in small letters."""
    return _TCGA_STUDY.sub(r"\1", name).casefold()


def persons(patients: Sequence[Patient], labels: Sequence[np.ndarray]) -> list[str]:
    """Whose study each is: by :func:`person`, and by the images, which copies under another name have in common.

    Only slices with the same outline of a tumour are compared, so no other image is read.

    Args:
        labels: a mask (H, W, slices) a patient.
    Returns:
        Equal names for studies of one person.
    """
    of = {person(patient.name): person(patient.name) for patient in patients}
    outlines: dict[bytes, tuple[Patient, Slice]] = {}
    for patient, label in zip(patients, labels, strict=True):
        for k, item in enumerate(patient.slices):
            mask = np.packbits(label[..., k])
            if not mask.any():
                continue
            key = hashlib.sha256(f"{label.shape[:2]}".encode() + mask.tobytes()).digest()
            other, first = outlines.setdefault(key, (patient, item))
            mine, theirs = of[person(patient.name)], of[person(other.name)]
            if mine != theirs and _is_copy(item, first):
                _log.warning(f"{other.name} and {patient.name} hold the same images; they stay in one part")
                of = {name: theirs if whose == mine else whose for name, whose in of.items()}
    return [of[person(patient.name)] for patient in patients]


def _is_copy(one: Slice, other: Slice) -> bool:
    """An image of one grey is no evidence."""
    from monai_lgg.io.tiff import read_tiff

    pixels = read_tiff(one.image)
    return bool(pixels.min() != pixels.max()) and np.array_equal(pixels, read_tiff(other.image))


def leakage(
    patients: Sequence[Patient], labels: Sequence[np.ndarray], parts: Mapping[str, Mapping[str, list[int]]]
) -> dict[str, float]:
    """How a slice-level split leaks, in numbers.

    Returns:
        ``patient_in_training`` and ``neighbour_in_training``: shares of the test slices whose patient, or whose
        adjacent slice, is in training. ``copy_nearest_*``: Dice of copying the mask of the nearest training slice of
        the same patient (the union of two equally near ones; an empty mask when there is none), as mean over slices
        with empty and rightly empty counting 1, over tumour slices, and pooled.
    """
    by_name = {patient.name: (patient, label) for patient, label in zip(patients, labels, strict=True)}
    shares, neighbours, truths, copies = [], [], [], []
    for name, numbers in parts["test"].items():
        patient, label = by_name[name]
        index = {item.number: k for k, item in enumerate(patient.slices)}
        train = sorted(parts["train"].get(name, []))
        for number in numbers:
            shares.append(bool(train))
            neighbours.append(number - 1 in train or number + 1 in train)
            truth = label[..., index[number]]
            closest = min((abs(other - number) for other in train), default=0)
            nearest = [index[other] for other in train if abs(other - number) == closest]
            truths.append(truth)
            copies.append(np.asarray(label[..., nearest].any(axis=-1)))
    return {
        "patient_in_training": float(np.mean(shares)),
        "neighbour_in_training": float(np.mean(neighbours)),
        **_copy_scores(truths, copies),
    }


def _copy_scores(truths: list[np.ndarray], copies: list[np.ndarray]) -> dict[str, float]:
    overlap = np.array([np.count_nonzero(t & c) for t, c in zip(truths, copies, strict=True)])
    size = np.array([np.count_nonzero(t) + np.count_nonzero(c) for t, c in zip(truths, copies, strict=True)])
    tumour = np.array([bool(t.any()) for t in truths])
    dice = np.where(size == 0, 1.0, 2 * overlap / np.maximum(size, 1))
    return {
        "copy_nearest_slice_dice": float(dice.mean()),
        "copy_nearest_tumour_slice_dice": float(dice[tumour].mean()) if tumour.any() else math.nan,
        "copy_nearest_pooled_dice": float(2 * overlap.sum() / max(1, size.sum())),
    }


def leakage_in_words(facts: Mapping[str, float] | None) -> str:
    """One paragraph that every report made from a slice-level split repeats; empty for None, a patient-level split."""
    if facts is None:
        return ""
    return (
        f"This split is by slice and leaks: {facts['patient_in_training']:.1%} of the test slices belong to a patient "
        f"who is also in training, {facts['neighbour_in_training']:.1%} have an adjacent slice there. Copying the "
        f"nearest training mask, without looking at the image, scores a mean slice Dice of "
        f"{facts['copy_nearest_slice_dice']:.3f} ({facts['copy_nearest_tumour_slice_dice']:.3f} on tumour slices, "
        f"{facts['copy_nearest_pooled_dice']:.3f} pooled). A patient's test slices are seldom neighbours, so what is "
        "measured in 3D (distances, surface Dice, lesions) means nothing here. Figures made from this split say little "
        "about new patients."
    )
