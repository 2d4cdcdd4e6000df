import importlib.util
import platform

import nibabel
import torch

from monai_lgg.environment import environment


def test_environment() -> None:
    found = environment()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["Python"] == platform.python_version()
    assert found["processor"].endswith("cores")
    assert all(found.values())
    for package in ("nibabel", "openvino", "onnxruntime", "onnx", "pydicom", "highdicom"):
        assert (package in found) is (importlib.util.find_spec(package) is not None)
    assert found["nibabel"] == nibabel.__version__
