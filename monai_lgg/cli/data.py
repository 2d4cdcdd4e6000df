"""data: check, synth, split, download."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monai_lgg.cli.options import ErrorGroup, common_options, echo_json, json_option

if TYPE_CHECKING:
    from monai_lgg.check import DataReport

KAGGLE_DATASET = "mateuszbuda/lgg-mri-segmentation"
FOLDER = click.Path(path_type=Path, file_okay=False)
SEED = click.IntRange(min=0)
_SHOWN = 10


@click.group(cls=ErrorGroup)
def data() -> None:
    """Check, make, split or fetch data in the public kaggle_3m layout."""


@data.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@json_option
@common_options
@click.pass_context
def check(ctx: click.Context, directory: Path, as_json: bool, quiet: bool) -> None:
    """List all that is wrong or odd in the data in DIR.

    Exit code 1 if there are errors, 0 if there are only warnings.
    """
    from tqdm import tqdm

    from monai_lgg.check import check_data

    with tqdm(desc="check", unit="patient", disable=quiet, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check_data(directory, advance)
    if as_json:
        echo_json(report.to_dict())
    else:
        _echo_report(report)
    if report.errors:
        ctx.exit(1)


def _echo_report(report: "DataReport") -> None:
    from monai_lgg.check import KINDS

    institutions = ", ".join(f"{code} {count}" for code, count in report.institutions.items())
    click.echo(f"{report.patients} patients ({institutions})")
    tumour = f"{report.slices} slices, {report.tumour_slices} with tumour"
    share = report.tumour_pixel_share
    click.echo(tumour if share is None else f"{tumour} ({share:.2%} of the pixels)")
    for severity, findings in (("error", report.errors), ("warning", report.warnings)):
        for kind, title in KINDS.items():
            group = [finding for finding in findings if finding.kind == kind]
            if not group:
                continue
            click.echo(f"\n{severity}: {title} ({len(group)})")
            for finding in group[:_SHOWN]:
                click.echo(f"  {finding.where}: {finding.message}")
            if len(group) > _SHOWN:
                click.echo(f"  and {len(group) - _SHOWN} more; --json lists all")
    click.echo(f"\n{len(report.errors)} error(s), {len(report.warnings)} warning(s)")


@data.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@click.option("--patients", type=click.IntRange(min=1), required=True, help="How many patients.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the whole cohort.")
@click.option(
    "--size", type=click.IntRange(min=1), nargs=2, default=(256, 256), show_default=True, help="Rows and columns."
)
@click.option("--slices", type=click.IntRange(min=1), help="Slices a patient; default: varies.")
@click.option(
    "--format",
    "data_format",
    type=click.Choice(["tiff", "dicom"]),
    default="tiff",
    show_default=True,
    help="The public layout with masks, or DICOM studies to predict.",
)
@click.option(
    "--plane",
    type=click.Choice(["axial", "coronal", "sagittal", "oblique"]),
    help="DICOM: of the FLAIR series; default axial.",
)
@common_options
def synth(
    directory: Path,
    patients: int,
    seed: int,
    size: tuple[int, int],
    slices: int | None,
    data_format: str,
    plane: str | None,
    quiet: bool,
) -> None:
    """Write synthetic patients to DIR."""
    from tqdm import tqdm

    if plane and data_format != "dicom":
        raise click.UsageError("--plane goes with --format dicom")
    with tqdm(desc="synth", unit="patient", total=patients, disable=quiet, leave=False) as bar:
        settings: dict[str, Any] = {"seed": seed, "size": size, "slices": slices}
        settings["progress"] = lambda done, _: bar.update(done - bar.n)
        if data_format == "dicom":
            from monai_lgg.io.dicom import require_dicom

            require_dicom()
            from monai_lgg.phantom_dicom import write_studies

            names = write_studies(directory, patients, plane=plane or "axial", **settings)
        else:
            from monai_lgg.phantom import write_patients

            names = write_patients(directory, patients, **settings)
    click.echo(f"{len(names)} synthetic patients in {directory}")


@data.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Split file (JSON)."
)
@click.option("--fractions", type=float, nargs=3, metavar="T V E", help="Training, validation, test; they sum to 1.")
@click.option("--folds", type=click.IntRange(min=2), help="k folds by patient in place of one split.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--by-slice", is_flag=True, help="Split by slice as public projects do. It LEAKS; for comparison only.")
@click.option("--overwrite", is_flag=True, help="Replace an existing split file.")
@common_options
def split(
    directory: Path,
    output: Path,
    fractions: tuple[float, float, float] | None,
    folds: int | None,
    seed: int,
    by_slice: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Split the patients in DIR into training, validation and test, or into folds."""
    if folds is not None and (by_slice or fractions is not None):
        other = "--by-slice" if by_slice else "--fractions"
        raise click.UsageError(f"--folds and {other} exclude each other; give one of them")
    if output.exists() and not overwrite:
        raise click.ClickException(f"{output} exists; give another file, or --overwrite to replace it")
    from monai_lgg import splits
    from monai_lgg.leakage import leakage_in_words

    if folds is not None:
        result = splits.split_folds(directory, folds, seed)
    elif by_slice:
        result = splits.split_slices(directory, fractions or (0.8, 0.1, 0.1), seed)
    else:
        result = splits.split_patients(directory, fractions or splits.DEFAULT_FRACTIONS, seed)
    splits.save_split(result, output)
    for row in splits.count_parts(result, directory):
        fold = f"fold {row['fold']} " if folds is not None else ""
        counts = f"{row['patients']} patients, {row['slices']} slices, {row['tumour_slices']} with tumour"
        click.echo(f"{fold}{row['part']}: {counts}")
    if result.leakage is not None:
        click.echo(leakage_in_words(result.leakage))
    click.echo(f"saved {output}")


@data.command()
@click.argument("directory", metavar="DIR", type=FOLDER)
@common_options
def download(directory: Path, quiet: bool) -> None:
    """Download the public data (110 patients, 0.7 GB) to DIR/kaggle_3m.

    Needs the package kagglehub: pip install "monai-lgg[download]".
    """
    target = directory / "kaggle_3m"
    if target.exists():
        raise click.ClickException(f"{target} exists; give another folder, or remove it first")
    try:
        import kagglehub
    except ImportError as error:
        raise click.ClickException(
            'downloading needs the package kagglehub: pip install "monai-lgg[download]"'
        ) from error
    try:
        fetched = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # kagglehub lets the errors of several HTTP and file libraries through
        raise click.ClickException(_manual_steps(directory, error)) from error
    source = fetched / "kaggle_3m"
    if not source.is_dir():
        raise click.ClickException(f"{fetched} holds no folder kaggle_3m; the dataset on Kaggle may have changed")
    partial = directory / ".kaggle_3m.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)
    click.echo(f"data in {target}; next: monai-lgg data check {directory}")


def _manual_steps(directory: Path, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"the download from Kaggle failed ({reason}). No network, or no Kaggle credentials? By hand:\n"
        f"  1. download the zip from https://www.kaggle.com/datasets/{KAGGLE_DATASET} in a browser\n"
        f"  2. unzip it so that {directory / 'kaggle_3m'}/<patient> exists"
    )
