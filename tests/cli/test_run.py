import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner, Result

from monai_lgg.cli import main
from tests.conftest import TINY


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_help_is_quick_and_loads_neither_torch_nor_monai() -> None:
    code = (
        "import sys; from monai_lgg.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words = [line.split()[0] for line in done.stdout.split("Commands:")[1].splitlines() if line.strip()]
    more = ["compare", "crossval", "tune", "report", "shape", "demo"]
    assert words == ["data", "train", "board", "evaluate", "predict", "label", "export", *more]


def test_evaluate_writes_tables_and_prints_the_baseline(run: Path, phantoms: Path, tmp_path: Path) -> None:
    result = invoke("evaluate", run, "--data", phantoms, "-o", tmp_path / "e", "-q")
    assert result.exit_code == 0, result.output
    assert "always empty" in result.output
    assert len((tmp_path / "e" / "patients.csv").read_text().splitlines()) == 1 + 2  # 20 % of 10
    assert len((tmp_path / "e" / "slices.csv").read_text().splitlines()) == 1 + 2 * 6
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["split_level"] == "patient"
    assert summary["patients"] == 2


def test_evaluate_json(run: Path, phantoms: Path, tmp_path: Path) -> None:
    args = ("evaluate", run, "--data", phantoms, "-o", tmp_path / "e", "-q", "--json", "--part", "all")
    done = subprocess.run(
        [sys.executable, "-m", "monai_lgg.cli", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    summary = json.loads(done.stdout)
    assert summary["patients"] == 10
    assert "No split was used" in summary["warning"]


def test_evaluation_agrees_with_the_masks_that_predict_writes(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """The table's Dice, computed again from the files on disk by other code."""
    assert invoke("evaluate", run, "--data", phantoms, "-o", tmp_path / "e", "-q").exit_code == 0
    lines = (tmp_path / "e" / "patients.csv").read_text().splitlines()
    header = lines[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
    names = [row["patient"] for row in rows]
    result = invoke("predict", *[phantoms / name for name in names], "--bundle", run, "-o", tmp_path / "p", "-q")
    assert result.exit_code == 0, result.output
    for row in rows:
        name = row["patient"]
        both = [
            (tifffile.imread(tmp_path / "p" / name / path.name) > 0, tifffile.imread(path) > 0)
            for path in (phantoms / name).glob("*_mask.tif")
        ]
        overlap = sum(np.logical_and(p, t).sum() for p, t in both)
        size = sum(p.sum() + t.sum() for p, t in both)
        assert float(row["dice"]) == pytest.approx(2 * overlap / size, abs=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "learning_rat=0.1"], "did you mean learning_rate?"),
        (["--set", "network_def#_target_=BasicUNt"], "no component 'BasicUNt'; did you mean BasicU"),
        (["--set", "network_def#_target_=monai_lgg.ResUnet"], "did you mean monai_lgg.networks.resunet.ResUNet?"),
        (["--set", "network_def#feature=[8]"], "did you mean network_def#features?"),
        (["--set", "learning_rate"], "give key=value"),
        (["--device", "cuda"], "0 CUDA GPU"),
        (["--device", "quantum"], "not known"),
    ],
)
def test_train_refuses(phantoms: Path, tmp_path: Path, args: list[str], message: str) -> None:
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    result = invoke("train", "unet_cosine", "--data", phantoms, "-o", tmp_path / "r", *args)
    assert result.exit_code == (1 if "cuda" in args else 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "r").exists()


def test_train_refuses_unknown_bundles_and_folders(phantoms: Path, tmp_path: Path) -> None:
    result = invoke("train", "unet_cosin", "--data", phantoms, "-o", tmp_path / "r")
    assert result.exit_code == 2
    assert "did you mean unet_cosine?" in result.output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    result = invoke("train", "unet_cosine", "--data", phantoms, "-o", tmp_path / "mine")
    assert "is not a run" in result.output
    result = invoke("train", "unet_cosine", "--data", tmp_path / "nowhere", "-o", tmp_path / "r")
    assert "does not exist" in result.output
    assert result.exit_code == 1


def test_a_run_keeps_its_settings_and_split(run: Path, phantoms: Path, tmp_path: Path) -> None:
    result = invoke("train", "unet_cosine", "--data", phantoms, "-o", run, *sets(*TINY, "max_epochs=3"), "-q")
    assert result.exit_code == 1
    assert "was begun with" in result.output
    other = tmp_path / "other.json"
    assert invoke("data", "split", phantoms, "-o", other, "--seed", 9).exit_code == 0
    again = invoke("train", "unet_cosine", "--data", phantoms, "-o", run, "--split", other, "--epochs", 2, *sets(*TINY))
    assert "begun with another split" in again.output
    assert again.exit_code == 1


def test_a_run_goes_on_after_its_data_moved(run: Path, phantoms: Path, tmp_path: Path) -> None:
    mine, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(run, mine)
    shutil.copytree(phantoms, moved)
    args = ("train", "unet_cosine", "--data", moved, "-o", mine, "--epochs", 2, *sets(*TINY), "-q")
    assert invoke(*args).exit_code == 0
    stored = json.loads((mine / "configs" / "overrides.json").read_text())
    assert stored["dataset_dir"] == str(moved)
    assert stored | {"dataset_dir": None} == json.loads((run / "configs" / "overrides.json").read_text()) | {
        "dataset_dir": None
    }
    other = tmp_path / "other"
    shutil.copytree(phantoms, other)
    mask = next(other.glob("*/*_mask.tif"))
    tifffile.imwrite(mask, 255 - tifffile.imread(mask))
    result = invoke(*(other if arg == moved else arg for arg in args))
    assert result.exit_code == 1
    assert "was begun with" in result.output
    assert json.loads((mine / "configs" / "overrides.json").read_text()) == stored


def test_an_evaluation_that_cannot_begin_leaves_the_finished_one(run: Path, phantoms: Path, tmp_path: Path) -> None:
    args = ("evaluate", run, "--data", phantoms, "-o", tmp_path / "e", "-q")
    assert invoke(*args).exit_code == 0
    before = sorted(path.name for path in (tmp_path / "e").iterdir())
    assert invoke(*args, "--device", "quantum").exit_code != 0
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == before


@pytest.mark.parametrize("how", ["here", "link"])
def test_the_folder_of_a_run_may_be_there(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_lgg.bundle import find_bundle, prepare_run

    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / "empty")
    prepare_run(find_bundle("unet_cosine"), Path(".") if how == "here" else tmp_path / "link", {"seed": 1})
    assert (tmp_path / "empty" / "configs" / "overrides.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_a_folder_whose_name_is_no_utf_8(phantoms: Path, tmp_path: Path) -> None:
    from monai_lgg.experiments import files_hash

    for number, source in enumerate(sorted(phantoms.iterdir())[:4]):
        name = f"M\udcfc_{number}"
        shutil.copytree(source, tmp_path / "data" / name)
        for path in (tmp_path / "data" / name).iterdir():
            path.rename(path.with_name(path.name.replace(source.name, name)))
    result = invoke("data", "split", tmp_path / "data", "-o", tmp_path / "s.json", "--fractions", 0.5, 0.25, 0.25)
    assert result.exit_code == 0, result.output
    assert len(files_hash(tmp_path / "data", None)) == 64


def test_patients_seen_in_training_are_named(run: Path, phantoms: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    assert invoke("data", "split", phantoms, "-o", other, "--fractions", 0.2, 0.2, 0.6).exit_code == 0
    for args in (["--split", other], ["--part", "all"], ["--part", "train"]):
        result = invoke("evaluate", run, "--data", phantoms, "-o", tmp_path / "e", "-q", *args)
        assert "used in this run's training or validation" in result.output, result.output
    assert "these are no test" not in invoke("evaluate", run, "--data", phantoms, "-o", tmp_path / "e", "-q").output


def test_nothing_is_written_into_the_installation(phantoms: Path) -> None:
    result = invoke("evaluate", "unet_25d", "--data", phantoms, "--part", "all", "-q")
    assert result.exit_code == 2
    assert "unet_25d is part of the installation, where nothing is written; give -o FOLDER" in result.output


def test_empty_validation_part(phantoms: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    assert invoke("data", "split", phantoms, "-o", split, "--fractions", 0.8, 0, 0.2).exit_code == 0
    args = ("--data", phantoms, "-o", tmp_path / "r", "--split", split, "--epochs", 1, "-q", *sets(*TINY))
    result = invoke("train", "unet_cosine", *args)
    assert result.exit_code == 1
    assert "validation part is empty" in result.output


def test_a_run_as_bundle_keeps_its_settings_and_crops_train(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """Crops of 32 x 48 from 64 x 64 slices; the network's width comes from the first run."""
    args = ("--data", phantoms, "-o", tmp_path / "r", "--epochs", 1, "--set", "image_size=[32,48]", "-q")
    result = invoke("train", run, *args, "--set", "amp=False")
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "r" / "configs" / "overrides.json").read_text())
    assert settings["network_def#features"] == [8] * 6
    assert settings["amp"] is False
    assert settings["image_size"] == [32, 48]
    assert settings["max_epochs"] == 1


def test_a_split_of_other_data(run: Path, tmp_path: Path) -> None:
    from monai_lgg.phantom import write_patients

    write_patients(tmp_path / "other", 5, seed=99, size=(64, 64), slices=6)
    result = invoke("evaluate", run, "--data", tmp_path / "other")
    assert result.exit_code == 1
    assert "not below" in result.output or "fingerprints differ" in result.output


def test_weights_of_another_network_and_none(run: Path, phantoms: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    torch.save({"wrong": torch.zeros(1)}, copy / "models" / "model.pt")
    for command in (
        ["evaluate", copy, "--data", phantoms],
        ["predict", phantoms, "--bundle", copy, "-o", tmp_path / "o"],
    ):
        result = invoke(*command)
        assert result.exit_code == 1
        assert "weights of another network" in result.output
    (copy / "models" / "model.pt").write_text("not weights")
    assert "not a weights file" in invoke("evaluate", copy, "--data", phantoms).output
    result = invoke("predict", phantoms, "--bundle", "unet_cosine", "-o", tmp_path / "o")
    assert "no weights at" in result.output
    assert result.exit_code == 1


def test_predict_usage(run: Path, tmp_path: Path) -> None:
    assert invoke("predict", "--bundle", run, "-o", tmp_path).exit_code == 2
    assert invoke("predict", "--bundle", run, "-o", tmp_path, "--pre", run).exit_code == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--threshold", "1"], "1.0 is not in the range 0<x<1"),
        (["--threshold", "half"], "'half' is not a valid float"),
        (["--threshold", "0.4", "--set", "threshold=0.5"], "--set threshold=... and the option for it: give one"),
        (["--uncertainty", "--set", "save_uncertainty=true"], "--set save_uncertainty=... and the option for it"),
    ],
)
def test_predict_refuses_values(run: Path, phantoms: Path, tmp_path: Path, option: list[str], message: str) -> None:
    result = invoke("predict", phantoms, "--bundle", run, "-o", tmp_path / "o", *option)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "o").exists()


def test_a_threshold_that_is_no_number(run: Path, phantoms: Path, tmp_path: Path) -> None:
    result = invoke("predict", phantoms, "--bundle", run, "-o", tmp_path / "o", "--threshold", "nan", "-q")
    assert result.exit_code == 1
    assert "threshold nan is not between 0 and 1" in result.output


def test_what_predict_writes(run: Path, phantoms: Path, tmp_path: Path) -> None:
    """Maps, confidence, flags, manifest and preview; the preview has cases of earlier calls too."""
    one, two = sorted(phantoms.glob("TCGA*"))[:2]
    out = tmp_path / "o"
    assert invoke("predict", one, "--bundle", run, "-o", out, "-q", "--threshold", 0.3).exit_code == 0
    assert not list(out.glob("*/*_uncertainty.tif"))
    assert not (out / "preview.html").exists()
    options = ("--threshold", 0.3, "--keep-probabilities", "--uncertainty", "--preview")
    result = invoke("predict", two, "--bundle", run, "-o", out, "-q", *options)
    assert result.exit_code == 0, result.output
    found = json.loads((out / two.name / "result.json").read_text())
    assert found["threshold"] == 0.3
    probability = np.stack([tifffile.imread(out / two.name / f"{two.name}_{k}_prob.tif") for k in range(1, 7)])
    bits = np.stack([tifffile.imread(out / two.name / f"{two.name}_{k}_uncertainty.tif") for k in range(1, 7)])
    mask = np.stack([tifffile.imread(out / two.name / f"{two.name}_{k}_mask.tif") for k in range(1, 7)]) > 0
    np.testing.assert_array_equal(mask, probability >= 0.3)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = -probability * np.log2(probability) - (1 - probability) * np.log2(1 - probability)
    np.testing.assert_allclose(bits, np.nan_to_num(wanted), atol=1e-4)
    if mask.any():
        overlap = 2 * probability[mask].sum() / (probability.sum() + mask.sum())
        assert found["confidence"] == pytest.approx(overlap, abs=1e-3)
    else:
        assert found["confidence"] is None
    (row,) = csv.DictReader((out / "results.csv").open())
    assert row["flags"] == ";".join(flag["name"] for flag in found["flags"])
    assert row["confidence"] == ("" if found["confidence"] is None else str(found["confidence"]))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["cases"] == {"done": 1, "skipped": 0, "failed": 0}
    assert manifest["options"] == {
        "threshold": 0.3, "save_probabilities": True, "save_uncertainty": True, "device": "auto", "ensemble": False,
        "overwrite": False,
    }  # fmt: skip
    assert str(phantoms) not in (out / "manifest.json").read_text()
    page = (out / "preview.html").read_text()
    assert one.name in page
    assert two.name in page
    assert str(phantoms) not in page


def test_predict_reports_failures_and_exit_code(run: Path, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("this is no image")
    patient = next(phantoms.glob("TCGA*"))
    result = invoke("predict", tmp_path / "text.tif", patient, "--bundle", run, "-o", tmp_path / "o", "-q")
    assert result.exit_code == 1
    assert "text.tif: not a readable TIFF" in result.output
    assert "1 done, 0 skipped, 1 failed" in result.output
    again = invoke("predict", patient, "--bundle", run, "-o", tmp_path / "o", "-q", "--json")
    assert json.loads(again.stdout)[0]["status"] == "skipped"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = invoke("train", "no_such", "--data", tmp_path, "-o", tmp_path / "r", "--debug")
    assert isinstance(result.exception, ValueError)


def test_slice_level_split_warns_in_every_report(phantoms: Path, run: Path, tmp_path: Path) -> None:
    split = tmp_path / "slices.json"
    made = invoke("data", "split", phantoms, "-o", split, "--by-slice")
    assert "leaks" in made.output
    result = invoke("evaluate", run, "--data", phantoms, "--split", split, "-o", tmp_path / "e", "-q")
    assert result.exit_code == 0, result.output
    assert "WARNING: This split is by slice and leaks" in result.output
    assert json.loads((tmp_path / "e" / "summary.json").read_text())["leakage"]["patient_in_training"] > 0


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, phantoms: Path, tmp_path: Path) -> None:
    from monai_lgg import bundle

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "train", interrupted)
    result = invoke("train", "unet_cosine", "--data", phantoms, "-o", tmp_path / "r")
    assert result.exit_code == 130
    assert "go on" in result.output


def test_asked_to_end_exits_130(phantoms: Path, tmp_path: Path) -> None:
    """In a process of its own: that of the tests has a stack for signals, on which this one once ended it."""
    code = """
import signal, sys
from monai_lgg import bundle
from monai_lgg.cli import main
before = signal.getsignal(signal.SIGTERM)
bundle.train = lambda *args, **options: signal.raise_signal(signal.SIGTERM)
try:
    main(["train", "unet_cosine", "--data", sys.argv[1], "-o", sys.argv[2]])
finally:
    assert signal.getsignal(signal.SIGTERM) is before
"""
    words = [sys.executable, "-c", code, str(phantoms), str(tmp_path / "r")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ended.returncode == 130, ended.stderr
    assert "go on" in ended.stderr


def test_version() -> None:
    from monai_lgg import __version__

    assert __version__ in invoke("--version").output


def test_mask_of_another_size(phantoms: Path, tmp_path: Path) -> None:
    """Training would stretch it and evaluation would fail late: both name the file."""
    import shutil

    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    for path in sorted(data.glob("TCGA*"))[0].glob("*_mask.tif"):
        tifffile.imwrite(path, np.zeros((32, 64), np.uint8))
    settings = sets(*TINY, "fold=0")
    args = ("train", "unet_cosine", "--data", data, "-o", tmp_path / "r", "--epochs", 1, "-q", *settings)
    result = invoke(*args)
    assert result.exit_code == 1
    assert "sizes differ" in result.output
    assert ".tif" in result.output
