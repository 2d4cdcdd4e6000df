"""TIFF reading and writing through tifffile, with images kept as (row, column).

MONAI's own readers transpose TIFFs and keep only the first page; see CONTRIBUTING.md.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from monai.config import PathLike
from monai.data.image_reader import ImageReader
from monai.data.image_writer import ImageWriter
from monai.utils.type_conversion import convert_to_numpy

from monai_lgg.io.atomic import atomic_write

#: So many channels of ImageJ or OME are those of a case; other numbers are slices, as tifffile writes a bare stack.
SEQUENCES = 3
SUFFIXES = (".tif", ".tiff")
#: Number of the tag that says how rows and columns are to be turned.
ORIENTATION = 274
_NOT_PAGES = str.maketrans("", "", "YXS")

#: RAS affine of (row, column, slice) in radiological display: rows run to posterior, columns to the patient's
#: left, slices to superior. Unit length stands for one pixel, since TIFF says nothing of millimetres.
DISPLAY_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def is_tiff(path: PathLike) -> bool:
    return str(path).lower().endswith(SUFFIXES)


def read_tiff(path: PathLike) -> np.ndarray:
    """Pixels of a TIFF file, any of grey, RGB, planar, multi-page.

    Returns:
        (H, W[, D][, C]) in the file's dtype; D are the pages. Use :func:`read_tiff_volume` to tell D from C.
    Raises:
        ValueError: not a TIFF, truncated, several images of different size, or NaN / Inf pixels.
    """
    pixels, axes = _read(path)
    return _rows_first(pixels, axes)


def read_tiff_volume(path: PathLike) -> np.ndarray:
    """As :func:`read_tiff`, but always (H, W, D, C): what is a page and what a colour is the file's own word."""
    pixels, axes = _read(path)
    moved = _rows_first(pixels, axes)
    if "S" not in axes:
        moved = moved[..., None]
    return moved if moved.ndim == 4 else moved[:, :, None]


def read_tiff_slice(path: PathLike) -> np.ndarray:
    """As :func:`read_tiff_volume`, of a file that is one slice of a case: (H, W, 1, C).

    Raises:
        ValueError: also for several pages.
    """
    pixels = read_tiff_volume(path)
    if pixels.shape[2] != 1:
        raise ValueError(
            f"{path}: {pixels.shape[2]} pages, but a file of a slice holds one image; save the sequences as its "
            "colours (RGB), or all slices as the pages of one file"
        )
    return pixels


def _read(path: PathLike) -> tuple[np.ndarray, str]:
    """The pixels as stored, and a letter an axis: Y, X, S for samples (colours), any other for pages."""
    try:
        with tifffile.TiffFile(path) as tif:
            _check_complete(tif, Path(path).stat().st_size)
            series = tif.series[0]
            if len({(of.shape, of.dtype, of.axes) for of in tif.series}) != 1:
                raise ValueError(f"holds {len(tif.series)} images of different kind; one series is needed")
            _check_upright(series.keyframe)
            images = [_least_is_black(of.asarray(), of.keyframe.photometric) for of in tif.series]
            alone = len(images) == 1  # else pages that were written one by one
            pixels, axes = (images[0], series.axes) if alone else (np.stack(images), "Q" + series.axes)
            if "C" in axes and "S" not in axes and pixels.shape[axes.index("C")] == SEQUENCES:
                axes = axes.replace("C", "S")  # channels of ImageJ and OME
            if len(axes.translate(_NOT_PAGES)) > 1:
                raise ValueError(f"its pages run over the axes {axes}; one stack of pages is needed")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if "imagecodecs" in str(error):
            raise ValueError(
                f"{path}: compressed in a way that needs another package ({error}); pip install imagecodecs, or save "
                "it uncompressed or with deflate"
            ) from error
        raise ValueError(f"{path}: not a readable TIFF ({error}); fetch or export the file again") from error
    if not np.isfinite(pixels).all():
        raise ValueError(f"{path}: has NaN or infinite pixels; replace them first")
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels, axes


def _check_upright(page: Any) -> None:
    """TIFF's tag for images that are stored turned or mirrored, which the program that shows them is to undo."""
    tag = page.tags.get(ORIENTATION)
    if tag is not None and tag.value != tifffile.ORIENTATION.TOPLEFT:
        raise ValueError(
            f"its rows and columns are stored turned or mirrored (Orientation {int(tag.value)}); save it upright"
        )


def _least_is_black(pixels: np.ndarray, photometric: int) -> np.ndarray:
    """Pixels whose lowest value is black, whichever way the file has them."""
    if photometric == tifffile.PHOTOMETRIC.PALETTE:
        raise ValueError("its pixels are numbers of colours in a palette; save it as grey or RGB")
    if photometric != tifffile.PHOTOMETRIC.MINISWHITE:
        return pixels
    if pixels.dtype.kind not in "bu":
        raise ValueError(f"its lowest value is white, and {pixels.dtype} has no highest one; save it the other way")
    return ~pixels


def _check_complete(tif: tifffile.TiffFile, size: int) -> None:
    _check_directories(tif, size)
    for page in tif.pages:
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
        if end > size:
            raise ValueError(f"truncated: {size} bytes, pixels end at {end}")


def _check_directories(tif: tifffile.TiffFile, size: int) -> None:
    """Follow the chain of page directories to its end; tifffile itself drops the pages after a cut with a warning."""
    layout, handle = tif.tiff, tif.filehandle
    position = 4 if layout.offsetsize == 4 else 8
    seen: set[int] = set()
    while True:
        handle.seek(position)
        (start,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
        if start == 0:
            return
        if start in seen:
            raise ValueError(f"damaged: the directory of page {len(seen) + 1} is that of an earlier page")
        seen.add(start)
        handle.seek(start)
        count = handle.read(layout.tagnosize)
        tags = struct.unpack(layout.tagnoformat, count)[0] if len(count) == layout.tagnosize else 0
        position = start + layout.tagnosize + tags * layout.tagsize
        if tags == 0 or position + layout.offsetsize > size:
            raise ValueError(f"truncated: {size} bytes, the directory of page {len(seen)} is not whole")


def _rows_first(pixels: np.ndarray, axes: str) -> np.ndarray:
    pages = [i for i, axis in enumerate(axes) if axis not in "YXS"]
    samples = [i for i, axis in enumerate(axes) if axis == "S"]
    return pixels.transpose([axes.index("Y"), axes.index("X"), *pages, *samples])


def resolution_of(path: PathLike) -> tuple[Any, ...] | None:
    """(x, y, unit) as tifffile takes them, or None when the file states none or says 'no unit'."""
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages.first.tags
        values = [tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit")]
    if values[0] is None or values[1] is None:
        return None
    if 0 in (values[0].value[1], values[1].value[1]):
        return None  # 0/0, as some programs write for unknown
    unit = int(values[2].value) if values[2] is not None else 2  # the standard's default: inch
    return None if unit not in (2, 3) else (values[0].value, values[1].value, unit)


def write_tiff(path: PathLike, pixels: np.ndarray, resolution: tuple[Any, ...] | None = None) -> None:
    """Write (H, W) or pages (D, H, W), deflate-compressed; the file appears only when whole."""
    options: dict[str, Any] = {}
    if resolution is not None:
        options = {"resolution": resolution[:2], "resolutionunit": resolution[2]}
    atomic_write(
        Path(path),
        lambda partial: tifffile.imwrite(
            partial, pixels, photometric="minisblack", compression="zlib", metadata=None, **options
        ),
    )


class TiffReader(ImageReader):
    """TIFF files as (row, column) arrays. Use by dotted path: ``reader="monai_lgg.io.tiff.TiffReader"``.

    One file gives (H, W[, D][, C]). Files are opened in :meth:`get_data`, because LoadImage answers an exception
    in ``read`` by silently trying other readers, which would give a transposed image.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        names = [filename] if isinstance(filename, str | os.PathLike) else list(filename)
        return all(is_tiff(name) for name in names)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[str]:
        return [str(data)] if isinstance(data, str | os.PathLike) else [str(item) for item in data]

    def get_data(self, img: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
        if len(img) != 1:
            raise ValueError(f"{img[0]}: {len(img)} files given; use CaseReader for a stack of slices")
        pixels, axes = _read(img[0])
        pixels, samples = _rows_first(pixels, axes), "S" in axes
        meta = {
            "filename_or_obj": img[0],
            "affine": DISPLAY_AFFINE.copy(),
            "original_affine": DISPLAY_AFFINE.copy(),
            "spatial_shape": np.array(pixels.shape[:-1] if samples else pixels.shape),
            "original_channel_dim": -1 if samples else float("nan"),
            "space": "RAS",
            "spacing_known": False,
        }
        return pixels, meta


class TiffWriter(ImageWriter):
    """Masks as uint8 TIFF: 0/255 by default, one page a slice. ``writer="monai_lgg.io.tiff.TiffWriter"``.

    SaveImage passes its own defaults (float32, no scale), so give it ``output_dtype="uint8", scale=255``.

    Args:
        output_dtype: of the file, uint8; None keeps that of the data.
        scale: value written for 1 in a mask; 255 (default) or 1 (as None). Float dtypes are written as they are.
        kwargs: ignored, for SaveImage's sake.
    Raises:
        ValueError: more than one channel, or scaled values that ``output_dtype`` cannot hold.
    """

    def __init__(self, output_dtype: Any = np.uint8, scale: int | None = 255, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, affine=None, scale=scale)
        self.dtype = output_dtype
        self.scale = 1 if scale is None else scale
        self.resolution: tuple[Any, ...] | None = None

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **_: Any
    ) -> None:
        pixels: np.ndarray = convert_to_numpy(data_array)
        if channel_dim is not None:
            if pixels.shape[channel_dim] != 1:
                raise ValueError(f"a mask has 1 channel, got {pixels.shape[channel_dim]}; save each on its own")
            pixels = np.take(pixels, 0, axis=channel_dim)
        if pixels.ndim == 3:
            pixels = pixels[..., 0] if pixels.shape[-1] == 1 else np.moveaxis(pixels, -1, 0)
        dtype = pixels.dtype if self.dtype is None else np.dtype(self.dtype)
        self.data_obj = pixels.astype(dtype) if dtype.kind == "f" else self._scaled(pixels, dtype)

    def _scaled(self, pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
        values = np.rint(pixels * float(self.scale))
        top = 1 if dtype.kind == "b" else np.iinfo(dtype).max
        if not ((values >= 0) & (values <= top)).all():
            raise ValueError(
                f"values from {pixels.min()} to {pixels.max()} times scale {self.scale} do not fit {dtype}; "
                "give a mask of 0 and 1, or scale=1"
            )
        return values.astype(dtype)

    def set_metadata(self, meta_dict: Any = None, resample: bool = True, **_: Any) -> None:
        source = (meta_dict or {}).get("filename_or_obj")
        if source and is_tiff(source) and Path(source).is_file():
            self.resolution = resolution_of(source)

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        super().write(filename, verbose=verbose)
        write_tiff(filename, np.asarray(self.data_obj), self.resolution)
