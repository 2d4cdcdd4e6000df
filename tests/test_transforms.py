import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_lgg.transforms import SameSized, ScaleVolumeIntensityd, ThreeSequencesd


@pytest.mark.parametrize("spatial", [(2, 3), (2, 3, 4)])
def test_flair_alone_is_repeated(spatial: tuple[int, ...]) -> None:
    image = MetaTensor(
        torch.arange(np.prod(spatial)).reshape(1, *spatial), affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))
    )
    result = ThreeSequencesd("image")({"image": image})["image"]
    assert result.shape == (3, *spatial)
    assert all(torch.equal(result[c], image[0]) for c in range(3))
    assert torch.equal(result.affine, image.affine)


def test_three_sequences_pass() -> None:
    image = torch.rand(3, 2, 2)
    assert ThreeSequencesd("image")({"image": image})["image"] is image


def test_other_channel_counts_name_the_case() -> None:
    with pytest.raises(ValueError, match="P_7: 2 channels; give 1"):
        ThreeSequencesd("image")({"image": torch.zeros(2, 4, 4), "case": "P_7"})
    image = MetaTensor(torch.zeros(4, 2, 2), meta={"filename_or_obj": "a.tif"})
    with pytest.raises(ValueError, match=r"a\.tif: 4 channels"):
        ThreeSequencesd("image")({"image": image})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.float32, torch.float64])
def test_each_channel_is_mapped_from_its_range(dtype: torch.dtype) -> None:
    """Channel 0: minimum 0, top 200; channel 1 is constant; channel 2 has one voxel above its minimum."""
    image = torch.tensor([[[0, 50], [200, 200]], [[7, 7], [7, 7]], [[50, 50], [50, 52]]]).to(dtype)
    result = ScaleVolumeIntensityd("image")({"image": image})["image"]
    assert result.dtype == torch.float32
    assert result[0].tolist() == [[-1, -0.5], [1, 1]]
    assert result[1].tolist() == [[-1, -1], [-1, -1]]
    assert result[2].tolist() == [[-1, -1], [-1, 1]]


def test_the_top_half_percent_is_clipped() -> None:
    image = torch.arange(1002.0).reshape(1, 1, 1002)  # 1001 voxels above the minimum: the percentile is 996
    result = ScaleVolumeIntensityd("image")({"image": image})["image"][0, 0]
    assert result[996] == result[1001] == 1
    assert result[249].item() == pytest.approx(-0.5)


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
