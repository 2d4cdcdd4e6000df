"""A network as ONNX, and run by ONNX Runtime."""

import hashlib
import tempfile
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from monai_lgg.backends.graphs import MULTIPLE, Run, noise, plain
from monai_lgg.backends.packages import TENSORRT, load_onnxruntime, require_package
from monai_lgg.networks.pretrained import cache_dir

#: ONNX operators of this version are known to every ONNX Runtime and TensorRT of the last years.
OPSET = 17
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def export_onnx(network: torch.nn.Module, channels: int, path: Path) -> None:
    """Write a network as ONNX with dynamic batch, rows and columns (multiples of :data:`MULTIPLE`).

    Args:
        network: in evaluation mode.
        path: input ``image`` (B, channels, H, W), output ``logits`` (B, out, H, W), all float32.
    Raises:
        ModuleNotFoundError: the package onnx is missing.
    """
    require_package("onnx", "onnxruntime", "an ONNX file")
    device = next(chain(network.parameters(), network.buffers())).device
    axes = {0: "batch", 2: "rows", 3: "columns"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, and that this exporter is old; it takes a fifth of the time
        torch.onnx.export(
            network,
            (noise(2, channels, 2 * MULTIPLE, 3 * MULTIPLE).to(device),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": axes, "logits": axes},
            opset_version=OPSET,
            dynamo=False,
            verbose=False,
        )


def onnx_files(network: torch.nn.Module, channels: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, channels, Path(folder, "model.onnx"))
        return {"model.onnx": Path(folder, "model.onnx").read_bytes()}


def _engine_folder(files: Mapping[str, bytes]) -> Path:
    """Of TensorRT's engines: one for each graph and its weights, because TensorRT names engines by the layers alone."""
    return cache_dir() / "backends" / "tensorrt" / hashlib.sha256(files["model.onnx"]).hexdigest()[:32]


def onnxruntime_run(files: Mapping[str, bytes], name: str, precision: str, device: torch.device) -> Run:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = TENSORRT if name == "tensorrt" else _CUDA if device.type == "cuda" else _CPU
    number = {"device_id": device.index or 0}
    providers: dict[str, list[Any]] = {_CPU: [_CPU], _CUDA: [(_CUDA, number)]}
    engines = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(_engine_folder(files))}
    half = {"trt_bf16_enable": True} if precision == "bf16" else {}
    providers[TENSORRT] = [(TENSORRT, {**number, **engines, **half}), *providers[_CUDA]]
    session = onnxruntime.InferenceSession(files["model.onnx"], options, providers=providers[wanted])
    if wanted not in session.get_providers():  # it goes on with the CPU, and only logs that it does
        raise ValueError(f"backend {name}: ONNX Runtime has no {wanted} on this machine; use backend torch")

    def run(batch: torch.Tensor) -> torch.Tensor:
        image = plain(batch).cpu().numpy()
        return torch.from_numpy(session.run(None, {"image": image})[0]).to(batch.device)

    return run
