"""Files and folders that appear only when whole."""

import errno
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_lgg.errors import disk_error

TRIES = 20
#: ``.<name>.<machine>.<process>-<any>.partial`` of a folder, ``.<machine>.<process>-<any>.partial.<name>`` of a file; a
#: machine's name may have dots.
_PARTIAL = re.compile(r"^\..+\.(?P<process>\d+)-[0-9a-f]+\.partial(\..+)?$")


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path beside ``path``, then rename. A kill leaves the old file, or none.

    Raises:
        DiskError: no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{_unique()}.{path.name}")  # the suffix stays: some writers choose by it
    try:
        with _telling(path):
            write(partial)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        full = disk_error(error, str(path))
        if full is None or full is error:
            raise
        raise full from error


def atomic_text(path: Path, text: str) -> None:
    """UTF-8; a file name in ``text`` that is not UTF-8 itself is written with backslashes."""
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="backslashreplace"))


def _unique() -> str:
    """Of this machine, process and call: processes in containers often have equal ids."""
    return f"{platform.node()}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"


def make_partial_folder(final: Path) -> Path:
    """As :func:`partial_folder`, for work that ends elsewhere; :func:`remove_leftovers` knows it."""
    partial = final.with_name(f".{final.name}.{_unique()}")
    partial.mkdir(parents=True)
    return partial


@contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """A new folder beside ``final`` that no other thread or process has; removed at the end, unless it was renamed.

    Raises:
        DiskError: no room for what is written into it.
    """
    partial = make_partial_folder(final)
    try:
        with _telling(final):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, final: Path) -> None:
    """Rename ``partial`` to ``final``, in the place of what is there; where two do so at a time, one of them stays.

    What is there is renamed before it is removed, so nobody sees a half of it, and a call that is killed leaves none.
    """
    for left in reversed(range(TRIES)):
        old = final.with_name(f".{final.name}.{_unique()}")
        with suppress(FileNotFoundError):
            os.replace(final, old)
        try:
            return os.replace(partial, final)
        except OSError as error:  # another process was quicker
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not left:
                with suppress(OSError):
                    os.replace(old, final)
                raise
        finally:
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files and folders in ``folder`` that processes of this machine left when they were killed."""
    here = f".{platform.node()}."
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _PARTIAL.match(path.name)
        if not match or here not in path.name or _is_alive(int(match["process"])):
            continue
        _remove(path)


def _is_alive(process: int) -> bool:
    """False too for one that has ended and whose parent, such as the only program of a container, takes no notice."""
    try:
        if Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "XZ":
            return False
    except OSError:  # no such process, or a system without these files
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
