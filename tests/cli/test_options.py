import subprocess
import sys

QUICKLY = """
import sys
from monai_lgg.cli.options import SHARDED, UNUSED, quick_imports

with quick_imports():
    import monai_lgg.inference
print(*(name for name in (*UNUSED, SHARDED) if name in sys.modules))
import ignite.handlers
import matplotlib.pyplot
import scipy.signal
import torch.distributed.optim
from monai.utils import optional_import
print(matplotlib.pyplot.plot.__name__, scipy.signal.hilbert.__name__)
print(torch.distributed.optim.ZeroRedundancyOptimizer.__module__, optional_import("scipy.signal")[1])
"""


def test_what_no_prediction_uses_is_imported_only_when_asked_for() -> None:
    """In a process of its own, because here everything has been imported before."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", QUICKLY], capture_output=True, text=True, check=True)
    left_out, plain, parallel = done.stdout.splitlines()
    assert left_out == ""
    assert plain == "plot hilbert"
    assert parallel == "torch.distributed.optim.zero_redundancy_optimizer True"
