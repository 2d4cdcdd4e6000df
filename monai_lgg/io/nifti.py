"""NIfTI reading and writing through nibabel, with the affine, form codes and units kept.

A volume stacked from TIFF slices has a known orientation and no known spacing. NIfTI cannot leave the zooms empty, so
such a file has zooms of 1 and says by :data:`SIZE_UNKNOWN` and ``xyzt_units = 0`` that they mean nothing. Its
orientation is stated (``qform_code = sform_code = 2``), because of a file that states none nibabel assumes the second
axis to go to anterior, and ITK, hence 3D Slicer, to posterior.
"""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike

from monai_lgg.io.atomic import atomic_write

SUFFIXES = (".nii", ".nii.gz")
#: Beginning of the header's description of a file whose zooms mean nothing.
SIZE_UNKNOWN = b"voxel size unknown"
#: NIFTI_XFORM_ALIGNED_ANAT: along the axes of the body, not in the scanner's coordinates.
ALIGNED = 2


def is_nifti(path: PathLike) -> bool:
    return str(path).lower().endswith(SUFFIXES)


def spacing_known(header: nib.Nifti1Header) -> bool:
    """False for a file that says so, or states neither a coordinate system nor a unit of length."""
    if bytes(header["descrip"]).startswith(SIZE_UNKNOWN):
        return False
    coded = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    return coded or header.get_xyzt_units()[0] != "unknown"


def mm_per_unit(xyzt_units: int) -> float:
    """Millimetres in the file's unit of length; a file with a coordinate system but no unit is taken as mm."""
    return {1: 1000.0, 3: 0.001}.get(xyzt_units & 7, 1.0)  # NIfTI-1: 1 is metre, 2 millimetre, 3 micrometre


def read_nifti(path: PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    """Voxels as (X, Y, Z, C) and the geometry.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: damaged, truncated, not 3D or 4D, NaN / Inf or RGB voxels, or no usable affine.
    """
    try:
        Path(path).open("rb").close()  # of a file that may not be read nibabel says that its type is unknown
        image, voxels = _load(path)
        qform = image.header.get_qform() if int(image.header["qform_code"]) > 0 else image.affine
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a readable NIfTI file ({error}); fetch or export it again") from error
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    if voxels.ndim == 5 and voxels.shape[3] == 1:  # the NIfTI standard keeps vector channels in the fifth axis
        voxels = voxels[:, :, :, 0]
    if voxels.ndim not in (3, 4):
        raise ValueError(f"{path}: shape {voxels.shape}; a volume has 3 axes, or 4 with the sequences last")
    if voxels.dtype.kind not in "biuf":
        raise ValueError(f"{path}: voxels of type {voxels.dtype}; store the sequences as a fourth axis of numbers")
    if not np.isfinite(voxels).all():
        raise ValueError(f"{path}: has NaN or infinite voxels; replace them first")
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)  # PyTorch takes no big-endian numbers
    header = image.header
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ValueError(f"{path}: affine {affine.tolist()} cannot be inverted; repair the header")
    meta = {
        "affine": affine,
        "spacing_known": spacing_known(header),
        "qform": np.asarray(qform, dtype=np.float64),  # may be another one than the affine
        "qform_code": int(header["qform_code"]),
        "sform_code": int(header["sform_code"]),
        "xyzt_units": int(header["xyzt_units"]),
    }
    return voxels if voxels.ndim == 4 else voxels[..., None], meta


def _load(path: PathLike) -> tuple[Any, np.ndarray]:
    """A compressed file is read to its end, where its check sum is; nibabel alone stops at the last voxel."""
    image: Any = nib.load(path)
    if not str(path).lower().endswith(".gz"):
        return image, _voxels(image)
    with gzip.open(path) as stream:
        image = type(image).from_stream(stream)
        voxels = _voxels(image)
        while stream.read(1 << 24):
            pass
    return image, voxels


def _voxels(image: Any) -> np.ndarray:
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    return np.asanyarray(image.dataobj, dtype=np.float32 if scaled else None)


def write_nifti(path: PathLike, voxels: np.ndarray, meta: dict[str, Any]) -> None:
    """Write (X, Y, Z) with the geometry of ``meta`` (as :func:`read_nifti` gives it); appears only when whole.

    Where ``meta`` has no form codes at all, not even 0 (a stack of TIFF slices in (row, column, slice) order), the
    file is as the module's head describes, its axes going to the left, anterior and superior.
    """
    affine = np.asarray(meta["affine"], dtype=np.float64)
    codes = (int(meta.get("qform_code", ALIGNED)), int(meta.get("sform_code", ALIGNED)))
    if "qform_code" not in meta:
        voxels, affine = _to_usual_order(voxels, affine)
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine if codes[1] else None, codes[1])
    if codes[0]:
        image.set_qform(np.asarray(meta.get("qform", affine), dtype=np.float64), codes[0])
    else:
        image.set_qform(affine if codes[1] else None, 0)
        image.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    image.header["xyzt_units"] = int(meta.get("xyzt_units", 0))
    if not meta.get("spacing_known", False) and any(codes):
        image.header["descrip"] = SIZE_UNKNOWN
    atomic_write(Path(path), lambda partial: nib.save(image, partial))


def _to_usual_order(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = nib.orientations.io_orientation(affine)
    target = nib.orientations.axcodes2ornt(("L", "A", "S"))
    transform = nib.orientations.ornt_transform(start, target)
    moved = nib.orientations.apply_orientation(voxels, transform)
    return moved, affine @ nib.orientations.inv_ornt_aff(transform, voxels.shape)
