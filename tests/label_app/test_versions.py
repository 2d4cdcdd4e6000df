import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from monai_lgg.label_app.versions import Versions


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    bundle = tmp_path / "some bundle"
    write(bundle, "shipped")
    return Versions(bundle, tmp_path / "models" / "some bundle")


def write(folder: Path, text: str) -> None:
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "model.pt").write_text(text)


def weights(versions: Versions, number: int) -> str:
    return (versions.folder(number) / "models" / "model.pt").read_text()


def test_each_version_is_kept_and_the_last_is_in_use(versions: Versions) -> None:
    assert versions.numbers() == [0]
    assert versions.add(lambda folder: write(folder, "first")) == 1
    assert versions.add(lambda folder: write(folder, "second")) == 2
    assert versions.numbers() == [0, 1, 2]
    assert versions.latest() == 2
    assert [weights(versions, number) for number in (0, 1, 2)] == ["shipped", "first", "second"]


def test_a_training_that_fails_leaves_nothing(versions: Versions) -> None:
    def fail(folder: Path) -> None:
        write(folder, "half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        versions.add(fail)
    with pytest.raises(RuntimeError, match="kept no weights"):
        versions.add(lambda folder: None)
    assert versions.latest() == 0
    assert list(versions.parent.iterdir()) == []


def test_leftovers_of_a_killed_training_are_no_version_and_go_with_the_next(versions: Versions) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    here = platform.node()
    write(versions.parent / f".1.{here}.{int(ended.stdout)}-0a.partial", "half")
    running = versions.parent / f".1.{here}.{os.getppid()}-0a.partial"
    elsewhere = versions.parent / f".1.no-{here}.{int(ended.stdout)}-0a.partial"  # of a machine with the same disk
    for other in (running, elsewhere):
        write(other, "half")
    assert versions.latest() == 0
    versions.add(lambda folder: write(folder, "whole"))
    assert sorted(path.name for path in versions.parent.iterdir()) == sorted([elsewhere.name, running.name, "1"])


def test_copies_of_scans_go_with_their_training_or_with_the_next_start(versions: Versions) -> None:
    with versions.scans() as folder:
        assert folder.parent == versions.parent
        write(folder, "scan")
    assert not folder.exists()
    code = "import os, sys, pathlib; from monai_lgg.label_app.versions import Versions\n"
    code += "with Versions(*map(pathlib.Path, sys.argv[1:])).scans() as folder: os.kill(os.getpid(), 9)"
    words = [sys.executable, "-c", code, str(versions.bundle), str(versions.parent)]
    assert subprocess.run(words, cwd=Path(__file__).parents[2]).returncode == -9
    assert len(list(versions.parent.iterdir())) == 1
    with versions.scans() as own:
        versions.remove_leftovers()
        assert list(versions.parent.iterdir()) == [own]


def test_two_trainings_at_once_add_two_versions(versions: Versions) -> None:
    def slow(folder: Path) -> None:
        write(folder, "slow")
        write(versions.parent / "1", "quick")  # what another process adds meanwhile

    assert versions.add(slow) == 2
    assert [weights(versions, number) for number in (1, 2)] == ["quick", "slow"]


def test_errors_say_which_versions_there_are(versions: Versions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="some bundle has no version 3; it has: 0"):
        versions.folder(3)
    untrained = Versions(tmp_path / "untrained", tmp_path / "nowhere")
    assert untrained.numbers() == []
    with pytest.raises(FileNotFoundError, match="model untrained has no weights yet; label images and train it"):
        untrained.latest()
