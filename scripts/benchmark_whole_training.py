"""Whole training steps of unet_25d, data and augmentation included, against a plain loop, in one run.

The plain loop trains the same network with the same loss, optimizer, batch and crop in float32; each sample is read
from its files, scaled, and augmented by MONAI's transforms of the same kinds in the loader. The other way is the
bundle's own trainer. Each runs in a process of its own, in turns, on phantoms made for the run. On a GPU the share of
the time in which it computes is printed too.

    python scripts/benchmark_whole_training.py [--steps 12] [--rounds 3] [--workers 0]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    Lambdad,
    LoadImaged,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    SpatialPadd,
)

from monai_lgg.bundle import find_bundle, pick_device, read_config, workflow
from monai_lgg.cases import read_patients, volume_ranges
from monai_lgg.phantom import write_patients
from monai_lgg.splits import save_split, split_patients

WAYS = ("plain loop", "as configured")
BOTH = ("image", "label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="timed, after two to warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's loader")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        {WAYS[0]: plain, WAYS[1]: configured}[args.way](args.data, args.steps + 2, args.workers)
        return
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_patients(data, 8)
        save_split(split_patients(data), Path(folder, "split.json"))
        for _ in range(args.rounds):
            for way in WAYS:
                command = [sys.executable, "-W", "ignore", __file__, "--way", way, "--data", str(data)]
                command += ["--steps", str(args.steps), "--workers", str(args.workers)]
                found[way].append([float(word) for word in subprocess.check_output(command, text=True).split()[-2:]])
    print(f"unet_25d, {pick_device()}, {torch.get_num_threads()} threads, {args.workers} loader workers")
    medians = {
        way: [statistics.median(values) for values in zip(*rounds, strict=True)] for way, rounds in found.items()
    }
    for way, (rate, share) in medians.items():
        busy = f"   the GPU computes {share:.0%} of the time" if pick_device().type == "cuda" else ""
        print(f"{way:14s} {rate:7.2f} slices/s   ratio {rate / medians[WAYS[0]][0]:.2f}{busy}")


def plain(data: Path, steps: int, workers: int) -> None:
    config = read_config([find_bundle("unet_25d") / "configs" / "train.json"])
    device, size = pick_device(), config["crop_size"]
    network = config.get_parsed_content("network_def").to(device)
    loss = config.get_parsed_content("loss")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    items: Dataset = Dataset(_records(data), _plain_transforms(size))
    loader = DataLoader(items, batch_size=config["batch_size"], shuffle=True, num_workers=workers, drop_last=True)
    clock = _Clock(steps, config["batch_size"])
    while True:
        for batch in loader:
            image, label = (batch[key].as_tensor().float().to(device) for key in BOTH)
            optimizer.zero_grad()
            loss(network(image), label).backward()
            optimizer.step()
            if clock.tick():
                return


def _records(data: Path) -> list[dict[str, Any]]:
    """A slice a record: the files of the slice and its neighbours, and the range of the volume."""
    records = []
    for patient in read_patients(data):
        ranges, last = volume_ranges(patient), len(patient.slices) - 1
        for k, item in enumerate(patient.slices):
            around = [patient.slices[min(max(k + step, 0), last)].image for step in (-1, 0, 1)]
            records.append({"image": [str(path) for path in around], "label": [str(item.label)], "ranges": ranges})
    return records


def _plain_transforms(size: list[int]) -> Compose:
    def scaled(record: dict[str, Any]) -> dict[str, Any]:
        volume = record["image"].permute(0, 3, 1, 2)  # (sequences, slices, H, W)
        low, high = torch.tensor(record.pop("ranges")).T[..., None, None, None]
        image = ((volume - low) / (high - low).clamp_min(1e-6) * 2 - 1).clamp(-1, 1).flatten(0, 1)
        return {"image": image, "label": (record["label"][..., 0] > 0).float()}

    return Compose(
        [
            LoadImaged(BOTH, reader="monai_lgg.io.reader.CaseReader", ensure_channel_first=True),
            scaled,
            SpatialPadd(BOTH, (256, 256)),
            RandFlipd(BOTH, prob=0.5, spatial_axis=1),
            RandAffined(
                BOTH,
                prob=1.0,
                rotate_range=0.26,
                scale_range=(0.3, 0.3),
                translate_range=15,
                mode=("bilinear", "nearest"),
            ),
            Rand2DElasticd(BOTH, (32, 32), (1, 4), prob=0.2, mode=("bilinear", "nearest")),
            CenterSpatialCropd(BOTH, size),
            Lambdad("image", lambda image: image / 2 + 0.5),
            RandAdjustContrastd("image", prob=1.0, gamma=(0.74, 1.35)),
            RandBiasFieldd("image", prob=0.25, coeff_range=(0, 0.1)),
            RandGaussianNoised("image", prob=0.2, std=0.06),
            RandGaussianSmoothd("image", prob=0.1),
            Lambdad("image", lambda image: image * 2 - 1),
        ]
    )


def configured(data: Path, steps: int, workers: int) -> None:
    del workers  # the bundle's own setting
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "dataset_dir": str(data),
            "split_file": str(data.parent / "split.json"),
            "output_dir": folder,
            "ckpt_dir": folder,
            "show_progress": False,
            "train#handlers": [],
        }
        flow = workflow(find_bundle("unet_25d"), ["train.json"], "train", "training", settings)
        trainer = flow.parser.get_parsed_content("train#trainer")
        clock = _Clock(steps, flow.parser["batch_size"])

        def count() -> None:
            if clock.tick():
                trainer.terminate()

        trainer.add_event_handler(Events.ITERATION_COMPLETED, count)
        flow.run()
        flow.finalize()


class _Clock:
    """Counts steps; after the last it prints slices a second since the second, and for what share a GPU computed."""

    def __init__(self, steps: int, batch: int) -> None:
        self.left, self.steps, self.batch = steps, steps - 2, batch
        self.began = 0.0
        self.profile = torch.profiler.profile() if pick_device().type == "cuda" else None

    def tick(self) -> bool:
        self.left -= 1
        if self.left == self.steps:
            _wait()
            if self.profile:
                self.profile.start()
            self.began = time.perf_counter()
        if self.left == 0:
            _wait()
            seconds = time.perf_counter() - self.began
            busy = 0.0
            if self.profile:
                self.profile.stop()
                busy = _busy_seconds(self.profile.events())
            print(self.steps * self.batch / seconds, busy / seconds)
        return self.left == 0


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _busy_seconds(events: Iterable[Any]) -> float:
    """Of the kernels and copies on a GPU; where several run at a time, that counts once."""
    spans = [event.time_range for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(span.end - max(span.start, until), 0.0)
        until = max(until, span.end)
    return total / 1e6


if __name__ == "__main__":
    main()
