from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label, in the environment of 'make label-test'")

from monailabel.interfaces.exception import ImageNotFoundException

from monai_lgg.label_app.tasks import UncertaintyScoring
from monai_lgg.label_app.versions import Versions


class Store:
    """Of three unlabelled images: one that is whole, one whose series has no pixels, one that is gone."""

    def __init__(self) -> None:
        self.infos: dict[str, dict[str, Any]] = {"whole": {}}

    def get_unlabeled_images(self) -> list[str]:
        return ["gone", "no pixels", "whole"]

    def get_image_info(self, image: str) -> dict[str, Any]:
        return self.infos.get(image, {})

    def get_image_uri(self, image: str) -> str:
        if image == "gone":
            raise ImageNotFoundException(f"Image {image} not found")
        if image == "no pixels":
            raise RuntimeError("Exception thrown in SimpleITK ImageFileReader_Execute")
        return f"/{image}.nii.gz"

    def update_image_info(self, image: str, info: dict[str, Any]) -> None:
        if image not in self.infos:
            raise ImageNotFoundException(f"Image {image} not found")
        self.infos[image].update(info)


class Half:
    """Predictions whose entropy is 0.5, whatever the image."""

    def __init__(self, versions: Versions) -> None:
        self.versions = versions

    def entropy(self, image: Path, *rest: object) -> float:
        return 0.5


def test_an_image_that_cannot_be_fetched_stops_no_other(run: Path, tmp_path: Path) -> None:
    store = Store()
    scoring = UncertaintyScoring("epistemic", {"run": Half(Versions(run, tmp_path))}, "")  # type: ignore[dict-item]
    result = scoring({"device": "cpu"}, store)  # type: ignore[arg-type]
    assert store.infos["whole"] == {"epistemic_by": "run 0", "epistemic_entropy": 0.5}
    assert result["gone"]["epistemic_error"] == "Image gone not found"
    assert "SimpleITK" in result["no pixels"]["epistemic_error"]
    assert scoring.due(store) == ["gone", "no pixels"]  # type: ignore[arg-type]
