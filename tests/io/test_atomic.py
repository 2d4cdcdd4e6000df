import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_lgg.io.atomic import atomic_text, atomic_write, partial_folder, remove_leftovers, replace_folder


def test_two_writers_of_one_folder_leave_a_whole_one(tmp_path: Path) -> None:
    """The second begins while the first still writes, and ends before it."""
    final = tmp_path / "case"
    with partial_folder(final) as first:
        (first / "mask").write_text("first")
        with partial_folder(final) as second:
            assert (first / "mask").exists()
            (second / "mask").write_text("second")
            replace_folder(second, final)
        (first / "result").write_text("first")
        replace_folder(first, final)
    assert {path.name: path.read_text() for path in final.iterdir()} == {"mask": "first", "result": "first"}
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_that_comes_back_between_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final, replace, tries = tmp_path / "case", os.replace, []

    def other_is_quicker(source: Path, target: Path) -> None:
        tries.append(target)
        if len(tries) == 1:
            final.mkdir()
            (final / "mask").write_text("other")
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_is_quicker)
    with partial_folder(final) as partial:
        (partial / "mask").write_text("own")
        replace_folder(partial, final)
    assert len(tries) == 2
    assert (final / "mask").read_text() == "own"


def test_text_with_a_file_name_that_is_no_utf_8(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a.csv", "M\udcfcller,Müller\n")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "M\\udcfcller,Müller\n"


def test_two_writers_of_one_file_in_one_process(tmp_path: Path) -> None:
    def second(partial: Path) -> None:
        partial.write_text("first")
        atomic_text(tmp_path / "a.json", "second")
        assert partial.read_text() == "first"

    atomic_write(tmp_path / "a.json", second)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]


def test_what_a_killed_process_left_is_removed_though_nobody_took_notice_of_its_end(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys
from monai_lgg.io.atomic import atomic_write, partial_folder
def killed(partial):
    partial.write_text("half")
    os.kill(os.getpid(), 9)
with partial_folder(pathlib.Path(sys.argv[1], "case")):
    atomic_write(pathlib.Path(sys.argv[1], "model.pt"), killed)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie until the wait below
    atomic_write(tmp_path / "mine.pt", lambda partial: (partial.write_text("half"), remove_leftovers(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt"]
    assert ended.wait() == -9


def test_a_folder_is_replaced_whole_and_kept_when_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final, new, linked = tmp_path / "case", tmp_path / "new", tmp_path / "elsewhere"
    for folder in (final, new, linked):
        folder.mkdir()
        (folder / "who").write_text(folder.name)
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if source == new:
            raise PermissionError(13, "no")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(PermissionError):
            replace_folder(new, final)
    assert (final / "who").read_text() == "case"
    shutil.rmtree(final)
    final.symlink_to(linked)
    replace_folder(new, final)
    assert (final / "who").read_text() == "new"
    assert not final.is_symlink()
    assert (linked / "who").read_text() == "elsewhere"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case", "elsewhere"]


def test_two_processes_replace_a_folder_again_and_again(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from monai_lgg.io.atomic import partial_folder, replace_folder
final = pathlib.Path(sys.argv[1], "case")
for k in range(200):
    with partial_folder(final) as partial:
        for j in range(9):
            (partial / str(j)).write_text("x")
        replace_folder(partial, final)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["case"]
    assert len(list((tmp_path / "case").iterdir())) == 9
