import errno
import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from monai_lgg.cli import main
from monai_lgg.label_app import start as start_module


def start(*words: object) -> Result:
    return CliRunner().invoke(main, ["label", "start", *map(str, words)])


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment and the working directory that a server would have, which is started in ``tmp_path``."""
    found: dict[str, str] = {}

    def serve(*_: object) -> None:
        found.update(os.environ, folder=os.getcwd(), listing=str(os.listdir()))

    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start_module, "_serve", serve)
    monkeypatch.setitem(sys.modules, "monailabel", ModuleType("monailabel"))
    own = {"MONAI_LABEL_SESSION_PATH": "sessions of mine", "PYTHONPATH": "modules"}
    # of the process, so that what a start sets is forgotten
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], **own})
    return found


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
    assert (result.exit_code, "did you mean unet_25d?" in result.output) == (2, True)
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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "true"),
        (["--no-scoring"], "false"),
        (["--dicomweb", "http://127.0.0.1:1/dicom-web"], "false"),
        (["--dicomweb", "http://127.0.0.1:1/dicom-web", "--scoring"], "true"),
    ],
)
def test_scoring_of_a_whole_dicomweb_server_is_asked_for(
    served: dict[str, str], words: list[str], expected: str
) -> None:
    assert start("--studies", "studies", "--port", 0, *words).exit_code == 0
    assert served["MONAI_LABEL_AUTO_UPDATE_SCORING"] == expected


def test_the_server_runs_in_an_empty_folder_and_knows_what_was_given_relatively(
    served: dict[str, str], run: Path, tmp_path: Path
) -> None:
    result = start("--studies", "studies", "--models", "models", "--bundles", os.path.relpath(run), "--port", 0)
    assert result.exit_code == 0, result.output
    assert served["listing"] == "[]"
    assert not Path(served["folder"]).exists()
    assert Path.cwd() == tmp_path
    assert served["MONAI_LABEL_STUDIES"] == str(tmp_path / "studies")
    conf = json.loads(served["MONAI_LABEL_APP_CONF"])
    assert conf["models"] == str(tmp_path / "models")
    assert json.loads(conf["bundles"]) == [str(run)]
    assert served["MONAI_LABEL_SESSION_PATH"] == str(tmp_path / "sessions of mine")
    assert served["PYTHONPATH"] == str(tmp_path / "modules")


def test_a_bundle_with_a_comma_in_its_path(served: dict[str, str], run: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(run, tmp_path / "first, second" / "run")
    assert start("--studies", "studies", "--bundles", odd, "--port", 0).exit_code == 0
    assert json.loads(json.loads(served["MONAI_LABEL_APP_CONF"])["bundles"]) == [str(odd)]


def test_the_folder_for_what_is_fetched_is_made(served: dict[str, str], tmp_path: Path) -> None:
    result = start("--studies", "some/cache", "--dicomweb", "http://127.0.0.1:1/dicom-web", "--port", 0)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "some" / "cache").is_dir()


def test_a_second_start_while_the_first_loads(
    served: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first listens from the beginning, not only when it serves."""
    seen = []

    def second(options: start_module.Options, listening: socket.socket, say: object) -> None:
        with pytest.raises(OSError, match=r"cannot listen on .*; choose another --port") as error:
            start_module.start(replace(options, port=listening.getsockname()[1]), print)
        seen.append(error)

    monkeypatch.setattr(start_module, "_serve", second)
    assert start("--studies", tmp_path / "studies", "--port", 0).exit_code == 0
    assert len(seen) == 1
