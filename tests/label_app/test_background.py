import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label, in the environment of 'make label-test'")

from fastapi.encoders import jsonable_encoder
from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from monai_lgg.label_app import background


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run Python code as a task of training, and return it."""
    monkeypatch.setattr(utils, "_task_func", background.run_task)
    monkeypatch.setattr(AsyncTask, "status", staticmethod(background.status))
    monkeypatch.setattr(background, "_stopping", threading.Event())
    for name in ("background_tasks", "background_processes", "background_executors"):
        monkeypatch.setattr(utils, name, {})
    monkeypatch.setattr(background, "command", lambda method, request: [sys.executable, "-c", request["code"]])
    yield lambda code: utils.run_background_task({"code": code}, "train")
    background.stop_all()


def wait() -> None:
    utils.background_executors["train"].submit(lambda: None).result()  # one at a time


def test_nothing_is_lost_of_a_process_that_ends_as_it_speaks(submit: Any) -> None:
    for _ in range(10):
        task = submit("import os; print('\\n'.join(map(str, range(99)))); os.sys.stdout.flush(); os._exit(3)")
        wait()
        assert task["details"] == [str(n) for n in range(99 - background.LINES, 99)]
        assert task["status"] == "ERROR"
    submit("pass")
    wait()
    assert [task["status"] for task in AsyncTask.status("train", all=True)[0]] == ["ERROR"] * 10 + ["DONE"]


def test_a_task_that_cannot_begin_says_so(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "command", lambda method, request: ["/no/such/program"])
    submit("")
    wait()
    task, _ = AsyncTask.status("train")
    assert task["status"] == "ERROR"
    assert "could not begin" in task["details"][0]
    assert "/no/such/program" in task["details"][0]
    assert task["end_ts"]


def test_a_process_that_outlives_its_task_does_not_hold_it_up(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE_S", 1.0)
    begin = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])"
    task = submit(f"{begin}; print(child.pid, flush=True)")
    wait()
    assert task["status"] == "DONE"
    os.kill(int(task["details"][0]), signal.SIGKILL)


def test_a_task_can_be_asked_for_at_any_time(submit: Any) -> None:
    assert AsyncTask.status("train") == (None, "No Train Tasks Found")
    submit("for n in range(20000): print(n)")
    with ThreadPoolExecutor(1) as other:
        ended = other.submit(wait)
        while not ended.done():
            jsonable_encoder([AsyncTask.status("train"), AsyncTask.status("train", all=True)])
    assert AsyncTask.status("train")[0]["details"][-1] == "19999"
    assert AsyncTask.status("train", check_if_running=True) == (None, "No Train Tasks are currently Running")


def test_what_runs_waits_or_begins_is_ended(submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    popen = subprocess.Popen

    def begin(*args: Any, **options: Any) -> Any:
        process = popen(*args, **options)
        begun.append(process)
        stopper = threading.Thread(target=background.stop_all)  # before the process is registered
        stopper.start()
        stopper.join()
        return process

    monkeypatch.setattr(subprocess, "Popen", begin)
    running, waiting = submit("import time; time.sleep(999)"), submit("print('begun')")
    for thread in utils.background_executors["train"]._threads:
        thread.join(60)
    assert len(begun) == 1
    assert begun[0].returncode < 0
    assert (running["status"], waiting["status"]) == ("ERROR", "SUBMITTED")


def test_a_task_that_runs_is_stopped(submit: Any) -> None:
    task = submit("print('begun', flush=True); import time; time.sleep(999)")
    while not task.get("details"):
        time.sleep(0.01)
    assert AsyncTask.status("train", check_if_running=True)[0]["id"] == task["id"]
    background.stop_all()
    for thread in utils.background_executors["train"]._threads:
        thread.join(60)
    assert task["status"] == "STOPPED"
    assert not utils.processes("train")
