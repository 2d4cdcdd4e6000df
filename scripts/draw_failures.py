"""The phantoms that a bundle segments worst, as one picture for its model card: no real data may be shown there.

    python scripts/draw_failures.py unet_25d -o bundles/unet_25d/docs/failures.jpg [--phantoms 40] [--seed 0]

Prints the Dice of all phantoms, and draws the three worst, four slices each.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from monai_lgg.bundle import find_bundle
from monai_lgg.cases import read_labels
from monai_lgg.inference import predict
from monai_lgg.phantom import PhantomPatient, make_patient, write_patients
from monai_lgg.prediction_inputs import prediction_records
from monai_lgg.report.examples import flair_of
from monai_lgg.report.overlay import LEGEND, choose_slices, draw_sheet, paint
from monai_lgg.shape import read_mask_folder

WORST = 3
SLICES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JPEG, or another format by its name")
    parser.add_argument("--phantoms", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = write_patients(Path(folder, "data"), args.phantoms, seed=args.seed)
        masks = predicted(find_bundle(args.bundle), Path(folder), names)
    cases = [Case(name, make_patient(k, seed=args.seed), masks[name]) for k, name in enumerate(names)]
    cases.sort(key=lambda case: case.dice)
    values = [case.dice for case in cases]
    print(", ".join(f"{value:.3f}" for value in values))
    print(f"{len(cases)} phantoms: mean {np.mean(values):.3f}, median {np.median(values):.3f}")
    panels = [panel for case in cases[:WORST] for panel in case.panels()]
    draw_sheet(f"The {WORST} worst of {len(cases)} phantoms", panels, list(LEGEND)).save(
        args.output, quality=85, subsampling=0
    )


class Case:
    """A phantom beside its prediction, a bool mask (H, W, D)."""

    def __init__(self, name: str, phantom: PhantomPatient, mask: np.ndarray) -> None:
        self.name, self.mask = name.removeprefix("TCGA_")[:7], mask
        self.flair = np.moveaxis(flair_of(phantom.image), 0, -1)
        self.truth = np.moveaxis(phantom.mask, 0, -1)
        self.dice = 2 * int((mask & self.truth).sum()) / int(mask.sum() + self.truth.sum())

    def panels(self) -> list[tuple[str, np.ndarray]]:
        return [
            (
                f"{self.name}, Dice {self.dice:.2f}, slice {k + 1}",
                paint(self.flair[..., k], self.mask[..., k], self.truth[..., k]),
            )
            for k in choose_slices(self.mask, self.truth, SLICES)
        ]


def predicted(bundle: Path, folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """A bool mask (H, W, D) of each phantom in ``folder/data``."""
    records = prediction_records([folder / "data" / name for name in names])
    failed = [result for result in predict(records, bundle, folder / "out") if result.status == "failed"]
    if failed:
        raise RuntimeError(f"{failed[0].case}: {failed[0].error}")
    return {name: read_labels(read_mask_folder(folder / "out" / name)) for name in names}


if __name__ == "__main__":
    main()
