"""How much worse a trained bundle gets under each perturbation of the test patients, at three strengths.

    python scripts/robustness.py RUN --data DIR -o OUT
    python scripts/robustness.py RUN --data DIR --patients 4 --only noise --only matrix_size -o OUT

Writes OUT/robustness.md and .csv (a row a perturbation and strength) and OUT/rows.csv (a row a patient, too), and goes
on from rows.csv when it was interrupted. The perturbations are those of monai_lgg/perturbations.py.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a training run, or another bundle with weights")
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout, with masks")
    parser.add_argument("--split", type=Path, help="split file; default the run's own")
    parser.add_argument("--part", choices=("test", "validation", "train", "all"), default="test")
    parser.add_argument("--fold", type=int, help="of the split; default the run's own")
    parser.add_argument("--patients", type=int, help="so many, evenly spaced over the names; default all of the part")
    parser.add_argument("--only", action="append", metavar="NAME", help="a perturbation; may be repeated; default all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    run(args)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm  # imported here, so that --help answers at once

    from monai_lgg.bundle import find_bundle, stored_settings
    from monai_lgg.robustness import chosen_patients, measure_robustness

    bundle = find_bundle(args.bundle)
    fold = stored_settings(bundle).get("fold", 0) if args.fold is None else args.fold
    split = args.split or bundle / "eval" / "split.json"
    names = chosen_patients(args.data, split, args.part, fold, args.patients)
    measure_robustness(
        bundle,
        args.data,
        names,
        args.only,
        output=args.output,
        device=args.device,
        progress=lambda todo: tqdm(todo, unit="patient"),
    )
    print((args.output / "robustness.md").read_text())


if __name__ == "__main__":
    main()
