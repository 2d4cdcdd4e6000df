"""Background tasks of MONAI Label: trainings, scorings and masks of many images, each in a process of its own.

In the place of MONAI Label's own (0.8.5), which stop to read when the process has ended and so lose its last lines, the
ones that say why it failed; which change a task while an answer is made of it, so that the answer is a 500; and which
outlive a server that is stopped just as they begin.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import datetime
from typing import Any

import psutil
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

#: Lines of output that a task keeps.
LINES = 20
#: For what has been written by a process that has ended.
PATIENCE_S = 5.0

_stopping = threading.Event()


def install() -> None:
    """Let MONAI Label use these functions."""
    utils._task_func = run_task
    AsyncTask.status = staticmethod(status)


def run_task(task: dict[str, Any], method: str, callback: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Run a task to its end.

    Args:
        task: with ``id``, ``request`` and ``status``; gets ``details``, the last lines of the output, and ``end_ts``.
        method: train, scoring or batch_infer.
        callback: called with the task when it has ended.
    """
    if _stopping.is_set():
        return
    task |= {"status": "RUNNING", "details": []}
    try:
        code = _run(task, method)
    except OSError as error:  # no memory for another process, or a request that is too long for a command
        code, task["details"] = 1, [f"the task could not begin: {error}"]
    task["end_ts"] = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    if task["status"] == "RUNNING":
        task["status"] = "DONE" if code == 0 else "ERROR"
    if callback:
        callback(task)


def _run(task: dict[str, Any], method: str) -> int:
    """The exit code."""
    process = subprocess.Popen(
        command(method, task["request"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(method, task["request"]),
    )
    utils.background_processes[method][task["id"]] = process
    if _stopping.is_set():  # by now
        process.kill()
    reader = threading.Thread(target=_read, args=(process, method, task), daemon=True)
    reader.start()
    process.wait()
    reader.join(PATIENCE_S)  # a process that it began, and that outlives it, can keep the pipe open
    utils.background_processes[method].pop(task["id"], None)
    return process.returncode


def _read(process: "subprocess.Popen[str]", method: str, task: dict[str, Any]) -> None:
    log = logging.getLogger(f"task_{method}")
    with process.stdout or nullcontext(()) as output:
        for line in filter(None, map(str.rstrip, output)):
            log.info(line)
            task["details"] = [*task["details"], line][-LINES:]  # a new list: the old one may be being read


def command(method: str, request: dict[str, Any]) -> list[str]:
    words = ["-m", "monailabel.interfaces.utils.app", "-m", method]
    return [sys.executable, *words, "-r", json.dumps({**request, "gpus": "all"})]


def _environment(method: str, request: dict[str, Any]) -> dict[str, str]:
    own = {}
    if request.get("gpus", "all") not in ("", "all", None):
        own["CUDA_VISIBLE_DEVICES"] = str(request["gpus"])
    if method == "train":  # which reads the labels once
        own["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
    return os.environ | own


def status(method: str, all: bool = False, check_if_running: bool = False) -> tuple[Any, str | None]:
    """The last task, all of them, or the one that runs; and why there is none. Copies, which no thread changes."""
    tasks = [dict(task) for task in list(utils.tasks(method))]
    if check_if_running:
        running = set(utils.processes(method))
        found = next((task for task in tasks if task["id"] in running), None)
        return found, None if found else f"No {method.capitalize()} Tasks are currently Running"
    if not tasks:
        return None, f"No {method.capitalize()} Tasks Found"
    return (tasks if all else tasks[-1]), None


def stop_all() -> None:
    """End all that runs or waits, for good; without it Python would wait for the end of each."""
    _stopping.set()
    for method, executor in list(utils.background_executors.items()):
        executor.shutdown(wait=False, cancel_futures=True)
        while utils.processes(method):
            with suppress(psutil.NoSuchProcess, StopIteration):  # it ended by itself
                utils.stop_background_task(method)
            time.sleep(0.01)
