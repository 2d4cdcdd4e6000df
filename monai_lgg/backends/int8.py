"""A network with 8-bit weights and activations."""

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from monai_lgg.backends.graphs import layers_hash, plain, read_graph, weights_hash, write_graph
from monai_lgg.backends.onnx_graphs import export_onnx, onnxruntime_run
from monai_lgg.backends.packages import require

#: Dice of the masks of the INT8 and the float32 network on the images of the calibration; below it, none is written.
#: A U-Net whose masks agreed to 0.998 kept the mean Dice of 16 real patients to 0.0001 (single ones to 0.007); where
#: they agreed to 0.98 or less, each patient lost or won 0.001 to 0.02.
AGREEMENT = 0.99
#: Of a bundle's INT8 network, below the bundle.
INT8_FILE = Path("models", "model.int8.zip")


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
    run = onnxruntime_run(files, "onnxruntime", "int8", torch.device("cpu"))
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
    write_graph(path, _int8_key(network), files)
    return agreement


def _quantized(network: torch.nn.Module, images: Sequence[torch.Tensor]) -> bytes:
    quantization = importlib.import_module("onnxruntime.quantization")
    shapes = importlib.import_module("onnxruntime.quantization.shape_inference")
    waiting = iter(images)

    class Images(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> dict[str, Any] | None:
            image = next(waiting, None)
            return None if image is None else {"image": plain(image).numpy()}

    with tempfile.TemporaryDirectory() as folder:
        whole, folded, small = (str(Path(folder, f"{name}.onnx")) for name in ("whole", "folded", "small"))
        export_onnx(network, images[0].shape[1], Path(whole))
        shapes.quant_pre_process(whole, folded, skip_symbolic_shape=True)  # batch normalization into convolutions
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
    return {"weights": weights_hash(network), "layers": layers_hash(network), "layout": "onnx int8"}


def read_int8(network: torch.nn.Module, path: Path | None) -> dict[str, bytes]:
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"no INT8 file at {path}; make one by 'monai-lgg export RUN --to int8 --calibrate DIR', or use fp32"
        )
    return read_graph(path, _int8_key(network))
