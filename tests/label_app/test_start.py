import errno
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from monai_lgg.cli import main


def start(*words: object) -> Result:
    return CliRunner().invoke(main, ["label", "start", *map(str, words)])


def test_a_studies_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    result = start("--studies", tmp_path / "typo")
    assert result.exit_code == 1
    assert "typo does not exist; make one with 'monai-lgg label prepare', or give another" in result.output
    assert not (tmp_path / "typo").exists()


def test_a_studies_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    result = start("--studies", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} cannot be written (Read-only file system); choose another" in result.output


def test_unknown_bundles_and_two_of_one_name(tmp_path: Path, run: Path) -> None:
    result = start("--studies", tmp_path, "--bundles", "unet_25")
    assert (result.exit_code, "did you mean unet_25d?" in result.output) == (1, True)
    result = start("--studies", tmp_path, "--bundles", run, "--bundles", run)
    assert (result.exit_code, "two bundles are named run; rename the folder of one" in result.output) == (1, True)


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = start("--studies", tmp_path, "--port", port)
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another --port" in result.output


def test_without_monai_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monailabel", None)
    result = start("--studies", tmp_path, "--port", 0)
    assert result.exit_code == 1
    assert "MONAI Label is not installed here" in result.output
    assert "make label-env" in result.output
