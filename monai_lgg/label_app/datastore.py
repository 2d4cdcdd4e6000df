"""MONAI Label's stores of images, a folder or a DICOMweb server, with labels checked before they are kept."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException

from monai_lgg.label_app.studies import check_label, write_binary

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
        "CodeValue": "108369006",
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
        super().__init__(datastore_path, auto_reload=auto_reload, **options)
        if auto_reload:
            self._handler.on_moved = self._on_any_event

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found = super()._list_files(path, patterns)
        return {name: file for name, file in found.items() if not name.startswith(".")}

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Raises: ValueError: see :func:`monai_lgg.label_app.studies.check_label`."""
        image = self.get_image_uri(image_id)
        if not image:
            raise ImageNotFoundException(f"image {image_id} is not in the studies folder")
        check_label(Path(image), Path(label_filename), image_id)
        return str(super().save_label(image_id, label_filename, label_tag, label_info))


class SeriesDatastore(DICOMWebDatastore):
    """MR series of a DICOMweb server; finished labels are stored there as DICOM SEG."""

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label, for which MONAI Label gives the id of its image, or of a SEG series with its image."""
        if not image_id:
            kept = str(LocalDatastore.get_label_uri(self, label_id, label_tag))
            if kept:
                return kept
        return str(super().get_label_uri(label_id, label_tag, image_id))

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Whatever is above 0 becomes 1, because each value would be a segment of its own.

        Raises:
            ValueError: see :func:`monai_lgg.label_app.studies.check_label`, or a final label without tumour.
        """
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
