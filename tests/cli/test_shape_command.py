import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from monai_lgg.cli.options import ErrorGroup
from monai_lgg.cli.shape import shape
from monai_lgg.clinical import CLUSTERS


def run(*arguments: Any) -> Result:
    group = ErrorGroup("monai-lgg", commands=[shape])
    return CliRunner().invoke(group, ["shape", *map(str, arguments)])


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Four patients: boxes and boxes without a corner; beside them data.csv, which lacks the last."""
    root = tmp_path / "masks"
    lines = [f"Patient,{','.join(CLUSTERS)}"]
    for index in range(4):
        name = f"p_{index}_20000101"
        (root / name).mkdir(parents=True)
        mask = np.zeros((20, 20), np.uint8)
        mask[3:15, 3:15] = 255
        if index % 2:
            mask[3:12, 3:12] = 0
        for number in (1, 2, 3):
            tifffile.imwrite(root / name / f"{name}_{number}_mask.tif", mask)
        if index < 3:
            lines.append(f"p_{index},{index % 2 + 1},1,2,1,,1,1")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    return root


def test_table_and_files(masks, tmp_path):
    result = run(masks, "--clinical", tmp_path / "data.csv", "--output", tmp_path / "out")

    assert result.exit_code == 0, result.output
    assert "4 patients, 3 with a row" in result.output
    assert "Methylation" in result.output
    assert "(1 patients) against the others (2): 1.000" in result.output
    assert f"tables: {tmp_path / 'out'}/shape.csv, associations.csv" in result.output
    assert len((tmp_path / "out" / "shape.csv").read_text().splitlines()) == 5
    assert len((tmp_path / "out" / "associations.csv").read_text().splitlines()) == 22


def test_only_printed_without_output(masks, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = run(masks, "--clinical", tmp_path / "data.csv", "-q")

    assert result.exit_code == 0, result.output
    assert "tables:" not in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_json(masks, tmp_path):
    for path in (masks / "p_0_20000101").iterdir():
        tifffile.imwrite(path, np.zeros((20, 20), np.uint8))
    result = run(masks, "--clinical", tmp_path / "data.csv", "--json", "-q", "-o", tmp_path / "out")
    report = json.loads(result.stdout)

    assert result.exit_code == 0
    assert "NaN" not in result.stdout
    assert report["patients"][0] == {
        "patient": "p_0_20000101",
        "components": 0,
        "volume_voxels": 0,
        "slice_number": None,
        "area_px": 0,
        "boundary_px": 0,
        "bevr": None,
        "mf": None,
        "asd": None,
    }
    assert report["undefined"]["bevr"] == ["p_0_20000101"]
    assert report["without_row"] == ["p_3_20000101"]
    assert report["auc"] == {
        "score": "1/bevr",
        "clusters": "RNASeqCluster",
        "label": "2",
        "auc": 1.0,
        "patients": 1,
        "others": 1,
    }
    assert report["associations"][4]["blank"] == 3
    assert (tmp_path / "out" / "shape.csv").is_file()


def test_errors_are_one_line(masks, tmp_path):
    table = tmp_path / "data.csv"
    absent = run(masks, "--clinical", tmp_path / "absent.csv", "-q")
    assert absent.exit_code == 1
    assert absent.output == f"Error: clinical table {tmp_path / 'absent.csv'} does not exist or is no file; " + (
        "give the data.csv of the data\n"
    )

    nothing = run(tmp_path / "nowhere", "--clinical", table)
    assert nothing.exit_code == 1
    assert "nowhere does not exist" in nothing.output

    tifffile.imwrite(masks / "p_2_20000101" / "p_2_20000101_2_mask.tif", np.zeros((5, 5), np.uint8))
    sizes = run(masks, "--clinical", table, "-q")
    assert sizes.exit_code == 1
    assert "Error: p_2_20000101: masks have the shapes" in sizes.output

    table.write_text("Patient\np_0\n")
    columns = run(masks, "--clinical", table)
    assert columns.exit_code == 1
    assert "no column RNASeqCluster, MethylationCluster" in columns.output


def test_clinical_table_is_required(masks):
    result = run(masks)

    assert result.exit_code == 2
    assert "Missing option '--clinical'" in result.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from monai_lgg.cli.shape import shape\n"
        "result = CliRunner().invoke(shape, ['--help'])\n"
        "assert result.exit_code == 0 and 'Usage' in result.output, result.output\n"
        "assert not {'torch', 'monai', 'tifffile', 'scipy', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
