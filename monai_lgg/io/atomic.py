"""Files and folders that appear only when whole."""

import errno
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES = 20
#: ``.<name>.<machine>.<process>-<any>.partial``; a machine's name may have dots.
_PARTIAL = re.compile(r"^\..+\.(?P<process>\d+)-[0-9a-f]+\.partial$")


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then rename. A kill leaves the old file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix stays: some writers choose by it
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_text(path: Path, text: str) -> None:
    """UTF-8; a file name in ``text`` that is not UTF-8 itself is written with backslashes."""
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"))


@contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` that no other thread or process has; removed at the end, unless it was renamed."""
    unique = f"{platform.node()}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial = final.with_name(f".{final.name}.{unique}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, final: Path) -> None:
    """Rename ``partial`` to ``final``, in the place of what is there; where two do so at a time, one of them stays."""
    for left in reversed(range(TRIES)):
        shutil.rmtree(final, ignore_errors=True)
        try:
            return os.replace(partial, final)
        except OSError as error:  # another process was quicker
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not left:
                raise


def remove_leftovers(folder: Path) -> None:
    """Remove the partial folders in ``folder`` that processes of this machine left when they were killed."""
    here = f".{platform.node()}."
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _PARTIAL.match(path.name)
        if match and here in path.name and not _is_alive(int(match["process"])):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
