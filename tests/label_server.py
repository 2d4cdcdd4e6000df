"""A real label server in a process of its own, with MONAI Label's own client, for the tests that need one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

from monai_lgg.bundle import find_bundle, prepare_run
from tests.test_inference import BrightFlair

REPOSITORY = Path(__file__).parents[1]
#: Seconds within which a server must answer, or a background task must end.
PATIENCE = 240


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


class LabelServer:
    """``monai-lgg label start`` with these arguments; a context manager that stops it."""

    def __init__(self, log: Path, studies: Path, *args: object) -> None:
        self.url = ""
        self.log = log
        words = [sys.executable, "-m", "monai_lgg.cli", "label", "start", "--studies", studies, "--port", "0"]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in (*words, *args)],
                cwd=log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,  # so that its background processes can be ended with it
                # a background job of a shell ignores SIGINT, and its children would too
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
            )

    def __enter__(self) -> "LabelServer":
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            if found := re.search(r"MONAI Label server: (\S+)", self.log.read_text()):
                self.url = found[1]  # it listens already
                return self
            time.sleep(0.2)
        raise AssertionError(f"no answer in {PATIENCE} s: {self.log.read_text()}")

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def client(self) -> Any:
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url, tmpdir=str(self.log.parent))

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def post(self, path: str, content: Any = None) -> tuple[int, Any]:
        """Status and JSON of the answer, whatever they are."""
        return self.send("POST", path, json.dumps(content or {}).encode(), "application/json")

    def send(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", **headers: str
    ) -> tuple[int, Any]:
        headers |= {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def wait_for(self, path: str) -> dict[str, Any]:
        """The last background task of ``/train/``, ``/scoring/`` or ``/batch/infer`` when it has ended."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            task = self.get(path)
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return dict(task)
            time.sleep(0.2)
        raise AssertionError(f"{path} did not end in {PATIENCE} s: {task}")

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        """At once, with its background processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE)


def threshold_bundle(folder: Path, spacing: bool = False) -> Path:
    """unet_cosine with a network that thresholds FLAIR, and by choice on a grid of 1 mm."""
    prepare_run(find_bundle("unet_cosine"), folder, {"amp": False})
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["network_def"] = {"_target_": "tests.test_inference.BrightFlair"}
    if spacing:
        turned = next(k for k, item in enumerate(content["preprocessing"]["transforms"]) if "Orientationd" in str(item))
        grid = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 1.0], "mode": "bilinear"}
        content["preprocessing"]["transforms"].insert(turned + 1, grid)
    config.write_text(json.dumps(content))
    (folder / "models").mkdir()
    torch.save(BrightFlair().state_dict(), folder / "models" / "model.pt")
    return folder
