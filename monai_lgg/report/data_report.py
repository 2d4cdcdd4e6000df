"""The page about a data folder."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monai_lgg.cases import data_root, read_patient
from monai_lgg.check import KINDS, DataReport
from monai_lgg.explore import BINS, SEQUENCES, TOP, Exploration, PatientFacts, choose_samples, explore, read_slice
from monai_lgg.report import charts
from monai_lgg.report.overlay import paint
from monai_lgg.report.page import Cell, Picture, cell, chart, checked_output, photo, save_page, shrink

MOST_SAMPLES = 8
#: Findings of one kind that the page lists.
MOST_FINDINGS = 30


def write_data_report(root: str | Path, output: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Explore the data below ``root`` and write the page about it.

    Args:
        progress: as for :func:`monai_lgg.explore.explore`.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no folder below it is in the public layout; ``output`` is not named like a page.
    """
    checked_output(output)
    return save_page(output, "data.html.j2", **gather(data_root(root), explore(root, progress)))


def gather(root: Path, found: Exploration) -> dict[str, Any]:
    """All that the template shows."""
    return {
        "title": f"Data in {root.resolve().name}",
        "folder": str(root),
        "report": found.report,
        "slices": sum(facts.slices for facts in found.patients),
        "errors": len(found.report.errors),
        "warnings": len(found.report.warnings),
        "institutions": _institutions(found),
        "sizes": {f"{rows} x {columns}": count for (rows, columns), count in found.sizes.items()},
        "missing": [
            (" and ".join(sequences) or "none", len(names), ", ".join(names) if sequences else "")
            for sequences, names in found.missing.items()
        ],
        "scaled": sum(facts.scaled for facts in found.patients),
        "unread": found.unread,
        "slice_charts": _slice_charts(found),
        "histograms": _histograms(found),
        "location": _location(found),
        "volumes": found.volumes,
        "without_tumour": sum(facts.tumour_voxels == 0 for facts in found.patients),
        "without_masks": sum(facts.tumour_voxels is None for facts in found.patients),
        "volume_chart": _volume_chart(found.volumes),
        "sequences": _sequences(root, found.patients),
        "samples": [_sample(root, facts) for facts in choose_samples(found.patients, MOST_SAMPLES)],
        "heads": ["Patient", "Institution", "Size", "Slices", "Tumour slices", "Tumour voxels", "Missing sequences"],
        "patients": [_row(facts) for facts in found.patients],
        "findings": _findings(found.report),
    }


def _institutions(found: Exploration) -> list[dict[str, Any]]:
    rows = []
    for code in sorted({facts.institution for facts in found.patients}):
        group = [facts for facts in found.patients if facts.institution == code]
        volumes = [facts.tumour_voxels for facts in group if facts.tumour_voxels]
        rows.append(
            {
                "code": code,
                "patients": len(group),
                "slices": sum(facts.slices for facts in group),
                "tumour_slices": sum(facts.tumour_slices or 0 for facts in group),
                "median": float(np.median(volumes)) if volumes else None,
            }
        )
    return rows


def _row(facts: PatientFacts) -> list[Cell]:
    rows, columns = facts.size
    size = Cell(f"{rows} x {columns}", rows * columns)
    counts = [cell(facts.slices, 0), cell(facts.tumour_slices, 0), cell(facts.tumour_voxels, 0)]
    return [cell(facts.name), cell(facts.institution), size, *counts, cell(" and ".join(facts.missing) or "none")]


def _slice_charts(found: Exploration) -> list[Picture]:
    pictures = []
    tumour = [facts.tumour_slices for facts in found.patients if facts.tumour_slices is not None]
    for title, values in (("Slices", [facts.slices for facts in found.patients]), ("Slices with tumour", tumour)):
        if values:
            figure = charts.bar_chart(values, f"{title} of a patient", title.lower(), _whole_bins(values))
            least, middle, most = np.quantile(values, [0, 0.5, 1])
            alt = f"Histogram of patients by {title.lower()}: {least:.0f} to {most:.0f}, median {middle:.0f}"
            pictures.append(chart(figure, alt))
    return pictures


def _whole_bins(values: list[int]) -> np.ndarray:
    """Edges at halves, so that a bar stands for whole numbers; at most about 20 bars."""
    step = max(1, -(-(max(values) - min(values)) // 20))
    return np.arange(min(values), max(values) + step + 1, step) - 0.5


def _histograms(found: Exploration) -> list[Picture]:
    pictures = []
    counts = Counter(facts.institution for facts in found.patients)
    middles = (np.arange(BINS) + 0.5) * TOP / BINS
    for sequence in SEQUENCES:
        lines = {code: share * 100 for (name, code), share in sorted(found.histograms.items()) if name == sequence}
        if not lines:
            continue
        named = {f"{code} ({counts[code]})": share for code, share in lines.items()}
        figure = charts.line_chart(middles, named, sequence, "intensity", "% of the head's pixels")
        peaks = ", ".join(f"{code} at {middles[share.argmax()]:.0f}" for code, share in lines.items())
        pictures.append(chart(figure, f"Histogram of the {sequence} intensities by institution; peaks: {peaks}"))
    return pictures


def _location(found: Exploration) -> Picture | None:
    if not found.tumours.any():
        return None
    rows, columns = next(iter(found.sizes))
    figure = charts.location_chart(found.tumours, found.heads, rows / columns)
    half = found.tumours.shape[1] // 2
    right, left = found.tumours[:, :half].sum(), found.tumours[:, half:].sum()
    share = right / (right + left)
    alt = (
        f"Heat map of tumour location in the axial plane, at most {found.tumours.max():.0f} patients at one point; "
        f"{share:.0%} of it in the patients' right half of the image"
    )
    caption = (
        "Each patient's tumour, projected along the head's axis and added up; the images are laid on one grid, not "
        "registered. White: the mean outline of the head. Radiological display: the left of the picture is the "
        "patient's right (R)."
    )
    return chart(figure, alt, caption)


def _volume_chart(volumes: list[int]) -> Picture | None:
    if not volumes:
        return None
    low, high = min(volumes), max(volumes)
    bins = np.geomspace(low / 1.05, high * 1.05, min(16, 5 + len(volumes) // 8))
    figure = charts.bar_chart(volumes, "Tumour volume", "voxels (logarithmic)", bins, log=True)
    return chart(figure, f"Histogram of tumour volumes: {low:,} to {high:,} voxels, median {np.median(volumes):,.0f}")


def _sequences(root: Path, patients: list[PatientFacts]) -> list[Picture]:
    """The three sequences of the first patient that lacks none."""
    facts = next((facts for facts in patients if not facts.missing), None)
    if facts is None:
        return []
    images, _ = _read(root, facts)
    return [
        photo(shrink(paint(image, None)), f"{facts.name}, slice {facts.largest}, {sequence}", sequence)
        for sequence, image in images.items()
    ]


def _sample(root: Path, facts: PatientFacts) -> Picture:
    images, tumour = _read(root, facts)
    if tumour is None:
        what = "no mask"
    else:
        what = f"{facts.tumour_voxels:,} tumour voxels in all" if facts.tumour_voxels else "no tumour"
    pixels = paint(shrink(images["FLAIR"]), None, None if tumour is None else shrink(tumour))
    caption = f"{facts.name}, slice {facts.largest}: {what}"
    return photo(pixels, f"FLAIR of {caption}; the tumour is outlined in cyan", caption)


def _read(root: Path, facts: PatientFacts) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    items = {item.number: item for item in read_patient(root / facts.name).slices}
    return read_slice(items[facts.largest])


def _findings(report: DataReport) -> list[dict[str, Any]]:
    """Findings by severity and kind, errors first."""
    groups = []
    for severity, findings in (("error", report.errors), ("warning", report.warnings)):
        for kind, heading in KINDS.items():
            members = [finding for finding in findings if finding.kind == kind]
            if members:
                shown = [(finding.where, finding.message) for finding in members[:MOST_FINDINGS]]
                more = len(members) - len(shown)
                groups.append({"severity": severity, "heading": heading, "shown": shown, "more": more})
    return groups
