"""The search space of a tuning, from command-line text to values of a bundle's configuration."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_lgg.bundle import setting_value
from monai_lgg.errors import UsageError
from monai_lgg.losses import find_loss

_RANGE = re.compile(r"([a-z]+):([^:,]+):([^:,]+)")
_KINDS = ("log", "float", "int")
_EXAMPLES = "give a range (log:1e-5:1e-2, float:0:1, int:2:8) or choices (8,16,32)"


@dataclass(frozen=True)
class Parameter:
    """One dimension.

    Args:
        key: of the configuration.
        kind: ``log``, ``float``, ``int``, or ``choice``.
        low: of a range, both ends included.
        choices: name -> value. The name is what Optuna stores: the value itself, or its text where Optuna has no place
            for it (a list) or a name is nicer (a loss).
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: Mapping[Any, Any] | None = None

    def __str__(self) -> str:
        if self.choices is not None:
            return f"{self.key}={','.join(str(name) for name in self.choices)}"
        return f"{self.key}={self.kind}:{self.low:g}:{self.high:g}"

    def suggest(self, trial: Any) -> Any:
        """Ask an Optuna trial; the stored name of a choice."""
        if self.choices is not None:
            return trial.suggest_categorical(self.key, list(self.choices))
        if self.kind == "int":
            return trial.suggest_int(self.key, int(self.low), int(self.high))
        return trial.suggest_float(self.key, self.low, self.high, log=self.kind == "log")

    def value(self, stored: Any) -> Any:
        """What the configuration gets."""
        return stored if self.choices is None else self.choices[stored]


def parse_parameter(text: str) -> Parameter:
    """``learning_rate=log:1e-5:1e-2``, ``features=int:2:8``, ``batch_size=8,16,32`` or ``loss=dice,dice_ce``.

    Raises:
        UsageError: something else; a range without width; a logarithmic one from 0; an unknown loss.
    """
    key, equals, space = text.partition("=")
    if not (key and equals and space):
        raise UsageError(f"parameter {text!r}: give KEY=SPACE, where SPACE is a range or choices; {_EXAMPLES}")
    match = _RANGE.fullmatch(space)
    if match is None:
        return Parameter(key, "choice", choices=_choices(key, space))
    return _range(key, *match.groups())


def _range(key: str, kind: str, low_text: str, high_text: str) -> Parameter:
    given = f"parameter {key!r}: range {kind}:{low_text}:{high_text}"
    if kind not in _KINDS:
        raise UsageError(f"{given} is of no known kind; {_EXAMPLES}")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError as error:
        raise UsageError(f"{given} has an end that is no number; {_EXAMPLES}") from error
    if not low < high or abs(high) == float("inf"):
        raise UsageError(f"{given} is empty or endless; give the lower end first")
    if kind == "log" and low <= 0:
        raise UsageError(f"{given}: a logarithmic range begins above 0")
    if kind == "int" and (low != int(low) or high != int(high)):
        raise UsageError(f"{given}: give whole numbers")
    return Parameter(key, kind, low, high)


def _choices(key: str, text: str) -> dict[Any, Any]:
    try:
        values = json.loads(f"[{text}]")
    except json.JSONDecodeError:
        values = [setting_value(item.strip()) for item in text.split(",")]
    choices: dict[Any, Any] = {}
    for value in values:
        name = value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
        choices[name] = find_loss(value) if key == "loss" and isinstance(value, str) else value
    if len(choices) < 2:
        raise UsageError(f"parameter {key!r}: {text!r} leaves no choice; {_EXAMPLES}, or use --set")
    return choices


def values_of(parameters: Sequence[Parameter], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration key -> value of what Optuna stored for a trial."""
    return {parameter.key: parameter.value(stored[parameter.key]) for parameter in parameters}


def setting_text(key: str, value: Any) -> str:
    """``KEY=VALUE`` as ``--set`` reads it."""
    return f"{key}={json.dumps(value)}"
