from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.transforms import Compose, LoadImaged, Orientationd

from monai_lgg.io.nifti import is_nifti, read_nifti, spacing_known, write_nifti
from monai_lgg.io.reader import CaseReader

SHAPE = (4, 3, 2)
RAS = np.array([[0.5, 0, 0, -10], [0, 1.5, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -1, 1, 1]) @ RAS


def oblique() -> np.ndarray:
    """0.5 x 1.5 x 4 mm, turned by 30 degrees about the first axis and 20 about the third."""
    a, b = np.radians([30, 20])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = RAS.copy()
    affine[:3, :3] = about_z @ about_x @ RAS[:3, :3]
    return affine


def counting(*shape: int, dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(
    path: Path, voxels: np.ndarray, affine: np.ndarray = RAS, sform: int = 1, qform: int = 1, units: int = 2
) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine if sform else None, sform)
    image.set_qform(affine, qform)
    image.header["xyzt_units"] = units
    nib.save(image, path)
    return path


@pytest.mark.parametrize("affine", [RAS, LPS, oblique()], ids=["RAS", "LPS", "oblique"])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (2, 0), (1, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_round_trip(tmp_path: Path, affine: np.ndarray, sform: int, qform: int, dtype: type, suffix: str) -> None:
    source = save(tmp_path / f"a{suffix}", counting(*SHAPE, dtype=dtype), affine, sform, qform, units=10)
    voxels, meta = read_nifti(source)
    copy = tmp_path / f"b{suffix}"
    write_nifti(copy, voxels[..., 0], meta)

    again, back = read_nifti(copy)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, voxels)
    np.testing.assert_allclose(back["affine"], affine, atol=1e-4)
    np.testing.assert_allclose(back["qform"], affine, atol=1e-4)
    assert {key: back[key] for key in back if key not in ("affine", "qform")} == {
        "spacing_known": True, "qform_code": qform, "sform_code": sform, "xyzt_units": 10,
    }  # fmt: skip
    np.testing.assert_allclose(nib.load(copy).header.get_zooms(), [0.5, 1.5, 4], rtol=1e-6)
    assert sorted(item.name for item in tmp_path.iterdir()) == [source.name, copy.name]


def test_two_coordinate_systems_both_come_back(tmp_path: Path) -> None:
    """The scanner's in the qform, a registration's in the sform; ITK reads the first, nibabel the second."""
    scanner, aligned = RAS, oblique()
    image = nib.Nifti1Image(counting(*SHAPE), aligned)
    image.set_qform(scanner, 1)
    image.set_sform(aligned, 2)
    nib.save(image, tmp_path / "a.nii")
    voxels, meta = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(meta["affine"], aligned, atol=1e-5)
    write_nifti(tmp_path / "b.nii", voxels[..., 0], meta)
    for name in ("a.nii", "b.nii"):
        header = nib.load(tmp_path / name).header
        np.testing.assert_allclose(header.get_qform(), scanner, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(header.get_sform(), aligned, atol=1e-5, err_msg=name)
        assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 2)


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">u1"])
def test_big_endian(tmp_path: Path, dtype: str) -> None:
    values = counting(*SHAPE)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(dtype))
    nib.save(nib.Nifti1Image(values.astype(dtype), RAS, header=header), tmp_path / "a.nii")
    voxels, _ = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(voxels[..., 0], values)
    assert torch.as_tensor(voxels).shape == (*SHAPE, 1)  # which takes only the machine's own order


def test_units_without_codes_round_trip(tmp_path: Path) -> None:
    """Sizes in mm but no coordinate system: the spacing is known and the voxels keep their order."""
    voxels, meta = read_nifti(save(tmp_path / "a.nii", counting(*SHAPE), sform=0, qform=0, units=2))
    assert meta["spacing_known"] is True
    write_nifti(tmp_path / "b.nii", voxels[..., 0], meta)
    again, back = read_nifti(tmp_path / "b.nii")
    np.testing.assert_array_equal(again, voxels)
    np.testing.assert_allclose(back["affine"], meta["affine"])
    assert (back["sform_code"], back["qform_code"], back["xyzt_units"]) == (0, 0, 2)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [((4, 3), (4, 3, 1, 1)), ((4, 3, 2), (4, 3, 2, 1)), ((4, 3, 2, 3), (4, 3, 2, 3)), ((4, 3, 2, 1, 3), (4, 3, 2, 3))],
)
def test_channels_last(tmp_path: Path, stored: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    voxels, _ = read_nifti(save(tmp_path / "a.nii.gz", counting(*stored)))
    np.testing.assert_array_equal(voxels, counting(*stored).reshape(wanted))


@pytest.mark.parametrize("shape", [(7,), (4, 3, 2, 2, 3)])
def test_wrong_number_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a\.nii: shape .*; a volume has 3 axes"):
        read_nifti(save(tmp_path / "a.nii", counting(*shape)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.95])
def test_truncated(tmp_path: Path, suffix: str, kept: float) -> None:
    path = save(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 999, (8, 7, 6)).astype(np.int16))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"a\.nii.*: not a readable NIfTI file"):
        read_nifti(path)


def test_one_wrong_bit_in_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    """Most such errors leave a file that unpacks, to other voxels; the check sum at its end tells them."""
    whole = save(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(16, 16, 8))).read_bytes()
    read_nifti(tmp_path / "a.nii.gz")
    for place in range(400, len(whole) - 8, len(whole) // 50):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "b.nii.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.nii\.gz: not a readable NIfTI file"):
            read_nifti(tmp_path / "b.nii.gz")


def test_a_qform_that_is_not_in_use_is_not_looked_at(tmp_path: Path) -> None:
    image = nib.Nifti1Image(counting(*SHAPE), RAS)
    image.set_sform(RAS, 1)
    image.set_qform(None, 0)
    image.header["quatern_b"] = image.header["quatern_c"] = 1.0  # no rotation has such
    nib.save(image, tmp_path / "a.nii")
    _, meta = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(meta["affine"], RAS)
    assert meta["qform_code"] == 0


def test_text_and_directory(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("this is a text")
    (tmp_path / "b.nii").mkdir()
    for name in ("a.nii", "b.nii"):
        with pytest.raises(ValueError, match=f"{name}: not a readable NIfTI file"):
            read_nifti(tmp_path / name)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.nii"):
        read_nifti(tmp_path / "none.nii")


def test_nan(tmp_path: Path) -> None:
    voxels = counting(*SHAPE, dtype=np.float32)
    voxels[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="has NaN or infinite voxels"):
        read_nifti(save(tmp_path / "a.nii", voxels))


def test_rgb_voxels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="store the sequences as a fourth axis"):
        read_nifti(save(tmp_path / "a.nii", np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])))


def test_singular_affine(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", counting(*SHAPE), qform=0)
    data = bytearray(path.read_bytes())
    data[312:328] = bytes(16)  # srow_z
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.nii: affine .* cannot be inverted"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("sform", "qform", "units", "known"),
    [(0, 0, 0, False), (1, 0, 0, True), (0, 1, 0, True), (0, 0, 2, True), (0, 0, 8, False)],
)
def test_spacing_known(tmp_path: Path, sform: int, qform: int, units: int, known: bool) -> None:
    """Units of time alone (8: seconds) say nothing about length."""
    path = save(tmp_path / "a.nii", counting(*SHAPE), sform=sform, qform=qform, units=units)
    assert spacing_known(nib.load(path).header) is known


def test_readers_differ_about_a_file_without_codes(tmp_path: Path) -> None:
    """The claim in the module's head: second axis to anterior by nibabel, to posterior by ITK."""
    path = save(tmp_path / "a.nii", counting(*SHAPE), sform=0, qform=0)
    assert nib.aff2axcodes(nib.load(path).affine) == ("L", "A", "S")
    np.testing.assert_array_equal(np.asarray(itk.imread(path).GetDirection()), np.eye(3))  # left, posterior, superior


def test_tiff_stack_to_nifti_and_back(tmp_path: Path) -> None:
    slices = [counting(5, 3, dtype=np.uint8) + 50 * k for k in range(4)]
    paths = []
    for k, pixels in enumerate(slices):
        paths.append(str(tmp_path / f"a_{k}.tif"))
        tifffile.imwrite(paths[-1], pixels)
    stack, meta = CaseReader().get_data(paths)
    write_nifti(tmp_path / "a.nii.gz", stack[..., 0], meta)

    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"]), int(header["xyzt_units"])) == (2, 2, 0)
    assert not spacing_known(header)
    assert header.get_zooms() == (1, 1, 1)
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert stored.shape == (3, 5, 4)
    assert stored[0, -1, 0] == stack[0, 0, 0, 0], "the top left pixel is the most anterior one of the patient's right"

    other = itk.imread(tmp_path / "a.nii.gz")  # as 3D Slicer reads it
    ours = nib.load(tmp_path / "a.nii.gz").affine @ (0, 4, 0, 1)
    place = other.TransformIndexToPhysicalPoint((0, 4, 0))
    np.testing.assert_allclose(np.asarray(place) * (-1, -1, 1), ours[:3])  # ITK's axes go to left and posterior
    assert ours[1] > (nib.load(tmp_path / "a.nii.gz").affine @ (0, 0, 0, 1))[1]

    voxels, again = read_nifti(tmp_path / "a.nii.gz")
    write_nifti(tmp_path / "b.nii.gz", voxels[..., 0], again)  # a mask of it
    assert nib.load(tmp_path / "b.nii.gz").header == header

    load = Compose(
        [
            LoadImaged("image", reader="monai_lgg.io.reader.CaseReader", ensure_channel_first=True, dtype=None),
            Orientationd("image", axcodes="PLS"),
        ]
    )
    image = load({"image": str(tmp_path / "a.nii.gz")})["image"]
    np.testing.assert_array_equal(image[0], np.stack(slices, axis=-1))
    assert image.meta["spacing_known"] is False
    np.testing.assert_array_equal(load({"image": paths})["image"], image)


def test_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = {"affine": RAS, "spacing_known": True, "sform_code": 1, "qform_code": 1, "xyzt_units": 2}
    monkeypatch.setattr(nib, "save", _half)
    with pytest.raises(OSError, match="disk"):
        write_nifti(tmp_path / "a.nii.gz", counting(*SHAPE), meta)
    assert list(tmp_path.iterdir()) == []


def _half(_: object, path: Path) -> None:
    Path(path).write_bytes(b"half")
    raise OSError("disk")


def test_suffix() -> None:
    assert is_nifti("a.nii")
    assert is_nifti(Path("A.NII.GZ"))
    assert not is_nifti("a.gz")
