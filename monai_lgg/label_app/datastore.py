"""The studies folder as MONAI Label keeps it, with labels checked before they are kept."""

from pathlib import Path
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException

from monai_lgg.label_app.studies import check_label


class StudiesDatastore(LocalDatastore):
    """A local datastore that refuses a label that does not fit its image, and leaves the one it has."""

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Raises: ValueError: see :func:`monai_lgg.label_app.studies.check_label`."""
        image = self.get_image_uri(image_id)
        if not image:
            raise ImageNotFoundException(f"image {image_id} is not in the studies folder")
        check_label(Path(image), Path(label_filename), image_id)
        return str(super().save_label(image_id, label_filename, label_tag, label_info))
