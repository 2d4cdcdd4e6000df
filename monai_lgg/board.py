"""TensorBoard over a folder of runs: their names are their folders', whatever is inside."""

import contextlib
import io
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 6006
#: Seconds between two looks for new runs and new event files.
LOOK_EVERY = 5.0
#: Points that TensorBoard keeps of a series; a training has one an epoch. Pictures take memory.
KEPT = {"images": 30, "pr_curves": 200, "histograms": 200}


def find_runs(folder: Path) -> dict[str, list[Path]]:
    """Name -> event files of each run below ``folder`` (or of ``folder`` itself), by name.

    A run's name is its path below ``folder``, without the ``eval`` that the events are in.

    Raises:
        FileNotFoundError: no such folder, or no events in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give the folder of a run, or one that has runs in it")
    runs: dict[str, list[Path]] = {}
    for place, folders, names in os.walk(folder.resolve()):
        events = sorted(name for name in names if "tfevents" in name)
        if events:
            runs[_name(Path(place), folder.resolve(), set(runs))] = [Path(place) / name for name in events]
        # the tables and masks of an evaluation can be many files, and what is hidden is being made
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (events and name != "eval"))
    if not runs:
        raise FileNotFoundError(
            f"no runs with TensorBoard events in {folder}; give the folder of a run, or one that has runs in it: "
            "'monai-lgg train BUNDLE --data DIR -o RUN' makes them"
        )
    return dict(sorted(runs.items()))


def _name(place: Path, folder: Path, taken: set[str]) -> str:
    short = place.parent if place.name == "eval" and place != folder else place
    name = short.relative_to(folder).as_posix()
    name = folder.name if name == "." else name
    return name if name not in taken else place.relative_to(folder).as_posix()


def link_runs(folder: Path, view: Path) -> list[str]:
    """Make ``view`` show the runs below ``folder``: a folder a run, by its name, of links to its event files.

    Returns:
        The names.
    """
    runs = find_runs(folder)
    wanted = {view / name / path.name: path for name, paths in runs.items() for path in paths}
    for link in [path for path in view.rglob("*") if path.is_symlink()]:
        if link not in wanted:
            link.unlink()
    for link, path in wanted.items():
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return list(runs)


def serve(
    folder: Path,
    *,
    host: str = HOST,
    port: int = PORT,
    started: Callable[[str, list[str]], Any],
    stop: threading.Event | None = None,
) -> None:
    """Run TensorBoard over the runs below ``folder`` until ``stop`` is set or the process is interrupted.

    Args:
        port: 0 takes a free one.
        started: is called with the address and the names of the runs when the page can be opened.
    Raises:
        FileNotFoundError: there are no runs.
        OSError: the port is in use, or the host is not of this machine.
    """
    from tensorboard import program

    stop = stop or threading.Event()
    with tempfile.TemporaryDirectory(prefix="monai-lgg-board-") as name:
        view = Path(name)
        names = link_runs(folder, view)
        _check_address(host, port)
        logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every look at the files
        board = program.TensorBoard()
        board.configure(
            logdir=str(view),
            host=host,
            port=port,
            samples_per_plugin=KEPT,
            window_title=f"{folder.resolve().name} - monai-lgg",
        )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # an advertisement of its fast reading
                address = board.launch()
        except program.TensorBoardServerException as error:
            raise OSError(f"{host}:{port}: {error.msg}; choose another with --host and --port") from error
        started(address, names)
        while not stop.wait(LOOK_EVERY):
            try:
                link_runs(folder, view)
            except OSError as error:  # a run that is being removed
                _log.warning(f"{folder}: {error}")


def _check_address(host: str, port: int) -> None:
    """TensorBoard finds out only after it has started its other process."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
            probe.bind(address)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); another program may use the port: choose "
            "another with --port N (0 takes a free one)"
        ) from error
