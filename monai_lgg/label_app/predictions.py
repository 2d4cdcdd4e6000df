"""Masks and uncertainty of single images for the label server, by this package's own prediction."""

import json
import shutil
import tempfile
from pathlib import Path
from threading import Lock
from typing import Any

import nibabel as nib
import numpy as np

from monai_lgg.inference import Predictor
from monai_lgg.io.nifti import is_nifti
from monai_lgg.io.tiff import is_tiff, read_tiff, write_tiff
from monai_lgg.label_app.versions import WEIGHTS, Versions
from monai_lgg.prediction_inputs import prediction_records
from monai_lgg.saving import RESULT

#: Ways to measure how unsure a network is of an image: settings of ``inference.json``.
UNCERTAINTY: dict[str, dict[str, Any]] = {
    "epistemic": {"_target_": "monai_lgg.uncertainty.DropoutInferer", "inferer": "@slice_inferer"},
    "tta": {"_target_": "monai_lgg.uncertainty.FlipInferer", "inferer": "@slice_inferer"},
}
_MASK = {"save_overlay": False}
_ENTROPY = {"save_overlay": False, "save_uncertainty": True, "output_format": "nifti"}
#: Of ``result.json``, that are worth telling the annotator.
FACTS = ("voxels", "volume_ml", "components", "confidence", "flags")


class Predictions:
    """Runs the versions of one model; for each kind of result, the version that was used last stays loaded.

    Args:
        versions: of the model.
    """

    def __init__(self, versions: Versions) -> None:
        self.versions = versions
        self._loaded: dict[str, tuple[Any, Predictor, Path]] = {}
        self._lock = Lock()  # cases of one name would meet in the output folder
        self._folder = tempfile.TemporaryDirectory(prefix="monai-lgg-label-")

    def mask(self, image: Path, version: int | None = None, device: str = "auto") -> tuple[Path, dict[str, Any]]:
        """The mask of an image, pixel for pixel what ``monai-lgg predict`` writes, but 0 and 1 for TIFF too.

        Args:
            image: NIfTI volume or TIFF.
            version: None for the latest.
        Returns:
            A file, which is the caller's to delete, and facts about it: model, version, weights_sha256, :data:`FACTS`.
        Raises:
            ValueError: the image cannot be used, or there is no such version.
            FileNotFoundError: no image, or no weights.
        """
        version = self.versions.latest() if version is None else version
        with self._lock:
            folder, result = self._predict("mask", _MASK, image, version, device)
            try:
                path = _one_file(folder)
            finally:
                shutil.rmtree(folder)
        facts = {key: result[key] for key in FACTS}
        weights = result["made_from"]["weights_sha256"]
        return path, {"model": self.versions.name, "version": version, "weights_sha256": weights, **facts}

    def entropy(self, image: Path, method: str, version: int | None = None, device: str = "auto") -> float:
        """Mean binary entropy, in bits, of the probabilities of all voxels of an image.

        Args:
            method: of :data:`UNCERTAINTY`.
            version: None for the latest.
        """
        settings = {**_ENTROPY, "inferer": UNCERTAINTY[method]}
        version = self.versions.latest() if version is None else version
        with self._lock:
            folder, _ = self._predict(method, settings, image, version, device)
            try:
                (path,) = folder.glob("*_uncertainty.nii.gz")
                return float(np.asanyarray(nib.load(path).dataobj).mean())  # type: ignore[attr-defined]
            finally:
                shutil.rmtree(folder)

    def _predict(
        self, kind: str, settings: dict[str, Any], image: Path, version: int, device: str
    ) -> tuple[Path, dict[str, Any]]:
        if not (is_nifti(image) or is_tiff(image)):
            raise ValueError(f"{image.name}: give .nii, .nii.gz or .tif; DICOM is served from a server (--dicomweb)")
        records = prediction_records(image)
        if len(records) != 1:
            raise ValueError(f"{image}: {len(records)} cases; give one image")
        predictor, output = self._predictor(kind, settings, version, device)
        outcome = predictor(records[0])
        if outcome.status != "done":
            raise ValueError(outcome.error)
        folder = output / outcome.case
        return folder, json.loads((folder / RESULT).read_text())

    def _predictor(self, kind: str, settings: dict[str, Any], version: int, device: str) -> tuple[Predictor, Path]:
        bundle = self.versions.folder(version)
        key = (bundle, (bundle / WEIGHTS).stat().st_mtime_ns, device)
        loaded = self._loaded.get(kind)
        if loaded is None or loaded[0] != key:
            output = Path(self._folder.name) / kind
            loaded = (key, Predictor(bundle, output, settings=settings, device=device), output)
            self._loaded[kind] = loaded
        return loaded[1], loaded[2]


def _one_file(folder: Path) -> Path:
    """The mask of a result as one temporary file: slices of a TIFF become its pages, with 0 and 1."""
    masks = list(folder.glob("*_mask.*"))
    kind = ".tif" if is_tiff(masks[0]) else ".nii.gz"
    handle, name = tempfile.mkstemp(prefix="monai-lgg-mask-", suffix=kind)
    open(handle, "wb").close()
    path = Path(name)
    if kind == ".nii.gz":
        shutil.move(masks[0], path)
        return path
    pages = np.stack([read_tiff(mask) > 0 for mask in sorted(masks, key=_number)]).astype(np.uint8)
    write_tiff(path, pages[0] if len(pages) == 1 else pages)
    return path


def _number(mask: Path) -> int:
    number = mask.stem.removesuffix("_mask").rpartition("_")[2]
    return int(number) if number.isdigit() else 0
