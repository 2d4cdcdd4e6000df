"""Folders whose names MONAI's configurations would take for references and expressions."""

import shutil
from pathlib import Path

import pytest

from monai_lgg import bundle as bundles
from monai_lgg.inference import predict
from monai_lgg.prediction_inputs import prediction_records
from tests.conftest import TINY


@pytest.mark.parametrize("sign", ["#1", "@a", "%b", "$c", "it's"])
def test_train_evaluate_and_predict(sign: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, run, results, masks = (Path(f"{sign} {name}") for name in ("data", "run", "results", "masks"))
    shutil.copytree(phantoms, data)
    bundles.train(bundles.find_bundle("unet_cosine"), data, run, settings=(*TINY, "max_epochs=1"), progress=False)
    bundles.evaluate(run, data, results, progress=False)
    (result,) = predict(prediction_records(next(data.glob("TCGA*"))), run, masks)
    assert result.status == "done", result.error
    assert (results / "summary.json").is_file()
    assert len(list(masks.rglob("*_mask.tif"))) == 6
    assert {path.name for path in tmp_path.iterdir()} == {str(path) for path in (data, run, results, masks)}


def test_the_folder_where_one_is(phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = sorted(phantoms.glob("TCGA*"))[0]
    monkeypatch.chdir(patient)
    (record,) = prediction_records(".")
    assert record["case"] == patient.name
    assert "broken" not in record
