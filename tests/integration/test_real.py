"""The main job on a few real patients, when they are there (MONAI_LGG_REAL_DATA)."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from monai_lgg.cases import read_labels, read_patients
from monai_lgg.cli import main
from monai_lgg.io.tiff import DISPLAY_AFFINE

pytestmark = pytest.mark.real


def test_journey_on_real_patients(real_data: Path, tmp_path: Path) -> None:
    """Check, train one small epoch, evaluate, predict: everything but the quality of the masks."""
    runner = CliRunner()
    checked = runner.invoke(main, ["data", "check", str(real_data), "--json", "-q"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["patients"] == 6
    small = ["--set", "network_def#features=[8,8,8,8,8,8]", "--epochs", "1"]
    run, out = tmp_path / "run", tmp_path / "out"
    trained = runner.invoke(main, ["train", "unet_cosine", "--data", str(real_data), "-o", str(run), "-q", *small])
    assert trained.exit_code == 0, trained.output
    evaluated = runner.invoke(main, ["evaluate", str(run), "--data", str(real_data), "-q"])
    assert evaluated.exit_code == 0, evaluated.output
    predicted = runner.invoke(main, ["predict", str(real_data), "--bundle", str(run), "-o", str(out), "-q"])
    assert "6 done, 0 skipped, 0 failed" in predicted.output
    summary = json.loads((run / "eval" / "test" / "summary.json").read_text())
    assert summary["per_patient_dice"]["defined"] == summary["patients"] == 1


def test_display_affine_agrees_with_the_recorded_side(real_data: Path) -> None:
    """data.csv says which side the tumour is on (1 left, 3 right): TIFF columns must run to the patient's left."""
    with (real_data / "data.csv").open() as table:
        sides = {row["Patient"]: row["laterality"] for row in csv.DictReader(table)}
    checked = 0
    for patient in read_patients(real_data):
        side = sides.get(patient.name.rsplit("_", 1)[0])
        if side not in ("1", "3") or patient.name.startswith("TCGA_CS_6188"):  # whose record contradicts its image
            continue
        rows, columns, slices = np.nonzero(read_labels(patient))
        centre = DISPLAY_AFFINE @ [rows.mean(), columns.mean() - 127.5, slices.mean(), 1]
        assert (centre[0] < 0) == (side == "1"), patient.name  # RAS: x grows to the right
        checked += 1
    assert checked >= 3
