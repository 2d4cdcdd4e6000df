import logging
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label, in the environment of 'make label-test'")

from monai_lgg.io.tiff import write_tiff
from monai_lgg.label_app.datastore import StudiesDatastore
from monai_lgg.label_app.studies import PATTERNS


def test_of_two_images_of_one_id_the_other_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.tif", "b.tif", ".b.nii.gz"):
        write_tiff(tmp_path / name, np.zeros((8, 8), np.uint8))
    (tmp_path / "b.nii.gz").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        store = StudiesDatastore(str(tmp_path), extensions=list(PATTERNS), auto_reload=False)
        store._reconcile_datastore()
    told = [record.message for record in caplog.records if "same id" in record.message]
    assert told == ["b.tif is not served, because b.nii.gz has the same id; rename one, and its label"]
    assert sorted(store.list_images()) == ["a", "b"]
    assert store.get_image_uri("b") == str(tmp_path / "b.nii.gz")
