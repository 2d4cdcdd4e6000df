"""compare, crossval and tune from the command line, with real trainings of one epoch."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monai_lgg import bundle as bundles
from monai_lgg.cli.compare import compare, crossval, tune
from monai_lgg.cli.options import ErrorGroup
from monai_lgg.phantom import write_patients
from monai_lgg.results import read_results
from tests.conftest import TINY
from tests.fake_runs import install

SETS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients of 2 slices."""
    root = tmp_path_factory.mktemp("few data") / "kaggle_3m"
    write_patients(root, 10, seed=1, size=(64, 64), slices=2)
    return root


def invoke(*args: object) -> Result:
    group = ErrorGroup(commands={command.name or "": command for command in (compare, crossval, tune)})
    return CliRunner().invoke(group, [str(arg) for arg in args])


def test_commands_load_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, monai_lgg.cli.compare; print({'torch', 'monai', 'numpy', 'optuna', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_compare_bundles(few: Path, tmp_path: Path) -> None:
    """A budget in minutes times an epoch first; here it is one epoch."""
    args = ["compare", "--bundles", "unet_cosine", "--budget", "0.0001min", "--data", few, "-o", tmp_path / "o", "-q"]
    result = invoke(*args, *SETS, "--set", "unet_cosine:batch_size=8")
    assert result.exit_code == 0, result.output
    assert "Ranked by Dice per patient" in result.output
    assert "1  unet_cosine" in result.output
    settings = json.loads((tmp_path / "o" / "comparison-settings.json").read_text())
    assert settings["budget"] == "0.0001 min"
    assert settings["seconds_per_epoch"]["unet_cosine"] > 0
    run = tmp_path / "o" / "runs" / "unet_cosine"
    stored = bundles.stored_settings(run)
    assert (stored["max_epochs"], stored["batch_size"]) == (1, 8)
    row = json.loads((tmp_path / "o" / "comparison.json").read_text())["rows"][0]
    assert row["mean"] == pytest.approx(read_results(run / "eval" / "test").summary["per_patient_dice"]["mean"])
    assert row["training_seconds"] > 0

    result = invoke("compare", run, "--data", few, "-o", tmp_path / "again", "-q", "--json", "--rank-by", "jaccard")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    assert again["rank_by"] == "iou"
    assert again["rows"][0]["dice"] == pytest.approx(row["mean"])


def test_compare_exits_1_when_one_failed(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = install(monkeypatch)
    fakes.fail = {"train unet_128": ValueError("no memory")}
    args = ["--bundles", "unet_cosine, unet_128", "--budget", "1epoch", "--data", few, "-o", tmp_path / "o", "-q"]
    result = invoke("compare", *args)
    assert result.exit_code == 1
    assert "unet_128 FAILED and is not ranked: ValueError: no memory" in result.output
    assert "1  unet_cosine" in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either RUNs or --bundles"),
        (["x", "--bundles", "unet_cosine"], "give either RUNs or --bundles"),
        (["x", "--budget", "3epochs"], "--budget goes with --bundles"),
        (["--bundles", "unet_cosine", "--budget", "3 hours"], "budget '3 hours' is not understood"),
        (["--bundles", "unet_cosin"], "no bundle 'unet_cosin'; did you mean unet_cosine?"),
        (["--bundles", "unet_cosine", "--rank-by", "dize"], "no metric 'dize'; did you mean dice?"),
    ],
)
def test_compare_wrong_usage(few: Path, tmp_path: Path, args: list[str], message: str) -> None:
    result = invoke("compare", *args, "--data", few, "-o", tmp_path / "o")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "o").exists()


def test_crossval_and_its_ensemble(few: Path, tmp_path: Path) -> None:
    args = ["crossval", "unet_cosine", "--data", few, "--folds", "2", "--epochs", "1", "-o", tmp_path / "x", "-q"]
    result = invoke(*args, *SETS)
    assert result.exit_code == 0, result.output
    assert "fold 1: " in result.output
    assert "out-of-fold part: 10 patients, 20 slices; split by patient" in result.output
    pooled = read_results(tmp_path / "x" / "oof")
    masks = list((tmp_path / "x" / "oof" / "masks").glob("*/*_mask.tif"))
    assert (len(pooled.patients), len(masks)) == (10, 20)

    from monai_lgg.inference import predict
    from monai_lgg.prediction_inputs import prediction_records

    records = prediction_records([few])[:1]
    (outcome,) = predict(records, bundles.find_bundle(tmp_path / "x" / "ensemble"), tmp_path / "p")
    assert (outcome.status, outcome.error) == ("done", "")
    assert len(list((tmp_path / "p").glob("*/*_mask.tif"))) == 2


def test_crossval_wants_folds(few: Path, tmp_path: Path) -> None:
    result = invoke("crossval", "unet_cosine", "--data", few, "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert "give --folds K, or --split FILE with folds" in result.output


def test_tune(few: Path, tmp_path: Path) -> None:
    spaces = ["--param", "learning_rate=log:1e-4:1e-2", "--param", "loss=dice,dice_focal"]
    args = ["tune", "unet_cosine", "--data", few, "-o", tmp_path / "t", "--epochs", "1", "-q", *spaces, *SETS]
    result = invoke(*args, "--trials", "2")
    assert result.exit_code == 0, result.output
    assert "trials: 2 complete" in result.output
    assert "Tuned on the validation part only; the test patients were in no trial." in result.output
    assert "--set 'image_size=[64,64]'" in result.output
    assert "--set learning_rate=" in result.output
    best = json.loads((tmp_path / "t" / "best.json").read_text())
    assert set(best) == {"learning_rate", "loss", "image_size", "network_def#features", "split_file"}
    assert "both train for the bundle's own number of epochs; the trials had 1" in result.output
    assert not list((tmp_path / "t").glob("trials/*/eval/test"))
    assert (tmp_path / "t" / "plots" / "history.png").is_file()
    result = invoke(*args, "--trials", "1", "--json")
    values = json.loads(result.stdout)["values"]
    assert values == {key: best[key] for key in ("learning_rate", "loss")}


def test_tune_without_a_finished_trial(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_lgg import tune as tuning

    monkeypatch.setattr(tuning, "_train", lambda *_: False)
    result = invoke("tune", "unet_cosine", "--data", few, "-o", tmp_path / "t", "--trials", "1", "--param", "seed=1,2")
    assert result.exit_code == 1
    assert "trials: 1 fail" in result.output
    result = invoke("tune", "unet_cosine", "--data", few, "-o", tmp_path / "t", "--trials", "1", "--param", "sed=1,2")
    assert result.exit_code == 2
    assert "setting 'sed' is not in the configuration; did you mean seed?" in result.output
