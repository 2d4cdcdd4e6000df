"""What bfloat16 and INT8 change in the masks of real patients, and in the time, in one run.

    monai-lgg export RUN --to int8 --calibrate DIR
    python scripts/compare_precisions.py RUN --data DIR [--backend auto]

The test patients of the run's own split are predicted in each precision. The time is that of the network alone.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from monai_lgg.backends import PRECISIONS
from monai_lgg.bundle import find_bundle, keep_freed_memory, stored_settings, training_split
from monai_lgg.cases import patient_folders, read_labels, read_patients
from monai_lgg.inference import predict
from monai_lgg.prediction_inputs import prediction_records
from monai_lgg.shape import read_mask_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    keep_freed_memory()
    run = find_bundle(args.run)
    split = training_split(run)
    if split is None:
        parser.error(f"{run} has no split, so nothing says who its test patients are")
    names = sorted(split.part("test", stored_settings(run).get("fold", 0)))
    print(f"{len(names)} test patients\n\n| precision | mean Dice | change | largest change of a patient | slices/s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    reference = None
    for precision in PRECISIONS:
        dice, rate = measure(run, args.data, names, {"backend": args.backend, "precision": precision})
        reference = dice if reference is None else reference
        change = dice - reference
        print(
            f"| {precision} | {dice.mean():.4f} | {change.mean():+.4f} | {change[np.abs(change).argmax()]:+.4f} | "
            f"{rate:.0f} |",
            flush=True,
        )


def measure(run: Path, data: Path, names: list[str], settings: dict[str, str]) -> tuple[np.ndarray, float]:
    """Dice of each patient, and the slices a second that the network takes (the first patient warms up)."""
    folders = {folder.name: folder for folder in patient_folders(data)}
    records = prediction_records([folders[name] for name in names])
    with tempfile.TemporaryDirectory() as output:
        results = predict(records, run, Path(output), settings=settings)
        failed = [result for result in results if result.status == "failed"]
        if failed:
            raise RuntimeError(f"{failed[0].case}: {failed[0].error}")
        masks = [read_labels(read_mask_folder(Path(output, name))) for name in names]
    truths = [read_labels(patient) for patient in read_patients(data, names)]
    pairs = zip(masks, truths, strict=True)
    dice = np.array([2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask, truth in pairs])
    slices = sum(len(record["slices"]) for record in records[1:])
    return dice, slices / sum(result.stages["network"] for result in results[1:])


if __name__ == "__main__":
    main()
