import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_lgg.shape import (
    FEATURES,
    angular_deviation,
    boundary,
    bounding_ellipsoid,
    ellipsoid_ratio,
    largest_component,
    margin_fluctuation,
    measure,
    measure_masks,
    radial_profile,
    read_mask_folder,
)

ONE_BOX = 2 / (math.pi * math.sqrt(3))  # of a cube (edge 1) in its ball (diameter sqrt 3)
HALF_DIAGONAL = math.sqrt(3) / 2


def ellipsoid(*half_axes: float) -> np.ndarray:
    """Digital ellipsoid of these half-axes, centred on a corner of the grid."""
    sides = [math.ceil(half) + 1 for half in half_axes]
    axes = [(np.arange(-side, side) + 0.5) / half for side, half in zip(sides, half_axes, strict=True)]
    return sum(np.square(grid) for grid in np.meshgrid(*axes, indexing="ij")) <= 1


def ball_volume(radius: float) -> float:
    return 4 / 3 * math.pi * radius**3


def disc(radius: float, lobes: float = 0.0) -> np.ndarray:
    """Disc, or a star of five soft lobes: the radius varies by the share ``lobes``."""
    side = np.arange(-2 * int(radius), 2 * int(radius) + 1)
    down, right = np.meshgrid(side, side, indexing="ij")
    return np.hypot(down, right) <= radius * (1 + lobes * np.cos(5 * np.arctan2(down, right)))


def ellipsoid_distances(points: np.ndarray) -> np.ndarray:
    """(x - c)^T E^-1 (x - c) of each point in their bounding ellipsoid."""
    centre, matrix = bounding_ellipsoid(points)
    return np.einsum("nd,dn->n", points - centre, np.linalg.solve(matrix, (points - centre).T))


# --- the bounding ellipsoid


def test_ellipse_of_a_triangle_is_steiners():
    """Area of the smallest ellipse around any triangle: 4 pi / (3 sqrt 3) times the triangle's."""
    corners = np.array([[0.0, 0], [7, 1], [2, 5]])
    centre, matrix = bounding_ellipsoid(corners)

    assert centre == pytest.approx([3, 2], abs=1e-5)
    area = (7 * 5 - 2 * 1) / 2
    assert math.pi * math.sqrt(np.linalg.det(matrix)) == pytest.approx(4 * math.pi / (3 * math.sqrt(3)) * area)


def test_ellipsoid_of_a_cube_is_its_ball():
    corners = np.array([[x, y, z] for x in (0, 2) for y in (0, 2) for z in (0, 2)], dtype=float)
    centre, matrix = bounding_ellipsoid(corners)

    assert centre == pytest.approx([1, 1, 1])
    assert matrix == pytest.approx(3 * np.eye(3), abs=1e-5)


def test_points_on_an_ellipsoid_give_it_back():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = np.concatenate([directions, -directions])
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shear = turn @ np.diag([9.0, 2.0, 0.5])
    centre, matrix = bounding_ellipsoid(directions @ shear.T + [100, -50, 3])

    assert centre == pytest.approx([100, -50, 3], abs=1e-3)
    assert matrix == pytest.approx(shear @ shear.T, abs=1e-3)


def test_all_points_are_inside_and_some_on_the_ellipsoid():
    for seed in range(5):
        distances = ellipsoid_distances(np.random.default_rng(seed).normal(size=(200, 3)) * [1, 5, 30])
        assert distances.max() == pytest.approx(1, abs=1e-9)
        assert 4 <= np.count_nonzero(distances > 1 - 1e-4) <= 9  # d + 1 to d (d + 3) / 2 points carry it


def test_the_ellipsoid_is_the_smallest():
    """A slightly smaller one, moved, turned or stretched at random, never holds all the points."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(60, 3))
    centre, matrix = bounding_ellipsoid(points)
    for _ in range(500):
        change = np.eye(3) + 0.02 * rng.normal(size=(3, 3))
        other = change @ matrix @ change.T
        other *= (0.999 * np.linalg.det(matrix) / np.linalg.det(other)) ** (1 / 3)
        apart = points - centre - 0.02 * rng.normal(size=3)
        assert np.einsum("nd,dn->n", apart, np.linalg.solve(other, apart.T)).max() > 1


@pytest.mark.filterwarnings("error")
def test_points_inside_do_not_matter_not_even_the_centre():
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    grid = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)], dtype=float)

    assert bounding_ellipsoid(grid)[1] == pytest.approx(bounding_ellipsoid(corners)[1], abs=1e-5)


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.eye(3), np.arange(12.0).reshape(4, 3)])
def test_flat_points_have_no_ellipsoid(points):
    with pytest.raises(ValueError, match="span no volume in 3D"):
        bounding_ellipsoid(points)


# --- BEVR


def test_ratio_of_boxes():
    assert ellipsoid_ratio(np.ones((1, 1, 1), bool)) == pytest.approx(ONE_BOX)
    assert ellipsoid_ratio(np.ones((6, 6, 6), bool)) == pytest.approx(ONE_BOX)
    assert ellipsoid_ratio(np.ones((5, 2, 9), bool)) == pytest.approx(ONE_BOX)


def test_ratio_of_two_voxels_touching_by_a_corner():
    """Two unit cubes on a diagonal. Hand-worked by symmetry about the diagonal.

    In coordinates along the diagonal (t) and away from it (r), both in units of 1/sqrt(3), the corners of the two
    cubes lie at t = 0 (r = 0), +-1 and +-2 (r = sqrt 2), +-3 (r = 0). The ellipsoid r^2/b^2 + t^2/a^2 = 1 through
    t = 2, r = sqrt 2 has the least a b^2 at a^2 = 12, b^2 = 3, which also holds t = 3: 9/12 < 1.
    """
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    volume = 4 / 3 * math.pi * math.sqrt(12) * 3 / math.sqrt(3) ** 3

    assert ellipsoid_ratio(mask) == pytest.approx(2 / volume, rel=1e-5)


def test_ratio_of_a_ball_nears_one():
    """No corner of a voxel in the ball is farther outside than half a voxel's diagonal."""
    balls = [(radius, ellipsoid(radius, radius, radius)) for radius in (5, 15, 40)]
    ratios = [ellipsoid_ratio(ball) for _, ball in balls]

    assert ratios == sorted(ratios)
    for ratio, (radius, ball) in zip(ratios, balls, strict=True):
        assert ball.sum() / ball_volume(radius + HALF_DIAGONAL) <= ratio < 1
    assert ratios[-1] > 0.93


def test_ratio_of_an_ellipsoid_is_that_of_the_ball():
    solid = ellipsoid(40, 25, 20)
    around = ball_volume(1 + HALF_DIAGONAL / 20) * 40 * 25 * 20

    assert solid.sum() / around <= ellipsoid_ratio(solid) < 1
    assert solid.sum() / around > 0.87


def test_ratio_of_a_half_ball():
    """The smallest ellipsoid around half a unit ball has 27/32 of the ball's volume (the step of the ellipsoid method).

    The voxels' boxes hold the half ball that is smaller by half a diagonal, and lie in the one larger by that.
    """
    ball = ellipsoid(40, 40, 40)
    half = ball[:, :, ball.shape[2] // 2 :]
    least, most = (half.sum() / (27 / 32 * ball_volume(40 + sign * HALF_DIAGONAL)) for sign in (1, -1))

    assert least < ellipsoid_ratio(half) < most
    assert least < 16 / 27 < most


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ratio_does_not_depend_on_spacing(axis):
    mask = np.random.default_rng(2).random((7, 6, 5)) > 0.6
    stretched = np.repeat(mask, 4, axis=axis)

    assert ellipsoid_ratio(stretched) == pytest.approx(ellipsoid_ratio(mask), rel=1e-5)


def test_ratio_does_not_depend_on_place_and_direction():
    mask = np.random.default_rng(3).random((7, 6, 5)) > 0.6
    ratio = ellipsoid_ratio(mask)

    assert ellipsoid_ratio(np.pad(mask, ((90, 3), (0, 50), (7, 0)))) == pytest.approx(ratio, rel=1e-5)
    assert ellipsoid_ratio(mask[::-1].transpose(2, 0, 1)) == pytest.approx(ratio, rel=1e-5)


def test_ratio_uses_the_hull_of_all_voxels():
    """Only the first and last voxel of a row are looked at: holes and hollows change the volume alone."""
    solid = np.ones((7, 7, 7), bool)
    hollow = solid.copy()
    hollow[1:-1, 1:-1, 1:-1] = False

    assert ellipsoid_ratio(hollow) == pytest.approx(ONE_BOX * (343 - 125) / 343)


def test_ratio_of_an_empty_mask():
    assert math.isnan(ellipsoid_ratio(np.zeros((3, 3, 3), bool)))


# --- boundary


def test_boundary_of_a_square():
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True

    assert boundary(mask).tolist() == [[1, 1], [1, 2], [1, 3], [2, 3], [3, 3], [3, 2], [3, 1], [2, 1]]


def test_boundary_at_the_border_of_the_image_and_around_a_hole():
    ring = np.ones((4, 3), bool)
    ring[1:3, 1] = False

    assert boundary(ring).tolist() == [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2], [3, 2], [3, 1], [3, 0], [2, 0], [1, 0]]


def test_boundary_of_thin_shapes_goes_there_and_back():
    line = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=bool)

    assert boundary(line).tolist() == [[0, 1], [1, 0], [2, 1], [1, 0]]
    assert boundary(np.eye(2, dtype=bool)).tolist() == [[0, 0], [1, 1]]
    assert boundary(np.ones((1, 1), bool)).tolist() == [[0, 0]]


def test_boundary_crosses_a_narrow_place_twice():
    """Two squares joined by one pixel: the way comes through it in both directions."""
    mask = np.zeros((3, 7), bool)
    mask[:, :3] = mask[:, 4:] = mask[1, 3] = True
    way = boundary(mask).tolist()

    assert way.count([1, 3]) == 2
    rim = np.argwhere(mask).tolist()
    assert {tuple(place) for place in way} == {tuple(place) for place in rim if place[0] != 1 or place[1] in (0, 3, 6)}


@pytest.mark.parametrize("seed", range(6))
def test_boundary_is_all_pixels_that_touch_the_outside(seed):
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 50)), 1.5)
    mask, _ = largest_component(noise > 0.5)
    way = boundary(mask)
    filled = ndimage.binary_fill_holes(mask)  # holes: background not joined to the outside by an edge
    outer = filled & ~ndimage.binary_erosion(filled)
    hops = np.abs(np.roll(way, -1, axis=0) - way).max(axis=1)

    assert mask.sum() > 50
    assert hops.max() == 1
    assert {tuple(place) for place in way} == {tuple(place) for place in np.argwhere(outer)}


# --- MF and ASD


def test_fluctuation_by_hand():
    """30 radii, 0.9 and 1.1 in turns, window 3: |r - smoothed| is 1.1 - 2.9/3 = 2/15 everywhere."""
    radii = np.tile([9.0, 11.0], 15)

    assert margin_fluctuation(radii) == pytest.approx(2 / 15)


def test_fluctuation_smooths_around_the_end():
    """50 radii, one of them 51 times the others: window 5, the spike in 5 means; mean radius 2."""
    radii = np.ones(50)
    radii[0] = 51
    differences = np.array([25.5 - 5.5] + [0.5 - 5.5] * 4 + [0.0] * 45)

    assert margin_fluctuation(radii) == pytest.approx(differences.std())
    assert margin_fluctuation(np.roll(radii, 17)) == pytest.approx(differences.std())


def test_fluctuation_of_a_smooth_boundary_is_small():
    radii, _ = radial_profile(disc(60))
    star, _ = radial_profile(disc(60, lobes=0.3))

    assert margin_fluctuation(radii) < 0.005
    assert margin_fluctuation(star) > 5 * margin_fluctuation(radii)


def test_deviation_by_hand():
    """Ten bins of two radii 1 -+ 0.01 k: the SD in bin k is 0.01 k, their mean 0.055."""
    angles = np.repeat(np.linspace(-math.pi, math.pi, 10, endpoint=False) + 0.1, 2) + np.tile([0, 0.3], 10)
    spread = 0.01 * np.repeat(np.arange(1, 11), 2) * np.tile([-1, 1], 10)

    assert angular_deviation(5 * (1 + spread), angles) == pytest.approx(0.055)


def test_deviation_counts_the_angle_pi_in_the_first_bin():
    """minus pi and pi are one direction: 21 radii, the odd one in the first bin, SD sqrt(2)/3 of the difference."""
    angles = np.append(np.repeat(np.linspace(-math.pi, math.pi, 10, endpoint=False), 2), math.pi)
    radii = np.append(np.ones(20), 2.0)

    assert angular_deviation(radii, angles) == pytest.approx(math.sqrt(2) / 3 / 10 / (22 / 21))


def test_deviation_leaves_out_directions_without_boundary():
    angles = np.repeat([0.1, 1.0], 10)
    radii = np.tile([0.8, 1.2], 10)

    assert angular_deviation(radii, angles) == pytest.approx(0.2)


def test_deviation_of_a_circle_and_of_a_star():
    """A known star, r = 1 + 0.3 cos 5t, whose piece dt has as many boundary pixels as rows or columns, the more."""
    angles = (np.arange(200_000) + 0.5) / 200_000 * 2 * math.pi - math.pi
    radii, slopes = 1 + 0.3 * np.cos(5 * angles), -1.5 * np.sin(5 * angles)
    down = slopes * np.sin(angles) + radii * np.cos(angles)
    right = slopes * np.cos(angles) - radii * np.sin(angles)
    pixels = np.maximum(abs(down), abs(right))
    spreads = [
        np.sqrt(np.cov(bin_radii, aweights=bin_pixels, ddof=0))
        for bin_radii, bin_pixels in zip(radii.reshape(10, -1), pixels.reshape(10, -1), strict=True)
    ]

    circle = angular_deviation(*radial_profile(disc(80)))
    star = angular_deviation(*radial_profile(disc(80, lobes=0.3)))
    assert circle < 0.005
    assert star == pytest.approx(np.mean(spreads) / np.average(radii, weights=pixels), rel=0.02)


@pytest.mark.parametrize("count", [1, 19])
def test_short_boundaries_have_no_mf_and_asd(count):
    radii = np.linspace(1, 2, count)

    assert math.isnan(margin_fluctuation(radii))
    assert math.isnan(angular_deviation(radii, np.linspace(-3, 3, count)))
    assert not math.isnan(margin_fluctuation(np.linspace(1, 2, 20)))


def test_profile_is_that_of_the_largest_part_of_a_slice():
    mask = np.zeros((40, 40), bool)
    mask[2:7, 10:15] = True
    mask[30, 30] = True
    radii, angles = radial_profile(mask)

    assert len(radii) == 16
    assert radii.max() == pytest.approx(2 * math.sqrt(2))
    assert angles[0] == pytest.approx(-3 * math.pi / 4)  # up and to the left: rows run down


# --- one patient


def test_measures_of_the_largest_component():
    mask = np.zeros((40, 40, 6), np.uint8)
    mask[10:30, 10:30, 1:4] = 255
    mask[12:28, 12:28, 2] = 1
    mask[30, 30, 4] = 7  # touches by a corner only: part of it
    mask[2:6, 2:6, :] = 255  # apart
    shape = measure("p", mask, [11, 12, 13, 14, 15, 16])

    assert (shape.patient, shape.components, shape.volume_voxels) == ("p", 2, 1201)
    assert (shape.slice_number, shape.area_px, shape.boundary_px) == (12, 400, 76)
    assert 0 < shape.bevr < ONE_BOX
    assert shape.asd == pytest.approx(measure("q", mask[..., 1:2]).asd)
    assert measure("p", mask).slice_number == 2


def test_empty_mask():
    shape = measure("p", np.zeros((9, 9, 3), np.uint8))

    assert (shape.components, shape.volume_voxels, shape.slice_number, shape.area_px, shape.boundary_px) == (
        0,
        0,
        None,
        0,
        0,
    )
    assert all(math.isnan(getattr(shape, feature)) for feature in FEATURES)


def test_one_voxel_and_one_slice():
    voxel = np.zeros((9, 9, 3), bool)
    voxel[4, 4, 1] = True
    one = measure("p", voxel)
    assert (one.volume_voxels, one.boundary_px) == (1, 1)
    assert one.bevr == pytest.approx(ONE_BOX)
    assert math.isnan(one.mf)
    assert math.isnan(one.asd)


def test_one_slice():
    """A cylinder fills 1 / sqrt 3 of its ellipsoid; that of a digital disc lies in one half a diagonal wider."""
    slice_ = disc(20)
    flat = measure("p", slice_[..., None])

    least = slice_.sum() / (math.sqrt(3) * math.pi * (20 + math.sqrt(0.5)) ** 2)
    assert least <= flat.bevr <= 1 / math.sqrt(3)
    assert least > 0.53
    assert flat.mf < 0.02
    assert flat.asd < 0.02


# --- folders


def write_masks(folder: Path, volume: np.ndarray, images: bool = False) -> Path:
    folder.mkdir(parents=True)
    for index in range(volume.shape[-1]):
        tifffile.imwrite(folder / f"{folder.name}_{index + 1}_mask.tif", volume[..., index])
        if images:
            tifffile.imwrite(folder / f"{folder.name}_{index + 1}.tif", np.zeros((*volume.shape[:2], 3), np.uint8))
    return folder


@pytest.fixture
def volume() -> np.ndarray:
    """(30, 26, 12), 0 and 255: slice 10 sorts before slice 2 by name."""
    mask = np.zeros((30, 26, 12), np.uint8)
    mask[5:20, 4:19, 1:6] = 255
    mask[5:22, 4:19, 4] = 255
    return mask


def test_folders_with_and_without_images(tmp_path, volume):
    write_masks(tmp_path / "b_with", volume, images=True)
    write_masks(tmp_path / "a_without", volume // 255)
    (tmp_path / "data.csv").write_text("")
    (tmp_path / "a_without" / "notes.txt").write_text("")
    calls = []
    without, with_images = measure_masks(tmp_path, lambda done, total: calls.append((done, total)))

    assert (without.patient, with_images.patient) == ("a_without", "b_with")
    assert (without.slice_number, without.area_px) == (5, 17 * 15)
    assert [getattr(without, name) for name in FEATURES] == [getattr(with_images, name) for name in FEATURES]
    assert calls == [(1, 2), (2, 2)]


def test_values_above_zero_are_tumour(tmp_path, volume):
    odd = volume.copy()
    odd[5, 5, 2] = 3
    odd[6, 6, 3] = 128
    write_masks(tmp_path / "p", odd)

    assert measure_masks(tmp_path)[0] == measure("p", volume, range(1, 13))


def test_patient_without_tumour_among_others(tmp_path, volume):
    write_masks(tmp_path / "a", 0 * volume)
    write_masks(tmp_path / "b", volume)
    empty, full = measure_masks(tmp_path)

    assert math.isnan(empty.bevr)
    assert empty.volume_voxels == 0
    assert full.bevr > 0


def test_masks_of_different_sizes(tmp_path, volume):
    folder = write_masks(tmp_path / "p", volume)
    tifffile.imwrite(folder / "p_3_mask.tif", np.zeros((30, 30), np.uint8))

    with pytest.raises(ValueError, match=r"p: masks have the shapes \[\(30, 26\), \(30, 30\)\]"):
        measure_masks(tmp_path)


def test_image_without_its_mask(tmp_path, volume):
    folder = write_masks(tmp_path / "p", volume, images=True)
    (folder / "p_3_mask.tif").unlink()

    with pytest.raises(ValueError, match=r"p: slice 3 has no mask \(p_3_mask.tif\)"):
        measure_masks(tmp_path)


def test_gap_in_masks_alone(tmp_path, volume):
    folder = write_masks(tmp_path / "p", volume)
    (folder / "p_3_mask.tif").unlink()
    (folder / "p_7_mask.tif").unlink()

    with pytest.raises(ValueError, match="no mask of slice 3, 7 between 1 and 12; add it"):
        read_mask_folder(folder)


def test_names_that_do_not_fit(tmp_path, volume):
    folder = write_masks(tmp_path / "p", volume)
    (folder / "p_03_mask.tif").write_bytes(b"")
    with pytest.raises(ValueError, match="slice number 3 is used twice"):
        read_mask_folder(folder)
    (folder / "p_03_mask.tif").rename(folder / "o_3_mask.tif")
    with pytest.raises(ValueError, match="file of patient o in the folder of p"):
        read_mask_folder(folder)


def test_unreadable_mask(tmp_path, volume):
    folder = write_masks(tmp_path / "p", volume)
    (folder / "p_2_mask.tif").write_bytes(b"II*\0")

    with pytest.raises(ValueError, match=r"p_2_mask.tif: not a readable TIFF"):
        measure_masks(tmp_path)


def test_no_masks(tmp_path):
    with pytest.raises(ValueError, match=r"no masks in the layout <patient>/<patient>_<n>_mask.tif"):
        measure_masks(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        measure_masks(tmp_path / "absent")
    (tmp_path / "p").mkdir()
    with pytest.raises(ValueError, match=r"no slices named p_<number>.tif"):
        read_mask_folder(tmp_path / "p")
