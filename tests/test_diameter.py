import numpy as np
import pytest

from monai_lgg.diameter import longest_axial_diameter


def turned(spacing: tuple[float, float, float], about_x: float, about_z: float) -> np.ndarray:
    a, b = np.radians([about_x, about_z])
    first = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    second = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return np.asarray(second @ first @ np.diag(spacing))


def mask_of(*voxels: tuple[int, int, int], shape: tuple[int, int, int] = (12, 12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_one_voxel_is_as_long_as_its_longer_side() -> None:
    assert longest_axial_diameter(mask_of((3, 3, 3)), np.diag([1.0, 2, 7])) == pytest.approx(2)


def test_a_row_of_pixels() -> None:
    row = mask_of(*[(i, 4, 2) for i in range(5)])
    assert longest_axial_diameter(row, np.diag([2.0, 4, 5])) == pytest.approx(10)  # 5 pixels of 2 mm


@pytest.mark.parametrize(("about_x", "about_z"), [(0, 0), (25, -15), (-40, 30)])
def test_two_pixels_that_touch_by_a_corner_in_anisotropic_and_oblique_pixels(about_x: float, about_z: float) -> None:
    """Pixels of 3 x 4 mm. From the lower edge of the first to the upper of the second: 1 x 3 mm across, 2 x 4 up."""
    found = longest_axial_diameter(mask_of((0, 0, 5), (1, 1, 5)), turned((3, 4, 6), about_x, about_z))
    assert found == pytest.approx(np.hypot(3, 8))


def test_a_disc() -> None:
    x, y = np.mgrid[:81, :81]
    disc = ((x - 40) * 0.5) ** 2 + ((y - 40) * 0.5) ** 2 <= 15**2
    assert longest_axial_diameter(disc[..., None], np.diag([0.5, 0.5, 3])) == pytest.approx(30.5, abs=0.1)


def test_regions_of_one_slice_are_not_joined_and_neither_are_slices() -> None:
    apart = mask_of((0, 0, 0), (0, 9, 0), (0, 10, 0), *[(5, 5, k) for k in range(12)])
    assert longest_axial_diameter(apart, np.eye(3)) == pytest.approx(2)


def test_sagittal_acquisition_is_measured_across_its_slices() -> None:
    """Axes of the file: 1 mm to posterior, 1 mm to the feet, 5 mm to the right: 3 slices of 4 x 10 pixels."""
    directions = np.array([[0, 0, 5.0], [-1, 0, 0], [0, -1, 0]])
    mask = np.zeros((12, 12, 6), bool)
    mask[2:6, 1:11, 1:4] = True
    assert longest_axial_diameter(mask, directions) == pytest.approx(np.hypot(15, 3))


def test_empty() -> None:
    assert longest_axial_diameter(np.zeros((3, 3, 3), bool), np.eye(3)) == 0
