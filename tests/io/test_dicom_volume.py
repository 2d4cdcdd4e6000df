import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from monai_lgg.io.dicom.volume import read_dicom_case
from monai_lgg.io.reader import CaseReader
from monai_lgg.phantom_dicom import PLANES
from tests.dicom_files import SHAPE, affine_of, change, voxels, write, write_enhanced

AXIAL = affine_of(PLANES["axial"])


def names(paths: list[Path]) -> list[str]:
    return [str(path) for path in paths]


@pytest.mark.parametrize("plane", PLANES)
def test_voxels_lie_where_the_headers_say(tmp_path: Path, plane: str) -> None:
    """Each pixel of each file, by pydicom and the standard's equation C.7.6.2.1-1, is the voxel at that place."""
    values = voxels()
    files = names(write(tmp_path / "s", values, affine_of(PLANES[plane])))
    pixels, meta = CaseReader().get_data(files[::-1])
    assert (pixels.shape, pixels.dtype, meta["spacing_known"]) == ((*SHAPE, 1), np.float32, True)
    to_voxel = np.linalg.inv(meta["affine"])
    for path in files:
        data = pydicom.dcmread(path)
        across, down = np.array(data.ImageOrientationPatient).reshape(2, 3)
        between_rows, between_columns = data.PixelSpacing
        for row, column in ((0, 0), (5, 0), (0, 7), (data.Rows - 1, data.Columns - 1)):
            place = np.array(data.ImagePositionPatient) + column * between_columns * across + row * between_rows * down
            voxel = to_voxel @ [-place[0], -place[1], place[2], 1]
            np.testing.assert_allclose(voxel, np.round(voxel), atol=1e-5)
            assert pixels[tuple(np.round(voxel[:3]).astype(int))][0] == data.pixel_array[row, column]


def test_rescale_of_each_image(tmp_path: Path) -> None:
    files = names(write(tmp_path / "s", voxels(), AXIAL))
    for k, path in enumerate(files):
        change(Path(path), lambda data, k=k: data.update({"RescaleSlope": 0.5 + k, "RescaleIntercept": -3}))
    pixels, _ = read_dicom_case(files)
    np.testing.assert_allclose(pixels[..., 0], voxels() * (0.5 + np.arange(7)) - 3)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed(tmp_path: Path, syntax: UID) -> None:
    files = names(write(tmp_path / "s", voxels(), AXIAL))
    for path in files:
        change(Path(path), lambda data: data.compress(syntax, generate_instance_uid=False))
    np.testing.assert_array_equal(read_dicom_case(files)[0][..., 0], voxels())


def test_jpeg_2000(tmp_path: Path) -> None:
    files = names(write(tmp_path / "s", voxels(), AXIAL))

    def edit(data: pydicom.Dataset) -> None:
        stream = io.BytesIO()
        Image.fromarray(data.pixel_array.astype(np.uint16)).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
        data.PixelData = encapsulate([stream.getvalue()])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless

    for path in files:
        change(Path(path), edit)
    np.testing.assert_array_equal(read_dicom_case(files)[0][..., 0], voxels())


def test_deflated_and_without_preamble(tmp_path: Path) -> None:
    files = names(write(tmp_path / "s", voxels(), AXIAL))
    change(Path(files[0]), lambda data: setattr(data.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[132:])
    np.testing.assert_array_equal(CaseReader().get_data(files)[0][..., 0], voxels())


def test_syntax_that_is_not_read(tmp_path: Path) -> None:
    files = names(write(tmp_path / "Doe", voxels(), AXIAL))

    def edit(data: pydicom.Dataset) -> None:
        data.compress(RLELossless, generate_instance_uid=False)
        data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.201")

    change(Path(files[3]), edit)
    with pytest.raises(ValueError, match=r"image 4 of the series: compressed as High-Throughput JPEG 2000.*4\.201"):
        read_dicom_case(files)


@pytest.mark.parametrize("compress", [False, True])
def test_cut_file(tmp_path: Path, compress: bool) -> None:
    files = names(write(tmp_path / "Doe", voxels(), AXIAL))
    if compress:
        change(Path(files[2]), lambda data: data.compress(RLELossless, generate_instance_uid=False))
    raw = Path(files[2]).read_bytes()
    Path(files[2]).write_bytes(raw[:-400])
    with pytest.raises(ValueError, match="image 3 of the series: ") as error:
        read_dicom_case(files)
    assert "Doe" not in str(error.value)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [3, 0, 6, 1, 2, 5, 4]])
def test_multi_frame(tmp_path: Path, order: list[int]) -> None:
    affine = affine_of(PLANES["oblique"])
    write_enhanced(tmp_path / "one", voxels(), affine, order, slope=3)
    pixels, meta = read_dicom_case([str(tmp_path / "one")])
    np.testing.assert_array_equal(pixels[..., 0], voxels() * 3)
    np.testing.assert_allclose(meta["affine"], affine, atol=1e-6)


def test_t1_is_brought_onto_flairs_grid(tmp_path: Path) -> None:
    """A T1 series whose grey value is a linear function of the place must have just that value in each FLAIR voxel."""
    affine = affine_of(PLANES["oblique"])
    own = affine_of(PLANES["sagittal"], (60, 70, 40), (1.5, 1.3, 1.4))

    def linear(of: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ of[:3, :3].T + of[:3, 3]
        return np.asarray(places @ [20.0, -30.0, 50.0] + 10000)

    flair = names(write(tmp_path / "f", voxels(), affine))
    t1 = names(write(tmp_path / "t", linear(own, (60, 70, 40)).round(), own, "post", number=4))
    pixels, meta = CaseReader().get_data([*flair, *flair, *t1])
    np.testing.assert_array_equal(pixels[..., 0], voxels())
    np.testing.assert_array_equal(pixels[..., 1], voxels())
    np.testing.assert_allclose(pixels[..., 2], linear(affine, SHAPE), atol=0.6)  # stored as whole numbers
    np.testing.assert_allclose(meta["affine"], affine, atol=1e-6)


def test_number_of_series(tmp_path: Path) -> None:
    files = [names(write(tmp_path / str(n), voxels(), AXIAL, number=n)) for n in (3, 4)]
    with pytest.raises(ValueError, match="files of 2 series; give one series, or pre-contrast, FLAIR and"):
        read_dicom_case([*files[0], *files[1]])
