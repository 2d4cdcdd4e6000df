"""Measures the training patients of a trained bundle, so that predictions can say which scans are unlike them.

    python scripts/make_reference.py BUNDLE --data DIR [--split FILE] [--part train]

Writes ``BUNDLE/models/reference.json``, which ``predict`` then uses.
"""

import argparse
from pathlib import Path

from monai_lgg.bundle import find_bundle
from monai_lgg.reference import measure_reference, save_reference
from monai_lgg.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a training run, or another bundle's folder or name")
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("--split", type=Path, help="split file; default the run's own")
    parser.add_argument("--part", default="train", choices=["train", "validation", "test", "all"])
    options = parser.parse_args()
    root = find_bundle(options.bundle)
    names = None
    if options.part != "all":
        split = read_split(options.split or root / "eval" / "split.json")
        names = sorted(split.part(options.part))
    reference = measure_reference(options.data, names)
    path = root / "models" / "reference.json"
    save_reference(path, reference)
    print(f"{path}: {reference.patients} patients")


if __name__ == "__main__":
    main()
