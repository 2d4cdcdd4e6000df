"""Training curves of a run as a picture: mean training loss, validation Dice and IoU, learning rate, by epoch.

python scripts/plot_curves.py RUN -o curves.png
"""

import argparse
from pathlib import Path

from monai_lgg.report.curves import save_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    save_curves(args.run, args.output)


if __name__ == "__main__":
    main()
