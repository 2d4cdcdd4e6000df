"""The machine and the versions of a process, for records of what a result was made with."""

import os
import platform
import sys
from importlib import metadata

_PACKAGES = (
    "monai-lgg", "monai", "torch", "pytorch-ignite", "openvino", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy",
    "scipy", "nibabel", "tifffile", "pydicom", "highdicom", "matplotlib",
)  # fmt: skip


def environment() -> dict[str, str]:
    """Processor, device, system and versions of this process."""
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "device": ", ".join(names) if names else "CPU",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "Python": sys.version.split()[0],
        **{name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def _processor() -> str:
    """The processor's name; ``platform`` knows only its family on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
