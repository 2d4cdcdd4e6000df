"""One page of all predicted cases of an output folder, those to look at first at the top."""

import base64
import io
import logging
import os
import statistics
from collections import Counter
from collections.abc import Mapping
from csv import DictReader
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from monai_lgg.io.stored import read_json
from monai_lgg.quality import INFORMATIONAL, Flag
from monai_lgg.report.page import Cell, Picture, cell, number, save_page
from monai_lgg.saving import RESULT, TABLE

_log = logging.getLogger(__name__)

PREVIEW = "preview.html"
#: Width of a picture in the page, in pixels, and its JPEG quality: some 40 kB a case.
WIDTH = 640
QUALITY = 72


@dataclass(frozen=True)
class Shown:
    """One case on the page.

    Args:
        empty: no tumour was found.
        confidence: expected Dice; None for an empty mask.
        flags: warnings first, then what only informs.
        link: to the case's folder, relative to the page.
        picture: None when there is no ``overlay.png`` that can be read.
    """

    case: str
    anchor: str
    empty: bool
    confidence: float | None
    voxels: int
    volume_ml: float | None
    components: int
    flags: list[Flag]
    link: str
    picture: Picture | None

    @property
    def volume(self) -> str:
        return f"{number(self.voxels, 0)} voxels" if self.volume_ml is None else f"{number(self.volume_ml, 1)} ml"

    @property
    def warnings(self) -> int:
        return sum(flag.name not in INFORMATIONAL for flag in self.flags)


def write_preview(output: Path) -> Path:
    """Write ``preview.html`` into a folder of predictions: every case that has a result, whenever it was made.

    A result that cannot be read is named in its place.
    """
    paths = [path for path in sorted(output.glob(f"*/{RESULT}")) if not path.parent.name.startswith(".")]
    read = {path.parent.name: _shown(index, path) for index, path in enumerate(paths)}
    cases = sorted((case for case in read.values() if case), key=_order)
    damaged = [name for name, case in read.items() if case is None]
    failed = {name: read.get(name) is not None for name in _failed(output) if name not in damaged}
    return save_page(output / PREVIEW, "preview.html.j2", **gather(cases, failed, damaged))


def _order(case: Shown) -> tuple[int, float, str]:
    """Most warnings first, then the least confident; an empty mask has no confidence and goes before."""
    return -case.warnings, -1.0 if case.confidence is None else case.confidence, case.case


def gather(cases: list[Shown], failed: Mapping[str, bool], damaged: list[str]) -> dict[str, Any]:
    """All that the template shows.

    Args:
        cases: in the order of the page.
        failed: cases that the last call could not do, and whether an earlier result is shown.
        damaged: cases whose result cannot be read.
    """
    confidences = [case.confidence for case in cases if case.confidence is not None]
    pictures = [len(case.picture.uri) for case in cases if case.picture]
    return {
        "title": f"{len(cases)} predicted case{'' if len(cases) == 1 else 's'}",
        "cases": cases,
        "flagged": sum(case.warnings > 0 for case in cases),
        "empty": sum(case.empty for case in cases),
        "median_confidence": statistics.median(confidences) if confidences else None,
        "counts": Counter(flag.name for case in cases for flag in case.flags).most_common(),
        "informational": INFORMATIONAL,
        "rows": [_row(case, all(other.volume_ml is not None for other in cases)) for case in cases],
        "failed": failed,
        "damaged": damaged,
        "kilobytes": round(statistics.mean(pictures) / 1000) if pictures else 0,
        "width": WIDTH,
    }


def _row(case: Shown, by_ml: bool) -> list[Cell]:
    """Sorted by millilitres where all volumes are known, else by voxels."""
    words = ", ".join(flag.name for flag in case.flags) or "none"
    return [
        Cell(str(case.warnings), float(case.warnings)),
        cell(case.confidence, 2) if case.confidence is not None else Cell("-", None),
        Cell(case.volume, case.volume_ml if by_ml else float(case.voxels)),
        cell(case.components),
        Cell(words, words),
    ]


def _shown(index: int, path: Path) -> Shown | None:
    """None for what is no result."""
    try:
        result = read_json(path, "")
        flags = [Flag(item["name"], item["reason"]) for item in result.get("flags", [])]
        return Shown(
            case=str(result["case"]),
            anchor=f"case-{index + 1}",
            empty=result["voxels"] == 0,
            confidence=result.get("confidence"),
            voxels=int(result["voxels"]),
            volume_ml=None if result["volume_ml"] is None else float(result["volume_ml"]),
            components=int(result["components"]),
            flags=sorted(flags, key=lambda flag: flag.name in INFORMATIONAL),
            link=f"{quote(os.fsencode(path.parent.name))}/",
            picture=_picture(path.parent / "overlay.png", str(result["case"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        _log.debug("%s is no result of monai-lgg", path, exc_info=error)
        return None


def _picture(path: Path, case: str) -> Picture | None:
    """The overlay, made small: a page of 300 cases must still open."""
    if not path.is_file():
        return None
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError:
        return None
    if small.width > WIDTH:
        small = small.resize((WIDTH, round(small.height * WIDTH / small.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, f"FLAIR slices of {case} with the outline of the prediction in orange")


def _failed(output: Path) -> list[str]:
    """Cases that the last call could not do."""
    table = output / TABLE
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return [row["case"] for row in DictReader(file) if row["status"] == "failed"]
