import os
import subprocess
import sys
from pathlib import Path

import pytest

#: A thread of Gloo is the last to hold the tensor, and slow to let go of it. The pause lasts until the tensor has gone
#: and the thread has left Python: it takes Python's lock once more after the tensor's references were told.
SLOW_TO_LET_GO = """
import sys, time, types, weakref
import torch, torch.distributed as dist
from monai_lgg import ranks
dist.init_process_group("gloo", init_method="file://{store}", rank=0, world_size=1)
group = dist.group.WORLD  # as DistributedDataParallel holds it
gone = []
def let_go(_):
    time.sleep(0.5)
    gone.append(True)
def pause(seconds):
    assert seconds >= 1
    assert not dist.is_initialized()
    while not gone or len(sys._current_exceptions()) > 1:  # one entry for each thread that is in Python
        time.sleep(0.01)
ranks.time = types.SimpleNamespace(sleep=pause)
tensor = torch.ones(4_000_000)
held = weakref.ref(tensor, let_go)
work = dist.all_reduce(tensor, async_op=True)
del tensor, work
ranks.leave()
assert gone, "the thread still holds the tensor"
"""


def test_a_rank_ends_well_although_its_threads_are_slow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_TO_LET_GO.format(store=tmp_path / "store")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


def test_leaving_without_a_group_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_lgg import ranks

    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("paused for nothing"))
    ranks.leave()
