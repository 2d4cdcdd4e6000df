import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from monai_lgg.check import check_data
from monai_lgg.report import data_report
from monai_lgg.report.data_report import write_data_report

Parse = Callable[[Path], Any]
SECTIONS = {"counts", "intensities", "tumours", "samples", "missing", "findings", "patients"}


@pytest.fixture
def copied(cohort: Path, tmp_path: Path, undrawn: None) -> Path:
    return shutil.copytree(cohort, tmp_path / "copy")


def test_the_whole_page(cohort: Path, tmp_path: Path, parse: Parse) -> None:
    page = parse(write_data_report(cohort, tmp_path / "new" / "data.html"))
    report = check_data(cohort)

    assert page.ids() >= SECTIONS
    assert "Data in kaggle_3m" in page.text
    assert "6 patients 30 slices" in page.text
    assert f"{report.tumour_slices} slices with tumour ({report.tumour_slices / 30:.1%})" in page.text
    assert f"{report.tumour_pixel_share:.1%} of the pixels are tumour" in page.text
    assert [row[:3] for row in page.tables["Patients by institution"][1:]] == [
        ["P1", "2", "10"],
        ["P2", "2", "10"],
        ["P3", "2", "10"],
    ]
    assert page.tables["Image sizes"][1:] == [["48 x 40", "6"]]
    missing = page.tables["Missing sequences"][1:]
    assert [row[:2] for row in missing] == [["none", "4"], ["post-contrast", "1"], ["pre-contrast", "1"]]
    assert missing[2][2].startswith("TCGA_P3_0002")
    assert len(page.tables["Every patient"]) == 7
    assert f"0 errors, {len(report.warnings)} warning" in page.text
    assert all(finding.message in page.text for finding in report.warnings)
    alts = " ".join(image["alt"] for image in page.all("img"))
    for words in ("Histogram of the FLAIR intensities by institution", "Heat map of tumour location", "by slices",
                  "Histogram of tumour volumes", "the tumour is outlined in cyan"):  # fmt: skip
        assert words in alts
    assert "patient's right (R)" in page.text


def test_shares_are_of_what_has_a_mask_and_can_be_read(copied: Path, tmp_path: Path, parse: Parse) -> None:
    first, second, *_ = sorted(path for path in copied.iterdir() if path.is_dir())
    for mask in first.glob("*_mask.tif"):
        mask.unlink()
    broken = second / f"{second.name}_1.tif"
    broken.write_bytes(broken.read_bytes()[:100])
    page = parse(write_data_report(copied, tmp_path / "data.html"))
    tumour = check_data(copied).tumour_slices
    assert "6 patients 29 slices" in page.text
    assert sum(int(row[2]) for row in page.tables["Patients by institution"][1:]) == 29
    assert f"{tumour} slices with tumour ({tumour / 25:.1%} of 25 with a mask)" in page.text


def test_without_masks(copied: Path, tmp_path: Path, parse: Parse) -> None:
    for mask in copied.glob("*/*_mask.tif"):
        mask.unlink()
    page = parse(write_data_report(copied, tmp_path / "data.html"))
    assert "There are no tumours to show: 6 patients without masks, 0 with empty masks." in page.text
    assert "no mask" in page.text
    assert page.tables["Every patient"][1][4:6] == ["undef.", "undef."]
    assert "- no masks" in page.text


def test_errors_come_first(copied: Path, tmp_path: Path, parse: Parse) -> None:
    folder = sorted(path for path in copied.iterdir() if path.is_dir())[0]
    for path in folder.glob("*.tif"):
        path.write_bytes(b"")
    page = parse(write_data_report(copied, tmp_path / "data.html"))
    errors = len(check_data(copied).errors)
    assert f"Read this first. The data check found {errors} errors" in page.text
    assert f"{folder.name} : {folder.name}: none of 5 slices is readable" in page.text
    assert len(page.tables["Every patient"]) == 6
    assert {} not in page.all("details")[:1]
    assert "open" in page.all("details")[0]


def test_long_lists_are_cut(copied: Path, tmp_path: Path, parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_report, "MOST_FINDINGS", 2)
    for mask in copied.glob("*/*_1_mask.tif"):
        mask.unlink()
    page = parse(write_data_report(copied, tmp_path / "data.html"))
    assert "error: slices without a mask (6)" in page.text
    assert "and 4 more" in page.text


def test_one_slice_of_one_patient_of_an_odd_name(tmp_path: Path, parse: Parse) -> None:
    folder = tmp_path / "a & <b>" / "P <i>"
    folder.mkdir(parents=True)
    image = np.zeros((30, 50, 3), np.uint8)
    image[8:22, 10:40] = 90
    mask = np.zeros((30, 50), np.uint8)
    mask[10:14, 30:36] = 255
    tifffile.imwrite(folder / "P <i>_1.tif", image)
    tifffile.imwrite(folder / "P <i>_1_mask.tif", mask)
    page = parse(write_data_report(folder.parent, tmp_path / "data.html"))
    assert "Data in a & <b>" in page.text
    assert not page.all("i")
    assert not page.all("b")[5:]  # the five cards
    assert page.tables["Every patient"][1][:6] == ["P <i>", "unknown", "30 x 50", "1", "1", "24"]
    assert "0% of it in the patients' right half" in " ".join(image["alt"] for image in page.all("img"))


def test_all_patients_unreadable(copied: Path, tmp_path: Path, parse: Parse) -> None:
    for path in copied.glob("*/*.tif"):
        path.write_bytes(b"")
    page = parse(write_data_report(copied, tmp_path / "data.html"))
    assert "No image was readable." in page.text


def test_output_is_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the page is HTML"):
        write_data_report(tmp_path / "absent", tmp_path / "data.csv")


@pytest.mark.parametrize(
    ("values", "edges"), [([3], [2.5, 3.5]), ([1, 3], [0.5, 1.5, 2.5, 3.5]), ([0, 41], np.arange(0, 43, 3) - 0.5)]
)
def test_bars_stand_for_whole_numbers(values: list[int], edges: list[float]) -> None:
    np.testing.assert_array_equal(data_report._whole_bins(values), edges)
