"""What all commands share: --debug, --quiet, --json, and errors as one line with an exit code."""

import atexit
import gc
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import click

from monai_lgg.errors import UsageError, deepest, disk_error

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INTERRUPTED = 130
#: What MONAI has for ultrasound, for plots and for metrics of embeddings; each takes up to half a second.
UNUSED = ("scipy.signal", "matplotlib.pyplot", "sklearn")
SHARDED = "torch.distributed.optim"


class ErrorGroup(click.Group):
    """Turns the library's exceptions into ``Error: ...`` and exit code 1; a traceback only under --debug."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # the order of the journey, not of the alphabet

    def main(self, *args: Any, **kwargs: Any) -> Any:
        atexit.register(gc.freeze)  # or Python ends with a search for garbage in all that MONAI made, which takes 0.8 s
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _ended_by_signal():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # click ends quietly on it
            raise
        except KeyboardInterrupt:
            click.echo("interrupted; finished work is kept, run the same command again to go on", err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            if ctx.meta.get("monai_lgg.debug"):
                raise
            cause = disk_error(error, "a file") or deepest(error)
            if isinstance(cause, UsageError):
                raise click.UsageError(str(cause)) from error
            raise click.ClickException(str(cause) or type(cause).__name__) from error


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """A process that is asked to end (SIGTERM, as by a scheduler of jobs) ends as by Ctrl-C: with what is finished."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class _Sharded(ModuleType):
    """In the place of ``torch.distributed.optim``: Ignite asks of the objects in a checkpoint whether they are its."""

    class ZeroRedundancyOptimizer:
        """No object is one."""


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta["monai_lgg.debug"] = value


def _set_quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    logging.basicConfig(level=logging.WARNING if value else logging.INFO, format="%(message)s")
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # errors are reported once, by the command
    return value


def common_options(function: F) -> F:
    """Adds --quiet (argument ``quiet``) and --debug."""
    quiet = click.option("--quiet", "-q", is_flag=True, callback=_set_quiet, help="No progress bars, only results.")
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
    )
    return quiet(debug(function))


@contextmanager
def quick_imports() -> Iterator[None]:
    """For the import of MONAI by a command that only predicts, in about half the time.

    MONAI imports all of itself, and with it modules that no prediction uses (:data:`UNUSED`). Here it finds them
    missing, as it may: they are optional to it. PyTorch's sharded optimizers are not optional to Ignite, which gets a
    stand-in. Afterwards all of them can be imported as ever. What an import makes stays, so the search for garbage in
    it is left out too.
    """
    enabled = gc.isenabled()
    gc.disable()
    stand_ins: dict[str, ModuleType | None] = {**dict.fromkeys(UNUSED), SHARDED: _Sharded(SHARDED)}
    absent = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None is what makes an import fail
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
        if enabled:
            gc.enable()


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def echo_json(result: Any) -> None:
    click.echo(json.dumps(result, indent=1, default=str))
