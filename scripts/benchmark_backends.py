"""Slices/s of each installed backend against eager float32 PyTorch on one network, in one run.

The ways take turns on the same random batch, so that a change in the machine's load meets all; the median counts. INT8
is calibrated on that batch, which gives its speed, not its accuracy. Threads: OMP_NUM_THREADS.

    python scripts/benchmark_backends.py [--bundle unet_25d] [--batch 8] [--rows 224] [--columns 192] [--rounds 5]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from monai_lgg import backends
from monai_lgg.backends import int8 as quantizing
from monai_lgg.bundle import find_bundle, keep_freed_memory, read_config


def ways(network: torch.nn.Module, batch: torch.Tensor) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Name -> function of a batch."""
    layout = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not list it
    with tempfile.TemporaryDirectory() as folder:
        int8 = None
        if "onnxruntime" in backends.available():
            int8, quantizing.AGREEMENT = Path(folder, "int8.zip"), 0
            backends.quantize(network, batch.split(1), int8)
        found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "torch fp32 channels_last": lambda x: layout(x.contiguous(memory_format=torch.channels_last)),
            "torch bf16 channels_last": lambda x: half(x.contiguous(memory_format=torch.channels_last)),
        }
        half = backends.load_backend("torch", layout, batch.shape[1], precision="bf16")
        for name in backends.available()[1:]:
            for precision in backends.PRECISIONS:
                try:
                    found[f"{name} {precision}"] = backends.load_backend(
                        name, network, batch.shape[1], precision=precision, int8_file=int8
                    )
                except (ValueError, FileNotFoundError) as error:
                    print(f"{name} {precision}: left out, {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="unet_25d")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=224)
    parser.add_argument("--columns", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()
    folder = find_bundle(args.bundle) / "configs"
    channels = json.loads((folder / "metadata.json").read_text())["network_data_format"]["inputs"]["image"][
        "num_channels"
    ]
    torch.manual_seed(0)
    eager, network = (read_config([folder / "inference.json"]).get_parsed_content("network_def").eval() for _ in "ab")
    batch = torch.rand(args.batch, channels, args.rows, args.columns) * 2 - 1
    all_ways = {"torch fp32": eager, **ways(network, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in all_ways}
    with torch.inference_mode():
        for turn in range(args.rounds + 1):  # the first one warms up
            for name, run in all_ways.items():
                began = time.perf_counter()
                run(batch)
                if turn:
                    seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["torch fp32"])
    print(f"{args.bundle}, {args.batch} x {channels} x {args.rows} x {args.columns}, {torch.get_num_threads()} threads")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:26s} {args.batch / median:8.2f} slices/s  {base / median:5.2f} x")


if __name__ == "__main__":
    main()
