"""Training throughput of a bundle's network as configured against a plain fp32 PyTorch loop, in one run.

All train the same network on the same random batch with the same loss and optimizer. Each way runs in processes of its
own, because the handling of memory is a property of the process; they take turns, so that a change in the machine's
load meets all. Prints slices/s of each and the ratio to the plain loop.

    python scripts/benchmark_training.py [--bundle unet_cosine] [--batch 8] [--size 256] [--rounds 3]
"""

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
from monai.inferers import SimpleInferer

from monai_lgg.bundle import find_bundle, keep_freed_memory, pick_device, read_config
from monai_lgg.inferers import MixedPrecisionInferer

#: name -> (channels_last and kept memory, 16-bit autocast)
WAYS = {"plain fp32": (False, False), "configured, amp false": (True, False), "configured, amp true": (True, True)}
STEPS = 3


def measure(way: str, bundle: str, batch: int, size: int) -> None:
    """Prints seconds a step of the last STEPS steps, after one to warm up."""
    configured, amp = WAYS[way]
    if configured:
        keep_freed_memory()
    device = pick_device()
    parser = read_config([find_bundle(bundle) / "configs" / "train.json"])
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").to(device)
    loss = parser.get_parsed_content("loss")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    image = torch.rand(batch, next(network.parameters()).shape[1], size, size, device=device)
    label = (torch.rand(batch, 1, size, size, device=device) > 0.99).float()
    forward = network
    if configured:
        network.to(memory_format=torch.channels_last)
        inferer = MixedPrecisionInferer(SimpleInferer(), amp=amp and device.type == "cpu")
        forward = lambda images: inferer(images, network)  # noqa: E731
    for step in range(STEPS + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cuda") if amp and device.type == "cuda" else nullcontext():
            value = loss(forward(image).float(), label)
        value.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step:
            print(time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="unet_cosine")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        measure(args.way, args.bundle, args.batch, args.size)
        return
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    options = ["--bundle", args.bundle, "--batch", str(args.batch), "--size", str(args.size)]
    for _ in range(args.rounds):
        for way, seconds in times.items():
            command = [sys.executable, "-W", "ignore", __file__, *options, "--way", way]
            seconds += [float(line) for line in subprocess.check_output(command, text=True).split()]
    print(
        f"{args.bundle}, {pick_device()}, {torch.get_num_threads()} threads, batch {args.batch}, "
        f"{args.size} x {args.size}"
    )
    rates = {way: args.batch / statistics.median(seconds) for way, seconds in times.items()}
    for way, rate in rates.items():
        print(f"{way:22s} {rate:7.2f} slices/s   ratio {rate / rates['plain fp32']:.2f}")


if __name__ == "__main__":
    main()
