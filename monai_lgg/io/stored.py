"""What the package wrote itself, written and read again: a damaged file is an error that names it and what to do."""

import json
from pathlib import Path
from typing import Any

from monai_lgg.io.atomic import atomic_write


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        remedy: what the user can do about a damaged one; ends the error.
    Raises:
        ValueError: damaged.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (no JSON object); {remedy}")
    return content


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The checkpoint of a training, on the CPU.

    Args:
        mmap: leaves the tensors in the file until they are used.
    Raises:
        ValueError: damaged, or not a checkpoint.
    """
    import torch

    remedy = "put a copy back, or remove the file, and the training begins anew"
    path.open("rb").close()  # what may not be read, or is not there, is not damaged
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # bytes at random make any
        raise ValueError(f"{path} is damaged, and no checkpoint can be read from it; {remedy}") from error
    if not isinstance(state, dict) or "progress" not in state:
        raise ValueError(f"{path} is not the checkpoint of a training (no 'progress' in it); {remedy}")
    return state


def save_torch(state: Any, path: Path) -> None:
    """``torch.save`` that appears whole. The same content gives the same bytes: no file name is in them."""
    import torch

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            torch.save(state, file)

    atomic_write(path, write)
