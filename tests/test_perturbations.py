import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from monai_lgg import perturbations
from monai_lgg.perturbations import FLAIR, LEVELS, PERTURBATIONS, POST, PRE, Strength, Volume
from monai_lgg.phantom import make_patient

SAME_PLACE = {
    "flair_only", "pre_missing", "post_missing", "pre_post_swapped", "scale_offset", "gamma", "raw_16bit", "quantized",
    "noise", "bias_field", "blur", "gibbs", "ghosting",
}  # fmt: skip
ALL = [(name, strength.level) for name, item in PERTURBATIONS.items() for strength in item.strengths]


@pytest.fixture(scope="module")
def volume() -> Volume:
    patient = make_patient(0, seed=1, size=(64, 72), slices=8)
    sequences = patient.image.transpose(3, 1, 2, 0)
    sequences.flags.writeable = False
    mask = patient.mask.transpose(1, 2, 0)
    mask.flags.writeable = False
    return Volume("phantom", sequences, mask)


def small() -> Volume:
    """2 x 3 x 4, every voxel of every sequence another number."""
    return Volume("small", np.arange(72, dtype=np.uint8).reshape(3, 2, 3, 4), np.zeros((2, 3, 4), bool))


def strength(name: str, level: str) -> Strength:
    return next(item for item in PERTURBATIONS[name].strengths if item.level == level)


def apply(name: str, level: str, volume: Volume) -> Volume:
    return PERTURBATIONS[name].apply(volume, strength(name, level))


@pytest.mark.parametrize(("name", "level"), ALL)
def test_contract(volume: Volume, name: str, level: str) -> None:
    perturbed, again = apply(name, level, volume), apply(name, level, volume)
    np.testing.assert_array_equal(perturbed.sequences, again.sequences)
    np.testing.assert_array_equal(perturbed.mask, again.mask)
    assert perturbed.case == "phantom"
    assert perturbed.mask.any()
    assert np.isfinite(perturbed.sequences).all()
    assert not np.shares_memory(perturbed.sequences, volume.sequences)
    assert (perturbed.mask is volume.mask) == (name in SAME_PLACE)
    changed = perturbed.sequences.shape != volume.sequences.shape or (perturbed.sequences != volume.sequences).any()
    assert changed or (name, level) == ("reoriented", "mild")  # display order is what the volume has already


def test_every_perturbation_has_three_strengths_or_one_and_says_them() -> None:
    for name, item in PERTURBATIONS.items():
        assert item.name == name
        assert item.words
        levels = tuple(one.level for one in item.strengths)
        assert levels in (LEVELS, ("only",))
        assert len({one.words for one in item.strengths} - {""}) == len(levels)


@pytest.mark.parametrize("name", ["noise", "bias_field", "blur", "gibbs", "ghosting", "quantized"])
def test_stronger_is_farther_from_the_volume(volume: Volume, name: str) -> None:
    errors = [np.abs(apply(name, level, volume).sequences - volume.sequences.astype(float)).mean() for level in LEVELS]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_noise_is_another_for_another_case_but_not_another_process(volume: Volume) -> None:
    one = apply("noise", "mild", volume).sequences
    other = apply("noise", "mild", replace(volume, case="other")).sequences
    assert (one != other).mean() > 0.9
    code = "from monai_lgg.perturbations import seed_of; print(seed_of('phantom', 'noise'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == perturbations.seed_of("phantom", "noise")


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("flair_only", "mild", (FLAIR, FLAIR, FLAIR)),
        ("flair_only", "medium", (FLAIR,)),
        ("flair_only", "strong", (None, FLAIR, None)),
        ("pre_missing", "mild", (FLAIR, FLAIR, POST)),
        ("pre_missing", "medium", (POST, FLAIR, POST)),
        ("pre_missing", "strong", (None, FLAIR, POST)),
        ("post_missing", "mild", (PRE, FLAIR, FLAIR)),
        ("post_missing", "medium", (PRE, FLAIR, PRE)),
        ("post_missing", "strong", (PRE, FLAIR, None)),
        ("pre_post_swapped", "only", (POST, FLAIR, PRE)),
    ],
)
def test_sequences(name: str, level: str, expected: tuple[int | None, ...]) -> None:
    volume = small()
    perturbed = apply(name, level, volume)
    black = np.zeros((2, 3, 4))
    wanted = np.stack([black if item is None else volume.sequences[item] for item in expected])
    np.testing.assert_array_equal(perturbed.sequences, wanted)


@pytest.mark.parametrize(("name", "level"), [item for item in ALL if item[0] != "skull_stripped"])
def test_flair_alone_can_be_perturbed_too(volume: Volume, name: str, level: str) -> None:
    alone = replace(volume, sequences=volume.sequences[[FLAIR]])
    perturbed, whole = apply(name, level, alone), apply(name, level, volume)
    assert perturbed.mask.shape == whole.mask.shape
    if name not in ("noise", "pre_missing", "post_missing"):  # seeds go by channel
        channel = FLAIR if len(perturbed.sequences) == 3 else 0
        whole_channel = FLAIR if len(whole.sequences) == 3 else 0
        if name != "raw_16bit":
            np.testing.assert_allclose(perturbed.sequences[channel], whole.sequences[whole_channel], rtol=1e-5)


def test_intensities_by_hand() -> None:
    flat = Volume("flat", np.array([0, 50, 100], np.uint8).reshape(1, 3, 1, 1).repeat(3, 0), np.zeros((3, 1, 1), bool))
    scaled = apply("scale_offset", "strong", flat).sequences[..., 0, 0]
    np.testing.assert_allclose(scaled, [[-200, -185, -170], [1000, 2250, 3500], [50, 250, 450]])
    assert scaled.dtype == np.float32
    curve = apply("gamma", "strong", flat).sequences[0, :, 0, 0]
    np.testing.assert_allclose(curve, [0, 100 * 0.5**1.8, 100], rtol=1e-5)
    raw = apply("raw_16bit", "medium", flat).sequences[0, :, 0, 0]
    assert raw.dtype == np.int16
    assert raw.tolist() == [-1024, 976, 2976]
    coarse = apply("quantized", "strong", flat).sequences[0, :, 0, 0]
    assert coarse.dtype == np.uint8
    assert coarse.tolist() == [0, 53, 100]  # 7.5 of 15 steps of 6.67 rounds to the even 8


def test_hot_voxels_are_few_and_in_all_sequences(volume: Volume) -> None:
    hot = apply("raw_16bit", "strong", volume).sequences == 65535
    assert 15 <= hot[0].sum() <= 20
    assert (hot[0] == hot[2]).all()


def test_noise_is_rician_of_the_stated_size() -> None:
    """Where there is no signal the mean is sigma x sqrt(pi / 2), where it is strong the deviation is sigma."""
    sequences = np.zeros((3, 80, 80, 4), np.uint8)
    sequences[:, 40:] = 200  # the head: its median is 200
    noisy = apply("noise", "strong", Volume("n", sequences, np.zeros((80, 80, 4), bool))).sequences
    sigma = 0.15 * 200
    assert noisy[0, :40].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)
    assert noisy[0, 40:].std() == pytest.approx(sigma, rel=0.03)
    assert abs(np.corrcoef(noisy[0, 40:].ravel(), noisy[1, 40:].ravel())[0, 1]) < 0.05


def test_bias_field_spans_the_stated_ratio_and_is_smooth() -> None:
    sequences = np.zeros((3, 40, 48, 6), np.uint8)
    sequences[:, 8:32, 8:40] = 100
    field = apply("bias_field", "medium", Volume("b", sequences, np.zeros((40, 48, 6), bool))).sequences / 100
    inside = field[:, 8:32, 8:40]
    assert 1.6 < inside.max() / inside.min() <= 1.8 + 1e-5  # the head has a soft edge, beyond which it goes on
    assert np.abs(np.diff(inside, axis=1)).max() < 0.1
    np.testing.assert_array_equal(field[0], field[1])
    assert not field[:, :8].any()


def test_ghost_lies_half_a_field_of_view_away() -> None:
    sequences = np.zeros((1, 8, 4, 1), np.uint8)
    sequences[0, 1, 2, 0] = 100
    ghosted = apply("ghosting", "strong", Volume("g", sequences, np.zeros((8, 4, 1), bool))).sequences[0, :, :, 0]
    expected = np.zeros((8, 4))
    expected[1, 2], expected[5, 2] = 80, 20
    np.testing.assert_allclose(ghosted, expected, atol=1e-4)


def test_blur_and_ringing_stay_within_the_slice() -> None:
    sequences = np.zeros((1, 16, 16, 3), np.uint8)
    sequences[0, 8, 8, 1] = 200
    volume = Volume("one", sequences, np.zeros((16, 16, 3), bool))
    for name in ("blur", "gibbs"):
        perturbed = apply(name, "strong", volume).sequences[0]
        assert not perturbed[..., [0, 2]].any()
        assert perturbed[8, 9, 1] > 0
        assert perturbed[8, 8, 1] < 200


def test_stripping_takes_the_scalp_and_leaves_the_brain() -> None:
    """A bright ring (scalp), a dark one (bone), a disc (brain), by radius in pixels."""
    rows, columns = np.mgrid[:80, :80] - 39.5
    radius = np.hypot(rows, columns)
    disc = np.select([radius < 28, radius < 32, radius < 36], [100, 5, 180], 0).astype(np.uint8)
    sequences = np.repeat(disc[None, :, :, None], 3, axis=0).repeat(3, axis=3)
    mask = np.repeat((radius < 36)[..., None], 3, axis=2)
    volume = Volume("head", sequences, mask)
    found = {level: apply("skull_stripped", level, volume) for level in LEVELS}
    for perturbed in found.values():
        np.testing.assert_array_equal(perturbed.mask, mask & (perturbed.mask))
        assert (perturbed.sequences[:, ~perturbed.mask] == 0).all()
        assert not perturbed.mask[radius > 34].any()
    assert found["medium"].mask[radius < 26].all()
    assert not found["medium"].mask[radius > 31].any()
    sizes = [found[level].mask.sum() for level in LEVELS]
    assert sizes[0] > sizes[1] > sizes[2]
    np.testing.assert_array_equal(found["medium"].sequences[:, 40, 40], sequences[:, 40, 40])


def test_matrix_size_covers_the_same_field_of_view() -> None:
    mask = np.zeros((8, 12, 2), bool)
    mask[2:4, 4:8, 1] = True
    volume = Volume("m", np.repeat(mask[None] * np.uint8(100), 3, axis=0), mask)
    double = apply("matrix_size", "medium", volume)
    assert double.sequences.shape == (3, 16, 24, 2)
    assert double.sequences.dtype == np.uint8
    assert double.affine is None
    np.testing.assert_array_equal(double.mask, mask.repeat(2, axis=0).repeat(2, axis=1))
    half = apply("matrix_size", "strong", volume)
    np.testing.assert_array_equal(half.mask, mask[::2, ::2])
    np.testing.assert_array_equal(half.sequences[1], mask[::2, ::2] * 100)


@pytest.mark.parametrize(
    ("level", "shape"), [("mild", (200, 200, 3)), ("medium", (400, 400, 3)), ("strong", (133, 133, 3))]
)
def test_stated_spacing_fits_the_field_of_view(level: str, shape: tuple[int, ...]) -> None:
    volume = Volume("s", np.zeros((1, 256, 256, 3), np.uint8), np.zeros((256, 256, 3), bool))
    perturbed = apply("in_plane_spacing", level, volume)
    assert perturbed.mask.shape == shape
    spacing = np.linalg.norm(perturbed.affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing * shape, [240, 240, 15])
    assert spacing[0] == pytest.approx(strength("in_plane_spacing", level).value, rel=0.005)
    assert nib.aff2axcodes(perturbed.affine) == ("P", "L", "S")


def test_slices() -> None:
    volume = small()
    volume.mask[0, 1, 3] = True
    kept = apply("fewer_slices", "medium", volume)
    np.testing.assert_array_equal(kept.sequences, volume.sequences[..., [0, 3]])
    assert kept.mask[0, 1].tolist() == [False, True]
    more = apply("more_slices", "medium", volume)
    assert more.mask.shape == (2, 3, 8)
    assert more.mask[0, 1].tolist() == [False] * 6 + [True] * 2
    # voxels are number 4 r + k along the slices, so in between lies a quarter and three quarters; rounded to even
    assert more.sequences[0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_interpolated_slices_lie_where_they_belong() -> None:
    """Slice k of n covers (k to k + 1) / n of the height, before and after."""
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32), (1, 2, 2, 9))
    more = apply("more_slices", "strong", Volume("ramp", ramp, np.zeros((2, 2, 9), bool)))
    np.testing.assert_allclose(more.sequences[0, 1, 1], ((np.arange(27) + 0.5) / 3 - 0.5).clip(0, 8), atol=1e-5)


def test_flips() -> None:
    volume = small()
    volume.mask[0, 2, 3] = True
    for name, axis, place in (
        ("upside_down", 0, (1, 2, 3)),
        ("mirrored", 1, (0, 0, 3)),
        ("slices_reversed", 2, (0, 2, 0)),
    ):
        perturbed = apply(name, "only", volume)
        assert np.argwhere(perturbed.mask).tolist() == [list(place)]
        np.testing.assert_array_equal(np.flip(perturbed.sequences, axis + 1), volume.sequences)


@pytest.mark.parametrize("axes", ["PLS", "RAS", "SAL", "IRP"])
def test_reoriented_voxels_are_at_the_same_place_in_the_head(axes: str) -> None:
    volume = small()
    volume.mask[0, 2, 3] = True
    display = perturbations.display_affine(perturbations.NOMINAL_SPACING_MM)
    perturbed = perturbations.reoriented(volume, axes)
    assert "".join(nib.aff2axcodes(perturbed.affine)) == axes
    for index in np.ndindex(2, 3, 4):
        at = display @ [*index, 1]
        there = np.rint(np.linalg.inv(perturbed.affine) @ at)[:3].astype(int)
        assert perturbed.sequences[(slice(None), *there)].tolist() == volume.sequences[(slice(None), *index)].tolist()
        assert perturbed.mask[tuple(there)] == volume.mask[index]


def test_a_volume_that_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match=r"p: sequences of shape \(2, 4, 4, 1\); give \(1 or 3"):
        Volume("p", np.zeros((2, 4, 4, 1)), np.zeros((4, 4, 1), bool))
    with pytest.raises(ValueError, match=r"p: mask bool \(4, 4, 2\); give bool \(4, 4, 1\)"):
        Volume("p", np.zeros((3, 4, 4, 1)), np.zeros((4, 4, 2), bool))
    with pytest.raises(ValueError, match="p: mask uint8"):
        Volume("p", np.zeros((3, 4, 4, 1)), np.zeros((4, 4, 1), np.uint8))


def test_an_empty_volume_stays_one() -> None:
    black = Volume("black", np.zeros((3, 32, 32, 4), np.uint8), np.zeros((32, 32, 4), bool))
    for item in PERTURBATIONS.values():
        for one in item.strengths:
            assert np.isfinite(item.apply(black, one).sequences).all(), (item.name, one.level)


@pytest.mark.parametrize("slices", [12, 20, 23, 25, 32])
def test_a_mask_between_two_slices_is_neither_larger_nor_smaller(slices: int) -> None:
    """One slice of tumour at each place in turn: of 1.5 times as many slices 1.5 on the average, in steps of one."""
    found = []
    for place in range(2, slices - 2):
        mask = np.zeros((4, 4, slices), bool)
        mask[1:3, 1:3, place] = True
        more = apply("more_slices", "mild", Volume("p", np.ones((3, 4, 4, slices), np.float32), mask))
        found.append(int(more.mask.any(axis=(0, 1)).sum()))
    assert set(found) <= {1, 2}
    assert np.mean(found) == pytest.approx(1.5, abs=0.1)


def test_half_the_matrix_keeps_the_area_of_a_mask() -> None:
    rows, columns = np.ogrid[:256, :256]
    areas = []
    for radius in (20, 27, 33.5):
        mask = ((rows - 120.3) ** 2 + (columns - 131) ** 2 <= radius**2)[..., None]
        half = apply("matrix_size", "strong", Volume("p", np.ones((3, 256, 256, 1), np.float32), mask))
        areas.append(4 * half.mask.sum() / mask.sum())
    assert areas == pytest.approx([1, 1, 1], abs=0.02)
