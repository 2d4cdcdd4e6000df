"""A network as a diagram: its stages from input to output."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_lgg.bundle import OVERRIDES, read_config
from monai_lgg.networks.summary import NetworkSummary, Stage, describe_network

#: Units of the drawing, which is as wide as a phone: all, the boxes' part, and the height of a row.
WIDTH, BOXES, ROW = 360, 130, 40
#: Characters beside a box.
LONGEST = 34
_THINNEST, _LOWEST = 14, 8


@dataclass(frozen=True)
class Box:
    """A stage as drawn: wider for a higher resolution, taller for more channels."""

    x: float
    y: float
    width: float
    height: float
    stage: Stage

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def label(self) -> str:
        """The name, or its end where it is too long: names of nested parts differ there."""
        name = self.stage.name
        return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


@dataclass(frozen=True)
class Diagram:
    width: int
    height: int
    text_x: int
    boxes: list[Box]


def network_of(run: Path) -> NetworkSummary:
    """Build the network of a run's configuration, without any weights, and describe it for the run's image size."""
    files = [path for name in ("train.json", OVERRIDES) if (path := run / "configs" / name).is_file()]
    config = read_config(files)
    if "pretrained_weights" in config["network_def"]:
        config["network_def"]["pretrained_weights"] = None  # would be fetched, and changes no shape
    size = config.get_parsed_content("image_size")
    network = config.get_parsed_content("network_def")
    return describe_network(network, config.get_parsed_content("network_def#in_channels"), size)


def draw(stages: Sequence[Stage]) -> Diagram:
    """Boxes below each other, the input on top, on one axis: an encoder narrows, a decoder widens again."""
    ran = [(stage, stage.output) for stage in stages if stage.output]
    sides = [max(1.0, math.prod(shape[1:]) ** (1 / max(1, len(shape) - 1))) for _, shape in ran]
    channels = [shape[0] for _, shape in ran]
    boxes = []
    for index, ((stage, shape), side) in enumerate(zip(ran, sides, strict=True)):
        width = _THINNEST + (BOXES - _THINNEST) * _log_share(side, sides)
        height = _LOWEST + (ROW - 6 - _LOWEST) * _log_share(shape[0], channels)
        boxes.append(Box((BOXES - width) / 2, index * ROW + (ROW - height) / 2, width, height, stage))
    return Diagram(WIDTH, len(boxes) * ROW, BOXES + 12, boxes)


def _log_share(value: float, of: Sequence[float]) -> float:
    """Where ``value`` lies between the smallest and the largest, on a scale of doublings; 1 when all are equal."""
    low, high = math.log2(min(of)), math.log2(max(of))
    return 1.0 if high == low else (math.log2(value) - low) / (high - low)
