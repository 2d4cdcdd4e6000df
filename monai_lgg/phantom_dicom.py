"""Phantoms as DICOM studies: a localizer, FLAIR, and T1 before and after contrast medium with their own geometry.

For demonstrations and tests. The files have random names without an ending, as archives export them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from monai_lgg.io.dicom.geometry import RAS, resample
from monai_lgg.io.dicom.headers import MR
from monai_lgg.phantom import PhantomPatient, make_patient

#: mm: width of a phantom's field of view, height of its head.
FIELD, HEIGHT = 240.0, 150.0
#: Grey values of the scanner for one of the phantom's.
GAIN = 4

_TILT, _TURN = np.deg2rad(20), np.deg2rad(10)
#: Directions of increasing column and of increasing row (LPS) of each way to acquire.
PLANES: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (
        *(np.cos(_TURN), np.sin(_TURN), 0),
        *(-np.sin(_TURN) * np.cos(_TILT), np.cos(_TURN) * np.cos(_TILT), -np.sin(_TILT)),
    ),
}

_T1 = {"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 10}
#: Header of each series.
SEQUENCES: dict[str, dict[str, Any]] = {
    "localizer": {
        "SeriesDescription": "localizer",
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "ScanningSequence": "GR",
        "RepetitionTime": 20,
        "EchoTime": 5,
    },
    "pre": {"SeriesDescription": "t1_se", **_T1},
    "flair": {
        "SeriesDescription": "t2_tirm_dark-fluid",
        "ScanningSequence": ["SE", "IR"],
        "RepetitionTime": 9000,
        "EchoTime": 120,
        "InversionTime": 2500,
    },
    "post": {"SeriesDescription": "t1_se", **_T1, "ContrastBolusAgent": "Gadolinium"},
}
_CHANNEL = {"pre": 0, "flair": 1, "post": 2, "localizer": 0}


def write_studies(
    root: Path,
    patients: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
    slices: int | None = None,
    plane: str = "axial",
    progress: Callable[[int, int], object] | None = None,
) -> list[str]:
    """Write phantoms 0 to ``patients - 1`` as one study each, ``root/<name>/<random folder>/<random file>``.

    Args:
        root: without any of these patients yet.
        size, slices: of axial images and their number; None draws it.
        plane: of FLAIR, one of ``PLANES``; T1 is axial.
    Returns:
        The patients' folders.
    Raises:
        ValueError: a patient's folder is there already, or an argument is out of range.
    """
    names = []
    for index in range(patients):
        patient = make_patient(index, seed=seed, size=size, slices=slices)
        if (root / patient.name).exists():
            raise ValueError(f"{root / patient.name} exists; choose another folder or delete this one")
        write_study(root / patient.name, patient, seed=seed, plane=plane)
        names.append(patient.name)
        if progress is not None:
            progress(index + 1, patients)
    return names


def write_study(folder: Path, patient: PhantomPatient, *, seed: int = 0, plane: str = "axial") -> None:
    """One phantom as a study in one frame of reference: localizer, T1 before (if it has one), FLAIR, T1 after."""
    rng = np.random.default_rng([seed, *patient.name.encode()])
    common = study_tags(patient.name, rng)
    source = own_affine(patient)
    columns, rows, slices = patient.image.shape[2], patient.image.shape[1], len(patient.image)
    grids: dict[str, tuple[Any, ...]] = {
        "localizer": (PLANES["sagittal"], (columns // 2, rows // 2, 3), (2 * FIELD / columns, 2 * FIELD / rows, 20.0)),
        "flair": (PLANES[plane], *_flair_grid(plane, columns, rows, slices)),
    }
    for name in ("pre", "post"):
        if name not in patient.missing:
            shape = (columns * 3 // 4, rows * 3 // 4, slices + 4)
            grids[name] = (PLANES["axial"], shape, (FIELD / shape[0], FIELD / shape[1], HEIGHT / slices))
    for number, (name, (directions, shape, spacing)) in enumerate(grids.items(), start=1):
        affine = centred_affine(directions, shape, spacing)
        voxels = patient.image[..., _CHANNEL[name]].astype(np.float32).transpose(2, 1, 0)
        voxels = resample(voxels, source, affine, shape)
        tags = {**common, **SEQUENCES[name], "SeriesNumber": number}
        write_series(folder / f"{rng.integers(2**32):08X}", (voxels * GAIN).round(), affine, tags, rng)


def _flair_grid(plane: str, columns: int, rows: int, slices: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing: sagittal and coronal ones are thin, as of 3D sequences; others have the phantom's slices."""
    across, down = FIELD / columns, FIELD / rows
    if plane in ("sagittal", "coronal"):
        return (columns, rows, columns), (across, down, across)
    return (columns, rows, slices), (across, down, HEIGHT / slices)


def own_affine(patient: PhantomPatient) -> np.ndarray:
    """RAS affine, mm, of a phantom's (column, row, slice), centred."""
    slices, rows, columns = patient.mask.shape
    return centred_affine(PLANES["axial"], (columns, rows, slices), (FIELD / columns, FIELD / rows, HEIGHT / slices))


def centred_affine(directions: Sequence[float], shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """RAS affine of (column, row, slice) whose middle is the origin; directions are those of DICOM (LPS)."""
    across, down = np.array(directions[:3]), np.array(directions[3:])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across, down, np.cross(across, down)], axis=1) * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return RAS @ affine


def study_tags(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """What all images of a study have in common."""
    entropy = [name, str(rng.integers(2**62))]
    return {
        "PatientName": f"PHANTOM^{name}",
        "PatientID": name,
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "StudyInstanceUID": generate_uid(entropy_srcs=[*entropy, "study"]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[*entropy, "frame"]),
        "StudyID": "1",
        "StudyDate": "20200101",
        "StudyTime": "120000",
        "AccessionNumber": "1",
        "ReferringPhysicianName": "",
        "PatientPosition": "HFS",
        "PositionReferenceIndicator": "",
        "BodyPartExamined": "BRAIN",
        "Manufacturer": "monai-lgg phantom",
        "Modality": "MR",
    }


def write_series(
    folder: Path, voxels: np.ndarray, affine: np.ndarray, tags: Mapping[str, Any], rng: np.random.Generator
) -> list[Path]:
    """A volume as single-frame MR images under random names.

    Args:
        voxels: (column, row, slice), whole numbers from 0 to 65535.
        affine: RAS, mm.
        tags: of the headers, by keyword.
        rng: of UIDs and names.
    Returns:
        The files, in the order of the slices.
    """
    folder.mkdir(parents=True)
    series = generate_uid(entropy_srcs=[str(rng.integers(2**62)), "series"])
    names = [f"{value:08X}" for value in rng.permutation(2**16)[: voxels.shape[2]]]
    for k, name in enumerate(names):
        image = _image(voxels[..., k], affine, k, {"SeriesInstanceUID": series, **tags})
        image.save_as(folder / name, enforce_file_format=True)
    return [folder / name for name in names]


def _image(pixels: np.ndarray, affine: np.ndarray, k: int, tags: Mapping[str, Any]) -> FileDataset:
    uid = generate_uid(entropy_srcs=[str(tags["SeriesInstanceUID"]), str(k)])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(MR), uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = MR, uid
    image.InstanceNumber = k + 1
    for keyword, value in {**_fixed_tags(), **tags, **geometry_tags(affine, k)}.items():
        setattr(image, keyword, value)
    image.Columns, image.Rows = pixels.shape
    image.PixelData = pixels.T.astype("<u2").tobytes()
    return image


def _fixed_tags() -> dict[str, Any]:
    return {
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "EchoTrainLength": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }


def geometry_tags(affine: np.ndarray, k: int) -> dict[str, list[float] | float]:
    """Position, orientation and spacing of slice ``k`` of a volume with this RAS affine; DICOM allows 16 characters."""
    lps = RAS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / lengths
    return {
        "ImagePositionPatient": _short(lps[:3, 3] + k * lps[:3, 2]),
        "ImageOrientationPatient": _short(np.concatenate([directions[:, 0], directions[:, 1]])),
        "PixelSpacing": _short(lengths[[1, 0]]),
        "SliceThickness": _short(lengths[2:])[0],
        "SpacingBetweenSlices": _short(lengths[2:])[0],
    }


def _short(values: np.ndarray) -> list[float]:
    return [round(float(value), 9) + 0.0 for value in values]
