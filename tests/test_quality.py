import math
from pathlib import Path

import numpy as np
import pytest

from monai_lgg import reference as references
from monai_lgg.phantom import write_patients
from monai_lgg.quality import Flag, confidence, quality_flags, uncertainty
from monai_lgg.reference import (
    Range,
    Reference,
    appearance,
    build_reference,
    load_reference,
    looks_like,
    measure_reference,
    save_reference,
    turned,
    unlike,
    write_reference,
)

SIZE = (48, 40, 10)


def head(seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """(3, 48, 40, 10) in [-1, 1]: an egg, narrow in front and above, on black; the sequences differ in their inside."""
    rng = np.random.default_rng(seed)
    rows, columns, slices = np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij")
    across = (columns - 19.5) / (10 + 6 * rows / 47 + rng.uniform(-0.5, 0.5))
    along, up = (rows - 23.5) / 20, (slices - 2) / (8 + rng.uniform(-0.3, 0.3))
    radius = np.sqrt(across**2 + along**2 + up**2)
    inside, core = radius < 1, radius < 0.35
    folds = 0.25 * np.sin(rows / 3) * np.sin(columns / 3)
    image = np.zeros((3, *SIZE))
    for channel, (rim, middle) in enumerate(((1.8, 0.5), (1.4, 1.6), (1.2, 0.7))):
        tissue = np.where(core, middle, 1.0 + folds + (rim - 1.0) * (radius > 0.85))
        image[channel] = np.where(inside, tissue + rng.normal(0, noise, SIZE), 0)
    return np.clip(image / 3 * 2 - 1, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build_reference([measured(head(seed)) for seed in range(12)])


def measured(image: np.ndarray) -> references.Appearance:
    found = appearance(image)
    assert found is not None
    return found


def spot(*corner: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[tuple(slice(start, start + 3) for start in corner)] = True
    return mask


def names(flags: list[Flag]) -> list[str]:
    return [flag.name for flag in flags]


def test_uncertainty_in_bits() -> None:
    bits = uncertainty(np.array([0.0, 0.5, 1.0, 0.25, 1.0000001], np.float32))
    assert bits.dtype == np.float32
    # 0.25: 0.25 * 2 + 0.75 * log2(4 / 3)
    np.testing.assert_allclose(bits, [0, 1, 0, 0.5 + 0.75 * math.log2(4 / 3), 0], atol=1e-6)


def test_confidence_is_the_dice_of_the_expected_overlap_and_sizes() -> None:
    probability = np.array([0.9, 0.7, 0.4, 0.0])
    assert confidence(probability, probability >= 0.5) == pytest.approx(2 * 1.6 / (2.0 + 2))
    assert confidence(np.array([1.0, 0.0]), np.array([True, False])) == 1.0
    assert math.isnan(confidence(probability, probability > 1))


def test_confidence_is_the_mean_dice_of_truths_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    probability = rng.beta(0.2, 0.4, 4000)
    mask = probability >= 0.5
    dices = []
    for _ in range(200):
        truth = rng.random(4000) < probability
        dices.append(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
    assert confidence(probability, mask) == pytest.approx(np.mean(dices), abs=0.005)


def test_a_sure_mask_in_the_middle_has_no_flags(reference: Reference) -> None:
    mask = spot(20, 15, 4)
    assert quality_flags(mask * 0.95, mask, head(50), reference) == []
    assert quality_flags(mask * 0.95, mask, head(50)) == []


def test_no_tumour_says_how_sure_that_is() -> None:
    (flag,) = quality_flags(np.full(SIZE, 0.3125), np.zeros(SIZE, bool), head())
    assert (flag.name, flag.reason) == ("no tumour", "no tumour was found; the largest probability is 0.31")


def test_low_confidence() -> None:
    mask = spot(20, 15, 4)
    (flag,) = quality_flags(mask * 0.5, mask, head())  # 2 * 13.5 / (13.5 + 27)
    assert (flag.name, flag.reason) == ("low confidence", "the expected Dice is 0.67, below 0.7")
    assert quality_flags(mask * 0.5, mask, head(), low_confidence=0.6) == []


def test_several_components_only_where_the_others_matter() -> None:
    mask = spot(20, 15, 4)
    mask[30, 20, 2:6] = True  # 4 of 31 voxels: the main part is 87 %
    assert quality_flags(mask * 1.0, mask, head()) == []
    mask[30, 20, 2:7] = True
    (flag,) = quality_flags(mask * 1.0, mask, head())
    assert flag.name == "several components"
    assert flag.reason.startswith("the mask is in 2 parts; the largest is 84% of it")


@pytest.mark.parametrize(
    ("corner", "words"),
    [
        ((20, 15, 0), "the first slice"),
        ((20, 15, 7), "the last slice"),
        ((0, 15, 4), "the front edge of the image"),
        ((45, 15, 4), "the back edge of the image"),
        ((20, 0, 4), "the left edge of the image"),
        ((20, 37, 4), "the right edge of the image"),
        ((45, 15, 0), "the back edge of the image and the first slice"),
    ],
)
def test_border(corner: tuple[int, ...], words: str) -> None:
    mask = spot(*corner)
    (flag,) = quality_flags(mask * 1.0, mask, head())
    assert flag == Flag("border", f"the mask reaches {words}; tumour beyond it is not in the image")


def test_black_slices_at_the_ends_do_not_hide_the_border() -> None:
    image = head()
    image[..., 8:] = -1
    mask = spot(20, 15, 5)  # its last slice is the last with head
    assert names(quality_flags(mask * 1.0, mask, image)) == ["border"]


def test_constant_images() -> None:
    black = np.full((3, *SIZE), -1, np.float32)
    found = quality_flags(np.zeros(SIZE), np.zeros(SIZE, bool), black)
    assert names(found) == ["constant", "no tumour"]
    assert found[0].reason == "pre-contrast and FLAIR and post-contrast: one grey everywhere; check the export"
    image = head()
    image[2] = -1
    mask = spot(20, 15, 4)
    (flag,) = quality_flags(mask * 1.0, mask, image)
    assert flag.reason == "post-contrast: one grey everywhere; repeat FLAIR where a sequence is missing"


def test_black_slices_inside_the_head() -> None:
    image, mask = head(), spot(20, 15, 4)
    image[1, ..., 3] = -1
    image[0, ..., 1:3] = -1
    image[:, ..., 9] = -1  # at the end: common
    image[2, ..., 6:] = -1
    (flag,) = quality_flags(mask * 1.0, mask, image)
    assert flag == Flag(
        "black slices", "pre-contrast: 2 black slices inside the head; FLAIR: 1 black slice inside the head"
    )
    image[2, ..., 5] = -1  # now 5 to 8 are black where FLAIR has head
    (flag,) = quality_flags(mask * 1.0, mask, image)
    assert flag.reason.endswith("; post-contrast: 4 black slices inside the head")


def test_missing_sequences_are_information() -> None:
    mask = spot(20, 15, 4)
    flair = np.repeat(head()[1:2], 3, axis=0)
    assert names(quality_flags(mask * 1.0, mask, flair)) == ["missing pre", "missing post"]


def test_one_slice(reference: Reference) -> None:
    mask = spot(20, 15, 4)[..., 4:5]
    assert names(quality_flags(mask * 1.0, mask, head()[..., 4:5], reference)) == ["one slice"]


def test_grey_images_are_not_compared(reference: Reference) -> None:
    mask = spot(20, 15, 4)
    assert quality_flags(mask * 1.0, mask, head()[1:2], reference) == []


def test_ct() -> None:
    """Hounsfield units counted from air: brain 30 +- 5, skull 1000."""
    rng = np.random.default_rng(0)
    shape = head()[1] > -1
    units = np.where(shape, 30 + rng.normal(0, 5, SIZE), -1000.0)
    units[shape & (head()[1] > 0.1)] = 1000
    volume = (units + 1000) / 1030
    image = np.repeat(np.clip(volume / 3 * 2 - 1, -1, 1)[None], 3, axis=0).astype(np.float32)
    mask = spot(20, 15, 4)
    found = quality_flags(mask * 1.0, mask, image)
    assert names(found) == ["CT", "missing pre", "missing post"]
    assert "within 5% of its median, as in CT" in found[0].reason


def test_what_does_not_fit_is_refused() -> None:
    mask = spot(20, 15, 4)
    with pytest.raises(ValueError, match="sizes differ"):
        quality_flags(mask[1:] * 1.0, mask, head())
    with pytest.raises(ValueError, match="NaN or infinite"):
        quality_flags(np.full(SIZE, np.nan), mask, head())
    image = head()
    image[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        quality_flags(mask * 1.0, mask, image)


def test_ranges_hold_four_deviations_or_a_tenth_or_the_extremes() -> None:
    narrow = Range(mean=1.0, sd=0.1, min=0.9, max=1.1)
    assert [narrow.holds(value) for value in (0.59, 0.61, 1.39, 1.41)] == [False, True, True, False]
    assert [Range(40, 0, 40, 40).holds(value) for value in (35.9, 36.1, 43.9, 44.1)] == [False, True, True, False]
    assert Range(mean=1.0, sd=0.1, min=0.9, max=9.0).holds(8.9)
    wide = Range(mean=34, sd=16, min=18, max=80)
    assert [wide.holds(value) for value in (8.9, 9.1, 97, 99)] == [False, True, True, False]
    assert Range(mean=0.2, sd=0.3, min=-0.3, max=0.8).holds(-0.9)


def test_unlike_the_training(reference: Reference) -> None:
    assert unlike(measured(head(50)), reference) == ([], [])
    noisy = unlike(measured(head(50, noise=0.3)), reference)[1]
    assert any(reason.startswith("FLAIR: difference between neighbouring pixels 0.") for reason in noisy)
    assert looks_like(measured(head(50, noise=0.3)[[2, 1, 0]]), reference) == {}  # of noise nothing is said
    geometry, _ = unlike(measured(head(50).repeat(2, axis=1)), reference)
    assert "80 px from the head's front to its back, training 40" in geometry


def test_flags_name_what_is_unlike(reference: Reference) -> None:
    mask = spot(20, 15, 4).repeat(2, axis=0)
    found = quality_flags(mask * 1.0, mask, head(50).repeat(2, axis=1), reference)
    assert "unusual geometry" in names(found)
    assert "training 40" in found[0].reason
    short = head(50)[..., 4:6]  # 2 of 9 to 10 slices: nothing else is compared
    assert names(quality_flags(mask[:48, :, 4:6] * 0.0, mask[:48, :, 4:6] & False, short, reference)) == [
        "unusual geometry",
        "no tumour",
    ]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ((0, 1, 2), {}),
        ((2, 1, 0), {"pre-contrast": "post-contrast", "post-contrast": "pre-contrast"}),
        ((1, 0, 2), {"pre-contrast": "FLAIR", "FLAIR": "pre-contrast"}),
        ((0, 0, 2), {"FLAIR": "pre-contrast"}),
        ((1, 1, 1), {}),
        ((2, 2, 2), {"FLAIR": "post-contrast"}),
    ],
)
def test_which_sequence_is_which(reference: Reference, order: tuple[int, ...], wanted: dict[str, str]) -> None:
    image = head(50)[list(order)]
    assert looks_like(measured(image), reference) == wanted
    mask = spot(20, 15, 4)
    assert ("wrong sequence" in names(quality_flags(mask * 1.0, mask, image, reference))) is bool(wanted)


def test_how_the_head_lies(reference: Reference) -> None:
    image = head(50)
    assert turned(measured(image), reference) is None
    assert turned(measured(image[:, :, ::-1]), reference) is None  # left and right cannot be told
    assert turned(measured(image[:, ::-1]), reference) == "back to front"
    assert turned(measured(image[..., ::-1]), reference) == "with its slices from top to bottom"
    assert turned(measured(np.rot90(image, axes=(1, 2))), reference) == "turned by 90 degrees"
    mask = spot(20, 15, 4)
    assert "wrong orientation" in names(quality_flags(mask * 1.0, mask, image[..., ::-1], reference))


def test_coarse_head_keeps_the_mean() -> None:
    """16 cells over 24 rows: each cell covers a row and a half."""
    volume = np.repeat(np.arange(24.0)[:, None, None], 16, axis=1).repeat(8, axis=2)
    cells = references._coarse(volume)
    assert cells.shape == (16, 16, 8)
    np.testing.assert_allclose(cells[:4, 0, 0], [(0 + 0.5) / 1.5, (0.5 + 2) / 1.5, (3 + 2) / 1.5, (2 + 5) / 1.5])


def test_no_head() -> None:
    assert appearance(np.full((3, *SIZE), -1, np.float32)) is None


def test_too_few_patients() -> None:
    with pytest.raises(ValueError, match="9 patients; a reference needs at least 10"):
        build_reference([measured(head(seed)) for seed in range(9)])


def test_a_sequence_that_few_patients_have_is_not_judged() -> None:
    images = [head(seed) for seed in range(12)]
    for image in images[3:]:
        image[2] = image[1]
    reference = build_reference([measured(image) for image in images])
    assert set(reference.weights) == {"pre-contrast", "FLAIR"}
    assert not any(name.startswith("post-contrast") for name in reference.ranges)
    assert looks_like(measured(head(50)), reference) == {}
    assert looks_like(measured(head(50)[[1, 0, 2]]), reference) == {"pre-contrast": "FLAIR", "FLAIR": "pre-contrast"}


def test_file(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    save_reference(path, reference)
    again = load_reference(path)
    assert again is not None
    assert again.patients == 12
    assert again.ranges["head rows"].mean == pytest.approx(reference.ranges["head rows"].mean, rel=1e-4)
    np.testing.assert_allclose(again.coarse["FLAIR"], reference.coarse["FLAIR"], atol=0.005)
    image = head(50)[[2, 1, 0]]
    assert looks_like(measured(image), again) == looks_like(measured(image), reference) != {}
    assert load_reference(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", ["no json", "{}", '{"version": 0, "coarse_shape": [16, 16, 8]}', "[]"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(ValueError, match="not a reference of version 1"):
        load_reference(tmp_path / "reference.json")


def test_measured_on_a_data_folder(tmp_path: Path) -> None:
    write_patients(tmp_path / "kaggle_3m", 10, seed=1, size=(48, 48), slices=8)
    reference = measure_reference(tmp_path)
    assert reference.patients == 10
    assert 30 <= reference.ranges["head rows"].max <= 48
    with pytest.raises(ValueError, match="1 patients"):
        measure_reference(tmp_path, [next((tmp_path / "kaggle_3m").glob("TCGA*")).name])


def test_a_training_of_few_patients_has_no_reference(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        write_reference(tmp_path / "reference.json", tmp_path, ["one", "two"])
    assert "2 patients: no reference.json, which needs 10" in caplog.text
    assert not (tmp_path / "reference.json").exists()


def test_cells_of_the_coarse_head_cut_voxels() -> None:
    """3 voxels into 2 cells: the middle one is shared."""
    np.testing.assert_allclose(references._shares(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])


def test_normalized_within_the_head() -> None:
    """Z-scores of the head with zeros around it: the background is grey."""
    image = head()
    inside = image > -1
    scores = np.where(inside, (image - image[inside].mean()) / image[inside].std(), 0)
    image = ((scores - scores.min()) / (scores.max() - scores.min()) * 2 - 1).astype(np.float32)
    mask = spot(20, 15, 4)
    found = {flag.name: flag.reason for flag in quality_flags(mask * 1.0, mask, image)}
    assert "as after a z-score within the head: give the original" in found["normalized"]
    assert "CT" not in found
    assert "normalized" not in names(quality_flags(mask * 1.0, mask, head()))
