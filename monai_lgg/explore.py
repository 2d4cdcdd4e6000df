"""What a data folder looks like, in numbers: sizes, intensities, where tumours lie and how large they are.

One patient is in memory at a time. What is wrong with a file is found by :func:`monai_lgg.check.check_data`; here the
file is left out and the rest goes on.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monai_lgg.cases import Patient, Slice, institution_of, patient_folders, read_patient
from monai_lgg.check import BRIGHT_PERCENTILE, FLAIR, HEAD_LEVEL, OTHER_SEQUENCES, DataReport, check_data, head_mask

#: Sequence of each channel of a colour image; a grey image is FLAIR.
SEQUENCES = (OTHER_SEQUENCES[0], "FLAIR", OTHER_SEQUENCES[2])
#: Bins of the intensity histograms over 0 to TOP.
BINS = 64
TOP = 255.0
#: Rows and columns of the map of tumour location, which stands for an image of any size.
GRID = 128

_Key = tuple[str, str]


@dataclass(frozen=True)
class PatientFacts:
    """One patient in numbers.

    Args:
        slices: that are readable.
        size: (rows, columns) of most of its slices.
        tumour_slices, tumour_voxels: None without masks.
        largest: number of the slice with the largest tumour; of the middle one without tumour.
        missing: sequences whose channel equals FLAIR in all slices, or that have no channel.
        scaled: the pixels are not 8-bit, so they were scaled from their minimum and maximum for the histograms.
    """

    name: str
    slices: int
    size: tuple[int, int]
    tumour_slices: int | None
    tumour_voxels: int | None
    largest: int
    missing: tuple[str, ...]
    scaled: bool

    @property
    def institution(self) -> str:
        return institution_of(self.name)


@dataclass
class Exploration:
    """All patients of a folder.

    Args:
        report: of ``check_data``.
        unread: patients without a readable slice -> why.
        histograms: (sequence, institution) -> share of the head's pixels in each of :data:`BINS` bins: a mean over the
            patients that have the sequence.
        tumours: (:data:`GRID`, GRID) number of patients with tumour in any slice below the point.
        heads: (GRID, GRID) share of the patients whose head covers the point in any slice.
    """

    report: DataReport
    patients: list[PatientFacts] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    histograms: dict[_Key, np.ndarray] = field(default_factory=dict)
    tumours: np.ndarray = field(default_factory=lambda: np.zeros((GRID, GRID)))
    heads: np.ndarray = field(default_factory=lambda: np.zeros((GRID, GRID)))

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        """(rows, columns) -> number of patients, the commonest first."""
        return dict(Counter(facts.size for facts in self.patients).most_common())

    @property
    def missing(self) -> dict[tuple[str, ...], list[str]]:
        """Missing sequences -> names of the patients that lack just these; fewest first."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for facts in sorted(self.patients, key=lambda facts: (len(facts.missing), facts.missing)):
            groups.setdefault(facts.missing, []).append(facts.name)
        return groups

    @property
    def volumes(self) -> list[int]:
        """Tumour voxels of each patient with a tumour."""
        return [facts.tumour_voxels for facts in self.patients if facts.tumour_voxels]


def explore(root: str | Path, progress: Callable[[int, int], None] | None = None) -> Exploration:
    """Check and measure every patient below ``root``.

    Args:
        root: in the public layout.
        progress: called with the numbers of patients done and in all; each counts twice, as it is read twice.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no folder below it is in the public layout.
    """
    folders = patient_folders(root)

    def advance(done: float) -> None:
        if progress is not None:
            progress(round(done), 2 * len(folders))

    result = Exploration(check_data(root, lambda done, total: advance(len(folders) * done / total)))
    counts: Counter[_Key] = Counter()
    for done, folder in enumerate(folders, 1):
        try:
            _add_patient(result, counts, read_patient(folder))
        except (OSError, ValueError) as error:
            result.unread[folder.name] = str(error)
        advance(len(folders) + done)
    for key, count in counts.items():
        result.histograms[key] = result.histograms[key] / count
    result.heads = result.heads / max(1, len(result.patients))
    return result


def choose_samples(patients: list[PatientFacts], most: int) -> list[PatientFacts]:
    """Up to ``most`` patients in the order of their tumour volume: one of each institution, the rest evenly spread."""
    order = sorted(patients, key=lambda facts: (facts.tumour_voxels or 0, facts.name))
    middle: dict[str, PatientFacts] = {}
    for code in sorted({facts.institution for facts in order}):
        group = [facts for facts in order if facts.institution == code]
        middle[code] = group[len(group) // 2]
    chosen = list(middle.values())[:most]
    rest = [facts for facts in order if facts not in chosen]
    spread = np.linspace(0, len(rest) - 1, min(most - len(chosen), len(rest))).round().astype(int)
    return sorted([*chosen, *(rest[i] for i in spread)], key=order.index)


def read_slice(item: Slice) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The sequences of a slice, (H, W) each, and its tumour, bool (H, W); None without a sound mask of its size.

    Raises:
        OSError, ValueError: the image is unreadable, or is not one page of one or three channels.
    """
    from monai_lgg.io.tiff import read_tiff, read_tiff_volume

    pixels = read_tiff_volume(item.image)
    if pixels.shape[2] != 1 or pixels.shape[3] not in (1, 3):
        raise ValueError(
            f"{item.image}: {pixels.shape[2]} page(s) of {pixels.shape[3]} channel(s); a slice has one page of 1 or 3"
        )
    names = SEQUENCES if pixels.shape[3] == 3 else SEQUENCES[FLAIR : FLAIR + 1]
    images = {name: pixels[:, :, 0, channel] for channel, name in enumerate(names)}
    if item.label is None:
        return images, None
    try:
        mask = read_tiff(item.label) > 0
    except (OSError, ValueError):
        return images, None
    return images, mask if mask.shape == pixels.shape[:2] else None


def to_grid(mask: np.ndarray) -> np.ndarray:
    """A bool image of any size on the grid of the map; each point takes the pixel that it lies in."""
    rows, columns = (((np.arange(GRID) + 0.5) / GRID * side).astype(int) for side in mask.shape)
    return mask[np.ix_(rows, columns)]


def _add_patient(result: Exploration, counts: Counter[_Key], patient: Patient) -> None:
    images, tumours = _read(patient)
    sample = np.concatenate([slice_["FLAIR"][::2, ::2].ravel() for slice_ in images.values()])
    level = HEAD_LEVEL * float(np.percentile(sample, BRIGHT_PERCENTILE))
    heads = {number: head_mask(slice_["FLAIR"], level) for number, slice_ in images.items()}
    facts = _facts(patient, images, tumours)
    low, high = _range(images) if facts.scaled else (0.0, TOP)  # which are drawn as 0 and TOP
    for sequence in (name for name in SEQUENCES if name not in facts.missing):
        inside = [slice_[sequence][heads[number]] for number, slice_ in images.items() if sequence in slice_]
        histogram = np.histogram(np.concatenate(inside), BINS, (low, high))[0]
        if histogram.any():
            key = (sequence, facts.institution)
            result.histograms[key] = result.histograms.get(key, np.zeros(BINS)) + histogram / histogram.sum()
            counts[key] += 1
    result.heads += np.any([to_grid(head) for head in heads.values()], axis=0)
    if tumours:
        result.tumours += np.any([to_grid(tumour) for tumour in tumours.values()], axis=0)
    result.patients.append(facts)


def _read(patient: Patient) -> tuple[dict[int, dict[str, np.ndarray]], dict[int, np.ndarray]]:
    """The readable slices and the sound masks by slice number.

    Raises:
        ValueError: no slice is readable.
    """
    images: dict[int, dict[str, np.ndarray]] = {}
    tumours: dict[int, np.ndarray] = {}
    reason = ""
    for item in patient.slices:
        try:
            images[item.number], tumour = read_slice(item)
        except (OSError, ValueError) as error:
            reason = str(error)
            continue
        if tumour is not None:
            tumours[item.number] = tumour
    if not images:
        raise ValueError(f"{patient.name}: none of {len(patient.slices)} slices is readable ({reason})")
    return images, tumours


def _facts(patient: Patient, images: dict[int, dict[str, np.ndarray]], tumours: dict[int, np.ndarray]) -> PatientFacts:
    voxels = {number: int(np.count_nonzero(tumour)) for number, tumour in tumours.items()}
    numbers = list(images)
    largest = max(voxels, key=lambda number: voxels[number]) if any(voxels.values()) else numbers[len(numbers) // 2]
    missing = [
        name
        for name in SEQUENCES
        if name != "FLAIR"
        and all(name not in slice_ or np.array_equal(slice_[name], slice_["FLAIR"]) for slice_ in images.values())
    ]
    return PatientFacts(
        name=patient.name,
        slices=len(images),
        size=Counter(slice_["FLAIR"].shape for slice_ in images.values()).most_common(1)[0][0],
        tumour_slices=sum(count > 0 for count in voxels.values()) if tumours else None,
        tumour_voxels=sum(voxels.values()) if tumours else None,
        largest=largest,
        missing=tuple(missing),
        scaled=any(slice_["FLAIR"].dtype != np.uint8 for slice_ in images.values()),
    )


def _range(images: dict[int, dict[str, np.ndarray]]) -> tuple[float, float]:
    """Minimum and maximum of all sequences of a patient; never equal."""
    pixels = [pixels for slice_ in images.values() for pixels in slice_.values()]
    low, high = (float(end) for end in (min(map(np.min, pixels)), max(map(np.max, pixels))))
    return low, high if high > low else low + 1
