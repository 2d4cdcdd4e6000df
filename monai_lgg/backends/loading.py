"""Which library runs a network: the one that is asked for, or the fastest that gives what the network gives."""

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch

from monai_lgg import __version__
from monai_lgg.backends import packages
from monai_lgg.backends.graphs import MULTIPLE, Run, layers_hash, noise, read_graph, weights_hash, write_graph
from monai_lgg.backends.int8 import read_int8
from monai_lgg.backends.onnx_graphs import onnx_files, onnxruntime_run
from monai_lgg.backends.openvino_graphs import openvino_files, openvino_run
from monai_lgg.backends.packages import module, not_installed, require
from monai_lgg.errors import UsageError
from monai_lgg.networks.pretrained import cache_dir

BACKENDS = ("auto", "torch", "openvino", "onnxruntime", "tensorrt")
PRECISIONS = ("fp32", "bf16", "int8")
#: Largest difference of the logits, as a share of the largest logit, that still is the same network. bfloat16 keeps
#: 8 bits, a step of 0.4 %, in each of many layers.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
_SUPPORTED = {
    "torch": ("fp32", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "tensorrt": ("fp32", "bf16"),
}
_log = logging.getLogger(__name__)


class BackendError(Exception):
    """A network cannot be run by the backend that was asked for, whatever its input."""


@dataclass(frozen=True)
class Backend:
    """A network as one library runs it: called with float32 (B, C, H, W), it gives float32 logits (B, out, H, W)."""

    name: str
    precision: str
    version: str
    run: Run = field(repr=False)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self.run(batch)


def available() -> list[str]:
    """The backends that are installed, ``torch`` first."""
    return ["torch", *(name for name in BACKENDS[2:] if not packages.missing_packages(name))]


def load_backend(
    name: str,
    network: torch.nn.Module,
    channels: int,
    *,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    int8_file: Path | None = None,
) -> Backend:
    """A network, ready to be run by one of :data:`BACKENDS`.

    ``auto`` takes the first of OpenVINO, ONNX Runtime and PyTorch that is installed, can do the precision and gives
    what the network gives; on a GPU it takes PyTorch. It never fails for want of a package, except for ``int8``, which
    PyTorch cannot run. A named backend is used or refused.

    Batches of any number of images may follow each other, and any sizes; those whose rows or columns are no multiples
    of :data:`MULTIPLE` are given to the network itself. As many threads are used as PyTorch has
    (``torch.get_num_threads()``) at the time of loading.

    Args:
        name: one of :data:`BACKENDS`. ``tensorrt`` is ONNX Runtime's TensorRT provider; it was written from its
            documentation and has not been run, because the project's tests have no GPU.
        network: maps (B, channels, H, W) to logits (B, out, H, W), on ``device``, in evaluation mode.
        channels: of its input.
        precision: one of :data:`PRECISIONS`. ``bf16`` is slower than ``fp32`` on a CPU without AMX. ``int8`` is
            faster, with ``unet_25d`` by a quarter (docs/results.md), and moves the borders of uncertain masks: see
            :data:`AGREEMENT`.
        int8_file: of :func:`quantize`, for ``int8``.
    Raises:
        ValueError: an unknown name, a precision or a device that the backend does not have, a network in training
            mode, an INT8 file that is damaged or of other weights, or a backend whose results differ.
        ModuleNotFoundError: the backend is not installed; the message names the extra.
        FileNotFoundError: no INT8 file.
    """
    check_name("backend", name, BACKENDS)
    check_name("precision", precision, PRECISIONS)
    if network.training:
        raise ValueError("the network is in training mode, which changes its results; call network.eval() first")
    device = torch.device(device)
    if name != "auto":
        return _load(name, network, channels, precision, device, int8_file)
    if precision == "int8":
        read_int8(network, int8_file)  # a bad file is an error; a missing package is not yet
    names = ["openvino", "onnxruntime", "torch"] if device.type == "cpu" else ["torch"]
    for candidate in (candidate for candidate in names if precision in _SUPPORTED[candidate]):
        if packages.missing_packages(candidate):
            continue
        try:
            return _load(candidate, network, channels, precision, device, int8_file)
        except Exception as error:
            if candidate == "torch":
                raise
            _log.warning("backend %s cannot be used: %s", candidate, " ".join(str(error).split())[:300])
    raise ModuleNotFoundError(not_installed("openvino", f"{precision} by backend auto", "precision fp32"))


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Refuses an unknown name.

    Raises:
        UsageError: not one of ``known``; the nearest is suggested.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of: {', '.join(known)}"
    raise UsageError(f"no {what} {name!r}; {hint}")


def _load(
    name: str, network: torch.nn.Module, channels: int, precision: str, device: torch.device, int8_file: Path | None
) -> Backend:
    if precision not in _SUPPORTED[name]:
        can = [other for other, precisions in _SUPPORTED.items() if precision in precisions]
        raise ValueError(f"backend {name} has no precision {precision}; use backend {' or '.join(can)}")
    if name == "torch":
        return Backend(name, precision, torch.__version__, _torch_run(network, precision))
    require(name)
    _check_device(name, device)
    make = {"openvino": openvino_run, "onnxruntime": onnxruntime_run, "tensorrt": onnxruntime_run}[name]

    def start(files: Mapping[str, bytes]) -> Run:
        return _whole_maps_only(make(files, name, precision, device), network)

    version = module(name).__version__
    if precision == "int8":
        return Backend(name, precision, version, start(read_int8(network, int8_file)))
    return Backend(name, precision, version, _exported(name, network, channels, precision, start))


def _check_device(name: str, device: torch.device) -> None:
    wanted = {"openvino": ("cpu",), "onnxruntime": ("cpu", "cuda"), "tensorrt": ("cuda",)}[name]
    if device.type not in wanted:
        raise ValueError(
            f"backend {name} runs on {' or '.join(wanted)}, not on {device}; choose that device, or backend torch"
        )


def _torch_run(network: torch.nn.Module, precision: str) -> Run:
    def run(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(batch.contiguous(memory_format=torch.channels_last)).float()

    return run


def _whole_maps_only(run: Run, network: torch.nn.Module) -> Run:
    def either(batch: torch.Tensor) -> torch.Tensor:
        fits = batch.shape[-2] % MULTIPLE == 0 and batch.shape[-1] % MULTIPLE == 0
        return run(batch) if fits else network(batch)

    return either


def _exported(name: str, network: torch.nn.Module, channels: int, precision: str, start: Callable[..., Run]) -> Run:
    """The graph, started and compared with the network; one that was kept but does not fit is made again.

    Raises:
        ValueError: the results differ even so.
    """
    layout = "openvino" if name == "openvino" else "onnx"
    key = {
        "weights": weights_hash(network),
        "layers": layers_hash(network),
        "layout": layout,
        "versions": [__version__, torch.__version__, module(layout).__version__],
    }
    path = cache_dir() / "backends" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.zip"
    if path.is_file():
        try:
            run = start(read_graph(path, key))
            _check_same(name, network, run, channels, TOLERANCE[precision])
            return run
        except Exception as error:  # whatever a damaged file makes a foreign parser raise
            _log.warning("%s cannot be used (%s); it is made again", path, " ".join(str(error).split())[:200])
    files = openvino_files(network, channels) if layout == "openvino" else onnx_files(network, channels)
    run = start(files)
    _check_same(name, network, run, channels, TOLERANCE[precision])
    try:
        write_graph(path, key, files)
    except OSError as error:
        _log.warning("%s cannot be written (%s), so the network is exported again next time", path, error.strerror)
    return run


def _check_same(name: str, network: torch.nn.Module, run: Run, channels: int, tolerance: float) -> None:
    """Compares on one image of another size and batch than the one that the graph was made with.

    Raises:
        ValueError: the logits differ by more than ``tolerance`` of the largest.
    """
    device = next(chain(network.parameters(), network.buffers())).device
    image = noise(1, channels, 3 * MULTIPLE, 2 * MULTIPLE).to(device)
    with torch.inference_mode():
        expected, found = network(image), run(image)
    if expected.shape != found.shape:
        raise ValueError(f"backend {name} gives {tuple(found.shape)}, the network {tuple(expected.shape)}")
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not difference <= tolerance:  # also where it is not a number
        raise ValueError(
            f"backend {name} differs from the network by {difference:.2g} of the largest logit, more than {tolerance}; "
            "use backend torch"
        )
