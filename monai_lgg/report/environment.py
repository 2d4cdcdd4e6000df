"""What a page was made with, and the settings of a run."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from monai_lgg.bundle import OVERRIDES, read_config, stored_settings

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


def settings_of(run: Path) -> dict[str, str]:
    """The settings in force: those that the training configuration lists, a run's own values in place of them.

    Expressions are code, so they are left out rather than run.
    """
    files = [path for name in ("train.json", OVERRIDES) if (path := run / "configs" / name).is_file()]
    config = read_config(files).get()
    listed = config.get("settings", {})
    values = {name: str(_look_up(config, value)) for name, value in listed.items()}
    return {name: value for name, value in values.items() if not value.startswith("$")}


def overrides_of(run: Path) -> dict[str, str]:
    return {name: str(value) for name, value in stored_settings(run).items()}


def _look_up(config: Mapping[str, Any], value: Any) -> Any:
    """The value that a reference like ``@max_epochs`` stands for."""
    for _ in config:  # a reference may lead to another; never more than there are
        if not (isinstance(value, str) and value.startswith("@") and value[1:] in config):
            break
        value = config[value[1:]]
    return value


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
