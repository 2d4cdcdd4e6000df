"""A network's graph in files of another library, kept with what it was made from."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from monai_lgg.io.atomic import atomic_write

#: Rows and columns of other multiples are left to PyTorch: an exported graph cannot pad the odd maps inside a network.
MULTIPLE = 32
_MANIFEST = "manifest.json"
Run = Callable[[torch.Tensor], torch.Tensor]


def weights_hash(network: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(values.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def write_graph(path: Path, key: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w") as archive:  # keeps a checksum of each file
            archive.writestr(_MANIFEST, json.dumps(key))
            for name, content in files.items():
                archive.writestr(name, content)

    atomic_write(path, write)


def read_graph(path: Path, key: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that were written with this key.

    Raises:
        ValueError: damaged, or written with another key.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        found = json.loads(files.pop(_MANIFEST))
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        raise ValueError(f"{path}: damaged ({type(error).__name__}: {error}); delete it and make it again") from error
    if found != dict(key):
        raise ValueError(f"{path}: made from other weights or by another version; make it again")
    return files


def layers_hash(network: torch.nn.Module) -> str:
    """SHA-256 of the layers and their settings, as PyTorch prints them."""
    return hashlib.sha256(str(network).encode()).hexdigest()


def noise(count: int, channels: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, rows, columns, generator=generator) * 2 - 1


def plain(batch: torch.Tensor) -> torch.Tensor:
    """Without MONAI's metadata, gradient and channels_last."""
    return batch.detach().as_subclass(torch.Tensor).float().contiguous()
