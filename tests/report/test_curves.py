from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from monai_lgg.report.charts import new_chart
from monai_lgg.report.curves import draw_panel, read_curves, save_curves


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three epochs, then resumed from the second: the later events count."""
    for first, values in ((1, [0.9, 0.8, 0.7]), (2, [0.75, 0.6])):
        with SummaryWriter(str(tmp_path / "eval"), filename_suffix=str(first)) as writer:
            for epoch, value in enumerate(values, first):
                writer.add_scalar("train_loss_epoch", value, epoch)
                writer.add_scalar("val_mean_dice", 1 - value, epoch)
                writer.add_scalar("other", value, epoch)
    return tmp_path


def test_read_curves(run: Path) -> None:
    curves = read_curves(run)
    assert set(curves) == {"train_loss_epoch", "val_mean_dice"}
    assert [epoch for epoch, _ in curves["train_loss_epoch"]] == [1, 2, 3]
    assert [value for _, value in curves["train_loss_epoch"]] == pytest.approx([0.9, 0.75, 0.6])


def test_panel_marks_the_best_epoch() -> None:
    figure, axes = new_chart()
    draw_panel(axes, "Validation", {"val_mean_dice": [(1, 0.2), (2, 0.6), (3, 0.5)], "val_mean_iou": [(1, 0.1)]})
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["mean Dice", "mean IoU", "best Dice: 0.600, epoch 2"]
    assert list(axes.lines[0].get_ydata()) == [0.2, 0.6, 0.5]
    assert figure.axes == [axes]


def test_panel_without_values() -> None:
    _, axes = new_chart()
    draw_panel(axes, "Learning rate", {})
    assert not axes.lines


def test_save_curves(run: Path, tmp_path: Path) -> None:
    save_curves(run, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_no_events(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no TensorBoard events in .*; they are written by monai-lgg train"):
        read_curves(tmp_path)
