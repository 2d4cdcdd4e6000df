"""Phantom patients and an evaluation of them in the layout of a results folder, made without any network."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_lgg import results
from monai_lgg.cases import Patient, read_labels, read_patients
from monai_lgg.io.tiff import read_tiff, write_tiff
from monai_lgg.metrics.case import measure_case
from monai_lgg.phantom import write_patients

SIZE = (48, 40)
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """A page as a test sees it: every tag closed, the text, the attributes, the tables by their caption in ARIA."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.raw = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.label = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and found.get("role") == "region":
            self.label = found["aria-label"] or ""
            self.tables[self.label] = []
        if tag == "tr":
            self.tables[self.label].append([])
        if tag in ("td", "th"):
            self.tables[self.label][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self.label][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def resources(self) -> list[str]:
        """Everything that a browser would fetch or go to."""
        return [
            found[name] or "" for _, found in self.tags for name in ("src", "href", "data", "srcset") if name in found
        ]

    def ids(self) -> set[str | None]:
        return {found["id"] for _, found in self.tags if "id" in found}


@pytest.fixture(scope="session")
def parse() -> Callable[[Path], Page]:
    """Reads a page, and checks what holds for all of them."""

    def read(path: Path) -> Page:
        page = Page(path.read_text(encoding="utf-8"))
        assert page.raw.startswith("<!DOCTYPE html>")
        assert page.all("html") == [{"lang": "en"}]
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
        assert "Research use only; not a medical device." in page.text
        assert all(uri.startswith(("#", "data:image/")) for uri in page.resources())
        assert "url(" not in page.raw
        assert "@import" not in page.raw
        assert all(image["alt"] for image in page.all("img"))
        assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in page.ids()}
        assert len(page.raw) < 2_000_000
        return page

    return read


def write_results(folder: Path, root: Path, context: dict[str, Any] | None = None) -> dict[str, Any]:
    """Results of predictions that get worse from patient to patient; the last finds nothing. Returns the summary."""
    patients = read_patients(root)
    masks, cases = results.start_masks(folder), []
    for index, patient in enumerate(patients):
        truth = read_labels(patient)
        prediction = np.roll(truth, index, axis=1) & (index < len(patients) - 1)
        rng = np.random.default_rng(index)
        probability = np.clip(prediction * 0.6 + rng.uniform(0, 0.39, truth.shape), 0, 1)
        numbers = [item.number for item in patient.slices]
        results.save_masks(masks, patient.name, numbers, prediction)
        missing = _missing(patient)
        cases.append(
            measure_case(patient.name, prediction, truth, probability, numbers=numbers, missing_sequences=missing)
        )
    facts = {"part": "test", "dataset_dir": str(root), "split_file": None, "fold": 0, "split_level": "patient"}
    facts |= {"split_seed": 7, "fingerprint": "f", "warning": None, "leakage": None}
    return results.write_results(folder, cases, facts | (context or {}), masks)


def _missing(patient: Patient) -> str:
    image = read_tiff(patient.slices[0].image)
    same = {name: np.array_equal(image[..., channel], image[..., 1]) for name, channel in (("pre", 0), ("post", 2))}
    return "+".join(name for name, equal in same.items() if equal)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantom patients of 5 slices, 48 x 40: of P1 to P3, two lack a sequence, TCGA_P1_0003 has no tumour."""
    root = tmp_path_factory.mktemp("cohort") / "kaggle_3m"
    write_patients(root, 6, seed=5, size=SIZE, slices=5)
    for path in root.glob("TCGA_P1_0003_*/*_mask.tif"):
        write_tiff(path, np.zeros(SIZE, np.uint8))
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty, for tests of words: drawing takes most of a page's time."""
    from monai_lgg.report import data_report, examples, run_report
    from monai_lgg.report.page import Picture

    def empty(_: Any, alt: str, caption: str = "") -> Picture:
        return Picture("data:image/png;base64,", alt, caption, pixelated=True)

    for module, name in ((run_report, "chart"), (examples, "photo"), (data_report, "chart"), (data_report, "photo")):
        monkeypatch.setattr(module, name, empty)


@pytest.fixture
def evaluated(cohort: Path, tmp_path: Path) -> Path:
    """A results folder of the cohort."""
    write_results(tmp_path / "results", cohort)
    return tmp_path / "results"


@pytest.fixture(scope="session")
def make_results() -> Callable[..., dict[str, Any]]:
    return write_results
