"""The main job on a few real patients, when they are there (MONAI_LGG_REAL_DATA)."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from monai_lgg.cli import main

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
