from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_lgg.io.dicom.geometry import covered, resample, stack
from monai_lgg.io.dicom.headers import Frame, Header, read_header
from monai_lgg.phantom_dicom import PLANES
from tests.dicom_files import SHAPE, SPACING, affine_of, change, copy, voxels, write

AXIAL = PLANES["axial"]


def headers(folder: Path, plane: str = "axial", **tags: object) -> list[Header]:
    return [read_header(str(path)) for path in write(folder / "s", voxels(), affine_of(PLANES[plane]), **tags)]


def moved(header: Header, **changes: object) -> Header:
    return replace(header, frames=(replace(header.frames[0], **changes),))


@pytest.mark.parametrize(("plane", "name"), [(plane, "axial" if plane == "oblique" else plane) for plane in PLANES])
def test_order_and_affine_are_those_of_the_positions(tmp_path: Path, plane: str, name: str) -> None:
    files = headers(tmp_path, plane)
    order = np.random.default_rng(0).permutation(len(files))
    found = stack([files[k] for k in order])
    assert [order[file] for file, _ in found.order] == list(range(SHAPE[2]))
    np.testing.assert_allclose(found.affine, affine_of(PLANES[plane]), atol=1e-6)
    assert (found.shape, found.plane) == (SHAPE, name)


def test_affine_by_hand(tmp_path: Path) -> None:
    """Sagittal: columns run to posterior, rows to the feet, and so slices to the right; DICOM is LPS, affines are RAS.

    PixelSpacing is (between rows, between columns).
    """
    (file,) = headers(tmp_path, "sagittal")[:1]
    file = moved(file, position=(30.0, -50.0, 70.0), orientation=(0.0, 1, 0, 0, 0, -1), spacing=(2.0, 3.0))
    files = [file, moved(file, position=(26.0, -50.0, 70.0))]
    expected = [[0, 0, 4, -30], [-3, 0, 0, 50], [0, -2, 0, 70], [0, 0, 0, 1]]
    np.testing.assert_allclose(stack(files[::-1]).affine, expected, atol=1e-9)


def test_one_image_takes_its_thickness(tmp_path: Path) -> None:
    (file,) = headers(tmp_path)[:1]
    np.testing.assert_allclose(np.linalg.norm(stack([file]).affine[:3, :3], axis=0), SPACING)
    with pytest.raises(ValueError, match="one image, of unknown thickness"):
        stack([replace(file, thickness=None)])


def test_small_rounding_of_positions_is_no_fault(tmp_path: Path) -> None:
    files = headers(tmp_path, "oblique")
    rough = [moved(file, position=tuple(np.round(file.frames[0].position or (), 1))) for file in files]
    np.testing.assert_allclose(stack(rough).affine, affine_of(PLANES["oblique"]), atol=0.1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f[:2] + f[3:], "1 slice missing: slices are 4.50 mm apart, but 9.00 mm after slice 2 of 6"),
        (lambda f: f[:1] + f[3:], "2 slices missing.*13.50 mm after slice 1 of 5"),
        (lambda f: [*f, f[3]], "doubled slices: 1 of 7 positions have more than one image"),
        (lambda f: [*f, *f], "4D: 2 images at each of 7 positions"),
        (lambda f: [*f[:-1], moved(f[-1], orientation=(0.0, 1, 0, 0, 0, -1))], "mixed orientations"),
        (lambda f: [*f[:-1], moved(f[-1], spacing=(1.0, 1.0))], "different PixelSpacing"),
        (lambda f: [*f[:-1], replace(f[-1], rows=5)], r"different sizes \(5 x 20, 26 x 20\)"),
        (lambda f: [*f[:-1], moved(f[-1], spacing=None)], "PixelSpacing is missing or unreadable"),
        (lambda f: [*f[:-1], moved(f[-1], position=None)], "ImagePositionPatient is missing or unreadable"),
        (lambda f: [*f[:-1], moved(f[-1], orientation=None)], "ImageOrientationPatient is missing or unreadable"),
        (lambda f: [moved(x, spacing=(0.0, 1.0)) for x in f], "PixelSpacing is not above 0"),
        (lambda f: [moved(x, orientation=(1.0, 0, 0, 1, 0, 0)) for x in f], "not two unit vectors at a right angle"),
        (lambda f: [*f[:3], moved(f[3], position=shifted(f[3], z=1.0)), *f[4:]], "one lies 1.00 mm off its place"),
        (lambda f: [*f[:3], moved(f[3], position=shifted(f[3], x=1.0)), *f[4:]], "one lies 1.00 mm off its place"),
        (lambda f: [moved(x, position=shifted(x, x=k)) for k, x in enumerate(f)], "sideways by 1.00 mm each"),
        (lambda f: [replace(x, grey=False) for x in f], "not plain grey"),
        (lambda f: [replace(f[0], burned_in=True), *f[1:]], "text burned into the pixels"),
        (lambda f: [replace(x, rows=0) for x in f], "state no size"),
    ],
)
def test_series_that_are_refused(tmp_path: Path, edit: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        stack(edit(headers(tmp_path)))  # type: ignore[operator]
    assert str(tmp_path) not in str(error.value)


def shifted(header: Header, x: float = 0, z: float = 0) -> tuple[float, ...]:
    place = header.frames[0].position or (0.0, 0.0, 0.0)
    return (place[0] + x, place[1], place[2] + z)


def test_header_without_usable_numbers(tmp_path: Path) -> None:
    (path,) = write(tmp_path / "s", voxels()[..., :1], affine_of(AXIAL))
    whole = read_header(str(path)).frames[0]
    change(path, lambda data: delattr(data, "PixelSpacing"))
    assert read_header(str(path)).frames == (Frame(whole.position, whole.orientation, None),)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"-8.55\\-13.75", b"-8.55\\-13.7x"))
    assert read_header(str(path)).frames == (Frame(None, whole.orientation, None),)


def test_resampled_values_are_those_at_the_same_place() -> None:
    """Linear interpolation keeps a linear function of the place in mm, whatever the two grids."""
    own = affine_of(PLANES["sagittal"], (40, 44, 30), (1.3, 1.1, 1.7))
    target = affine_of(PLANES["oblique"], (9, 8, 5), (1.5, 2.0, 3.0))

    def linear(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T
        return np.asarray((places + affine[:3, 3]) @ [2.0, -3.0, 5.0] + 7)

    found = resample(linear(own, (40, 44, 30)), own, target, (9, 8, 5))
    np.testing.assert_allclose(found, linear(target, (9, 8, 5)), atol=1e-9)


def test_outside_is_the_lowest_value_and_is_counted() -> None:
    own, target = np.diag([1.0, 1, 1, 1]), np.diag([1.0, 1, 1, 1])
    target[0, 3] = 5  # half a volume further
    volume = np.full((10, 4, 4), 3.0)
    volume[0] = 2
    moved_volume = resample(volume, own, target, (10, 4, 4))
    np.testing.assert_array_equal(moved_volume[:, 0, 0], [3] * 5 + [2] * 5)
    assert covered((10, 4, 4), own, target, (10, 4, 4)) == pytest.approx(0.5)


def test_rounded_headers_and_small_shifts_blank_no_end_slice() -> None:
    """Slices at the same places, with twice the matrix, oblique; positions and directions of six digits."""
    target = affine_of(PLANES["oblique"], (32, 32, 6), (8.0, 8.0, 6.5))
    own = affine_of(PLANES["oblique"], (64, 64, 6), (4.0, 4.0, 6.5))
    own[:3, 3] = np.round(target[:3, 3] - own[:3, :2].sum(axis=1) / 2, 3)  # the centres of the corner voxels
    own[:3, :3] = np.round(own[:3, :3], 4)
    volume = np.full((64, 64, 6), 300.0)
    volume[0, 0] = 0
    np.testing.assert_allclose(resample(volume, own, target, (32, 32, 6))[2:-2, 2:-2], 300)
    own[:3, 3] += 0.4 * own[:3, 2]  # less than half a slice
    np.testing.assert_allclose(resample(volume, own, target, (32, 32, 6))[2:-2, 2:-2], 300)
    own[:3, 3] += 0.2 * own[:3, 2]
    found = resample(volume, own, target, (32, 32, 6))[2:-2, 2:-2]
    assert (found[..., 0] == 0).all()
    np.testing.assert_allclose(found[..., 1:], 300)


def test_doubled_by_another_image(tmp_path: Path) -> None:
    paths = write(tmp_path / "s", voxels(), affine_of(AXIAL))
    copy(paths[2], tmp_path / "s" / "again")
    with pytest.raises(ValueError, match="doubled slices: 1 of 7 positions"):
        stack([read_header(str(path)) for path in (tmp_path / "s").iterdir()])
