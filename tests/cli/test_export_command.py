import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from monai_lgg.cli import main
from tests.test_export import trained


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, ["export", *[str(arg) for arg in args]])


def test_writes_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, _ = trained(tmp_path)
    result = invoke(run, "--to", "torchscript")
    assert result.exit_code == 0, result.output
    assert result.output == "written: my run.ts\n"
    assert (tmp_path / "my run.ts").is_file()

    again = invoke(run, "--to", "torchscript")
    assert again.exit_code == 1
    assert "exists; give --overwrite" in again.output
    target = tmp_path / "new folder" / "a.pt"
    result = invoke(run, "--to", "torchscript", "-o", target, "--json", "--overwrite")
    assert json.loads(result.stdout) == {"file": str(target), "format": "torchscript"}
    assert torch.jit.load(target)(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["unet_cosne", "--to", "onnx"], 2, "did you mean unet_cosine?"),
        (["unet_128", "--to", "onnx"], 1, "no weights at"),
        (["unet_128", "--to", "onnxx"], 2, "did you mean onnx?"),
        (["unet_128", "--to", "onnx", "-o", "a.pt"], 2, "ends in .onnx"),
        (["unet_128", "--to", "int8"], 2, "--calibrate"),
    ],
)
def test_refuses(args: list[str], code: int, message: str) -> None:
    result = invoke(*args)
    assert result.exit_code == code
    assert "Error: " in result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_nothing_is_written_into_the_installation(phantoms: Path) -> None:
    result = invoke("unet_25d", "--to", "int8", "--calibrate", phantoms)
    assert result.exit_code == 2
    assert "unet_25d is part of the installation, where nothing is written; copy" in result.output


def test_needs_a_format() -> None:
    result = invoke("unet_128")
    assert result.exit_code == 2
    assert "--to" in result.output
