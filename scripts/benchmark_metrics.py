"""Time and memory of the metrics of an evaluation beside the network's own time, on phantoms, in one run.

Each patient is 256 x 256 x 40 by default. The prediction is the truth, moved and blurred, with noise and a false spot,
so that no figure is trivial. Prints the time of each group of metrics per patient, the ratio to the forward pass of the
bundle's network on the same volume, and the peak memory of cohorts of growing size.

    python scripts/benchmark_metrics.py [--size 256] [--slices 40] [--patients 3] [--cohorts 5 20 81]
"""

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, shift

from monai_lgg.bundle import find_bundle, keep_freed_memory, pick_device, read_config
from monai_lgg.metrics.calibration import calibration_sums
from monai_lgg.metrics.case import CaseMeasures, measure_case
from monai_lgg.metrics.lesions import lesion_counts
from monai_lgg.metrics.overlap import slice_counts
from monai_lgg.metrics.ranking import histogram
from monai_lgg.metrics.surface import hd95, surface_dice, surface_distances
from monai_lgg.phantom import make_patient
from monai_lgg.results import save_masks, start_masks, write_results

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def volume(index: int, size: int, slices: int) -> tuple[np.ndarray, Arrays]:
    """Image (3, H, W, D) in [-1, 1], and prediction, truth and probability (H, W, D)."""
    patient = make_patient(index, size=(size, size), slices=slices)
    truth = np.moveaxis(patient.mask, 0, -1)
    rng = np.random.default_rng(index)
    blurred = gaussian_filter(shift(truth.astype(np.float32), (3, -2, 0), order=0), (2, 2, 0.5))
    blurred[20:24, 20:24, slices // 2] = 0.9
    probability = np.clip(0.97 * blurred + 0.02 * rng.random(truth.shape, dtype=np.float32), 0, 1)
    image = np.moveaxis(patient.image, (3, 0), (0, 3)).astype(np.float32) / 127.5 - 1
    return image, (probability >= 0.5, truth, probability)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def parts(arrays: Arrays, scratch: Path) -> dict[str, Callable[[], object]]:
    """Name -> the work of one group of metrics on one patient."""
    prediction, truth, probability = arrays
    depth = range(truth.shape[-1])

    def surfaces(mask: np.ndarray, other: np.ndarray) -> object:
        distances = surface_distances(mask, other)
        return hd95(distances), surface_dice(distances)

    return {
        "counts": lambda: slice_counts(prediction, truth),
        "surface, patient": lambda: surfaces(prediction, truth),
        "surface, slices": lambda: [surfaces(prediction[..., k], truth[..., k]) for k in depth],
        "lesions": lambda: lesion_counts(prediction, truth),
        "ranking": lambda: [histogram(probability[..., k], truth[..., k]) for k in depth],
        "calibration": lambda: [calibration_sums(probability[..., k], truth[..., k]) for k in depth],
        "all metrics": lambda: measure_case("all", *arrays),
        "writing masks": lambda: save_masks(scratch, "all", list(depth), prediction),
    }


def forward_pass(image: np.ndarray, device: torch.device) -> Callable[[], object]:
    """The bundle's network through its own validation inferer."""
    parser = read_config([find_bundle("unet_cosine") / "configs" / "train.json"])
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").to(device, memory_format=torch.channels_last).eval()
    inferer = parser.get_parsed_content("validate#inferer")
    batch = torch.as_tensor(np.ascontiguousarray(image))[None].to(device)

    def forward() -> None:
        with torch.no_grad():
            inferer(batch, network).cpu()

    return forward


def show_times(images: list[np.ndarray], cases: list[Arrays], device: torch.device, scratch: Path) -> None:
    times: dict[str, list[float]] = {}
    for turn, (image, arrays) in enumerate([(images[0], cases[0]), *zip(images, cases, strict=True)]):
        for name, work in (parts(arrays, scratch) | {"network": forward_pass(image, device)}).items():
            taken = seconds(work)
            if turn:  # the first turn warms up
                times.setdefault(name, []).append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    shape = " x ".join(map(str, cases[0][1].shape))
    print(f"device {device}, {torch.get_num_threads()} thread(s), {shape}; median of {len(cases)} patients")
    for name, taken in medians.items():
        print(f"{name:18s} {1000 * taken:8.1f} ms {taken / medians['all metrics']:7.0%} of the metrics")
    print(f"metrics / network  {medians['all metrics'] / medians['network']:.3f}")


def show_memory(cases: list[Arrays], cohorts: list[int], folder: Path) -> None:
    """Peak of what Python and NumPy allocate while a cohort is measured and its results are written."""
    print("cohort   peak memory   kept a patient   writing the results")
    for size in cohorts:
        tracemalloc.start()
        kept: list[CaseMeasures] = []
        for i in range(size):
            kept.append(measure_case(f"TCGA_P{i % 3}_{i:04d}_1", *cases[i % len(cases)]))
        held = tracemalloc.get_traced_memory()[0] / size
        write_results(folder, kept, {}, start_masks(folder))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        began = time.perf_counter()
        write_results(folder, kept, {}, start_masks(folder))
        taken = time.perf_counter() - began
        print(f"{size:6d} {peak / 2**20:9.1f} MiB {held / 2**10:12.1f} KiB {taken:16.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--cohorts", type=int, nargs="+", default=[5, 20, 81])
    args = parser.parse_args()
    keep_freed_memory()
    made = [volume(index, args.size, args.slices) for index in range(args.patients)]
    images, cases = [image for image, _ in made], [arrays for _, arrays in made]
    with tempfile.TemporaryDirectory() as scratch:
        show_times(images, cases, pick_device(), Path(scratch) / "masks")
        show_memory(cases, args.cohorts, Path(scratch) / "results")


if __name__ == "__main__":
    main()
