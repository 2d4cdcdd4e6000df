"""Memory of a prediction: of many cases alike, and of a volume that is as large as a scanner makes them.

    python scripts/benchmark_memory.py [--bundle unet_25d] [--cases 40] [--shape 512 512 400] [--data DIR]

All run in processes of their own, on images made for the run: phantoms of 24 slices, and a NIfTI FLAIR volume with a
head of noise, once of 16 bits and once of 64. With --data, the patients in DIR too, each of them twice: first all, then
all again, which tells memory that grows with the sizes of the images from memory that grows with their number. Prints
the largest resident memory, in MiB.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_lgg.bundle import find_bundle
from monai_lgg.inference import predict
from monai_lgg.phantom import write_patients
from monai_lgg.prediction_inputs import prediction_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="unet_25d", help="name or folder, with weights")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400))
    parser.add_argument("--data", type=Path, help="folder of patients in the public layout")
    parser.add_argument("--twice", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.input:
        measure(args.input, args.bundle, args.twice)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_patients(Path(folder, "alike"), args.cases, slices=24)
        run([str(Path(folder, "alike"))], args.bundle)
        if args.data:
            run([str(args.data), "--twice"], args.bundle)
        for dtype in (np.int16, np.float64):  # last, because a process begins with its parent's largest memory
            path = Path(folder, f"large_{np.dtype(dtype)}.nii")
            write_volume(path, tuple(args.shape), dtype)
            run([str(path)], args.bundle)


def run(job: list[str], bundle: str) -> None:
    command = [sys.executable, "-W", "ignore", __file__, "--bundle", bundle, "--input", *job]
    print(subprocess.check_output(command, text=True).strip(), flush=True)


def write_volume(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """An ellipsoid of noise in air, so that the network has all slices to do."""
    axes = [np.linspace(-1.1, 1.1, length, dtype=np.float32) for length in shape]
    inside = axes[0][:, None] ** 2 + axes[1][None] ** 2
    generator = np.random.default_rng(0)
    voxels: np.ndarray = np.zeros(shape, dtype)
    for k, height in enumerate(axes[2]):
        head = inside + height**2 / 1.5 < 1
        voxels[..., k][head] = generator.normal(400, 60, int(head.sum()))
    nib.save(nib.Nifti1Image(voxels, np.diag([0.5, 0.5, 0.5, 1])), path)


def measure(path: Path, bundle: str, twice: bool = False) -> None:
    records = prediction_records(path)
    if twice:
        records += [{**record, "case": f"{record['case']}_again"} for record in records]
    seen: list[int] = []

    def watch(todo: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        for record in todo:
            yield record
            seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with tempfile.TemporaryDirectory() as output:
        results = predict(records, find_bundle(bundle), Path(output), progress=watch)
    failed = [result for result in results if result.status != "done"]
    if failed:
        raise RuntimeError(f"{failed[0].case}: {failed[0].error}")
    after = {k: seen[k - 1] for k in sorted({1, min(5, len(seen)), (len(seen) + 1) // 2, len(seen)})}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = sum(result.seconds for result in results)
    print(f"{path.name}: {before} MiB before; after so many cases {after}; {peak} MiB at most; {seconds:.0f} s of work")


if __name__ == "__main__":
    main()
