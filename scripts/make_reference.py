"""Measures the training patients of a trained bundle, so that predictions can say which scans are unlike them.

    python scripts/make_reference.py BUNDLE --data DIR [--split FILE] [--fold 0] [--part train]

Writes ``BUNDLE/models/reference.json``, which ``predict`` then uses.
"""

import argparse
from pathlib import Path

from monai_lgg.bundle import find_bundle, stored_settings, training_split
from monai_lgg.reference import measure_reference, save_reference
from monai_lgg.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a training run, or another bundle's folder or name")
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("--split", type=Path, help="split file; default the bundle's own, with the run's fold")
    parser.add_argument("--fold", type=int, default=0, help="of the split file")
    parser.add_argument("--part", default="train", choices=["train", "validation", "test", "all"])
    options = parser.parse_args()
    root = find_bundle(options.bundle)
    names = None
    if options.part != "all":
        split = read_split(options.split) if options.split else training_split(root)
        if split is None:
            parser.error(f"{root} has no split of its own; give --split FILE, or --part all")
        fold = options.fold if options.split else int(stored_settings(root).get("fold", 0))
        names = sorted(split.part(options.part, fold))
    reference = measure_reference(options.data, names)
    path = root / "models" / "reference.json"
    save_reference(path, reference)
    print(f"{path}: {reference.patients} patients")


if __name__ == "__main__":
    main()
