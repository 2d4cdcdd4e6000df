"""How far a prediction can be trusted: confidence, uncertainty and flags with their reasons in words."""

from dataclasses import dataclass

import numpy as np

from monai_lgg.cases import HEAD_SHARE, background_among_tissue
from monai_lgg.components import component_sizes
from monai_lgg.reference import (
    ENOUGH_SLICES,
    FLAIR,
    HEAD_LEVEL,
    LEAST_OF_MIN,
    SEQUENCES,
    Reference,
    appearance,
    looks_like,
    medians,
    turned,
    unlike,
)

#: Expected Dice below which a mask is flagged, where the bundle says nothing else.
LOW_CONFIDENCE = 0.7
#: A mask whose largest component holds less than this share is in several components.
MAIN_COMPONENT = 0.85
#: In Hounsfield units counted from air, soft tissue is all alike: in CT most of the head lies this near its median...
ALIKE = 0.05
#: ...which no MR does. CT that was cut to a brain window (0 to 80) spreads grey and white matter out and is not told.
ALIKE_SHARE = 0.5
#: Share of a slice that must be head, so that another sequence that is black there has a gap...
HEAD_AREA = 0.02
#: ...which at the ends of a scan is common in so many slices.
COMMON_BLACK = 3
#: Flags that tell of the input, but not against the result.
INFORMATIONAL = frozenset({"missing pre", "missing post"})


@dataclass(frozen=True)
class Flag:
    """Something that a reader should know of one case: a short name and the reason in words."""

    name: str
    reason: str


def uncertainty(probability: np.ndarray) -> np.ndarray:
    """Entropy in bits of each voxel's probability: 0 where the network is sure, 1 where it is undecided (0.5).

    Returns:
        float32, of the same shape.
    """
    bits = np.zeros(probability.shape, np.float32)
    inside = (probability > 0) & (probability < 1)
    q = probability[inside].astype(np.float64)
    bits[inside] = -q * np.log2(q) - (1 - q) * np.log2(1 - q)
    return bits


def confidence(probability: np.ndarray, mask: np.ndarray) -> float:
    """Dice of the mask that is to be expected if the probabilities are calibrated and voxels independent.

    The expected overlap is the sum of the probabilities over the mask, the expected size of the truth their sum over
    all voxels; Dice of these expectations stands for the expectation of Dice, which is near in masks of many voxels.

    Args:
        probability: in [0, 1], any shape.
        mask: bool, of the same shape.
    Returns:
        In [0, 1]; NaN for an empty mask, of which the largest probability says how sure it is.
    Source: soft Dice, Milletari 2016; as the expected Dice of a segmentation, Kwon 2020 and Ng 2023 (Dice-based
    quality estimates).
    """
    if not mask.any():
        return float("nan")
    total = probability.sum(dtype=np.float64)
    return float(2 * probability[mask].sum(dtype=np.float64) / (total + np.count_nonzero(mask)))


def quality_flags(
    probability: np.ndarray,
    mask: np.ndarray,
    image: np.ndarray,
    reference: Reference | None = None,
    *,
    low_confidence: float = LOW_CONFIDENCE,
) -> list[Flag]:
    """What a reader should know of one case.

    Args:
        probability: (row, column, slice) in display order.
        mask: bool, of the same shape.
        image: (C, row, column, slice) in [-1, 1], of :class:`monai_lgg.transforms.ScaleVolumeIntensityd`.
        reference: of the training data; without it, and for images of other than three channels, the flags that
            compare with it are absent.
        low_confidence: expected Dice below which the mask is flagged.
    Raises:
        ValueError: shapes differ; a value is not finite.
    """
    if probability.shape != mask.shape or image.shape[1:] != mask.shape:
        raise ValueError(f"probability {probability.shape}, mask {mask.shape}, image {image.shape}: sizes differ")
    if not all(np.isfinite(volume).all() for volume in (probability, *image)):
        raise ValueError("the image or its probabilities have NaN or infinite voxels; replace them first")
    flags = _of_the_mask(probability, mask, low_confidence)
    constant = _constant(image)
    if _flair(image).max() == _flair(image).min():
        return [*constant, *flags]
    flags = [*_border(mask, image), *flags]
    return [*constant, *_of_the_image(image, reference), *flags, *_missing(image)]


def _flair(image: np.ndarray) -> np.ndarray:
    return np.asarray(image[FLAIR if len(image) > 1 else 0])


def _names(image: np.ndarray) -> tuple[str, ...]:
    return SEQUENCES if len(image) == len(SEQUENCES) else ("FLAIR",) if len(image) == 1 else ()


def _is_head(image: np.ndarray) -> np.ndarray:
    return np.asarray(image > 2 * HEAD_SHARE - 1)


def _of_the_mask(probability: np.ndarray, mask: np.ndarray, low: float) -> list[Flag]:
    if not mask.any():
        return [Flag("no tumour", f"no tumour was found; the largest probability is {probability.max():.2f}")]
    flags = []
    expected = confidence(probability, mask)
    if expected < low:
        flags.append(Flag("low confidence", f"the expected Dice is {expected:.2f}, below {low:g}"))
    sizes = component_sizes(mask)
    share = sizes.max() / sizes.sum()
    if share < MAIN_COMPONENT:
        flags.append(
            Flag(
                "several components",
                f"the mask is in {len(sizes)} parts; the largest is {share:.0%} of it; tumour is mostly one",
            )
        )
    return flags


def _border(mask: np.ndarray, image: np.ndarray) -> list[Flag]:
    """Only slices with head count: the first and last of a scan are often black."""
    sides = {"front": mask[0], "back": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    where = [f"the {name} edge of the image" for name, side in sides.items() if side.any()]
    if mask.shape[2] > 1:
        shown = np.flatnonzero(_is_head(_flair(image)).any(axis=(0, 1)))
        where += ["the first slice"] if mask[..., : shown[0] + 1].any() else []
        where += ["the last slice"] if mask[..., shown[-1] :].any() else []
    if not where:
        return []
    return [Flag("border", f"the mask reaches {' and '.join(where)}; tumour beyond it is not in the image")]


def _constant(image: np.ndarray) -> list[Flag]:
    names = _names(image)
    flat = [name for name, channel in zip(names, image, strict=False) if channel.max() == channel.min()]
    if not flat:
        return []
    remedy = "check the export" if "FLAIR" in flat else "repeat FLAIR where a sequence is missing"
    return [Flag("constant", f"{' and '.join(flat)}: one grey everywhere; {remedy}")]


def _missing(image: np.ndarray) -> list[Flag]:
    if len(image) != len(SEQUENCES):
        return []
    equal = {"pre": np.array_equal(image[0], image[FLAIR]), "post": np.array_equal(image[2], image[FLAIR])}
    return [
        Flag(f"missing {name}", f"no {name}-contrast sequence, or one of a single grey: FLAIR stands in for it")
        for name, missing in equal.items()
        if missing
    ]


def _of_the_image(image: np.ndarray, reference: Reference | None) -> list[Flag]:
    flags = _black_slices(image)
    if image.shape[-1] == 1:
        flags.append(Flag("one slice", "a single slice: the network sees no neighbours, and nothing else was checked"))
    if background_among_tissue(_flair(image)):
        reason = "the background lies among the values of tissue, as after a z-score within the head: give the original"
        return [*flags, Flag("normalized", reason)]
    flair = medians(_flair(image)[..., :: max(1, image.shape[-1] // ENOUGH_SLICES)])
    head = flair[flair > HEAD_LEVEL]
    middle = np.median(head)
    alike = float((np.abs(head - middle) < ALIKE * middle).mean())
    if alike > ALIKE_SHARE:
        reason = f"{alike:.0%} of the head lies within {ALIKE:.0%} of its median, as in CT and in no MR"
        return [*flags, Flag("CT", reason)]
    if reference is None or len(image) != len(SEQUENCES) or image.shape[-1] == 1:
        return flags
    return [*flags, *_against(image, reference)]


def _black_slices(image: np.ndarray) -> list[Flag]:
    """A sequence that is black where another shows the head; a few slices at the ends of a scan are common."""
    heads = _is_head(image)
    head = (heads.mean(axis=(1, 2)) > HEAD_AREA).any(axis=0)
    reasons = []
    for name, of in zip(_names(image), heads, strict=False):
        lit = of.any(axis=(0, 1))
        shown = np.flatnonzero(lit)
        if not len(shown):
            continue  # a constant sequence, which has a flag of its own
        inside = np.count_nonzero(~lit[shown[0] : shown[-1]])
        black = inside + np.count_nonzero((head & ~lit)[: shown[0]]) + np.count_nonzero((head & ~lit)[shown[-1] :])
        if inside or black > COMMON_BLACK:
            reasons.append(f"{name}: {black} black slice{'' if black == 1 else 's'} inside the head")
    return [Flag("black slices", "; ".join(reasons))] if reasons else []


def _against(image: np.ndarray, reference: Reference) -> list[Flag]:
    found = appearance(image)
    if found is None:
        return []
    geometry, intensities = unlike(found, reference)
    flags = [Flag("unusual geometry", f"unlike the training data: {'; '.join(geometry)}")] if geometry else []
    if found.geometry["head slices"] < LEAST_OF_MIN * reference.ranges["head slices"].min:
        return flags  # too short to be compared in other ways
    others = looks_like(found, reference)
    if others:
        words = ", ".join(f"the {given} channel looks like {other}" for given, other in others.items())
        flags.append(Flag("wrong sequence", f"{words}; check which sequence is which"))
    elif intensities:
        flags.append(Flag("unusual intensities", f"unlike the training data: {'; '.join(intensities)}"))
    way = turned(found, reference)
    if way:
        flags.append(Flag("wrong orientation", f"the head seems to lie {way}; check the orientation"))
    return flags
