"""What a network is made of: stages, shapes, counts; for a table or a diagram."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from monai.networks.layers import SkipConnection
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

#: Modules are opened level by level until there are enough rows for a diagram, never beyond what a page can show.
FEWEST_ROWS, MOST_ROWS = 6, 40


@dataclass(frozen=True)
class Stage:
    """One row.

    Attributes:
        name: dotted, as in the state_dict.
        kind: the class, or the classes inside a plain sequence.
        output: (C, H, W) of its (last) output; None if it never ran.
        parameters: their count.
    """

    name: str
    kind: str
    output: tuple[int, ...] | None
    parameters: int


@dataclass(frozen=True)
class NetworkSummary:
    """A network for one input size.

    Attributes:
        name: the class.
        input: (C, H, W); ``output`` likewise, None if it gives no tensor.
        parameters: count of all; ``trainable`` of those that an optimizer changes.
        multiply_accumulates: of convolutions and matrix products, for one image.
        stages: in the order in which they run.
    """

    name: str
    input: tuple[int, ...]
    output: tuple[int, ...] | None
    parameters: int
    trainable: int
    multiply_accumulates: int
    stages: tuple[Stage, ...]


def describe_network(network: nn.Module, in_channels: int, size: Sequence[int]) -> NetworkSummary:
    """Runs ``network`` once on zeros, without gradients and in evaluation mode, and notes what its parts give.

    Args:
        size: (H, W) of the image, or (H, W, D).
    Raises:
        ValueError: the network cannot take that size (its own error).
    """
    rows = _rows(network)
    outputs: dict[str, tuple[int, ...] | None] = {}
    shape = (in_channels, *size)
    modes = {module: module.training for module in network.modules()}
    hooks = [module.register_forward_hook(_note(name, outputs)) for name, module in rows.items()]
    first = next(network.parameters(), torch.zeros(()))
    try:
        network.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            result = network(torch.zeros(1, *shape, dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    order = [*outputs, *(name for name, module in rows.items() if name not in outputs and _count(module))]
    return NetworkSummary(
        name=type(network).__name__,
        input=shape,
        output=_shape(result),
        parameters=_count(network),
        trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        multiply_accumulates=counter.get_total_flops() // 2,
        stages=tuple(Stage(name, _kind(rows[name]), outputs.get(name), _count(rows[name])) for name in order),
    )


def summary_table(summary: NetworkSummary) -> str:
    """A summary as text, a line a stage."""
    head = ("stage", "kind", "output", "parameters")
    rows = [(stage.name, stage.kind, _size(stage.output), f"{stage.parameters:,}") for stage in summary.stages]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {shape:<{widths[2]}}  {count:>{widths[3]}}"
        for name, kind, shape, count in (head, *rows)
    ]
    return "\n".join(
        [
            f"{summary.name}: {_size(summary.input)} to {_size(summary.output)}",
            *lines,
            f"{summary.parameters:,} parameters, {summary.trainable:,} trainable; "
            f"{summary.multiply_accumulates / 1e9:.2f} G multiply-accumulates an image",
        ]
    )


def _size(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "-"


def _rows(network: nn.Module) -> dict[str, nn.Module]:
    """The modules to show, by name."""
    rows = dict(_children("", network))
    while len(rows) < FEWEST_ROWS:
        opened: dict[str, nn.Module] = {}
        for name, module in rows.items():
            opened.update(_children(f"{name}.", module) if _can_open(module) else [(name, module)])
        if len(opened) > MOST_ROWS or opened.keys() == rows.keys():
            break
        rows = opened
    return rows


def _children(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named children that do something; those that only hold or connect others are replaced by what they hold."""
    for name, child in module.named_children():
        if _connects(child):
            yield from _children(f"{prefix}{name}.", child)
        elif not isinstance(child, nn.Identity):
            yield prefix + name, child


def _connects(module: nn.Module) -> bool:
    skips = type(module) is nn.Sequential and any(isinstance(child, SkipConnection) for child in module)
    return skips or isinstance(module, (nn.ModuleList, nn.ModuleDict, SkipConnection))


def _can_open(module: nn.Module) -> bool:
    """It has parts, and no parameters beside them."""
    return any(True for _ in module.children()) and not any(True for _ in module.parameters(recurse=False))


def _note(name: str, outputs: dict[str, tuple[int, ...] | None]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[name] = _shape(output)

    return hook


def _shape(output: Any) -> tuple[int, ...] | None:
    last = output[-1] if isinstance(output, (list, tuple)) and output else output
    return tuple(last.shape[1:]) if isinstance(last, torch.Tensor) else None


def _kind(module: nn.Module) -> str:
    if type(module) is not nn.Sequential:
        return type(module).__name__
    runs = [(kind, len(list(run))) for kind, run in groupby(type(child).__name__ for child in module)]
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in runs)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
