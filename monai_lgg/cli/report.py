"""report: the page about a run; data explore: the page about data."""

from pathlib import Path

import click

from monai_lgg.cli.options import common_options

FOLDER = click.Path(path_type=Path, file_okay=False)
PAGE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("run", metavar="RUN", type=FOLDER)
@click.option("--data", "dataset_dir", type=FOLDER, help="Folder of the images; default the one evaluated.")
@click.option("--part", type=click.Choice(["test", "validation", "train", "all"]), default="test", show_default=True)
@click.option("--output", "-o", type=PAGE, help="The page; default report.html beside the results.")
@common_options
def report(run: Path, dataset_dir: Path | None, part: str, output: Path | None, quiet: bool) -> None:
    """Write one HTML page about RUN, which was evaluated before: protocol, figures, cases, curves, network.

    RUN may also be a results folder itself. The page needs no network and no other file.
    """
    from monai_lgg.report.run_report import write_report

    click.echo(f"page: {write_report(run, output, dataset_dir, part)}")


@click.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@click.option("--output", "-o", type=PAGE, default=Path("explore.html"), show_default=True, help="The page to write.")
@common_options
def explore(directory: Path, output: Path, quiet: bool) -> None:
    """Write one HTML page about the data in DIR: counts, intensities, tumour sites and sizes, samples, findings."""
    from tqdm import tqdm

    from monai_lgg.report.data_report import write_data_report

    with tqdm(desc="explore", unit="read", disable=quiet, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        page = write_data_report(directory, output, advance)
    click.echo(f"page: {page}")
