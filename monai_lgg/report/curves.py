"""Training and validation curves of a run, from its TensorBoard events."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Title of a panel -> tag of each line -> its name.
PANELS = {
    "Loss": {"train_loss_epoch": "training", "val_loss": "validation"},
    "Validation": {"val_mean_dice": "mean Dice", "val_mean_iou": "mean IoU"},
    "Learning rate": {"learning_rate": "learning rate"},
}

#: Tag -> (epoch, value), in ascending order.
Curves = dict[str, list[tuple[int, float]]]


def read_curves(run: Path) -> Curves:
    """The values that :data:`PANELS` shows, of all event files of a run; a tag that was not written is left out.

    Raises:
        FileNotFoundError: the run has no event files.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    folder = run / "eval"
    if not any(folder.glob("events.out.tfevents.*")):
        raise FileNotFoundError(f"no TensorBoard events in {folder}; they are written by monai-lgg train")
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every file
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0 keeps all
    events.Reload()
    there = set(events.Tags()[SCALARS])
    curves = {}
    for tag in (tag for tags in PANELS.values() for tag in tags if tag in there):
        latest = {event.step: float(event.value) for event in events.Scalars(tag)}  # a resumed epoch replaces itself
        curves[tag] = sorted(latest.items())
    return curves


def draw_panel(axes: "Axes", title: str, curves: Curves) -> None:
    """One panel of :data:`PANELS`; lines differ by colour and marker."""
    from matplotlib.ticker import MaxNLocator

    lines = {name: curves[tag] for tag, name in PANELS[title].items() if curves.get(tag)}
    for (name, points), marker in zip(lines.items(), "os", strict=False):
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, marker=marker if len(epochs) <= 40 else None, markersize=4, label=name)
    if "val_mean_dice" in PANELS[title] and curves.get("val_mean_dice"):
        best = max(curves["val_mean_dice"], key=lambda point: point[1])
        axes.axvline(best[0], color="0.5", linestyle=":", label=f"best Dice: {best[1]:.3f}, epoch {best[0]}")
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(PANELS[title]) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8)


def save_curves(run: Path, path: Path) -> None:
    """All panels side by side as a picture file."""
    from matplotlib.figure import Figure

    curves = read_curves(run)
    figure: Figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, title in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        draw_panel(axes, title, curves)
    figure.savefig(path, dpi=100)
