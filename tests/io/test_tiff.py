"""Every image here is non-square and asymmetric, so that a transposed one cannot pass."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from monai.transforms import AsDiscreted, Compose, LoadImaged, SaveImaged

from monai_lgg.io import tiff
from monai_lgg.io.reader import CaseReader
from monai_lgg.io.tiff import (
    TiffReader,
    TiffWriter,
    read_tiff,
    read_tiff_slice,
    read_tiff_volume,
    resolution_of,
    write_tiff,
)

READER = "monai_lgg.io.tiff.TiffReader"
WRITER = "monai_lgg.io.tiff.TiffWriter"
H, W = 6, 4


def counting(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "A.TIF", "with a space.tif"])
def test_grey(tmp_path: Path, dtype: type, name: str) -> None:
    pixels = counting(H, W, dtype=dtype)
    read = read_tiff(save(tmp_path / name, pixels))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("pages", [(), (2,), (5,)])
def test_rgb(tmp_path: Path, dtype: type, planar: str, pages: tuple[int, ...]) -> None:
    wanted = counting(H, W, *pages, 3, dtype=dtype)
    stored = np.moveaxis(wanted, 2, 0) if pages else wanted
    if planar == "separate":
        stored = np.moveaxis(stored, -1, -3)
    read = read_tiff(save(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize("pages", [2, 3, 4, 5])
@pytest.mark.parametrize("metadata", [None, {}])
def test_grey_pages_are_slices_and_never_colours(tmp_path: Path, pages: int, metadata: dict | None) -> None:
    stored = counting(pages, H, W)
    path = save(tmp_path / "a.tif", stored, photometric="minisblack", metadata=metadata)
    wanted = np.moveaxis(stored, 0, -1)
    np.testing.assert_array_equal(read_tiff(path), wanted)
    np.testing.assert_array_equal(read_tiff_volume(path), wanted[..., None])
    np.testing.assert_array_equal(CaseReader().get_data([str(path)])[0], wanted[..., None])
    loaded = LoadImaged("image", reader=READER, ensure_channel_first=True, dtype=None)({"image": path})["image"]
    np.testing.assert_array_equal(loaded, wanted[None])


@pytest.mark.parametrize(("pages", "metadata"), [(3, {"axes": "ZYX"}), (5, None)])
def test_imagej_stack_is_slices(tmp_path: Path, pages: int, metadata: dict | None) -> None:
    """Without a word tifffile writes a stack as channels, of which a case has three."""
    stored = counting(pages, H, 7)  # W = 4 would make tifffile write RGBA
    path = save(tmp_path / "a.tif", stored, imagej=True, metadata=metadata)
    np.testing.assert_array_equal(read_tiff_volume(path)[..., 0], np.moveaxis(stored, 0, -1))


@pytest.mark.parametrize(("colours", "pages"), [(3, 1), (4, 1), (3, 2), (3, 3)])
def test_volume_of_colours(tmp_path: Path, colours: int, pages: int) -> None:
    stored = counting(pages, H, W, colours)
    path = save(tmp_path / "a.tif", stored if pages > 1 else stored[0], photometric="rgb")
    np.testing.assert_array_equal(read_tiff_volume(path), np.moveaxis(stored, 0, 2))


def test_volume_of_one_grey_page(tmp_path: Path) -> None:
    assert read_tiff_volume(save(tmp_path / "a.tif", counting(H, W))).shape == (H, W, 1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": None},
        {"metadata": None, "compression": "zlib"},
        {"metadata": None, "rowsperstrip": 2},
        {"metadata": None, "bigtiff": True},
        {"metadata": None, "byteorder": ">"},
        {},
        {"truncate": True},
        {"imagej": True},
    ],
)
def test_cut_anywhere_gives_an_error_or_every_pixel(tmp_path: Path, options: dict) -> None:
    stored = counting(3, H, 7) + 1
    whole = save(tmp_path / "whole.tif", stored, photometric="minisblack", **options).read_bytes()
    cut = tmp_path / "cut.tif"
    failed = 0
    for length in range(0, len(whole), 3):
        cut.write_bytes(whole[:length])
        try:
            read = read_tiff(cut)
        except ValueError as error:
            assert str(cut) in str(error)  # noqa: PT017
            failed += 1
        else:
            np.testing.assert_array_equal(read, np.moveaxis(stored, 0, -1))
    assert failed > 0


def test_cut_in_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", counting(H, W))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"a\.tif: not a readable TIFF \(truncated: .* bytes, pixels end at"):
        read_tiff(path)


def test_cut_in_the_directory_of_a_page(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", counting(3, H, W), photometric="minisblack", metadata=None)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="truncated: 300 bytes, the directory of page 2 is not whole"):
        read_tiff(path)


def test_directories_in_a_ring(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", counting(H, W), metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        start, tags = tif.pages[0].offset, len(tif.pages[0].tags)
    data[start + 2 + 12 * tags : start + 6 + 12 * tags] = start.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged: the directory of page 2 is that of an earlier page"):
        read_tiff(path)


@pytest.mark.parametrize("content", [b"", b"this is a text", b"II*\0", b"\0" * 100])
def test_not_a_tiff(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tif: not a readable TIFF \(.*\); fetch or export"):
        read_tiff(path)


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a readable TIFF"):
        read_tiff(tmp_path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.tif"):
        read_tiff(tmp_path / "none.tif")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan(tmp_path: Path, value: float) -> None:
    pixels = counting(H, W, dtype=np.float32)
    pixels[1, 2] = value
    with pytest.raises(ValueError, match=r"a\.tif: has NaN or infinite pixels"):
        read_tiff(save(tmp_path / "a.tif", pixels))


def test_an_unknown_unit_of_the_resolution_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", counting(H, W), resolution=(10, 10), resolutionunit=3)
    raw = path.read_bytes()
    entry = struct.pack("<HHII", 296, 3, 1, 3)
    assert entry in raw
    path.write_bytes(raw.replace(entry, struct.pack("<HHII", 296, 3, 1, 7)))
    assert resolution_of(path) is None


def test_pages_that_were_written_one_by_one_are_slices(tmp_path: Path) -> None:
    pages = [counting(H, W), counting(H, W) + 50, counting(H, W) + 100]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page)
    np.testing.assert_array_equal(read_tiff_volume(tmp_path / "a.tif")[..., 0], np.stack(pages, axis=-1))


@pytest.mark.parametrize("orientation", [2, 4, 6])
def test_a_turned_image_is_refused(tmp_path: Path, orientation: int) -> None:
    save(tmp_path / "upright.tif", counting(H, W), extratags=[(274, 3, 1, 1, True)])
    assert read_tiff(tmp_path / "upright.tif").shape[:2] == (H, W)
    path = save(tmp_path / "a.tif", counting(H, W), extratags=[(274, 3, 1, orientation, True)])
    with pytest.raises(ValueError, match=rf"turned or mirrored \(Orientation {orientation}\); save it upright"):
        read_tiff(path)


def test_one_bit_is_a_number(tmp_path: Path) -> None:
    found = read_tiff(save(tmp_path / "a.tif", counting(H, W) % 2 == 0))
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1}


def test_pages_of_different_size(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(counting(H, W), metadata=None)
        file.write(counting(H + 1, W), metadata=None)
    with pytest.raises(ValueError, match="holds 2 images of different kind"):
        read_tiff(tmp_path / "a.tif")


def test_hyperstack(tmp_path: Path) -> None:
    pixels = counting(2, 3, H, 7)
    path = save(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read_tiff_volume(path), pixels.transpose(2, 3, 0, 1))
    path = save(tmp_path / "b.tif", pixels, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match="run over the axes TZYX; one stack"):
        read_tiff(path)


def test_resolution(tmp_path: Path) -> None:
    stated = ((300, 1), (301, 2), 3)
    write_tiff(tmp_path / "a.tif", counting(H, W), stated)
    assert resolution_of(tmp_path / "a.tif") == stated
    write_tiff(tmp_path / "b.tif", counting(H, W))
    assert resolution_of(tmp_path / "b.tif") is None


def test_unknown_resolution_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", counting(H, W), resolution=(72, 72), resolutionunit=2)
    with tifffile.TiffFile(path) as tif:
        place = tif.pages.first.tags["XResolution"].valueoffset
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)  # 0/0, as some programs write for unknown
    path.write_bytes(content)
    assert resolution_of(path) is None


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}])
def test_channels_of_imagej_and_ome_are_colours(tmp_path: Path, options: dict) -> None:
    pixels = counting(3, H, W)
    path = save(tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "CYX"}, **options)
    np.testing.assert_array_equal(read_tiff_volume(path), np.moveaxis(pixels, 0, -1)[:, :, None])


def test_a_slice_has_one_page(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_tiff_slice(save(tmp_path / "a.tif", counting(H, W, 3), photometric="rgb")), counting(H, W, 1, 3)
    )
    path = save(tmp_path / "b.tif", counting(3, H, W), photometric="minisblack")
    with pytest.raises(ValueError, match=r"b\.tif: 3 pages, but a file of a slice holds one image; save the sequences"):
        read_tiff_slice(path)
    with pytest.raises(ValueError, match=r"b\.tif: 3 pages"):
        CaseReader().get_data([str(path), str(path)])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_lowest_value_is_white(tmp_path: Path, dtype: type) -> None:
    black_lowest = counting(H, W).astype(dtype) if dtype is not bool else counting(H, W) % 3 > 0
    path = save(tmp_path / "a.tif", ~black_lowest, photometric="miniswhite")
    np.testing.assert_array_equal(read_tiff(path), black_lowest)


def test_pixels_that_are_no_intensities_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", counting(H, W), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with pytest.raises(ValueError, match=r"a\.tif: .*colours in a palette; save it as grey or RGB"):
        read_tiff(path)
    path = save(tmp_path / "b.tif", counting(H, W, dtype=np.float32), photometric="miniswhite")
    with pytest.raises(ValueError, match=r"b\.tif: .*lowest value is white, and float32 has no highest one"):
        read_tiff(path)


def test_compression_that_needs_another_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("imagecodecs"):
        pytest.skip("imagecodecs is installed")
    PIL.Image.fromarray(counting(H, W)).save(tmp_path / "a.tif", compression="tiff_lzw")
    with pytest.raises(ValueError, match=r"a\.tif: compressed .*LZW.* pip install imagecodecs, or save it"):
        read_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(H, W), (H, 3), (3, H, W), (5, H, 3), (5, 3, W), (2, H, 1)])
def test_written_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = counting(*shape)
    write_tiff(tmp_path / "new" / "a.tif", pixels)
    wanted = pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1)
    np.testing.assert_array_equal(read_tiff(tmp_path / "new" / "a.tif"), wanted)
    with tifffile.TiffFile(tmp_path / "new" / "a.tif") as tif:
        assert {page.compression.name for page in tif.pages} == {"ADOBE_DEFLATE"}


def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, counting(H, W))

    def half(partial: Path, *_: object, **__: object) -> None:
        Path(partial).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiff.tifffile, "imwrite", half)
    with pytest.raises(OSError, match="No space left"):
        write_tiff(path, counting(H, W) + 1)
    with pytest.raises(OSError, match="No space left"):
        write_tiff(tmp_path / "b.tif", counting(H, W))
    assert [item.name for item in tmp_path.iterdir()] == ["a.tif"]
    np.testing.assert_array_equal(read_tiff(path), counting(H, W))


@pytest.mark.parametrize(
    ("pixels", "options", "wanted"),
    [
        (counting(H, W), {}, counting(1, H, W)),
        (counting(H, W, 3), {"photometric": "rgb"}, np.moveaxis(counting(H, W, 3), -1, 0)),
        (counting(3, H, W), {"photometric": "rgb", "planarconfig": "separate"}, counting(3, H, W)),
        (counting(5, H, W, 3), {"photometric": "rgb"}, counting(5, H, W, 3).transpose(3, 1, 2, 0)),
    ],
)
def test_load_image(tmp_path: Path, pixels: np.ndarray, options: dict, wanted: np.ndarray) -> None:
    path = save(tmp_path / "a.tif", pixels, **options)
    image = LoadImaged("image", reader=READER, ensure_channel_first=True, dtype=None)({"image": path})["image"]
    assert image.shape[1] == H
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image, wanted)
    assert image.meta["spacing_known"] is False


@pytest.mark.parametrize("reader", [READER, "monai_lgg.io.reader.CaseReader"])
def test_load_image_falls_back_to_no_other_reader(tmp_path: Path, reader: str) -> None:
    pixels = counting(H, W, dtype=np.float32)
    pixels[0, 0] = np.nan  # PIL and ITK read this file without complaint
    path = save(tmp_path / "a.tif", pixels)
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        Compose([LoadImaged("image", reader=reader)])({"image": path})
    assert "has NaN" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="has NaN"):
        LoadImaged("image", reader=reader)({"image": path})


def test_reader_of_one_file() -> None:
    assert TiffReader().verify_suffix(["a.tif", Path("b.TIFF")])
    assert not TiffReader().verify_suffix("a.nii")
    with pytest.raises(ValueError, match=r"a\.tif: 2 files given; use CaseReader"):
        TiffReader().get_data(["a.tif", "b.tif"])


@pytest.mark.parametrize(("scale", "one"), [(255, 255), (1, 1), (None, 1)])
@pytest.mark.parametrize("pages", [1, 3])
def test_image_file_to_mask_file(tmp_path: Path, scale: int | None, one: int, pages: int) -> None:
    image = counting(pages, 30, 20)  # wraps after 255
    resolution = ((72, 1), (36, 1))
    path = save(
        tmp_path / "a.tif", image if pages > 1 else image[0], photometric="minisblack", resolution=resolution,
        resolutionunit=3, metadata=None,
    )  # fmt: skip
    Compose(
        [
            LoadImaged("image", reader=READER, ensure_channel_first=True),
            AsDiscreted("image", threshold=100),
            SaveImaged(
                "image", output_dir=tmp_path, output_postfix="mask", output_ext=".tif", output_dtype=np.uint8,
                scale=scale, resample=False, separate_folder=False, writer=WRITER, print_log=False,
            ),
        ]
    )({"image": path})  # fmt: skip
    saved = tmp_path / "a_mask.tif"
    with tifffile.TiffFile(saved) as tif:
        assert len(tif.pages) == pages
        mask = tif.asarray()
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.where(image >= 100, one, 0).squeeze())
    assert resolution_of(saved) == (*resolution, 3)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.tif", "a_mask.tif"]


def test_writer_takes_tensors_with_a_gradient() -> None:
    writer = TiffWriter()
    writer.set_data_array(torch.tensor([[[0.0, 1.0, 0.999]]], requires_grad=True))
    assert writer.data_obj.tolist() == [[0, 255, 255]]


def test_writer_keeps_floats() -> None:
    writer = TiffWriter(output_dtype=np.float32)
    writer.set_data_array(np.array([[[0.25, 0.5]]]))
    assert writer.data_obj.dtype == np.float32
    assert writer.data_obj.tolist() == [[0.25, 0.5]]


@pytest.mark.parametrize("values", [[0, 255], [-1.0, 0.0], [np.nan, 1.0]])
def test_writer_refuses_what_would_wrap(values: list) -> None:
    with pytest.raises(ValueError, match="times scale 255 do not fit uint8; give a mask of 0 and 1"):
        TiffWriter().set_data_array(np.array([[values]]))


def test_writer_takes_one_channel() -> None:
    with pytest.raises(ValueError, match="a mask has 1 channel, got 3"):
        TiffWriter().set_data_array(np.zeros((3, H, W)))
