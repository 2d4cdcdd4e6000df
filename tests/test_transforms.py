import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_lgg.transforms import ThreeSequencesd, ToPublicRanged


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


def test_uint8_is_taken_as_it_is() -> None:
    result = ToPublicRanged("image")({"image": torch.tensor([[[10, 20]]], dtype=torch.uint8)})["image"]
    assert result.dtype == torch.float32
    assert result.tolist() == [[[10, 20]]]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int16, torch.int32, torch.float32, torch.float64])
def test_other_types_are_mapped_per_channel(dtype: torch.dtype) -> None:
    image = torch.tensor([[[0, 100], [300, 400]], [[7, 7], [7, 7]], [[50, 50], [50, 52]]]).to(dtype)
    result = ToPublicRanged("image")({"image": image})["image"]
    assert result.dtype == torch.float32
    assert result[0].tolist() == [[0, 63.75], [191.25, 255]]
    assert result[1].tolist() == [[0, 0], [0, 0]]
    assert result[2].tolist() == [[0, 0], [0, 255]]


def test_the_top_half_percent_is_clipped() -> None:
    image = torch.arange(1001.0).reshape(1, 1, 1001)  # 1000 voxels above the minimum: the percentile is 995
    result = ToPublicRanged("image")({"image": image})["image"][0, 0]
    assert result[995] == 255
    assert result[1000] == 255
    assert result[199].item() == pytest.approx(51)


def test_the_input_is_left_alone() -> None:
    image = torch.tensor([[[0.0, 2.0]]])
    ToPublicRanged("image")({"image": image})
    assert image.tolist() == [[[0, 2]]]


def test_geometry_is_kept() -> None:
    image = MetaTensor(torch.tensor([[[0.0, 2.0]]]), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    result = ToPublicRanged("image")({"image": image})["image"]
    assert torch.equal(result.affine, image.affine)


def test_missing_keys() -> None:
    assert ToPublicRanged("image", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError, match="image"):
        ToPublicRanged("image")({})
