import dataclasses

import numpy as np
import pytest
import torch
from monai.transforms import Affine

from monai_lgg.batch_augmentation import Augmentation, AugmentBatch, change_intensities, change_sequences, move, scale
from monai_lgg.transforms import ScaleVolumeIntensityd

FACTORS = ("zoom", "stretch", "gamma", "contrast")
#: Changes nothing.
NONE = Augmentation(**{f.name: 1.0 if f.name in FACTORS else 0.0 for f in dataclasses.fields(Augmentation)})


def only(**changes: float) -> Augmentation:
    return dataclasses.replace(NONE, **changes)


def batch(count: int = 4, size: tuple[int, int] = (24, 20)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(20, 200, (count, 9, *size), generator=generator, dtype=torch.uint8)
    label = torch.zeros(count, 1, *size, dtype=torch.uint8)
    label[:, :, 3:9, 4:8] = 1
    ranges = torch.tensor([[10.0, 210.0], [20.0, 180.0], [0.0, 250.0]]).repeat(count, 1, 1)
    return {"image": image, "label": label, "intensity_range": ranges}


def test_without_augmentation_it_scales_as_the_inference_does() -> None:
    item = batch(1)
    image, label = AugmentBatch(augmentation=NONE)(item)
    for k in range(3):  # the slice below, itself, above
        volume = {"image": item["image"][0, k::3], "intensity_range": item["intensity_range"][0].tolist()}
        expected = ScaleVolumeIntensityd("image")(volume)["image"]
        torch.testing.assert_close(image[0, k::3], expected, atol=1e-5, rtol=0)
    assert torch.equal(label, item["label"].float())


def test_a_constant_sequence_is_background() -> None:
    flat = torch.full((1, 3, 2, 2), 7.0)
    assert scale(flat, torch.tensor([[[7.0, 7.0]] * 3]), 3).unique().tolist() == [-1]


def test_the_same_seed_gives_the_same_batch_and_the_input_stays() -> None:
    item = batch()
    before = {key: value.clone() for key, value in item.items()}
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(AugmentBatch((16, 16))(item))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][0], results[2][0])
    assert results[0][0].shape == (4, 9, 16, 16)
    assert results[0][1].shape == (4, 1, 16, 16)
    assert all(torch.equal(item[key], value) for key, value in before.items())
    assert float(results[0][0].min()) >= -1
    assert float(results[0][0].max()) <= 1
    assert set(results[0][1].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("changes", "moved"),
    [({"mirror": 1.0}, lambda x: x.flip(-1)), ({"upside_down": 1.0}, lambda x: x.flip(-2))],
)
def test_mirroring_moves_image_and_label_alike(changes: dict[str, float], moved: object) -> None:
    item = batch()
    image, label = AugmentBatch(augmentation=only(**changes))(item)
    plain, _ = AugmentBatch(augmentation=NONE)(item)
    torch.testing.assert_close(image, moved(plain), atol=1e-4, rtol=0)  # type: ignore[operator]
    assert torch.equal(label, moved(item["label"].float()))  # type: ignore[operator]


def test_reversed_neighbours() -> None:
    item = batch()
    image, _ = AugmentBatch(augmentation=only(reverse=1.0))(item)
    plain, _ = AugmentBatch(augmentation=NONE)(item)
    torch.testing.assert_close(image, plain[:, [2, 1, 0, 5, 4, 3, 8, 7, 6]], atol=1e-4, rtol=0)


def test_a_rotation_is_one_in_pixels() -> None:
    """Against MONAI's Affine, on an image that is not square."""
    image = torch.zeros(1, 1, 40, 60)
    image[0, 0, 10:30, 20:50] = 1
    torch.manual_seed(3)
    moved, _ = move(image - 1, image, only(rotation=30.0))
    torch.manual_seed(3)
    angle = float((torch.rand(1) * 60 - 30) * torch.pi / 180)
    errors = [
        float(
            (Affine(rotate_params=sign * angle, padding_mode="zeros", image_only=True)(image[0]) - moved[0] - 1)
            .abs()
            .max()
        )
        for sign in (1, -1)
    ]
    assert min(errors) < 1e-3


def test_zoom_makes_larger_and_smaller() -> None:
    label = torch.zeros(200, 1, 40, 40)
    label[:, :, 15:25, 15:25] = 1
    torch.manual_seed(0)
    _, moved = move(label - 1, label, only(zoom=1.5))
    areas = moved.sum(dim=(1, 2, 3)) / 100
    assert 1.7 < float(areas.max()) < 2.6
    assert 0.3 < float(areas.min()) < 0.65


def test_a_crop_is_of_the_middle_at_the_same_scale() -> None:
    image = torch.arange(24 * 20.0).reshape(1, 1, 24, 20)
    moved, _ = move(image, image, NONE, (16, 12))
    torch.testing.assert_close(moved, image[..., 4:20, 4:16], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"swapped": 1.0}, [3, 2, 1]),
        ({"missing_post": 1.0}, [1, 2, 2]),
        ({}, [1, 2, 3]),
    ],
)
def test_sequences(changes: dict[str, float], expected: list[int]) -> None:
    image = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1, 1).repeat(8, 1, 3, 2, 2)
    assert change_sequences(image, only(**changes))[:, :, 0, 0, 0].tolist() == [expected] * 8


def test_a_missing_pre_contrast_sometimes_goes_with_a_missing_post_contrast() -> None:
    image = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1, 1).repeat(400, 1, 3, 1, 1)
    torch.manual_seed(0)
    changed = change_sequences(image, only(missing_pre=1.0))[:, :, 0, 0, 0]
    assert changed[:, :2].unique().tolist() == [2]
    assert 0.4 < float((changed[:, 2] == 2).float().mean()) < 0.6


def test_one_sequence_alone_is_left() -> None:
    image = torch.rand(2, 1, 3, 4, 4)
    assert torch.equal(change_sequences(image, only(swapped=1.0, missing_pre=1.0)), image)


@pytest.mark.parametrize("name", ["gamma", "contrast"])
def test_intensities_change_by_sequence_and_the_background_stays(name: str) -> None:
    image = torch.full((6, 3, 3, 8, 8), -1.0)
    image[..., 2:6, 2:6] = -0.2
    torch.manual_seed(0)
    changed = change_intensities(image, only(**{name: 1.5}))
    assert torch.equal(changed[..., 0, 0], image[..., 0, 0])
    inner = changed[..., 3, 3]
    assert torch.equal(inner[:, :, 0], inner[:, :, 2])  # neighbours are scaled alike
    assert len(inner[:, :, 0].unique()) == 18
    factor = (inner + 1) / 2 / 0.4
    assert float(factor.max()) > 1.2
    assert float(factor.min()) < 0.85


def test_noise_blur_and_field_change_the_image_a_little() -> None:
    image = torch.full((40, 3, 3, 16, 16), -0.2)
    for changes in ({"noisy": 1.0, "noise": 0.1}, {"bias": 1.0, "bias_size": 0.3}):
        torch.manual_seed(0)
        spread = change_intensities(image, only(**changes)).std(dim=(1, 2, 3, 4))
        assert 0 < float(spread.mean()) < 0.15
    edge = image.clone()
    edge[..., 8:] = 0.5
    blurred = change_intensities(edge, only(blur=1.0))
    assert float(blurred[0, 0, 0, 5, 8]) == pytest.approx((0.5 * 2 - 0.2) / 3, abs=1e-5)
    assert float(blurred[0, 0, 0, 5, 4]) == pytest.approx(-0.2, abs=1e-5)


def test_stripping_blackens_the_outer_layer_alone() -> None:
    rows, columns = np.mgrid[:100, :100]
    radius = torch.from_numpy(np.hypot(rows - 50, columns - 50))
    image = torch.where(radius < 40, 0.3, -1.0).float().repeat(5, 3, 3, 1, 1)
    image[..., 50, 50] = -1  # a dark spot inside is no outside
    torch.manual_seed(0)
    stripped = change_intensities(image, only(stripped=1.0))
    left = [float(radius[item[0, 0] > 0].max()) for item in stripped]
    assert all(40 - 13 < value < 40 - 3 for value in left)
    assert float(stripped[0, 0, 0, 50, 53]) == pytest.approx(0.3, abs=1e-5)
