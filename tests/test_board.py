import json
import re
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from monai_lgg import board
from monai_lgg.board import find_runs, link_runs, serve


def add_run(folder: Path, value: float = 1.0) -> Path:
    writer = SummaryWriter(str(folder / "eval"))
    writer.add_scalar("loss", value, 1)
    writer.close()
    return folder


def test_names_are_the_folders(tmp_path: Path) -> None:
    for name in ("first", "folds/0", "folds/1", "folds"):
        add_run(tmp_path / name)
    (tmp_path / "first" / "eval" / "test" / "masks").mkdir(parents=True)
    (tmp_path / ".first.123" / "eval").mkdir(parents=True)
    (tmp_path / ".first.123" / "eval" / "events.out.tfevents.1").touch()
    found = find_runs(tmp_path)
    assert list(found) == ["first", "folds", "folds/0", "folds/1"]
    assert [path.parent for path in found["folds/0"]] == [tmp_path / "folds" / "0" / "eval"]


def test_one_run_alone_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add_run(tmp_path / "first")
    assert list(find_runs(run)) == ["first"]
    assert list(find_runs(run / "eval")) == ["eval"]
    monkeypatch.chdir(run)
    assert list(find_runs(Path("."))) == ["first"]


def test_two_event_folders_of_one_name(tmp_path: Path) -> None:
    add_run(tmp_path / "first")
    (tmp_path / "first" / "events.out.tfevents.1").touch()
    assert list(find_runs(tmp_path)) == ["first", "first/eval"]


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no runs with TensorBoard events in"):
        find_runs(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_runs(tmp_path / "nowhere")


def test_the_view_follows_the_runs_and_leaves_them_alone(tmp_path: Path) -> None:
    runs, view = tmp_path / "runs", tmp_path / "view"
    run = add_run(runs / "folds")
    view.mkdir()
    assert link_runs(runs, view) == ["folds"]
    add_run(runs / "folds" / "0")
    add_run(run)  # a resumed training has a new file
    assert link_runs(runs, view) == ["folds", "folds/0"]
    shown = [path.parent.relative_to(view).as_posix() for path in view.rglob("*") if path.is_symlink()]
    assert sorted(shown) == ["folds", "folds", "folds/0"]
    gone = sorted((run / "eval").iterdir())[0]
    gone.unlink()
    link_runs(runs, view)
    left = [path for path in view.rglob("*") if path.is_symlink()]
    assert sorted(path.resolve() for path in left) == sorted(runs.rglob("events*"))
    assert sorted(item.name for item in run.iterdir()) == ["0", "eval"]


def test_port_in_use(tmp_path: Path) -> None:
    add_run(tmp_path / "first")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port} .* choose another with --port"):
            serve(tmp_path, port=port, started=print)


def test_a_host_of_another_machine(tmp_path: Path) -> None:
    add_run(tmp_path / "first")
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0"):
        serve(tmp_path, host="192.0.2.1", port=0, started=print)


class TestServer:
    """A real TensorBoard on loopback."""

    @staticmethod
    def get(address: str, path: str) -> Any:
        with urllib.request.urlopen(f"{address}{path}", timeout=60) as answer:
            return json.load(answer)

    def wait_for(self, address: str, wanted: dict[str, set[str]]) -> None:
        """Until it has these runs with these scalars, which it may read later than their names."""
        for _ in range(600):
            tags = {run: set(found) for run, found in self.get(address, "data/plugin/scalars/tags").items()}
            if tags == wanted and sorted(self.get(address, "data/runs")) == sorted(wanted):
                return
            threading.Event().wait(0.5)
        raise AssertionError(f"{tags}, not {wanted}")

    def with_server(self, folder: Path, use: Callable[[str, list[str]], None]) -> None:
        stop, ready = threading.Event(), threading.Event()
        found: list[Any] = []

        def started(address: str, names: list[str]) -> None:
            found.extend((address, names))
            ready.set()

        def work() -> None:
            try:
                serve(folder, port=0, started=started, stop=stop)
            except BaseException as error:
                found.append(error)
                ready.set()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert ready.wait(600)
            use(*found)
        finally:
            stop.set()
            thread.join(600)
        assert not thread.is_alive()

    def test_runs_by_their_names_and_new_ones_by_themselves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(board, "LOOK_EVERY", 0.2)
        add_run(tmp_path / "runs" / "first")

        def use(address: str, names: list[str]) -> None:
            assert names == ["first"]
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            self.wait_for(address, {"first": {"loss"}})
            add_run(tmp_path / "runs" / "second")
            self.wait_for(address, {"first": {"loss"}, "second": {"loss"}})

        self.with_server(tmp_path / "runs", use)
