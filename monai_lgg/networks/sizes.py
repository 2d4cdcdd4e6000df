"""The sizes that a network can take."""

import torch


def check_size(image: torch.Tensor, multiple: int, network: str) -> None:
    """Refuses images whose rows and columns are no multiples of ``multiple``.

    Without it the error comes from deep inside, where two maps no longer fit. Works in TorchScript too; while a
    network is traced, compiled or exported nothing is checked, so that the result is not tied to one size.

    Args:
        image: (B, C, H, W).
        network: its name, for the message.
    Raises:
        ValueError: H or W is no multiple; the next larger size that fits is named.
    """
    if torch.jit.is_tracing():
        return
    if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript compiles only what it cannot rule out)
        if torch.compiler.is_compiling():
            return
    rows, columns = image.shape[-2], image.shape[-1]
    if rows % multiple != 0 or columns % multiple != 0:
        fit_rows = (rows + multiple - 1) // multiple * multiple
        fit_columns = (columns + multiple - 1) // multiple * multiple
        raise ValueError(
            f"{network} got {rows} x {columns}; rows and columns must be multiples of {multiple}; "
            f"pad or resize, for example to {fit_rows} x {fit_columns}"
        )
