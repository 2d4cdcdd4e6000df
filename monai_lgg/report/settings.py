"""The settings of a run, as its page shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_lgg.bundle import OVERRIDES, read_config, stored_settings


def settings_of(run: Path) -> dict[str, str]:
    """The settings in force: those that the training configuration lists, a run's own values in place of them.

    Expressions are code, so they are left out rather than run.
    """
    files = [path for name in ("train.json", OVERRIDES) if (path := run / "configs" / name).is_file()]
    config = read_config(files).get()
    listed = config.get("settings", {})
    values = {name: str(_look_up(config, value)) for name, value in listed.items()}
    return {name: value for name, value in values.items() if not value.startswith("$")}


def overrides_of(run: Path) -> dict[str, str]:
    return {name: str(value) for name, value in stored_settings(run).items()}


def _look_up(config: Mapping[str, Any], value: Any) -> Any:
    """The value that a reference like ``@max_epochs`` stands for."""
    for _ in config:  # a reference may lead to another; never more than there are
        if not (isinstance(value, str) and value.startswith("@") and value[1:] in config):
            break
        value = config[value[1:]]
    return value
