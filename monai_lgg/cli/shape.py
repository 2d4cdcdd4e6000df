"""shape: the 2019 paper's features of masks, tested against the genomic clusters."""

from pathlib import Path

import click

from monai_lgg.cli.options import common_options, echo_json, json_option


@click.command()
@click.argument("masks", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--clinical", type=click.Path(path_type=Path), required=True, help="The data's data.csv: one row a patient."
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, file_okay=False), help="Gets shape.csv and associations.csv."
)
@json_option
@common_options
def shape(masks: Path, clinical: Path, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Measure the tumours' shape in MASKS and test it against the genomic clusters.

    MASKS holds <patient>/<patient>_<n>_mask.tif, with or without the images: the data itself, or the masks that
    evaluate and predict write.
    """
    from tqdm import tqdm

    from monai_lgg.associations import report_shapes, report_text, save_tables

    with tqdm(desc="shape", unit="patient", disable=quiet, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = report_shapes(masks, clinical, advance)
    if output is not None:
        save_tables(report, output)
    if as_json:
        echo_json(report.to_dict())
        return
    click.echo(report_text(report))
    if output is not None:
        click.echo(f"tables: {output}/shape.csv, associations.csv")
