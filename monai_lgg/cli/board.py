"""board: TensorBoard over runs."""

from pathlib import Path

import click

from monai_lgg.cli.options import common_options


@click.command()
@click.argument("folder", metavar="RUNS_DIR", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in: no password.")
@common_options
def board(folder: Path, port: int, host: str, quiet: bool) -> None:
    """Watch runs in TensorBoard: RUNS_DIR is a run, or has runs in it. Ctrl-C ends it.

    Runs that are begun later appear by themselves.
    """
    from monai_lgg.board import serve

    def started(address: str, names: list[str]) -> None:
        if not quiet:
            click.echo(f"{len(names)} run(s): {', '.join(names)}")
        click.echo(f"TensorBoard: {address} (Ctrl-C ends it)")

    try:
        serve(folder, host=host, port=port, started=started)
    except KeyboardInterrupt:
        click.echo("ended", err=True)
