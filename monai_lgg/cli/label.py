"""label: a MONAI Label server for annotators, and the folder that it serves."""

from pathlib import Path

import click

from monai_lgg.cli.options import ErrorGroup, common_options, echo_json, json_option

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(cls=ErrorGroup)
def label() -> None:
    """Correct masks in 3D Slicer or another viewer, and train on the corrections, with MONAI Label."""


@label.command()
@click.argument("kaggle_dir", metavar="KAGGLE_DIR", type=FOLDER)
@click.argument("studies_dir", metavar="STUDIES_DIR", type=FOLDER)
@click.option("--slices", is_flag=True, help="Slices as .tif with all channels, for REST and CVAT, not FLAIR volumes.")
@click.option("--labelled", type=click.IntRange(0), help="How many patients get their masks as labels; default all.")
@json_option
@common_options
def prepare(
    kaggle_dir: Path, studies_dir: Path, slices: bool, labelled: int | None, as_json: bool, quiet: bool
) -> None:
    """Make STUDIES_DIR of the patients in KAGGLE_DIR: a FLAIR volume each, and labels. Files there are kept.

    Exit code 1 if a patient cannot be read; the others are written.
    """
    from tqdm import tqdm

    from monai_lgg.label_app.studies import prepare_studies

    done = prepare_studies(
        kaggle_dir,
        studies_dir,
        slices=slices,
        labelled=labelled,
        progress=lambda folders: tqdm(folders, desc="prepare", unit="patient", disable=quiet, leave=False),
    )
    if as_json:
        echo_json(vars(done))
    else:
        for name, reason in done.failed.items():
            click.echo(f"{name}: {reason}", err=True)
        click.echo(f"{len(done.patients)} patients: {done.written} files written, {done.kept} kept; in {studies_dir}")
    if done.failed:
        raise click.exceptions.Exit(1)


@label.command()
@click.option("--studies", type=FOLDER, required=True, help="Folder of the images; gets labels and trained models.")
@click.option(
    "--bundles", multiple=True, metavar="NAME", help="Bundle or trained run, may be repeated. [default: unet_25d]"
)
@click.option("--dicomweb", metavar="URL", help="DICOMweb server with the images; --studies keeps what is fetched.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--models", type=FOLDER, help="Folder of the versions that are trained; default models in --studies.")
@click.option(
    "--scoring/--no-scoring",
    default=None,
    help="Measure by itself how unsure a model is of each image. [default: yes; with --dicomweb no, because it fetches "
    "and segments every series of the server]",
)
@click.option(
    "--trusted-host", "trusted", multiple=True, metavar="NAME", help="Name by which a proxy in front of it is reached."
)
@common_options
def start(
    studies: Path,
    bundles: tuple[str, ...],
    dicomweb: str | None,
    host: str,
    port: int,
    models: Path | None,
    scoring: bool | None,
    trusted: tuple[str, ...],
    quiet: bool,
) -> None:
    """Serve bundles to 3D Slicer, OHIF or CVAT by a MONAI Label server. Ctrl-C stops it, with exit code 0."""
    from monai_lgg.label_app.start import Options, start

    start(Options(studies, bundles or ("unet_25d",), dicomweb, host, port, models, scoring, trusted), click.echo)
