from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_lgg.report import overlay
from monai_lgg.report.overlay import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    choose_slices,
    outline,
    paint,
    save_contact_sheet,
    with_legend,
)


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_outline_of_a_block() -> None:
    mask = mask_of(".....", ".xxx.", ".xxx.", ".xxx.", ".....")
    wanted = mask_of(".....", ".xxx.", ".x.x.", ".xxx.", ".....")
    np.testing.assert_array_equal(outline(mask), wanted)


def test_outline_at_the_edge_and_of_one_pixel() -> None:
    mask = mask_of("xxx..", "xxx..", "xxx..", ".....", "....x")
    wanted = mask_of("xxx..", "x.x..", "xxx..", ".....", "....x")
    np.testing.assert_array_equal(outline(mask), wanted)


def test_outline_of_nothing() -> None:
    assert not outline(np.zeros((5, 5), bool)).any()


@pytest.mark.parametrize(("size", "factor"), [((90, 240), 1), ((64, 100), 2), ((8, 6), 34)])
def test_legend_below_a_picture(size: tuple[int, int], factor: int) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = with_legend(picture)
    rows, columns = size[0] * factor, size[1] * factor
    assert found.shape == (rows + overlay.LINE, columns, 3)
    np.testing.assert_array_equal(found[:rows:factor, :columns:factor], picture)
    np.testing.assert_array_equal(found[factor - 1 : rows : factor, factor - 1 :: factor], picture)
    strip = found[rows:]
    for half, colour in ((strip[:, : columns // 2], PREDICTION_COLOUR), (strip[:, columns // 2 :], TRUTH_COLOUR)):
        assert (half == colour).all(axis=-1).any(), "each word in its colour"
    assert not (strip[:, [0, -1]] > 0).any(), "the words fit"


def test_colours_and_truth_on_top() -> None:
    image = np.full((5, 5), 10.0)
    image[0, 0] = 0
    prediction = mask_of(".....", ".xx..", "...x.", ".....", ".....")
    truth = mask_of(".....", ".x...", ".....", ".....", "..x..")
    picture = paint(image, prediction, truth)
    assert picture.dtype == np.uint8
    assert picture.shape == (5, 5, 3)
    assert tuple(picture[1, 1]) == TRUTH_COLOUR
    assert tuple(picture[4, 2]) == TRUTH_COLOUR
    assert tuple(picture[1, 2]) == PREDICTION_COLOUR
    assert tuple(picture[2, 3]) == PREDICTION_COLOUR
    assert tuple(picture[0, 0]) == (0, 0, 0)
    assert tuple(picture[3, 3]) == (255, 255, 255)


def test_masks_may_be_numbers_or_missing() -> None:
    image = np.arange(25, dtype=np.uint8).reshape(5, 5)
    plain = paint(image, None)
    assert (plain[..., 0] == plain[..., 2]).all()
    numbers = mask_of(".....", ".xxx.", ".xxx.", ".xxx.", ".....").astype(np.uint8)
    np.testing.assert_array_equal(paint(image, numbers), paint(image, numbers > 0))


@pytest.mark.parametrize("value", [0, 7, -3.5])
def test_constant_image_is_black(value: float) -> None:
    assert not paint(np.full((5, 5), value), None).any()


def test_input_is_left_alone() -> None:
    image, mask = np.arange(25.0).reshape(5, 5), np.ones((5, 5), bool)
    before = image.copy()
    paint(image, mask, mask)
    np.testing.assert_array_equal(image, before)
    assert mask.all()


def volume(*with_tumour: int, depth: int = 10) -> np.ndarray:
    mask = np.zeros((6, 4, depth), bool)
    mask[1:4, 1:3, list(with_tumour)] = True
    return mask


def test_choose_slices() -> None:
    assert choose_slices(volume(2, 5), volume(7), 12) == [2, 5, 7]
    assert choose_slices(volume(*range(9)), None, 3) == [0, 4, 8]
    assert choose_slices(volume(), None, 4) == [0, 3, 6, 9]
    assert choose_slices(volume(4), None, 1) == [4]


Panels = list[tuple[str, np.ndarray]]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Panels, list[str]]]:
    """What goes on each sheet that is drawn from here on: heading, panels and names of the legend."""
    found: list[tuple[str, Panels, list[str]]] = []
    draw = overlay.draw_sheet

    def keep(heading: str, panels: Panels, legend: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
        found.append((heading, panels, [name for name, _ in legend]))
        return draw(heading, panels, legend)

    monkeypatch.setattr(overlay, "draw_sheet", keep)
    return found


def test_contact_sheet_shows_the_chosen_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = drawn(monkeypatch)
    flair = np.random.default_rng(0).random((6, 4, 10))
    numbers = list(range(11, 21))
    save_contact_sheet(tmp_path / "a.png", "P_1", flair, volume(1, 2, 3, 4), volume(9), numbers)
    heading, panels, legend = sheets[0]
    assert heading == "P_1"
    assert [caption for caption, _ in panels] == ["slice 12", "slice 13", "slice 14", "slice 15", "slice 20"]
    np.testing.assert_array_equal(panels[4][1], paint(flair[..., 9], volume()[..., 0], volume(9)[..., 9]))
    assert legend == ["prediction", "truth"]
    with Image.open(tmp_path / "a.png") as picture:
        height = round(overlay.PANEL * 6 / 4)
        assert picture.size == (4 * overlay.PANEL, 2 * height + 4 * overlay.LINE)


def test_panels_lie_row_by_row() -> None:
    """Five panels of one colour each, four beside each other."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    panels = [("", np.full((4, 4, 3), colour, np.uint8)) for colour in colours]
    sheet = overlay.draw_sheet("", panels, [])
    side, line = overlay.PANEL, overlay.LINE
    centres = [(n % 4 * side + side // 2, 2 * line + n // 4 * (side + line) + side // 2) for n in range(5)]
    assert [sheet.getpixel(centre) for centre in centres] == colours


def test_contact_sheet_says_when_nothing_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets = drawn(monkeypatch)
    save_contact_sheet(tmp_path / "a.png", "P_1", np.zeros((6, 4, 2)), volume(depth=2))
    assert sheets[0][0] == "P_1: no tumour predicted"
