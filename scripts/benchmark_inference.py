"""Time of a prediction from files to masks: one case, the command, many cases against a plain loop; and its stages.

    python scripts/benchmark_inference.py --data DIR [--bundle unet_25d] [--patients 81] [--backend auto]

In one run: `predict` over the patients; the whole command for one case; and, before and after, on the first patients,
the loop that people write: each slice read, scaled, put through the 7.8 M-parameter U-Net of `unet_dice` in eager
float32, and its mask written. Command and loop run in processes of their own, since `predict` changes how a process
keeps memory. The network's arithmetic is set against a matrix product in bfloat16 and float32.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from monai_lgg.bundle import find_bundle, keep_freed_memory, read_config
from monai_lgg.inference import STAGES, predict
from monai_lgg.io.tiff import read_tiff, write_tiff
from monai_lgg.prediction_inputs import prediction_records

SIDE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("--bundle", default="unet_25d", help="name or folder, with weights")
    parser.add_argument("--patients", type=int, default=1000, help="at most so many")
    parser.add_argument("--plain-patients", type=int, default=3, help="of these for the plain loop, which is slow")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        with tempfile.TemporaryDirectory() as folder:
            plain_loop(prediction_records(args.data)[: args.plain_patients], Path(folder, "plain"))
        return
    keep_freed_memory()
    bundle = find_bundle(args.bundle)
    records = prediction_records(args.data)[: args.patients]
    if len(records) < 2:
        parser.error(f"{len(records)} patient; the first warms up, so give two or more")
    print(f"{args.bundle}, {len(records)} patients, {torch.get_num_threads()} threads")
    plain = [sys.executable, "-W", "ignore", __file__, "--plain", "--data", args.data]
    plain += ["--plain-patients", str(args.plain_patients)]
    loop = [rate_of(plain)]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = many(records, bundle, Path(folder, "many"), {"backend": args.backend})
        command(records, args.bundle, Path(folder, "one"), args.backend)
    loop.append(rate_of(plain))
    print(f"pipeline / plain loop: {pipeline / (sum(loop) / 2):.1f} x")


def rate_of(command: list[Any]) -> float:
    """The last word but one of what a command prints, which is printed too."""
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    print(text)
    return float(text.split()[-2])


def many(records: list[dict[str, Any]], bundle: Path, output: Path, settings: dict[str, Any]) -> float:
    """Slices/s of all cases in one call, loading included."""
    predict(records[:1], bundle, output / "first", settings=settings)  # exports the network, once for ever
    before = _memory()
    began = time.perf_counter()
    results = predict(records, bundle, output / "all", settings=settings)
    seconds = time.perf_counter() - began
    failed = [item for item in results if item.status != "done"]
    if failed:
        raise RuntimeError(f"{failed[0].case}: {failed[0].error}")
    slices = [len(record["slices"]) for record in records]
    print(f"predict: {sum(slices)} slices in {seconds:.1f} s, {sum(slices) / seconds:.1f} slices/s")
    print(f"  memory: {before} MiB after one case, {_memory()} MiB after all")
    stages = {name: sum(item.stages[name] for item in results[1:]) for name in STAGES}
    whole = sum(stages.values())
    print("  work: " + ", ".join(f"{name} {value / whole:.0%}" for name, value in stages.items()))
    middle = min(range(1, len(records)), key=lambda k: abs(slices[k] - 33)) if len(records) > 1 else 0
    print(f"  a case of {slices[middle]} slices, once loaded: {results[middle].seconds:.2f} s of overlapping stages")
    alone = predict([records[middle]], bundle, output / "alone", settings=settings)[0].seconds
    print(f"  the same alone: {alone:.2f} s")
    arithmetic(bundle, sum(slices[1:]) / stages["network"])
    return sum(slices) / seconds


def arithmetic(bundle: Path, slices_per_second: float) -> None:
    """The network's FLOP/s, at the size of a usual head, against a matrix product of the same minute."""
    network = read_config([bundle / "configs" / "inference.json"]).get_parsed_content("network_def").eval()
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, 224, 192))
    own = counter.get_total_flops() * slices_per_second
    print(f"  network: {own / 1e9:.0f} GFLOP/s, while other stages run beside it")
    for kind in (torch.bfloat16, torch.float32):
        product = matrix_product(kind)
        print(f"  matrix product in {kind}: {product / 1e9:.0f} GFLOP/s, so {own / product:.0%}")


def matrix_product(kind: torch.dtype) -> float:
    """FLOP/s, the best of five."""
    one = torch.rand(SIDE, SIDE).to(kind)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - began)
    return float(2 * SIDE**3 / min(seconds[1:]))


def command(records: list[dict[str, Any]], bundle: str, output: Path, backend: str) -> None:
    case = min(records, key=lambda record: abs(len(record["slices"]) - 33))
    folder = Path(case["image"][0]).parent
    began = time.perf_counter()
    options = ["--bundle", bundle, "-o", output, "--backend", backend, "--quiet"]
    line = [sys.executable, "-W", "ignore", "-m", "monai_lgg.cli", "predict", str(folder), *map(str, options)]
    subprocess.run(line, check=True, capture_output=True)
    print(f"command, start to finish: {time.perf_counter() - began:.1f} s for {len(case['slices'])} slices")


def plain_loop(records: list[dict[str, Any]], output: Path) -> None:
    """Prints the slices/s of the loop that people write."""
    network = read_config([find_bundle("unet_dice") / "configs" / "train.json"]).get_parsed_content("network_def")
    network.eval()
    size = sum(weights.numel() for weights in network.parameters()) / 1e6
    output.mkdir(parents=True)
    slices = 0
    with torch.no_grad():
        network(torch.zeros(1, 3, 256, 256))  # warms up
        began = time.perf_counter()
        for record in records:
            for path in record["image"]:
                image = read_tiff(Path(path)).astype(np.float32)
                scaled = (image - image.mean()) / max(float(image.std()), 1e-6)
                logits = network(torch.from_numpy(np.moveaxis(scaled, -1, 0)[None].copy()))
                mask = (logits[0, 0].numpy() > 0).astype(np.uint8) * 255
                write_tiff(output / Path(path).name, mask)
                slices += 1
    rate = slices / (time.perf_counter() - began)
    print(f"plain loop, {size:.1f} M parameters: {slices} slices, {rate:.2f} slices/s")


def _memory() -> int:
    """Largest resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
