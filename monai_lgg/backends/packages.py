"""The optional packages that run or write a network: which are there, and what to install."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

_PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx"), "tensorrt": ("onnxruntime", "onnx")}
TENSORRT = "TensorrtExecutionProvider"


def require(name: str) -> None:
    """Refuses a backend that is not installed.

    Raises:
        ModuleNotFoundError: a package of it is missing; the extra that brings it is named.
    """
    missing = missing_packages(name)
    if missing:
        raise ModuleNotFoundError(not_installed(name, f"backend {name}", "backend torch", missing))


def require_package(package: str, extra: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(not_installed(extra, what, "another format", [package]))


def not_installed(extra: str, what: str, instead: str, missing: Iterable[str] = ()) -> str:
    needed = ", ".join(missing) or extra
    return f'{what} needs {needed}, which is not installed; pip install "monai-lgg[{extra}]", or use {instead}'


def missing_packages(name: str) -> list[str]:
    missing = [package for package in _PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if name == "tensorrt" and not missing and TENSORRT not in load_onnxruntime().get_available_providers():
        return ["onnxruntime-gpu (onnxruntime has no TensorRT provider here)"]
    return missing


def module(name: str) -> Any:
    return {"openvino": load_openvino, "onnx": lambda: importlib.import_module("onnx")}.get(name, load_onnxruntime)()


def load_onnxruntime() -> Any:
    return importlib.import_module("onnxruntime")


def load_openvino() -> Any:
    """OpenVINO without its telemetry, which otherwise reports each use to the maker over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")
