"""Running a network by other libraries than PyTorch: exported once, kept, and compared with the network before use.

On a CPU, OpenVINO and ONNX Runtime run the same network in a fraction of PyTorch's time
(``scripts/benchmark_backends.py`` shows the ratios). Their graphs are kept in ``cache_dir()/backends``, one file each,
which may be deleted at any time.
"""

from monai_lgg.backends.graphs import MULTIPLE, weights_hash
from monai_lgg.backends.int8 import AGREEMENT, INT8_FILE, quantize
from monai_lgg.backends.loading import (
    BACKENDS,
    PRECISIONS,
    Backend,
    BackendError,
    available,
    check_name,
    load_backend,
)
from monai_lgg.backends.onnx_graphs import export_onnx
from monai_lgg.backends.openvino_graphs import openvino_model
from monai_lgg.backends.packages import require

__all__ = [
    "AGREEMENT",
    "BACKENDS",
    "INT8_FILE",
    "MULTIPLE",
    "PRECISIONS",
    "Backend",
    "BackendError",
    "available",
    "check_name",
    "export_onnx",
    "load_backend",
    "openvino_model",
    "quantize",
    "require",
    "weights_hash",
]
