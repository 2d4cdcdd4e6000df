"""``monai-lgg board`` as a user starts and ends it."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from monai_lgg.cli import main


def test_no_runs(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["board", str(tmp_path)])
    assert result.exit_code == 1
    assert "no runs with TensorBoard events" in result.output
    assert "monai-lgg train" in result.output


def test_port_in_use(run: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        result = CliRunner().invoke(main, ["board", str(run), "--port", str(other.getsockname()[1])])
    assert result.exit_code == 1
    assert "choose another with --port" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_starts_and_ends(run: Path, tmp_path: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "monai_lgg.cli", "board", str(run), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1 run(s): run\n"
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line
        with urllib.request.urlopen(address[0], timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("monai-lgg-board-*"))
