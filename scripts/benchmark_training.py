"""Training throughput of unet_cosine as configured against a plain fp32 PyTorch loop, in one run.

Both train the bundle's own network on the same random batch with the same loss and optimizer; they take turns, so
that a change in the machine's load meets both. Prints slices/s of each and the ratio.

    python scripts/benchmark_training.py [--batch 8] [--size 256] [--rounds 3]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.inferers import SimpleInferer

from monai_lgg.bundle import find_bundle, pick_device, read_config
from monai_lgg.inferers import MixedPrecisionInferer


def build(device: torch.device) -> tuple[torch.nn.Module, torch.nn.Module, torch.optim.Optimizer]:
    """The bundle's network, loss and optimizer, freshly initialized."""
    parser = read_config([find_bundle("unet_cosine") / "configs" / "train.json"])
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").to(device)
    loss = parser.get_parsed_content("loss")
    return network, loss, torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5)


def plain_step(image: torch.Tensor, label: torch.Tensor) -> Callable[[], None]:
    network, loss, optimizer = build(image.device)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(image), label).backward()
        optimizer.step()

    return step


def configured_step(image: torch.Tensor, label: torch.Tensor) -> Callable[[], None]:
    network, loss, optimizer = build(image.device)
    network = network.to(memory_format=torch.channels_last)
    inferer = MixedPrecisionInferer(SimpleInferer(), amp=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(inferer(image, network), label).backward()
        optimizer.step()

    return step


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    device = pick_device()
    image = torch.rand(args.batch, 3, args.size, args.size, device=device)
    label = (torch.rand(args.batch, 1, args.size, args.size, device=device) > 0.99).float()
    steps = {"plain fp32": plain_step(image, label), "as configured": configured_step(image, label)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.rounds + 1):
        for name, step in steps.items():
            taken = seconds_of(step, device)
            if turn:  # the first turn warms up
                times[name].append(taken)
    rates = {name: args.batch / statistics.median(taken) for name, taken in times.items()}
    print(f"device {device}, {torch.get_num_threads()} threads, batch {args.batch}, {args.size} x {args.size}")
    for name, rate in rates.items():
        print(f"{name:14s} {rate:7.2f} slices/s")
    print(f"ratio {rates['as configured'] / rates['plain fp32']:.2f}")


if __name__ == "__main__":
    main()
