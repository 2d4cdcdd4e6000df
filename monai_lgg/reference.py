"""What the scans of a training look like, so that unlike ones can be told from them.

A reference is a small JSON file beside a bundle's weights (``models/reference.json``). It holds ranges of a few
features over the training patients, a coarse mean head of each sequence, and a linear classifier of the sequences. All
features are measured on intensities as multiples of the head's median, so the scanner's scale does not matter.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import minimum_filter1d

from monai_lgg.cases import HEAD_SHARE, TOP_MEDIANS, read_patients
from monai_lgg.io.atomic import atomic_text

_log = logging.getLogger(__name__)

SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")
FLAIR = 1
#: Intensity, as a multiple of the head's median, above which a voxel is head.
HEAD_LEVEL = HEAD_SHARE * TOP_MEDIANS
#: Rows, columns and slices of the coarse head.
COARSE = (16, 16, 8)
#: Pixels from the head's outline inwards that count as scalp and skull (in every second pixel).
SCALP = 4
#: Quantiles of the head, and of the head without scalp, that tell the sequences apart.
HEAD_QUANTILES = (0.05, 0.25, 0.75, 0.9, 0.95, 0.99)
INNER_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.999)
#: A feature is unlike the training's beyond their range, and this many standard deviations from their mean.
TOLERANCE_SD = 4.0
#: Where all training patients are alike, so far from their mean, as a share of it, is not unlike yet.
TOLERANCE_SHARE = 0.1
#: A positive feature is unlike below this share of the smallest, however widely the training's are spread.
LEAST_OF_MIN = 0.5
#: Slices that are enough to measure what is the same all over a scan; of more, some are left out.
ENOUGH_SLICES = 64
#: Fewer patients give no ranges worth comparing with.
LEAST_PATIENTS = 10
#: Log odds from which another order of the sequences is believed.
SURE_LOG_ODDS = 3.0
#: Gain in correlation with the mean head from which another orientation is believed.
SURE_TURN = 0.03
#: Share of the correlations between features that the classifier ignores, because there are few patients.
SHRINKAGE = 0.05
#: Spread below which a feature is taken as the same in all patients.
LEAST_SD = 1e-3
VERSION = 1

GEOMETRY = {
    "head rows": "px from the head's front to its back",
    "head columns": "px from the head's right to its left",
    "head slices": "slices with head in them",
    "head share": "of the field of view is head",
}
INTENSITY = {
    "iqr": "interquartile range {} of the head's median",
    "dark": "5th percentile {} of the head's median",
    "bright": "95th percentile {} of the head's median",
    "roughness": "difference between neighbouring pixels {} of the head's median",
    "likeness": "correlation with the mean training head {}",
    "relation": "correlation with FLAIR {}",
}


@dataclass(frozen=True)
class Appearance:
    """What is measured of one scan.

    Args:
        geometry: :data:`GEOMETRY`.
        intensity: for each sequence that is there, :data:`INTENSITY` but the likeness.
        histogram: for each sequence that is there, the features that tell the sequences apart.
        coarse: for each sequence that is there, the head's mean intensities on the grid :data:`COARSE`.
    """

    geometry: dict[str, float]
    intensity: dict[str, dict[str, float]]
    histogram: dict[str, np.ndarray]
    coarse: dict[str, np.ndarray]


@dataclass(frozen=True)
class Range:
    """A feature over the training patients."""

    mean: float
    sd: float
    min: float
    max: float

    def holds(self, value: float) -> bool:
        margin = max(TOLERANCE_SD * self.sd, TOLERANCE_SHARE * abs(self.mean))
        low = min(self.min, self.mean - margin)
        if self.min > 0:
            low = max(low, self.min * LEAST_OF_MIN)
        return low <= value <= max(self.max, self.mean + margin)


@dataclass(frozen=True)
class Reference:
    """The scans of a training; see :func:`measure_reference`.

    Args:
        patients: how many.
        ranges: by feature: a name of :data:`GEOMETRY`, or ``<sequence> <name of INTENSITY>``.
        coarse: mean head of each sequence that enough patients have.
        weights: of the classifier, for each such sequence; the last is the constant.
    """

    patients: int
    ranges: dict[str, Range]
    coarse: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


def appearance(image: np.ndarray) -> Appearance | None:
    """Measure a scan; None when it has no head (constant, or almost so).

    Args:
        image: (3, row, column, slice) float in [-1, 1], of :class:`monai_lgg.transforms.ScaleVolumeIntensityd`, in
            display order. A sequence that equals FLAIR counts as missing.
    """
    head = image[FLAIR] > 2 * HEAD_SHARE - 1
    box = _head_box(head)
    if box is None:
        return None
    geometry = dict(zip(GEOMETRY, (axis.stop - axis.start for axis in box), strict=False))
    geometry["head share"] = float(head.mean())
    flair = medians(image[FLAIR][box][::2, ::2])
    inner = _without_scalp(flair > HEAD_LEVEL)
    intensity, histogram, coarse = {}, {}, {}
    for k, name in enumerate(SEQUENCES):
        if k != FLAIR and np.array_equal(image[k], image[FLAIR]):
            continue
        scaled = image[k][box]
        coarse[name] = medians(_coarse(scaled))
        channel = medians(scaled[::2, ::2])
        seen = channel[channel > HEAD_LEVEL]
        edge = np.quantile(seen, HEAD_QUANTILES) if seen.size else np.zeros(len(HEAD_QUANTILES))
        core = np.quantile(channel[inner], INNER_QUANTILES) if inner.any() else np.zeros(len(INNER_QUANTILES))
        clipped = float((seen >= TOP_MEDIANS * 0.999).mean()) if seen.size else 0.0
        rough = _roughness(medians(scaled[..., :: max(1, scaled.shape[2] // ENOUGH_SLICES)]))
        histogram[name] = np.array([*edge, clipped, rough, *core])
        intensity[name] = {"iqr": edge[2] - edge[1], "dark": edge[0], "bright": edge[4], "roughness": rough}
        if name != "FLAIR":
            intensity[name]["relation"] = _correlation(channel[inner], flair[inner])
    return Appearance(geometry, intensity, histogram, coarse)


def medians(channel: np.ndarray) -> np.ndarray:
    """Intensities as multiples of the head's median, float32."""
    scaled = np.array(channel, dtype=np.float32)
    scaled += 1
    scaled *= TOP_MEDIANS / 2
    return scaled


def _head_box(head: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Rows, columns and slices that a bool volume fills in more than a few voxels; None when there are none."""
    slices = np.flatnonzero(head.mean(axis=(0, 1)) > 0.02)
    seen = head[..., slices].any(axis=2)
    rows, columns = np.flatnonzero(seen.mean(axis=1) > 0.05), np.flatnonzero(seen.mean(axis=0) > 0.05)
    if not (len(slices) and len(rows) and len(columns)):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1), slice(slices[0], slices[-1] + 1)


def _without_scalp(head: np.ndarray) -> np.ndarray:
    width = 2 * SCALP + 1
    inner = minimum_filter1d(head.astype(np.uint8), width, axis=0, mode="constant")
    return np.asarray(minimum_filter1d(inner, width, axis=1, mode="constant") > 0)


def _roughness(volume: np.ndarray) -> float:
    """Median over the head of the difference between a pixel and the mean of its four neighbours."""
    if min(volume.shape[:2]) < 3:
        return 0.0
    middle = volume[1:-1, 1:-1]
    around = (volume[:-2, 1:-1] + volume[2:, 1:-1] + volume[1:-1, :-2] + volume[1:-1, 2:]) / 4
    head = middle > HEAD_LEVEL
    return float(np.median(np.abs(middle - around)[head])) if head.any() else 0.0


def _coarse(volume: np.ndarray) -> np.ndarray:
    """Means over the cells of the grid :data:`COARSE`; cells may cut voxels."""
    rows, columns, slices = (_shares(cells, voxels) for cells, voxels in zip(COARSE, volume.shape, strict=True))
    means = np.stack([rows @ volume[..., k] @ columns.T for k in range(volume.shape[2])], axis=2)
    return np.asarray(means @ slices.T)


def _shares(cells: int, voxels: int) -> np.ndarray:
    """(cells, voxels) float32: which share of a cell's length each voxel is."""
    edges = np.linspace(0, voxels, cells + 1)
    first, last = np.arange(voxels), np.arange(1, voxels + 1)
    common = np.minimum(edges[1:, None], last) - np.maximum(edges[:-1, None], first)
    return np.asarray(common.clip(0) * cells / voxels, dtype=np.float32)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where one of them is constant or empty."""
    if one.size < 2 or one.std() < 1e-6 or other.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def write_reference(path: Path, dataset_dir: str | Path, names: Sequence[str]) -> None:
    """:func:`save_reference` of the named patients; with too few of them it says so and writes nothing."""
    if len(names) < LEAST_PATIENTS:
        _log.info(f"{len(names)} patients: no {path.name}, which needs {LEAST_PATIENTS}; predictions go without it")
        return
    save_reference(path, measure_reference(dataset_dir, names))


def measure_reference(dataset_dir: str | Path, names: Sequence[str] | None = None) -> Reference:
    """Measure the named patients (all without names) of a data folder in the public layout.

    Raises:
        FileNotFoundError, ValueError: the data is not there or not readable; too few patients.
    """
    import torch

    from monai_lgg.io.reader import CaseReader
    from monai_lgg.transforms import ScaleVolumeIntensityd, ThreeSequencesd

    found = []
    for patient in read_patients(dataset_dir, names):
        volume, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
        record = ThreeSequencesd("image")({"image": torch.as_tensor(np.moveaxis(volume, -1, 0).copy())})
        found.append(appearance(np.asarray(ScaleVolumeIntensityd("image")(record)["image"])))
    return build_reference([item for item in found if item is not None])


def build_reference(found: Sequence[Appearance]) -> Reference:
    """The reference of measured scans.

    Raises:
        ValueError: fewer than :data:`LEAST_PATIENTS`.
    """
    if len(found) < LEAST_PATIENTS:
        raise ValueError(f"{len(found)} patients; a reference needs at least {LEAST_PATIENTS}: give the training data")
    coarse = {}
    for name in SEQUENCES:
        heads = [item.coarse[name] for item in found if name in item.coarse]
        if len(heads) >= LEAST_PATIENTS:
            coarse[name] = np.mean(heads, axis=0)
    values: dict[str, list[float]] = {}
    for item in found:
        for feature, value in _features(item, coarse).items():
            values.setdefault(feature, []).append(value)
    ranges = {feature: _range(of) for feature, of in values.items() if len(of) >= LEAST_PATIENTS}
    return Reference(len(found), ranges, coarse, _train(found, coarse))


def _features(item: Appearance, coarse: dict[str, np.ndarray]) -> dict[str, float]:
    """All features that have a range, by name."""
    features = dict(item.geometry)
    for name, values in item.intensity.items():
        features |= {f"{name} {feature}": value for feature, value in values.items()}
        if name in coarse:
            features[f"{name} likeness"] = _correlation(item.coarse[name], coarse[name])
    return features


def _range(values: list[float]) -> Range:
    return Range(float(np.mean(values)), float(np.std(values, ddof=1)), float(min(values)), float(max(values)))


def _clues(item: Appearance, name: str, coarse: dict[str, np.ndarray]) -> np.ndarray:
    """What the classifier sees of one channel: its histogram, and likeness to mean heads and to their differences."""
    heads = [coarse[of] for of in coarse]
    inside = coarse["FLAIR"] > HEAD_LEVEL
    targets = [*heads, *[head - heads[0] for head in heads[1:]]]
    likeness = [_correlation(item.coarse[name][inside], target[inside]) for target in targets]
    return np.array([*item.histogram[name], *likeness])


def _train(found: Sequence[Appearance], coarse: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Linear discriminant analysis: a Gaussian for each sequence, with one covariance, all equally likely.

    Source: Hastie, Tibshirani, Friedman 2009, section 4.3; Friedman 1989 for the shrinkage.
    """
    clues = {name: np.array([_clues(item, name, coarse) for item in found if name in item.coarse]) for name in coarse}
    if len(clues) < 2:
        return {}
    centred = np.concatenate([of - of.mean(axis=0) for of in clues.values()])
    scale = np.maximum(centred.std(axis=0), LEAST_SD)
    correlations = (centred / scale).T @ (centred / scale) / len(centred)
    correlations = (1 - SHRINKAGE) * correlations + SHRINKAGE * np.eye(len(scale))
    weights = {}
    for name, of in clues.items():
        mean = of.mean(axis=0)
        linear = np.linalg.solve(correlations, mean / scale) / scale
        weights[name] = np.append(linear, -linear @ mean / 2)
    return weights


def unlike(item: Appearance, reference: Reference) -> tuple[list[str], list[str]]:
    """In words, where a scan's (geometry, intensities) lie outside those of the training."""
    geometry, intensities = [], []
    for feature, value in _features(item, reference.coarse).items():
        known = reference.ranges.get(feature)
        if known is None or known.holds(value):
            continue
        low, high = _short(known.min), _short(known.max)
        training = f"training {low}" if low == high else f"training {low} to {high}"
        if feature in GEOMETRY:
            geometry.append(f"{_short(value)} {GEOMETRY[feature]}, {training}")
        else:
            name, _, kind = feature.rpartition(" ")
            intensities.append(f"{name}: {INTENSITY[kind].format(_short(value))}, {training}")
    return geometry, intensities


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def looks_like(item: Appearance, reference: Reference) -> dict[str, str]:
    """Which sequence each channel looks like, where that is clearly another than the one it stands for.

    Every channel is another sequence; of all such assignments the likeliest must beat the given one by
    :data:`SURE_LOG_ODDS`, and then look like the training: of other images (CT, noise) the classifier knows nothing.
    """
    given = tuple(name for name in item.coarse if name in reference.weights)
    if "FLAIR" not in given:
        return {}
    scores = {}
    for channel in given:
        clues = np.append(_clues(item, channel, reference.coarse), 1.0)
        logits = np.array([float(clues @ of) for of in reference.weights.values()])
        chances = logits - np.logaddexp.reduce(logits)
        scores[channel] = dict(zip(reference.weights, chances, strict=True))
    orders = list(permutations(reference.weights, len(given)))
    total = {order: sum(scores[a][b] for a, b in zip(given, order, strict=True)) for order in orders}
    best = max(orders, key=lambda order: total[order])
    names = dict(zip(given, best, strict=True))
    if total[best] - total[given] < SURE_LOG_ODDS or unlike(_renamed(item, names), reference)[1]:
        return {}
    return {a: b for a, b in names.items() if a != b}


def _renamed(item: Appearance, names: dict[str, str]) -> Appearance:
    """The same scan with its sequences in other places; what relates them to FLAIR is left out."""
    intensity = {
        new: {feature: value for feature, value in item.intensity[old].items() if feature != "relation"}
        for old, new in names.items()
    }
    return Appearance(item.geometry, intensity, item.histogram, {new: item.coarse[old] for old, new in names.items()})


def turned(item: Appearance, reference: Reference) -> str | None:
    """How the head seems to lie, where that is clearly not as in the training; left and right cannot be told."""
    mean = reference.coarse.get("FLAIR")
    if mean is None:
        return None
    mean = (mean + mean[:, ::-1]) / 2
    head = item.coarse["FLAIR"]
    ways = {
        "back to front": head[::-1],
        "with its slices from top to bottom": head[..., ::-1],
        "back to front, with its slices from top to bottom": head[::-1, :, ::-1],
        "turned by 90 degrees": max((np.rot90(head), np.rot90(head, 3)), key=lambda way: _correlation(way, mean)),
    }
    likeness = {words: _correlation(way, mean) for words, way in ways.items()}
    best = max(likeness, key=lambda words: likeness[words])
    return best if likeness[best] - _correlation(head, mean) > SURE_TURN else None


def save_reference(path: Path, reference: Reference) -> None:
    content: dict[str, Any] = {
        "version": VERSION,
        "patients": reference.patients,
        "ranges": {name: {k: _round(v) for k, v in asdict(of).items()} for name, of in reference.ranges.items()},
        "weights": {name: [_round(value) for value in of] for name, of in reference.weights.items()},
        "coarse_shape": list(COARSE),
        "coarse_percent": {
            name: (of * 100).round().astype(int).ravel().tolist() for name, of in reference.coarse.items()
        },
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value, separators=(', ', ': '))}" for key, value in content.items()]
    atomic_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def load_reference(path: str | Path) -> Reference | None:
    """The reference in a file; None when there is no such file.

    Raises:
        ValueError: the file is not a reference of this version.
    """
    if not Path(path).is_file():
        return None
    try:
        content = json.loads(Path(path).read_text())
        if (content["version"], tuple(content["coarse_shape"])) != (VERSION, COARSE):
            raise ValueError(f"version {content['version']}")
        return Reference(
            content["patients"],
            {name: Range(**of) for name, of in content["ranges"].items()},
            {name: np.reshape(of, COARSE) / 100 for name, of in content["coarse_percent"].items()},
            {name: np.array(of) for name, of in content["weights"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a reference of version {VERSION} ({error}); make it again with scripts/make_reference.py"
        ) from error
