"""MONAI Label's stores of images, a folder or a DICOMweb server, with labels checked before they are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException

from monai_lgg.label_app.studies import check_label

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

    Hidden files are none of it: a file that is being written has a hidden name until it is whole.
    """

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

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Raises: ValueError: see :func:`monai_lgg.label_app.studies.check_label`, or a final label without tumour."""
        image = Path(self.get_image_uri(image_id))
        voxels = check_label(image, Path(label_filename), image_id)
        if label_tag == DefaultLabelTag.FINAL:
            if not voxels:
                raise ValueError(f"label of {image_id}: it is empty, and a DICOM SEG cannot be; leave the series out")
            named = {"name": SEGMENT["SegmentLabel"], "model_name": "monai-lgg", "segmentAttribute": SEGMENT}
            label_info = {**(label_info or {}), "label_info": [named]}
        return str(super().save_label(image_id, label_filename, label_tag, label_info, label_id))
