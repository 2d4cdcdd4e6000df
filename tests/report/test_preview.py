import base64
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from monai_lgg.report.preview import WIDTH, write_preview
from tests.report.conftest import Page

RESULT = {"voxels": 1500, "volume_ml": None, "components": 1, "confidence": 0.9, "flags": []}


def add(output: Path, case: str, flags: tuple[str, ...] = (), picture: bool = True, **facts: object) -> Path:
    """A finished case; its reasons are ``because of <flag>``."""
    folder = output / case
    folder.mkdir(parents=True)
    reasons = [{"name": name, "reason": f"because of {name}"} for name in flags]
    (folder / "result.json").write_text(json.dumps({**RESULT, "case": case, "flags": reasons, **facts}))
    if picture:
        pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((1080, 864)).save(folder / "overlay.png")
    return folder


def read(path: Path) -> Page:
    """The page, and what holds for all of them; its links go to places in it and to the cases' folders."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.raw.startswith("<!DOCTYPE html>")
    assert "Research use only; not a medical device." in page.text
    assert not {"link", "iframe", "object"} & {name for name, _ in page.tags}
    for word in ("http:", "https:", "url(", "@import"):
        assert word not in page.raw
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in page.all("img"))
    for link in page.all("a"):
        target = str(link["href"])
        if target.startswith("#"):
            assert target[1:] in page.ids()
        else:
            assert (path.parent / unquote(target)).exists()
    return page


@pytest.fixture
def output(tmp_path: Path) -> Path:
    add(tmp_path, "sure", confidence=0.95, volume_ml=12.345)
    add(tmp_path, "unsure", confidence=0.55, flags=("missing pre",))
    add(tmp_path, "two flags", confidence=0.9, flags=("missing post", "border", "low confidence"))
    add(tmp_path, "none", confidence=None, voxels=0, components=0, flags=("no tumour",))
    add(tmp_path, "one <flag>", confidence=0.8, flags=("border",), picture=False)
    return tmp_path


def test_most_warnings_first_then_least_confidence(output: Path) -> None:
    """Information does not count as a warning; an empty mask comes before masks of any confidence."""
    page = read(write_preview(output))
    table = page.tables["All cases"]
    assert table[1][1:] == ["2", "0.90", "1,500 voxels", "1", "border, low confidence, missing post"]
    assert table[2][1:] == ["1", "-", "0 voxels", "0", "no tumour"]
    assert table[5][1:] == ["0", "0.95", "12.3 ml", "1", "none"]
    named = [found["data-key"] for found in page.all("th") if "data-key" in found]
    assert named == [found["aria-label"] for found in page.all("article")]
    assert named == ["two flags", "none", "one <flag>", "unsure", "sure"]
    flags = page.tables["Cases by flag"][1:]
    assert flags[0] == ["border", "2", "warning"]
    assert ["missing post", "1", "information"] in flags
    assert len(flags) == 5


def test_words_and_links(output: Path) -> None:
    page = read(write_preview(output))
    assert "low confidence because of low confidence." in page.text
    assert "Confidence 0.95 ; 12.3 ml in 1 component" in page.text  # the figure is bold: a word of its own
    assert "5 cases" in page.text
    assert "3 with a warning" in page.text
    assert "1 without tumour" in page.text
    assert "No overlay was written." in page.text
    links = {found["href"] for found in page.all("a")}
    assert {"two%20flags/", "two%20flags/overlay.png", "one%20%3Cflag%3E/"} <= links


def test_nothing_from_outside_and_small_pictures(output: Path) -> None:
    page = read(write_preview(output))
    assert str(output) not in page.raw
    pictures = [found["src"] for found in page.all("img")]
    assert len(pictures) == 4
    for picture in pictures:
        kind, content = picture.split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.size == (WIDTH, 864 * WIDTH // 1080)
    said = round(np.mean([len(picture) for picture in pictures]) / 1000)
    assert f"reduced to {WIDTH} px, {said} kB a case" in page.text


def test_three_hundred_cases(tmp_path: Path) -> None:
    for index in range(300):
        add(tmp_path, f"P_{index:03}", picture=False, confidence=index / 300)
    page = read(write_preview(tmp_path))
    assert len(page.all("article")) == 300
    assert "open" not in page.all("details")[0]  # the long table is folded


def test_failed_cases_are_named_without_their_reasons(output: Path) -> None:
    (output / "results.csv").write_text(
        "case,status,error\nsure,failed,made from other input /home/Jane Doe/x\nnew,failed,bad\nunsure,done,\n"
    )
    page = read(write_preview(output))
    assert "sure (an earlier result is shown), new. The reasons are in results.csv." in page.text
    assert "Jane" not in page.raw


def test_results_of_before_there_were_flags(tmp_path: Path) -> None:
    folder = add(tmp_path, "old")
    (folder / "result.json").write_text('{"case": "old", "voxels": 7, "volume_ml": null, "components": 1}')
    page = read(write_preview(tmp_path))
    assert page.tables["All cases"][1][1:] == ["0", "-", "7 voxels", "1", "none"]
    assert "7 voxels" in page.text
    assert "No tumour found" not in page.text


def test_partial_folders_and_no_case(tmp_path: Path) -> None:
    add(tmp_path, ".P_1.partial")
    page = read(write_preview(tmp_path))
    assert "0 predicted cases" in page.text
    assert "P_1" not in page.raw


def test_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    add(tmp_path, "M\udcfcller")
    assert 'href="M%FCller/"' in write_preview(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_result_or_picture_costs_no_other_case(output: Path, text: str) -> None:
    before = len(read(write_preview(output)).all("img"))
    add(output, "damaged")
    (output / "damaged" / "result.json").write_text(text)
    (output / "sure" / "overlay.png").write_bytes(b"")
    (output / "results.csv").write_text("case,status,error\ndamaged,failed,result.json is damaged\n")
    page = read(write_preview(output))
    assert "Damaged results, not shown: damaged. Predict them again with --overwrite." in page.text
    assert "Not done in the last call" not in page.text
    assert "5 predicted cases" in page.text
    assert len(page.all("img")) == before - 1


def test_volumes_are_sorted_by_one_unit(tmp_path: Path) -> None:
    add(tmp_path, "small", voxels=461)
    add(tmp_path, "large", voxels=1912, volume_ml=38.2)
    write_preview(tmp_path)
    table = parsed_keys(tmp_path)
    assert table == {"461 voxels": 461, "38.2 ml": 1912}
    (tmp_path / "small" / "result.json").unlink()
    write_preview(tmp_path)
    assert parsed_keys(tmp_path) == {"38.2 ml": 38.2}


def parsed_keys(folder: Path) -> dict[str, float]:
    """What is shown as a volume -> what it is sorted by."""
    text = (folder / "preview.html").read_text()
    found = re.findall(r'data-key="([0-9.]+)"[^>]*>([0-9.,]+ (?:ml|voxels))<', text)
    return {shown: float(key) for key, shown in found}
