"""Running a network by other libraries than PyTorch: exported once, kept, and compared with the network before use.

On a CPU, OpenVINO and ONNX Runtime run the same network in a fraction of PyTorch's time
(``scripts/benchmark_backends.py`` shows the ratios). Their graphs are kept in ``cache_dir()/backends``, one file each,
which may be deleted at any time.
"""

import difflib
import hashlib
import importlib
import importlib.util
import json
import logging
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from monai_lgg import __version__
from monai_lgg.io.atomic import atomic_write
from monai_lgg.networks.pretrained import cache_dir

BACKENDS = ("auto", "torch", "openvino", "onnxruntime", "tensorrt")
PRECISIONS = ("fp32", "bf16", "int8")
#: Rows and columns of other multiples are left to PyTorch: an exported graph cannot pad the odd maps inside a network.
MULTIPLE = 32
#: ONNX operators of this version are known to every ONNX Runtime and TensorRT of the last years.
OPSET = 17
#: Largest difference of the logits, as a share of the largest logit, that still is the same network. bfloat16 keeps
#: 8 bits, a step of 0.4 %, in each of many layers.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
#: Dice of the masks of the INT8 and the float32 network on the images of the calibration; below it, none is written.
#: A U-Net whose masks agreed to 0.998 kept the mean Dice of 16 real patients to 0.0001 (single ones to 0.007); where
#: they agreed to 0.98 or less, each patient lost or won 0.001 to 0.02.
AGREEMENT = 0.99
_MANIFEST = "manifest.json"
_PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx"), "tensorrt": ("onnxruntime", "onnx")}
_SUPPORTED = {
    "torch": ("fp32", "bf16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "tensorrt": ("fp32", "bf16"),
}

Run = Callable[[torch.Tensor], torch.Tensor]
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
    return ["torch", *(name for name in BACKENDS[2:] if not _missing(name))]


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
        precision: one of :data:`PRECISIONS`. ``bf16`` is slower than ``fp32`` on a CPU without AMX. ``int8`` takes
            half the time of ``fp32`` there, and moves the borders of uncertain masks: see :data:`AGREEMENT`.
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
        _read_int8(network, int8_file)  # a bad file is an error; a missing package is not yet
    names = ["openvino", "onnxruntime", "torch"] if device.type == "cpu" else ["torch"]
    for candidate in (candidate for candidate in names if precision in _SUPPORTED[candidate]):
        if _missing(candidate):
            continue
        try:
            return _load(candidate, network, channels, precision, device, int8_file)
        except Exception as error:
            if candidate == "torch":
                raise
            _log.warning("backend %s cannot be used: %s", candidate, " ".join(str(error).split())[:300])
    raise ModuleNotFoundError(_not_installed("openvino", f"{precision} by backend auto", "precision fp32"))


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Refuses an unknown name.

    Raises:
        ValueError: not one of ``known``; the nearest is suggested.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of: {', '.join(known)}"
    raise ValueError(f"no {what} {name!r}; {hint}")


def require(name: str) -> None:
    """Refuses a backend that is not installed.

    Raises:
        ModuleNotFoundError: a package of it is missing; the extra that brings it is named.
    """
    missing = _missing(name)
    if missing:
        raise ModuleNotFoundError(_not_installed(name, f"backend {name}", "backend torch", missing))


def _require_package(package: str, extra: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(_not_installed(extra, what, "another format", [package]))


def _not_installed(extra: str, what: str, instead: str, missing: Iterable[str] = ()) -> str:
    needed = ", ".join(missing) or extra
    return f'{what} needs {needed}, which is not installed; pip install "monai-lgg[{extra}]", or use {instead}'


def _missing(name: str) -> list[str]:
    missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if name == "tensorrt" and not missing and _TENSORRT not in _onnxruntime().get_available_providers():
        return ["onnxruntime-gpu (onnxruntime has no TensorRT provider here)"]
    return missing


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
    make = {"openvino": _openvino_run, "onnxruntime": _onnxruntime_run, "tensorrt": _onnxruntime_run}[name]

    def start(files: Mapping[str, bytes]) -> Run:
        return _whole_maps_only(make(files, name, precision, device), network)

    version = _module(name).__version__
    if precision == "int8":
        return Backend(name, precision, version, start(_read_int8(network, int8_file)))
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


# --- the exported graph: from the cache, or made again


def _exported(name: str, network: torch.nn.Module, channels: int, precision: str, start: Callable[..., Run]) -> Run:
    """The graph, started and compared with the network; one that was kept but does not fit is made again.

    Raises:
        ValueError: the results differ even so.
    """
    layout = "openvino" if name == "openvino" else "onnx"
    key = {
        "weights": weights_hash(network),
        "layers": hashlib.sha256(str(network).encode()).hexdigest(),
        "layout": layout,
        "versions": [__version__, torch.__version__, _module(layout).__version__],
    }
    path = cache_dir() / "backends" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.zip"
    if path.is_file():
        try:
            run = start(_read(path, key))
            _check_same(name, network, run, channels, TOLERANCE[precision])
            return run
        except Exception as error:  # whatever a damaged file makes a foreign parser raise
            _log.warning("%s cannot be used (%s); it is made again", path, " ".join(str(error).split())[:200])
    files = _openvino_files(network, channels) if layout == "openvino" else _onnx_files(network, channels)
    run = start(files)
    _check_same(name, network, run, channels, TOLERANCE[precision])
    try:
        _write(path, key, files)
    except OSError as error:
        _log.warning("%s cannot be written (%s), so the network is exported again next time", path, error.strerror)
    return run


def _check_same(name: str, network: torch.nn.Module, run: Run, channels: int, tolerance: float) -> None:
    """Compares on one image of another size and batch than the one that the graph was made with.

    Raises:
        ValueError: the logits differ by more than ``tolerance`` of the largest.
    """
    device = next(chain(network.parameters(), network.buffers())).device
    image = _noise(1, channels, 3 * MULTIPLE, 2 * MULTIPLE).to(device)
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


def _noise(count: int, channels: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, rows, columns, generator=generator) * 2 - 1


def weights_hash(network: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(values.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _write(path: Path, key: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    def write(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w") as archive:  # keeps a checksum of each file
            archive.writestr(_MANIFEST, json.dumps(key))
            for name, content in files.items():
                archive.writestr(name, content)

    atomic_write(path, write)


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, bytes]:
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


# --- ONNX


def export_onnx(network: torch.nn.Module, channels: int, path: Path) -> None:
    """Write a network as ONNX with dynamic batch, rows and columns (multiples of :data:`MULTIPLE`).

    Args:
        network: in evaluation mode.
        path: input ``image`` (B, channels, H, W), output ``logits`` (B, out, H, W), all float32.
    Raises:
        ModuleNotFoundError: the package onnx is missing.
    """
    _require_package("onnx", "onnxruntime", "an ONNX file")
    device = next(chain(network.parameters(), network.buffers())).device
    axes = {0: "batch", 2: "rows", 3: "columns"}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of tracing, and that this exporter is the older one: it takes a fifth of the time
        torch.onnx.export(
            network,
            (_noise(2, channels, 2 * MULTIPLE, 3 * MULTIPLE).to(device),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": axes, "logits": axes},
            opset_version=OPSET,
            dynamo=False,
            verbose=False,
        )


def _onnx_files(network: torch.nn.Module, channels: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, channels, Path(folder, "model.onnx"))
        return {"model.onnx": Path(folder, "model.onnx").read_bytes()}


_CPU, _CUDA, _TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


def _onnxruntime_run(files: Mapping[str, bytes], name: str, precision: str, device: torch.device) -> Run:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = _TENSORRT if name == "tensorrt" else _CUDA if device.type == "cuda" else _CPU
    number = {"device_id": device.index or 0}
    providers: dict[str, list[Any]] = {_CPU: [_CPU], _CUDA: [(_CUDA, number)]}
    engines = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache_dir() / "backends" / "tensorrt")}
    half = {"trt_bf16_enable": True} if precision == "bf16" else {}
    providers[_TENSORRT] = [(_TENSORRT, {**number, **engines, **half}), *providers[_CUDA]]
    session = onnxruntime.InferenceSession(files["model.onnx"], options, providers=providers[wanted])
    if wanted not in session.get_providers():  # it goes on with the CPU, and only logs that it does
        raise ValueError(f"backend {name}: ONNX Runtime has no {wanted} on this machine; use backend torch")

    def run(batch: torch.Tensor) -> torch.Tensor:
        image = _plain(batch).cpu().numpy()
        return torch.from_numpy(session.run(None, {"image": image})[0]).to(batch.device)

    return run


def _plain(batch: torch.Tensor) -> torch.Tensor:
    """Without MONAI's metadata, gradient and channels_last."""
    return batch.detach().as_subclass(torch.Tensor).float().contiguous()


# --- OpenVINO


def openvino_model(network: torch.nn.Module, channels: int) -> Any:
    """A network in evaluation mode as an ``openvino.Model`` with dynamic batch, rows and columns.

    Its input is ``image``, its output ``logits``.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    _require_package("openvino", "openvino", "an OpenVINO file")
    openvino = _openvino()
    device = next(chain(network.parameters(), network.buffers())).device
    example = _noise(2, channels, 2 * MULTIPLE, 3 * MULTIPLE).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(
            network, example_input=example, input=[openvino.PartialShape([-1, channels, -1, -1])]
        )
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def _openvino_files(network: torch.nn.Module, channels: int) -> dict[str, bytes]:
    names = ("model.xml", "model.bin")
    with tempfile.TemporaryDirectory() as folder:
        _openvino().save_model(openvino_model(network, channels), Path(folder, names[0]), compress_to_fp16=False)
        return {name: Path(folder, name).read_bytes() for name in names}


def _openvino_run(files: Mapping[str, bytes], name: str, precision: str, device: torch.device) -> Run:
    core = _openvino().Core()
    if "model.onnx" in files:
        model = core.read_model(files["model.onnx"])
    else:
        model = core.read_model(files["model.xml"], files["model.bin"])
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",  # by itself it chooses bf16
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
    }
    compiled = core.compile_model(model, "CPU", settings)

    def run(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled([_plain(batch).numpy()])[0])

    return run


# --- INT8


def quantize(network: torch.nn.Module, images: Sequence[torch.Tensor], path: Path) -> float:
    """Write a network with 8-bit weights and activations, for ``load_backend(..., precision="int8", int8_file=path)``.

    Post-training static quantization by ONNX Runtime: weights per channel, activations from the smallest to the largest
    value that occurs with the images.

    Args:
        network: on the CPU, in evaluation mode.
        images: each (1, C, H, W) as the network gets it, of several patients of the training, with and without tumour;
            sizes may differ, rows and columns are multiples of :data:`MULTIPLE`.
        path: of the file, which is replaced.
    Returns:
        Dice of the masks of the INT8 and of the float32 network on the images; 1 where both are empty.
    Raises:
        ValueError: no images, or the masks agree to less than :data:`AGREEMENT`. Nothing is written.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    require("onnxruntime")
    if not images:
        raise ValueError("0 images to calibrate with; give some slices of several patients of the training")
    files = {"model.onnx": _quantized(network, images)}
    run = _onnxruntime_run(files, "onnxruntime", "int8", torch.device("cpu"))
    with torch.inference_mode():
        masks = [(run(image) > 0, network(image) > 0) for image in images]
    both = sum(int((one & other).sum()) for one, other in masks)
    total = sum(int(one.sum() + other.sum()) for one, other in masks)
    agreement = 2 * both / total if total else 1.0
    if agreement < AGREEMENT:
        raise ValueError(
            f"INT8 masks agree with the network's to a Dice of {agreement:.4f}, less than {AGREEMENT}; "
            "give more images with tumour, or use fp32"
        )
    _write(path, _int8_key(network), files)
    return agreement


def _quantized(network: torch.nn.Module, images: Sequence[torch.Tensor]) -> bytes:
    quantization = importlib.import_module("onnxruntime.quantization")
    shapes = importlib.import_module("onnxruntime.quantization.shape_inference")
    waiting = iter(images)

    class Images(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, Any] | None:
            image = next(waiting, None)
            return None if image is None else {"image": _plain(image).numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, folded, small = (str(Path(folder, f"{name}.onnx")) for name in ("plain", "folded", "small"))
        export_onnx(network, images[0].shape[1], Path(plain))
        shapes.quant_pre_process(plain, folded, skip_symbolic_shape=True)  # batch normalization into convolutions
        quantization.quantize_static(
            folded,
            small,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,  # signed ones cost 0.005 to 0.02 of Dice under OpenVINO
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return Path(small).read_bytes()


def _int8_key(network: torch.nn.Module) -> dict[str, str]:
    return {"weights": weights_hash(network), "layout": "onnx int8"}


def _read_int8(network: torch.nn.Module, path: Path | None) -> dict[str, bytes]:
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no INT8 file at {path}; make one by monai-lgg export RUN --to int8, or use fp32")
    return _read(path, _int8_key(network))


# --- optional packages


def _module(name: str) -> Any:
    return {"openvino": _openvino, "onnx": lambda: importlib.import_module("onnx")}.get(name, _onnxruntime)()


def _onnxruntime() -> Any:
    return importlib.import_module("onnxruntime")


def _openvino() -> Any:
    """OpenVINO without its telemetry, which otherwise reports each use to the maker over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")
