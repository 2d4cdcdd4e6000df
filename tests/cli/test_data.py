import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from monai_lgg.cli.data import data


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(data, [str(argument) for argument in arguments])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """20 sound patients of three 24x24 px slices, tumour in slice 2."""
    base = tmp_path / "data"
    for index in range(20):
        name = f"TCGA_AA_{index:04d}_20000101"
        (base / name).mkdir(parents=True)
        rng = np.random.default_rng(index)
        for number in (1, 2, 3):
            mask = np.zeros((24, 24), np.uint8)
            mask[10:12, 10:14] = 255 * (number == 2)
            image = rng.integers(100, 200, (24, 24, 3)).astype(np.uint8)
            tifffile.imwrite(base / name / f"{name}_{number}.tif", image)
            tifffile.imwrite(base / name / f"{name}_{number}_mask.tif", mask)
    return base


def test_check_with_warnings_only(root):
    result = run("check", root, "--quiet")

    assert result.exit_code == 0
    assert "20 patients (AA 20)" in result.output
    assert "60 slices, 20 with tumour (0.46% of the pixels)" in result.output
    assert "warning: data.csv (1)\n  data.csv: missing" in result.output
    assert result.output.endswith("0 error(s), 1 warning(s)\n")


def test_check_with_errors(root):
    for mask in sorted(root.glob("*/*_1_mask.tif"))[:12]:
        mask.unlink()
    result = run("check", root)

    assert result.exit_code == 1
    assert "error: slices without a mask (12)" in result.output
    assert "and 2 more; --json lists all" in result.output
    assert result.output.index("error:") < result.output.index("warning:")
    assert "12 error(s), 1 warning(s)" in result.output


def test_check_as_json(root):
    next(root.glob("*/*_1.tif")).write_bytes(b"")
    result = run("check", root, "--json")
    report = json.loads(result.stdout)

    assert result.exit_code == 1
    assert (report["patients"], report["slices"], report["errors"], report["warnings"]) == (20, 60, 1, 1)
    assert [one["kind"] for one in report["findings"]] == ["unreadable", "data-csv"]


def test_check_of_no_data(tmp_path):
    assert run("check", tmp_path / "absent").exit_code == 1
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "Error:" in result.output
    assert "no patient folders" in result.output


def test_synthetic_patients_have_no_errors(tmp_path):
    result = run("synth", tmp_path, "--patients", 2, "--seed", 3, "--size", 48, 40, "--slices", 6)

    assert result.exit_code == 0, result.output
    assert "2 synthetic patients" in result.output
    image = next(tmp_path.glob("TCGA_*/*_6.tif"))
    assert tifffile.imread(image).shape == (48, 40, 3)
    assert run("check", tmp_path, "--quiet").exit_code == 0


def test_synth_of_no_patients(tmp_path):
    assert run("synth", tmp_path, "--patients", 0).exit_code == 2


def test_split_by_patient(root, tmp_path):
    result = run("split", root, "-o", tmp_path / "split.json", "--fractions", 0.6, 0.2, 0.2, "--seed", 5)

    assert result.exit_code == 0, result.output
    assert "train: 12 patients, 36 slices, 12 with tumour\n" in result.output
    assert "test: 4 patients, 12 slices, 4 with tumour\n" in result.output
    saved = json.loads((tmp_path / "split.json").read_text())
    assert (saved["level"], saved["seed"], saved["fractions"]) == ("patient", 5, [0.6, 0.2, 0.2])


def test_split_defaults(root, tmp_path):
    result = run("split", root, "-o", tmp_path / "split.json")

    assert result.output.startswith("train: 14 patients")
    assert "validation: 2 patients" in result.output


def test_split_into_folds(root, tmp_path):
    result = run("split", root, "-o", tmp_path / "split.json", "--folds", 5)

    assert result.exit_code == 0, result.output
    assert "fold 4 test: 4 patients, 12 slices, 4 with tumour\n" in result.output
    assert len(json.loads((tmp_path / "split.json").read_text())["folds"]) == 5


def test_split_by_slice_says_that_it_leaks(root, tmp_path):
    result = run("split", root, "-o", tmp_path / "split.json", "--by-slice")

    assert result.exit_code == 0, result.output
    assert "48 slices, 16 with tumour" in result.output
    assert "This split is by slice and leaks" in result.output


@pytest.mark.parametrize("other", [["--by-slice"], ["--fractions", 0.6, 0.2, 0.2]])
def test_folds_exclude_other_ways(root, tmp_path, other):
    result = run("split", root, "-o", tmp_path / "split.json", "--folds", 5, *other)

    assert result.exit_code == 2
    assert f"--folds and {other[0]} exclude each other" in result.output
    assert not (tmp_path / "split.json").exists()


def test_split_file_is_not_replaced_unasked(root, tmp_path):
    (tmp_path / "split.json").write_text("precious")
    result = run("split", root, "-o", tmp_path / "split.json")

    assert result.exit_code == 1
    assert "--overwrite to replace it" in result.output
    assert (tmp_path / "split.json").read_text() == "precious"
    assert run("split", root, "-o", tmp_path / "split.json", "--overwrite").exit_code == 0


def test_bad_fractions(root, tmp_path):
    result = run("split", root, "-o", tmp_path / "split.json", "--fractions", 0.6, 0.2, 0.1)

    assert result.exit_code == 2
    assert "sum 1" in result.output


def test_download_without_kagglehub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    result = run("download", tmp_path)

    assert result.exit_code == 1
    assert 'pip install "monai-lgg[download]"' in result.output


def test_download_without_network(tmp_path, monkeypatch):
    def fail(handle: str) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=fail))
    result = run("download", tmp_path)

    assert result.exit_code == 1
    assert "the download from Kaggle failed (no route to host)" in result.output
    assert "1. download the zip from https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation" in result.output
    assert f"2. unzip it so that {tmp_path / 'kaggle_3m'}/<patient> exists" in result.output


def test_download_copies_the_folder(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    (cache / "kaggle_3m" / "p").mkdir(parents=True)
    (cache / "kaggle_3m" / "p" / "p_1.tif").write_bytes(b"x")
    (cache / "lgg-mri-segmentation" / "kaggle_3m").mkdir(parents=True)
    handles = []
    fake = SimpleNamespace(dataset_download=lambda handle: handles.append(handle) or str(cache))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)

    result = run("download", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert handles == ["mateuszbuda/lgg-mri-segmentation"]
    assert [path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.tif")] == [
        "kaggle_3m/p/p_1.tif"
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kaggle_3m"]

    again = run("download", tmp_path / "new")
    assert again.exit_code == 1
    assert "exists; give another folder" in again.output


@pytest.mark.parametrize("command", ["", "check", "synth", "split", "download"])
def test_help_loads_neither_torch_nor_monai(command):
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from monai_lgg.cli.data import data\n"
        f"result = CliRunner().invoke(data, {[command, '--help'] if command else ['--help']})\n"
        "assert result.exit_code == 0 and 'Usage' in result.output, result.output\n"
        "assert not {'torch', 'monai', 'tifffile', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
