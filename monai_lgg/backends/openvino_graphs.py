"""A network as an OpenVINO model, and run by OpenVINO."""

import tempfile
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from monai_lgg.backends.graphs import MULTIPLE, Run, noise, plain
from monai_lgg.backends.packages import load_openvino, require_package


def openvino_model(network: torch.nn.Module, channels: int) -> Any:
    """A network in evaluation mode as an ``openvino.Model`` with dynamic batch, rows and columns.

    Its input is ``image``, its output ``logits``.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    require_package("openvino", "openvino", "an OpenVINO file")
    openvino = load_openvino()
    device = next(chain(network.parameters(), network.buffers())).device
    example = noise(2, channels, 2 * MULTIPLE, 3 * MULTIPLE).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(
            network, example_input=example, input=[openvino.PartialShape([-1, channels, -1, -1])]
        )
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def openvino_files(network: torch.nn.Module, channels: int) -> dict[str, bytes]:
    names = ("model.xml", "model.bin")
    with tempfile.TemporaryDirectory() as folder:
        load_openvino().save_model(openvino_model(network, channels), Path(folder, names[0]), compress_to_fp16=False)
        return {name: Path(folder, name).read_bytes() for name in names}


def openvino_run(files: Mapping[str, bytes], name: str, precision: str, device: torch.device) -> Run:
    core = load_openvino().Core()
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
        return torch.from_numpy(compiled([plain(batch).numpy()])[0])

    return run
