"""The files that each predicted case gets."""

import hashlib
import json
import logging
import math
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from torch.nn.functional import interpolate

from monai_lgg.cases import missing_numbers
from monai_lgg.components import component_sizes
from monai_lgg.decision import decide
from monai_lgg.diameter import longest_axial_diameter
from monai_lgg.environment import environment
from monai_lgg.io.atomic import atomic_text, partial_folder, replace_folder
from monai_lgg.io.nifti import is_nifti, mm_per_unit, write_nifti
from monai_lgg.io.reader import CaseReader
from monai_lgg.io.tiff import write_tiff
from monai_lgg.quality import LOW_CONFIDENCE, Flag, confidence, quality_flags, uncertainty
from monai_lgg.reference import load_reference
from monai_lgg.report.overlay import save_contact_sheet
from monai_lgg.transforms import flair_channel

_log = logging.getLogger(__name__)

#: (row, column, slice) of radiological display, the order of the public TIFF slices.
DISPLAY_AXES = "PLS"
FORMATS = ("auto", "tiff", "nifti", "dicomseg")
#: How a DICOM SEG holds the result: the mask, or the probabilities.
SEG_TYPES = ("binary", "fractional")
RESULT = "result.json"
MANIFEST = "manifest.json"
TABLE = "results.csv"


class SaveCased(MapTransform):
    """Writes one case's files into ``<output_dir>/<case>/``, which appears only when all of them are whole.

    The mask (``<case>_<n>_mask.tif`` a slice, n as in the image's name, uint8 0/255; or ``<case>_mask.nii.gz``, uint8
    0/1; or ``<case>_seg.dcm``), ``overlay.png`` and ``result.json`` with size, confidence, quality flags and the names
    of the images; by option the probabilities (``_prob``) and their uncertainty (``_uncertainty``), both float32, NIfTI
    beside a DICOM SEG.

    Args:
        keys: of the probabilities (1, X, Y, Z) in the geometry of the input.
        output_dir: parent of the case folders.
        output_format: ``tiff``, ``nifti``, ``dicomseg`` (DICOM input only) or ``auto``: as the input, NIfTI for DICOM.
        threshold: probability from which a voxel is tumour.
        probabilities: write them too.
        uncertainty: write the entropy of the probabilities, in bits, too.
        overlay: write ``overlay.png``.
        reference_file: of :func:`monai_lgg.reference.save_reference`; without such a file the flags that compare with
            the training data are absent.
        component_share, fill_holes: of the mask, as in :func:`monai_lgg.decision.decide`.
        low_confidence: expected Dice below which a mask is flagged.
        seg_type: of a DICOM SEG: ``binary`` (the mask) or ``fractional`` (the probabilities, before the decision).
        metadata_file: of the bundle; its name and version go into a DICOM SEG.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        output_format: str = "auto",
        threshold: float = 0.5,
        probabilities: bool = False,
        uncertainty: bool = False,
        overlay: bool = True,
        reference_file: str | None = None,
        component_share: float = 0.0,
        fill_holes: bool = False,
        low_confidence: float = LOW_CONFIDENCE,
        seg_type: str = "binary",
        metadata_file: str | None = None,
    ) -> None:
        super().__init__(keys)
        if seg_type not in SEG_TYPES:
            raise ValueError(f"seg_type {seg_type!r} is not one of {', '.join(SEG_TYPES)}")
        if output_format not in FORMATS:
            raise ValueError(f"output_format {output_format!r} is not one of {', '.join(FORMATS)}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold {threshold} is not between 0 and 1")
        if not 0 <= low_confidence <= 1:
            raise ValueError(f"low_confidence {low_confidence} is not in 0 to 1")
        self.output_dir = Path(output_dir)
        self.output_format = output_format
        self.threshold = threshold
        self.probabilities = probabilities
        self.uncertainty = uncertainty
        self.overlay = overlay
        self.reference = load_reference(reference_file) if reference_file else None
        self.component_share = component_share
        self.fill_holes = fill_holes
        self.low_confidence = low_confidence
        self.seg_type = seg_type
        self.metadata_file = Path(metadata_file) if metadata_file else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        record = dict(data)
        for key in self.key_iterator(record):
            self._save(record, record[key])
        return record

    def _save(self, record: Mapping[Hashable, Any], probability: Any) -> None:
        case = str(record["case"])
        final = self.output_dir / case
        if final.exists() and not (final / RESULT).is_file():
            raise FileExistsError(f"{final} exists and is no result of monai-lgg; choose another output folder")
        with partial_folder(final) as partial:
            self._write(partial, case, record, probability)
            replace_folder(partial, final)

    def _write(self, folder: Path, case: str, record: Mapping[Hashable, Any], probability: Any) -> None:
        meta = probability.meta
        values = probability[0].float().cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"{case}: the network's output is not finite; try --precision fp32, or train again")
        affine = np.asarray(meta["affine"])
        shown = to_display(values, affine)
        shown_mask = decide(shown, self.threshold, self.component_share, self.fill_holes)
        mask = from_display(shown_mask, affine)
        source = "nifti" if "dicom" in record or is_nifti(str(meta["filename_or_obj"])) else "tiff"
        chosen = source if self.output_format == "auto" else self.output_format
        numbers = list(record.get("slices", []))
        write = _write_tiff if chosen == "tiff" else _write_nifti
        if chosen == "dicomseg":
            self._write_seg(folder / f"{case}_seg.dcm", record, mask if self.seg_type == "binary" else values)
        else:
            write(folder, case, "mask", mask.astype(np.uint8), meta, numbers, 255 if chosen == "tiff" else 1)
        if self.probabilities:
            write(folder, case, "prob", values, meta, numbers, 1)
        if self.uncertainty:
            write(folder, case, "uncertainty", uncertainty(values), meta, numbers, 1)
        files = sorted(path.name for path in folder.iterdir())
        if self.overlay:
            self._overlay(folder / "overlay.png", case, record, shown_mask)
        result = {"case": case, "format": chosen, "threshold": self.threshold, **measure(mask, meta)}
        result |= record.get("run_by", {})
        result |= self._quality(record, shown, shown_mask)
        if "dicom" in record:
            result["dicom"] = json.loads(record["dicom"])["facts"]
        result["files"] = files
        result["made_from"] = json.loads(record["made_from"]) if "made_from" in record else None
        atomic_text(folder / RESULT, json.dumps(result, indent=1) + "\n")

    def _write_seg(self, path: Path, record: Mapping[Hashable, Any], values: np.ndarray) -> None:
        if "dicom" not in record:
            raise ValueError(f"{record['case']}: DICOM SEG needs DICOM input; give the DICOM study, or --format nifti")
        from monai_lgg.io.dicom.seg import Algorithm, write_seg

        found = self.metadata_file is not None and self.metadata_file.is_file()
        metadata = json.loads(self.metadata_file.read_text()) if self.metadata_file and found else {}
        weights = json.loads(record.get("made_from", "{}")).get("weights_sha256") or ""
        algorithm = Algorithm(metadata.get("name", "monai-lgg"), metadata.get("version", "0"), weights, self.threshold)
        write_seg(path, values, json.loads(record["dicom"])["files"], algorithm)

    def _quality(self, record: Mapping[Hashable, Any], values: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        expected = confidence(values, mask)
        flags = quality_flags(
            values,
            mask,
            _on_grid(record["image"], values.shape).numpy(),
            self.reference,
            low_confidence=self.low_confidence,
        )
        flags += [*_lost_files(record), *_lost_slices(record)]
        return {
            "confidence": None if math.isnan(expected) else round(expected, 4),
            "largest_probability": round(float(values.max()), 4),
            "flags": [vars(flag) for flag in flags],
        }

    def _overlay(self, path: Path, case: str, record: Mapping[Hashable, Any], mask: np.ndarray) -> None:
        flair = flair_channel(_on_grid(record["image"], mask.shape))
        truth = _truth(record, flair.shape)
        save_contact_sheet(path, case, flair, mask, truth, [int(n) for n in record.get("slices", [])])


def _lost_files(record: Mapping[Hashable, Any]) -> list[Flag]:
    """Of a DICOM study; those that may be slices of FLAIR are no matter of flags, they refuse it."""
    count = json.loads(record["dicom"])["facts"].get("unreadable_files", 0) if "dicom" in record else 0
    if not count:
        return []
    reason = f"{count} file(s) beside FLAIR cannot be read (damaged, or no permission); another series may lack images"
    return [Flag("unreadable files", reason)]


def _lost_slices(record: Mapping[Hashable, Any]) -> list[Flag]:
    """By the numbers in the names of a patient's slices."""
    numbers = [int(number) for number in record.get("slices", [])]
    gaps = missing_numbers(numbers, min(numbers)) if numbers else []
    if not gaps:
        return []
    return [Flag("missing slices", f"no slice {', '.join(gaps)}; those beside were taken for neighbours")]


def _on_grid(image: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The network's image (C, H, W, D), which is in display order already, on the grid of the mask.

    A bundle may change the spacing for its network (Spacingd); what its image covers stays the same.
    """
    plain = torch.as_tensor(image).detach().as_subclass(torch.Tensor).float().cpu()
    if tuple(plain.shape[1:]) == tuple(shape):
        return plain
    return interpolate(plain[None], size=tuple(shape), mode="trilinear", align_corners=False)[0]


def _truth(record: Mapping[Hashable, Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """The mask that came with the case, to be drawn; a bad one fails no prediction."""
    if not record.get("truth"):
        return None
    try:
        pixels = CaseReader().get_data([str(item) for item in record["truth"]])[0][..., 0]
        if pixels.shape != shape:
            raise ValueError(f"masks of {pixels.shape}, images of {shape}")
    except (OSError, ValueError) as error:
        _log.warning("%s: its own masks are not drawn: %s", record["case"], error)
        return None
    return np.asarray(pixels > 0)


def to_display(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(X, Y, Z) with its RAS affine -> (row, column, slice) as shown on screen."""
    return np.asarray(apply_orientation(volume, ornt_transform(io_orientation(affine), axcodes2ornt(DISPLAY_AXES))))


def from_display(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(row, column, slice) as shown on screen -> (X, Y, Z) of a file with this RAS affine."""
    return np.asarray(apply_orientation(volume, ornt_transform(axcodes2ornt(DISPLAY_AXES), io_orientation(affine))))


def _write_tiff(
    folder: Path, case: str, kind: str, volume: np.ndarray, meta: Any, numbers: list[str], scale: int
) -> None:
    shown = to_display(volume, np.asarray(meta["affine"]))
    if numbers and len(numbers) != shown.shape[2]:
        raise ValueError(f"{case}: {shown.shape[2]} slices in {len(numbers)} files; a file of a slice holds one image")
    single = not numbers and shown.shape[2] == 1
    for k, number in enumerate(numbers or range(1, shown.shape[2] + 1)):
        pixels = shown[..., k] * scale if scale != 1 else shown[..., k]
        path = folder / (f"{case}_{kind}.tif" if single else f"{case}_{number}_{kind}.tif")
        write_tiff(path, pixels.astype(volume.dtype), meta.get("resolution"))


def _write_nifti(
    folder: Path, case: str, kind: str, volume: np.ndarray, meta: Any, numbers: list[str], scale: int
) -> None:
    write_nifti(folder / f"{case}_{kind}.nii.gz", volume, dict(meta))


def measure(mask: np.ndarray, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Size and number of components of a mask; volume and diameter only where the spacing is known.

    Args:
        mask: bool (X, Y, Z).
    Returns:
        ``voxels``, ``volume_ml``, ``longest_axial_diameter_mm`` (:func:`monai_lgg.diameter.longest_axial_diameter`),
        ``components`` and ``spacing_mm`` along the axes of the file.
    """
    components = len(component_sizes(mask))
    voxels = int(np.count_nonzero(mask))
    if not meta.get("spacing_known", False):
        unknown = {"volume_ml": None, "longest_axial_diameter_mm": None}
        return {"voxels": voxels, **unknown, "components": components, "spacing_mm": None}
    affine = np.asarray(meta["original_affine"], dtype=float)[:3, :3] * mm_per_unit(int(meta.get("xyzt_units", 0)))
    spacing = np.linalg.norm(affine, axis=0)
    volume_ml = voxels * abs(float(np.linalg.det(affine))) / 1000
    return {
        "voxels": voxels,
        "volume_ml": round(volume_ml, 4),
        "longest_axial_diameter_mm": round(longest_axial_diameter(mask, affine), 2),
        "components": components,
        "spacing_mm": [round(float(value), 6) for value in spacing],
    }


def write_manifest(output: Path, bundle: Path, options: Mapping[str, Any], counts: Mapping[str, int]) -> Path:
    """``manifest.json``: with what the predictions of one call were made. No path of an input goes in.

    Args:
        output: of the predictions.
        bundle: folder, with weights at ``models/model.pt``.
        options: of the call, such as the threshold; with ``ensemble`` the weights are those of the ensemble.
        counts: of cases, by their status.
    """
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    content = {
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {
            "folder": bundle.name,
            "name": metadata.get("name"),
            "version": metadata.get("version"),
            "weights_sha256": weights_sha256(bundle, bool(options.get("ensemble"))),
        },
        "options": dict(options),
        "cases": dict(counts),
        "environment": environment(),
    }
    atomic_text(output / MANIFEST, json.dumps(content, indent=1) + "\n")
    return output / MANIFEST


def weights_sha256(bundle: Path, ensemble: bool = False) -> str | None:
    """Of ``models/model.pt`` or ``models/ensemble.pt``; None when there are no weights."""
    weights = bundle / "models" / ("ensemble.pt" if ensemble else "model.pt")
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
