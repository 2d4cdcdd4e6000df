"""MONAI Label's stores of images, a folder or a DICOMweb server, with labels checked before they are kept."""

import json
import logging
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import TTLCache, cached
from filelock import FileLock
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.dataset import Dataset

from monai_lgg.errors import deepest
from monai_lgg.io.atomic import atomic_text
from monai_lgg.io.nifti import write_nifti
from monai_lgg.io.reader import CaseReader
from monai_lgg.label_app.segmentations import NEOPLASM, Drawn, drawn_tumour, mask_of
from monai_lgg.label_app.studies import check_label, check_plain, write_binary

_log = logging.getLogger(__name__)

#: How a DICOM SEG names its segment, in the terms of dcmqi. MONAI Label itself would code any name as the spleen.
SEGMENT = {
    "labelID": 1,
    "SegmentLabel": "tumour",
    "SegmentDescription": "FLAIR abnormality of lower-grade glioma",
    "SegmentAlgorithmType": "SEMIAUTOMATIC",
    "SegmentAlgorithmName": "monai-lgg",
    "SegmentedPropertyCategoryCodeSequence": {
        "CodeValue": "49755003",
        "CodingSchemeDesignator": "SCT",
        "CodeMeaning": "Morphologically Altered Structure",
    },
    "SegmentedPropertyTypeCodeSequence": {
        "CodeValue": NEOPLASM,
        "CodingSchemeDesignator": "SCT",
        "CodeMeaning": "Neoplasm",
    },
    "recommendedDisplayRGBValue": [230, 110, 0],
}


class StudiesDatastore(LocalDatastore):
    """A local datastore that refuses a label that does not fit its image, and leaves the one it has.

    Hidden files are none of it: a file that is being written has a hidden name until it is whole. So it is seen when it
    is renamed, which MONAI Label does not watch for.
    """

    def __init__(self, datastore_path: str, *, auto_reload: bool = False, **options: Any) -> None:
        self._told: set[str] = set()
        try:
            super().__init__(datastore_path, auto_reload=auto_reload, **options)
        except ValueError as error:
            raise ValueError(
                f"{self._datastore_config_path} is damaged ({' '.join(str(error).split())[:100]}); move it away: "
                "images and labels are found again, scores are measured again"
            ) from error
        if auto_reload:
            self._handler.on_moved = self._on_renamed

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        """Of files that have one id, ``x.nii.gz`` and ``x.tif``, the first by name; the others are told of once."""
        found = super()._list_files(path, patterns)
        first: dict[str, str] = {}
        for name in sorted(found):
            known = first.setdefault(self._to_id(name)[0], name)
            if known != name and not name.startswith(".") and name not in self._told:
                self._told.add(name)
                _log.warning(f"{name} is not served, because {known} has the same id; rename one, and its label")
        return {name: found[name] for name in first.values() if not name.startswith(".")}

    def _on_renamed(self, event: Any) -> None:
        if event.dest_path == self._datastore_config_path:
            self._init_from_datastore_file()  # reads it only if another process wrote it
        else:
            self._on_any_event(event)

    def _update_datastore_file(self, lock: bool = True) -> None:
        """In one step, so that a full disk or a kill leaves no half of it."""
        with FileLock(self._lock_file) if lock else nullcontext():
            path = Path(self._datastore_config_path)
            atomic_text(path, json.dumps(self._datastore.model_dump(exclude={"base_path"}), indent=2, default=str))
            self._config_ts = path.stat().st_mtime

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Raises: ValueError: no plain name, no image that can be read, or another image of that name is here."""
        path = Path(image_filename)
        image_id = image_id or self._to_id(path.name)[0]
        check_plain("image", image_id)
        if not any(fnmatch(path.name, pattern) for pattern in self._extensions):
            raise ValueError(f"image {image_id}: {path.name} is none of {', '.join(self._extensions)}; convert it")
        CaseReader().get_data([str(path)])
        known = self.get_image_uri(image_id)
        if known and Path(known).read_bytes() != path.read_bytes():
            raise ValueError(f"image {image_id}: another one of this name is here; upload it under a new name")
        return image_id if known else str(super().add_image(image_id, image_filename, image_info))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Raises: ValueError: no plain tag; see :func:`monai_lgg.label_app.studies.check_label`."""
        check_plain("label tag", str(label_tag))
        image = self.get_image_uri(image_id)
        if not image:
            raise ImageNotFoundException(f"image {image_id} is not in the studies folder")
        check_label(Path(image), Path(label_filename), image_id)
        return str(super().save_label(image_id, label_filename, label_tag, label_info))


class SeriesDatastore(DICOMWebDatastore):
    """MR series of a DICOMweb server; finished labels are stored there as DICOM SEG.

    The newest tumour that people drew on a series, here or in another viewer, is its label; masks of networks that
    nobody touched are none (:func:`monai_lgg.label_app.segmentations.drawn_tumour`).
    """

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label, for which MONAI Label gives the id of its image, or of a SEG series with its image."""
        if not image_id:
            kept = str(LocalDatastore.get_label_uri(self, label_id, label_tag))
            if kept:
                return kept
        return str(super().get_label_uri(label_id, label_tag, image_id))

    @cached(cache=TTLCache(maxsize=16, ttl=settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY))
    def get_labeled_images(self, label_tag: str | None = None, labels: Sequence[str] | None = None) -> list[str]:
        """The series with a label; all others are offered as the next sample."""
        return list(self._drawn())

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Series and their labels as files, brought up to date first; a label that cannot be used is told of."""
        drawn = self._drawn()
        for image in set(LocalDatastore.get_labeled_images(self)) - set(drawn):
            LocalDatastore.remove_label(self, image, DefaultLabelTag.FINAL)  # its SEG was removed from the server
        for image, label in drawn.items():
            try:
                self._fetch(label)
            except Exception as error:
                _log.warning(f"label {label.series} of {image} cannot be used: {deepest(error)}")
        return list(LocalDatastore.datalist(self, full_path))

    def _drawn(self) -> dict[str, Drawn]:
        """Of each series the newest label on the server."""
        images, newest = set(self.list_images()), dict[str, Drawn]()
        for found in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            item = Dataset.from_json(found)
            series = str(item.SeriesInstanceUID)
            try:
                metadata = self._client.retrieve_series_metadata(str(item.StudyInstanceUID), series)
                labels = [drawn_tumour(Dataset.from_json(instance)) for instance in metadata]
            except Exception as error:
                _log.warning(f"segmentation {series} cannot be used: {deepest(error)}")
                continue
            for label in labels:
                known = newest.get(label.image) if label else None
                if label and label.image in images and (known is None or label.time > known.time):
                    newest[label.image] = label
        return newest

    def _fetch(self, label: Drawn) -> None:
        """Keep a label of the server as the file that training reads, in place of an older one."""
        kept = LocalDatastore.get_label_info(self, label.image, DefaultLabelTag.FINAL)
        if kept.get("SeriesInstanceUID") == label.series:
            return
        pixels, meta = CaseReader().get_data([self.get_image_uri(label.image)])
        data = self._client.retrieve_instance(label.study, label.series, label.instance)
        mask = mask_of(data, label.segments, pixels.shape[:3], meta["affine"])
        with tempfile.TemporaryDirectory(prefix="monai-lgg-label-") as folder:
            path = Path(folder) / f"{label.image}.nii.gz"
            write_nifti(path, mask.astype(np.uint8), meta)
            info = {"SeriesInstanceUID": label.series}
            LocalDatastore.save_label(self, label.image, str(path), DefaultLabelTag.FINAL, info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Whatever is above 0 becomes 1, because each value would be a segment of its own.

        Raises:
            ValueError: see :func:`monai_lgg.label_app.studies.check_label`; no plain tag; a final label without tumour.
        """
        check_plain("label tag", str(label_tag))
        image = Path(self.get_image_uri(image_id))
        voxels = check_label(image, Path(label_filename), image_id)
        if label_tag == DefaultLabelTag.FINAL:
            if not voxels:
                raise ValueError(f"label of {image_id}: it is empty, and a DICOM SEG cannot be; leave the series out")
            named = {"name": SEGMENT["SegmentLabel"], "model_name": "monai-lgg", "segmentAttribute": SEGMENT}
            label_info = {**(label_info or {}), "label_info": [named]}
        with tempfile.TemporaryDirectory(prefix="monai-lgg-label-") as folder:
            binary = write_binary(Path(label_filename), Path(folder))
            return str(super().save_label(image_id, str(binary), label_tag, label_info, label_id))
