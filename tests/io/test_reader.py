from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import LoadImaged

from monai_lgg.io.reader import CaseReader
from monai_lgg.io.tiff import DISPLAY_AFFINE, resolution_of, write_tiff


def tiff_slice(path: Path, value: int, shape: tuple[int, ...] = (5, 3), **options: object) -> str:
    """Rows count 0, 10, 20 ..., columns 0, 1, 2 ...; ``value`` is added."""
    pixels = (10 * np.arange(shape[0])[:, None] + np.arange(shape[1]) + value).astype(np.uint8)
    if len(shape) == 3:
        pixels = np.stack([pixels + 100 * c for c in range(shape[2])], axis=-1).astype(np.uint8)
        options["photometric"] = "rgb"
    tifffile.imwrite(path, pixels, **options)
    return str(path)


def volume(path: Path, value: float, affine: np.ndarray | None = None, shape: tuple[int, ...] = (4, 3, 2)) -> str:
    voxels = np.arange(np.prod(shape)).reshape(shape).astype(np.float32) + value
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 2, 3, 1]) if affine is None else affine), path)
    return str(path)


def test_slices_in_the_given_order(tmp_path: Path) -> None:
    paths = [tiff_slice(tmp_path / f"a_{n}.tif", n) for n in (10, 9, 2)]
    pixels, meta = CaseReader().get_data(CaseReader().read(paths))
    assert pixels.shape == (5, 3, 3, 1)
    assert pixels[0, 0, :, 0].tolist() == [10, 9, 2]
    assert pixels[4, 2, 0, 0] == 10 + 42
    np.testing.assert_array_equal(meta["affine"], DISPLAY_AFFINE)
    assert meta["spacing_known"] is False
    assert "resolution" not in meta


def test_colour_slices(tmp_path: Path) -> None:
    paths = [tiff_slice(tmp_path / f"a_{n}.tif", n, (5, 3, 3)) for n in (1, 2)]
    pixels, _ = CaseReader().get_data(paths)
    assert pixels.shape == (5, 3, 2, 3)
    assert pixels[1, 2, 1].tolist() == [14, 114, 214]


@pytest.mark.parametrize("as_type", [str, Path])
def test_single_tiff(tmp_path: Path, as_type: type) -> None:
    path = tiff_slice(tmp_path / "a.tif", 7, resolution=(100, 200), resolutionunit=2)
    pixels, meta = CaseReader().get_data(CaseReader().read(as_type(path)))
    assert pixels.shape == (5, 3, 1, 1)
    assert meta["resolution"] == ((100, 1), (200, 1), 2)


def test_resolution_survives_the_data_loader(tmp_path: Path) -> None:
    path = tiff_slice(tmp_path / "a.tif", 7, resolution=(100, 200), resolutionunit=2)
    load = LoadImaged("image", reader="monai_lgg.io.reader.CaseReader", ensure_channel_first=True)
    batch = next(iter(DataLoader(Dataset([{"image": [path]}], load), batch_size=1)))
    image = decollate_batch(batch)[0]["image"]
    write_tiff(tmp_path / "b.tif", image[0, ..., 0].numpy(), image.meta["resolution"])
    assert resolution_of(tmp_path / "b.tif") == ((100, 1), (200, 1), 2)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3, 3)], ids=["turned", "colour"])
def test_slices_of_different_size(tmp_path: Path, shape: tuple[int, ...]) -> None:
    paths = [tiff_slice(tmp_path / "a_1.tif", 0), tiff_slice(tmp_path / "a_2.tif", 0, shape)]
    with pytest.raises(
        ValueError, match=r"a_2\.tif: \d x \d with \d channel\(s\), but a_1\.tif is 5 x 3 with 1 channel"
    ):
        CaseReader().get_data(paths)


def test_one_nifti(tmp_path: Path) -> None:
    voxels, meta = CaseReader().get_data([volume(tmp_path / "a.nii.gz", 0)])
    assert voxels.shape == (4, 3, 2, 1)
    np.testing.assert_array_equal(meta["affine"], np.diag([1, 2, 3, 1]))
    assert meta["spacing_known"] is True
    assert meta["original_affine"] is not meta["affine"]


def test_three_niftis_become_channels(tmp_path: Path) -> None:
    paths = [volume(tmp_path / f"{name}.nii", value) for name, value in (("pre", 100), ("flair", 200), ("post", 300))]
    voxels, meta = CaseReader().get_data(paths)
    assert voxels.shape == (4, 3, 2, 3)
    assert voxels[0, 0, 1].tolist() == [101, 201, 301]
    assert meta["filename_or_obj"] == paths[0]


@pytest.mark.parametrize(
    "other",
    [{"shape": (4, 3, 3)}, {"affine": np.diag([1.0, 2, 3.1, 1])}, {"affine": np.diag([-1.0, 2, 3, 1])}],
    ids=["shape", "spacing", "side"],
)
def test_niftis_of_different_geometry(tmp_path: Path, other: dict) -> None:
    paths = [volume(tmp_path / "pre.nii", 0), volume(tmp_path / "flair.nii", 0, **other)]
    with pytest.raises(ValueError, match=r"pre\.nii: geometry differs from flair\.nii"):
        CaseReader().get_data(paths)


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=r"a\.png: unknown format; give \.tif"):
        CaseReader().get_data([str(tmp_path / "a.png")])


def test_mixed_kinds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all of one kind"):
        CaseReader().get_data([tiff_slice(tmp_path / "a.tif", 0), volume(tmp_path / "a.nii", 0)])


def test_no_files() -> None:
    with pytest.raises(ValueError, match="a case without files"):
        CaseReader().get_data([])


def test_slices_of_two_types_are_no_case(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"a_{k}.tif") for k in (1, 2)]
    tifffile.imwrite(paths[0], np.ones((4, 5), np.uint8))
    tifffile.imwrite(paths[1], np.ones((4, 5), np.uint16))
    with pytest.raises(ValueError, match=r"a_2.tif: uint16, but a_1.tif is uint8; all slices of a case must have one"):
        CaseReader().get_data(paths)
