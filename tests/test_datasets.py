from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from monai_lgg.datasets import VolumeSlices


def read(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "image": record["image"][None], "label": record["label"][None]}


def volume(rows: int, columns: int, slices: int) -> dict[str, Any]:
    """Every slice is a bright head of its own grey, with tumour in slice 1."""
    image = np.full((rows, columns, slices), 3, np.uint8)
    for k in range(slices):
        image[4:12, 6:16, k] = 100 + k
    label = np.zeros_like(image)
    label[5:7, 7:9, 1] = 255
    return {"image": image, "label": label}


def test_a_slice_comes_with_its_neighbours_and_ends_are_repeated() -> None:
    data = VolumeSlices([volume(20, 24, 3)], read, (16, 16))
    greys = [data[k]["image"][:, 8, 8].tolist() for k in range(3)]
    assert greys == [[100, 100, 101], [100, 101, 102], [101, 102, 102]]
    assert data[0]["image"].dtype == torch.uint8
    assert [int(data[k]["label"].sum()) for k in range(3)] == [0, 4, 0]


def test_channels_go_sequence_by_sequence() -> None:
    def two(record: Mapping[str, Any]) -> dict[str, Any]:
        return {**record, "image": np.stack([record["image"], record["image"] // 2]), "label": record["label"][None]}

    item = VolumeSlices([volume(20, 24, 3)], two, (16, 16), neighbours=2)[1]
    assert item["image"][:, 8, 8].tolist() == [100, 100, 101, 102, 102, 50, 50, 50, 51, 51]
    assert item["intensity_range"].shape == (2, 2)


def test_the_head_is_in_the_middle_and_beyond_is_background() -> None:
    item = VolumeSlices([volume(20, 24, 2)], read, (20, 20))[0]
    bright = np.argwhere(item["image"][1].numpy() == 100)
    # rows 4 to 11 have their middle at 8, columns 6 to 15 at 11: shifted by 2 and -1
    assert bright.min(axis=0).tolist() == [6, 5]
    assert bright.max(axis=0).tolist() == [13, 14]
    assert int(item["image"][1, 0, 0]) == 3


def test_integers_stay_integers_when_a_head_is_resized() -> None:
    item = VolumeSlices([volume(20, 24, 3)], read, (20, 20), head_size=(20, 24))[1]  # 8 x 10 becomes 16 x 20
    assert item["image"].dtype == torch.uint8
    bright = np.argwhere(item["image"][1].numpy() == 101)
    assert (bright.max(axis=0) - bright.min(axis=0)).tolist() == [13, 17]  # without the outermost, which are mixed
    assert int(item["label"].sum()) == 16


def test_ranges_are_of_the_whole_volume_or_of_the_record() -> None:
    low, high = VolumeSlices([volume(20, 24, 3)], read, (16, 16))[0]["intensity_range"][0].tolist()
    assert (low, high) == (3, 3 + 3 * (101 - 3))
    given = {**volume(20, 24, 3), "intensity_range": [(1.0, 200.0)]}
    assert VolumeSlices([given], read, (16, 16))[0]["intensity_range"].tolist() == [[1, 200]]


def test_weights_draw_tumour_as_often_as_asked() -> None:
    data = VolumeSlices([volume(20, 24, 5), volume(20, 24, 3)], read, (16, 16))
    weights = data.weights(0.6)
    assert float(weights.sum()) == pytest.approx(1)
    assert weights[[1, 6]].tolist() == pytest.approx([0.3, 0.3])
    assert float(weights[0]) == pytest.approx(0.4 / 6)


def test_without_tumour_all_slices_are_alike() -> None:
    empty = volume(20, 24, 3)
    empty["label"][:] = 0
    assert VolumeSlices([empty], read, (16, 16)).weights(0.6).tolist() == [1, 1, 1]


def test_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no volumes"):
        VolumeSlices([], read, (16, 16))
    with pytest.raises(ValueError, match="tumour_share 1 must be"):
        VolumeSlices([volume(20, 24, 3)], read, (16, 16)).weights(1)
