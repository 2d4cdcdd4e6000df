"""Training curves of a run as a picture: mean training loss, validation Dice and IoU, learning rate, by epoch.

python scripts/plot_curves.py RUN -o curves.png
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PANELS = {
    "training loss": ["train_loss_epoch"],
    "validation": ["val_mean_dice", "val_mean_iou"],
    "learning rate": ["learning_rate"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    events = EventAccumulator(str(args.run / "eval"))
    events.Reload()
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axis, (title, tags) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for tag in tags:
            points = events.Scalars(tag)
            axis.plot([point.step for point in points], [point.value for point in points], marker="o", label=tag)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()
