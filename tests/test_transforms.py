import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_lgg.transforms import (
    Calibrated,
    Decided,
    GreySequencesd,
    SameSized,
    ScaleVolumeIntensityd,
    ThreeSequencesd,
)


@pytest.mark.parametrize("spatial", [(2, 3), (2, 3, 4)])
def test_flair_alone_is_repeated(spatial: tuple[int, ...]) -> None:
    image = MetaTensor(
        torch.arange(np.prod(spatial)).reshape(1, *spatial), affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))
    )
    result = ThreeSequencesd("image")({"image": image})["image"]
    assert result.shape == (3, *spatial)
    assert all(torch.equal(result[c], image[0]) for c in range(3))
    assert torch.equal(result.affine, image.affine)
    assert result.untyped_storage().nbytes() == image.untyped_storage().nbytes()  # not copied


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_repeated_flair_is_scaled_like_three_copies_of_it(dtype: torch.dtype) -> None:
    flair = MetaTensor(torch.arange(24).reshape(1, 2, 3, 4).to(dtype))
    given = flair.clone()
    steps = [ThreeSequencesd("image"), ScaleVolumeIntensityd("image")]
    alone, copied = {"image": flair}, {"image": flair.repeat(3, 1, 1, 1)}
    for step in steps:
        alone, copied = step(alone), step(copied)
    assert torch.equal(alone["image"], copied["image"])
    assert torch.equal(flair, given)


def test_three_sequences_pass() -> None:
    image = torch.rand(3, 2, 2)
    assert ThreeSequencesd("image")({"image": image})["image"] is image


@pytest.mark.parametrize(
    ("sequences", "missing"),
    [
        ([1, 2, 3], ""),
        ([2, 2, 3], "pre"),
        ([1, 2, 2], "post"),
        ([2, 2, 2], "pre+post"),
        ([1, 2, 1], ""),
        ([2], "pre+post"),
    ],
)
@pytest.mark.parametrize("meta", [False, True])
def test_missing_sequences_are_noted(sequences: list[int], missing: str, meta: bool) -> None:
    """A channel is a copy of FLAIR (index 1) only if every pixel is; that pre and post agree says nothing."""
    image = torch.tensor(sequences).reshape(-1, 1, 1, 1) * torch.ones(len(sequences), 2, 3, 2)
    record = ThreeSequencesd("image")({"image": MetaTensor(image) if meta else image, "case": "P_7"})
    assert record["missing_sequences"] == missing


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float64])
@pytest.mark.parametrize(("grey", "missing"), [((0,), "pre"), ((2,), "post"), ((0, 2), "pre+post")])
def test_flair_stands_in_for_a_sequence_of_one_grey(dtype: torch.dtype, grey: tuple[int, ...], missing: str) -> None:
    image = MetaTensor(torch.arange(36).reshape(3, 2, 3, 2).to(dtype), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    for channel in grey:
        image[channel] = 7
    given = image.clone()
    record = ThreeSequencesd("image")({"image": image})
    assert record["missing_sequences"] == missing
    for channel in range(3):
        assert torch.equal(record["image"][channel], given[1 if channel in grey else channel])
    assert torch.equal(record["image"].affine, given.affine)
    assert torch.equal(image, given)  # what was read may be kept elsewhere


def test_black_slices_and_scans_of_one_grey_stay() -> None:
    black = torch.zeros(3, 2, 3)
    black[1, 1, 1] = 1
    assert ThreeSequencesd("image")({"image": black})["image"] is black
    volume = torch.zeros(3, 2, 3, 2)
    volume[0, 1] = 1
    assert ThreeSequencesd("image")({"image": volume})["image"] is volume


def test_one_other_pixel_is_a_sequence_of_its_own() -> None:
    image = torch.ones(3, 4, 4)
    image[0, 3, 3] = 2
    assert ThreeSequencesd("image")({"image": image})["missing_sequences"] == "post"


def test_a_slice_of_a_missing_sequence_becomes_flair_as_its_volume_does() -> None:
    image = torch.stack([torch.zeros(4, 4), torch.arange(16.0).reshape(4, 4), torch.zeros(4, 4)])
    ranges = [(0.0, 9.0), (0.0, 9.0), (0.0, 7.0)]  # of pre-contrast that of FLAIR; post-contrast is black here alone
    record = ThreeSequencesd("image")({"image": image, "intensity_range": ranges})
    assert torch.equal(record["image"][0], image[1])
    assert torch.equal(record["image"][2], image[2])
    assert record["missing_sequences"] == "pre"


def test_other_channel_counts_name_the_case() -> None:
    with pytest.raises(ValueError, match="P_7: 2 channels; give 1"):
        ThreeSequencesd("image")({"image": torch.zeros(2, 4, 4), "case": "P_7"})
    image = MetaTensor(torch.zeros(4, 2, 2), meta={"filename_or_obj": "a.tif"})
    with pytest.raises(ValueError, match=r"a\.tif: 4 channels"):
        ThreeSequencesd("image")({"image": image})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.float32, torch.float64])
def test_each_channel_is_mapped_from_its_range(dtype: torch.dtype) -> None:
    """Channel 0: minimum 0, median of the head 40, top 120; channel 1 is constant; in channel 2 one voxel is head."""
    image = torch.tensor([[[0, 30], [40, 200]], [[7, 7], [7, 7]], [[50, 50], [50, 52]]]).to(dtype)
    result = ScaleVolumeIntensityd("image")({"image": image})["image"]
    assert result.dtype == torch.float32
    assert torch.allclose(result[0], torch.tensor([[-1, -0.5], [-1 / 3, 1]]))
    assert result[1].tolist() == [[-1, -1], [-1, -1]]
    assert torch.allclose(result[2], torch.tensor([[-1, -1], [-1, -1 / 3]]))


@pytest.mark.parametrize("fat", [200.0, 900.0])
def test_neither_bright_fat_nor_background_moves_the_scale(fat: float) -> None:
    """Ten voxels of noise (5) and any number of zeros are background; the median of the head is 100, so 150 -> 0."""
    image = torch.cat([torch.zeros(50), torch.full((10,), 5.0), torch.full((20,), 100.0), torch.full((5,), fat)])
    result = ScaleVolumeIntensityd("image")({"image": torch.cat([image, torch.tensor([150.0])]).reshape(1, 1, -1)})
    assert result["image"][0, 0, -1].item() == pytest.approx(0)
    assert result["image"].max() == (1 if fat > 300 else pytest.approx(1 / 3))


def test_a_slice_is_scaled_by_the_range_of_its_volume() -> None:
    image = torch.tensor([[[10.0, 20.0]]])
    result = ScaleVolumeIntensityd("image")({"image": image, "intensity_range": [(0, 40)]})["image"]
    assert result.tolist() == [[[-0.5, 0]]]
    with pytest.raises(ValueError, match="1 channels, but intensity ranges of 2"):
        ScaleVolumeIntensityd("image")({"image": image, "intensity_range": [(0, 1), (0, 1)]})


def test_the_input_is_left_alone() -> None:
    image = torch.tensor([[[0.0, 2.0]]])
    ScaleVolumeIntensityd("image")({"image": image})
    assert image.tolist() == [[[0, 2]]]


def test_geometry_is_kept() -> None:
    image = MetaTensor(torch.tensor([[[0.0, 2.0]]]), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    result = ScaleVolumeIntensityd("image")({"image": image})["image"]
    assert torch.equal(result.affine, image.affine)


def test_missing_keys() -> None:
    assert ScaleVolumeIntensityd("image", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError, match="image"):
        ScaleVolumeIntensityd("image")({})


def test_image_and_mask_of_different_size() -> None:
    image = MetaTensor(torch.zeros(3, 30, 20), meta={"filename_or_obj": "p_1.tif"})
    assert set(SameSized(["image", "label"])({"image": image, "label": torch.zeros(1, 30, 20)})) == {"image", "label"}
    with pytest.raises(ValueError, match=r"p_1\.tif: sizes differ \(image 30 x 20, label 20 x 30\)"):
        SameSized(["image", "label"])({"image": image, "label": torch.zeros(1, 20, 30)})


def test_grey_is_the_luma_of_the_three_sequences() -> None:
    image = torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1)
    grey = GreySequencesd("image")({"image": image})["image"]
    assert grey.shape == (1, 1, 1)
    assert grey.item() == pytest.approx(0.299 + 0.5 * 0.587)
    same = GreySequencesd("image")({"image": torch.full((3, 2, 2, 4), 0.7)})["image"]
    assert torch.allclose(same, torch.full((1, 2, 2, 4), 0.7))
    with pytest.raises(ValueError, match="P_1: 1 channels; grey is made of three"):
        GreySequencesd("image")({"image": torch.zeros(1, 2, 2), "case": "P_1"})


def test_calibrated_probabilities_by_hand() -> None:
    """Through (-2, -3), (0, -1) and (4, 1): slopes 1 and 1/2, which go on beyond, so -4 becomes -5 and 6 becomes 2."""
    logits = torch.tensor([-4.0, -2, -1, 0, 2, 4, 6]).reshape(1, 7, 1)
    by_hand = torch.tensor([-5.0, -3, -2, -1, 0, 1, 2]).reshape(1, 7, 1)
    given = logits.clone()
    result = Calibrated("pred", [-2, 0, 4], [-3, -1, 1])({"pred": given})["pred"]
    torch.testing.assert_close(result, torch.sigmoid(by_hand))
    assert torch.equal(given, logits)
    assert torch.equal(Calibrated("pred")({"pred": logits})["pred"], torch.sigmoid(logits))


def test_a_calibration_of_many_rows_is_numpys_interpolation() -> None:
    knots, values = [-12.0, -9, -6, 0, 6, 12], [-11.7, -7.6, -2.8, -0.2, 2.1, 6.5]
    logits = MetaTensor(torch.rand(1, 70, 5, 3, generator=torch.Generator().manual_seed(0)) * 24 - 12)
    result = Calibrated("pred", knots, values)({"pred": logits})["pred"]
    assert isinstance(result, MetaTensor)
    np.testing.assert_allclose(np.log(result / (1 - result)), np.interp(logits, knots, values), atol=1e-2)


@pytest.mark.parametrize(
    ("logits", "calibrated"),
    [([0, 1], [1, 0]), ([0, 0], [0, 1]), ([0, 1, 2], [0, 1, 1]), ([0], [0]), ([0, 1], [0]), ([0, 1], [0, np.nan])],
)
def test_a_calibration_may_not_turn_the_mask_inside_out(logits: list[float], calibrated: list[float]) -> None:
    with pytest.raises(ValueError, match=r"calibration of logits \[.* both lists ascending"):
        Calibrated("pred", logits, calibrated)


def test_a_mask_is_decided_from_probabilities() -> None:
    probability = torch.full((1, 5, 5, 2), 0.4)
    probability[0, :3, :3] = 0.9
    probability[0, 1, 1] = 0.0  # a hole in each slice
    probability[0, 4, 4, 0] = 0.9
    result = Decided("pred", share=0.2, fill=True)({"pred": probability})["pred"]
    assert (result.shape, result.dtype, result.sum()) == (probability.shape, torch.float32, 18)
    assert Decided("pred")({"pred": probability})["pred"].sum() == 17
    assert Decided("pred", threshold=0.4)({"pred": probability})["pred"].sum() == 48
