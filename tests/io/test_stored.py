import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monai_lgg.io.stored import read_checkpoint, read_json, save_torch


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00"])
def test_a_damaged_json_file_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.+\); evaluate again"):
        read_json(tmp_path / "a.json", "evaluate again")


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is damaged"):
        read_json(tmp_path / "a.json", "")
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json", "") == {"a": [1]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json", "")


@pytest.mark.parametrize("mmap", [False, True])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, mmap: bool) -> None:
    path = tmp_path / "checkpoint.pt"
    save_torch({"progress": {"epoch": 1}, "network": torch.arange(50_000)}, path)
    assert read_checkpoint(path, mmap=mmap)["progress"] == {"epoch": 1}
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[100:], b"not a checkpoint", bytes(range(256)) * 40):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged, .*; put a copy back, or remove the file"):
            read_checkpoint(path, mmap=mmap)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not the checkpoint of a training"):
        read_checkpoint(path, mmap=mmap)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pt", mmap=mmap)


def test_the_same_weights_are_the_same_file_without_a_name_in_it(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        save_torch({"weight": torch.ones(3)}, tmp_path / name)
    content = (tmp_path / "a.pt").read_bytes()
    assert content == (tmp_path / "b.pt").read_bytes()
    assert f".{platform.node()}.".encode() not in content
    assert b"partial" not in content


FULL = """
import resource
import sys
from pathlib import Path
import torch
from monai_lgg.io.atomic import atomic_text, partial_folder
from monai_lgg.io.stored import save_torch

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def into_folder():
    with partial_folder(folder / "case") as partial:
        (partial / "mask").write_bytes(bytes(30_000))


for write in (
    lambda: save_torch({"a": torch.arange(50_000)}, folder / "model.pt"),
    lambda: atomic_text(folder / "table.csv", "a" * 30_000),
    into_folder,
):
    try:
        write()
    except OSError as error:
        print(type(error).__name__, error)
print(list(folder.iterdir()))
"""


def test_no_room_is_told_with_the_file_and_what_to_do(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow, which is to a program as a full disk is."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    *errors, left = done.stdout.splitlines()
    for name, error in zip(("model.pt", "table.csv", "case"), errors, strict=True):
        assert error.startswith("DiskError ")
        assert f"{tmp_path / name} cannot be written (File too large); make room" in error
    assert left == "[]"
