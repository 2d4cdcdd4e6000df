"""export: a bundle's network for other programs."""

from pathlib import Path

import click

from monai_lgg.cli.options import common_options, echo_json, json_option


@click.command()
@click.argument("bundle")
@click.option("--to", required=True, help="torchscript, onnx, openvino, tensorrt; or int8, for predict on a CPU.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File; default <bundle><suffix> in this folder, for int8 the bundle's models/model.int8.zip.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True),
    help="For int8: the data of the training. Patients of the run's own training are taken where there are some.",
)
@json_option
@common_options
def export(
    bundle: str, to: str, output: Path | None, overwrite: bool, calibrate: Path | None, as_json: bool, quiet: bool
) -> None:
    """Write the trained network of BUNDLE for other programs, with all that is needed to use it in its metadata."""
    from monai_lgg.bundle import find_bundle
    from monai_lgg.export import export_bundle

    path = export_bundle(find_bundle(bundle), to, output, overwrite=overwrite, calibrate=calibrate)
    if as_json:
        echo_json({"file": path, "format": to})
    else:
        click.echo(f"written: {path}")
