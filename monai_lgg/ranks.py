"""The ranks of a training in several processes (``configs/multi_gpu_train.json``)."""

import time

import torch.distributed as dist

#: Longer than a thread waits for a processor, even on a machine with more work than cores.
PAUSE_S = 1.0


def leave() -> None:
    """Leave the process group and give its threads the time to let go of their tensors.

    A thread of Gloo drops the tensors of its last exchange after the exchange has ended, and needs Python's lock for
    it. Where Python is ending by then, the process aborts after a training that went well. Source: pytorch/pytorch,
    issue 190489 (open in torch 2.13); the group's destruction does not wait for the threads.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(PAUSE_S)  # without the lock
