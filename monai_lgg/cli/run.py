"""train, evaluate, predict and demo: run a bundle's own configurations."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from monai_lgg.cli.options import common_options, echo_json, json_option, quick_imports

_BUNDLE_HELP = "Name of a shipped bundle, or a folder (a training run is one)."
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value of the bundle's configuration."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<n>.")
FOLDER = click.Path(path_type=Path, file_okay=False)
EXISTING = click.Path(path_type=Path, exists=True)


@click.command()
@click.argument("bundle")
@click.option("--data", "dataset_dir", type=FOLDER, required=True, help="Folder in the public layout.")
@click.option(
    "--output", "-o", "run", type=FOLDER, required=True, help="Folder of the run; an interrupted one goes on."
)
@click.option("--split", "split_file", type=EXISTING, help="Split file; without it a patient-level one is made.")
@click.option("--epochs", type=click.IntRange(1), help="Shorthand for --set max_epochs=N.")
@click.option(
    "--tracking", type=click.Choice(["mlflow"]), help="Follow it in MLflow too; needs pip install monai-lgg[mlflow]."
)
@set_option
@device_option
@common_options
def train(
    bundle: str,
    dataset_dir: Path,
    run: Path,
    split_file: Path | None,
    epochs: int | None,
    tracking: str | None,
    settings: tuple[str, ...],
    device: str,
    quiet: bool,
) -> None:
    """Train BUNDLE. The run is a copy of the bundle with its weights, split and TensorBoard events."""
    from monai_lgg import bundle as bundles

    if epochs is not None:
        settings = (*settings, f"max_epochs={epochs}")
    weights = bundles.train(
        bundles.find_bundle(bundle),
        dataset_dir,
        run,
        split_file=split_file,
        settings=settings,
        device=device,
        progress=not quiet,
        tracking=tracking,
    )
    click.echo(f"weights: {weights}")
    evaluating = shlex.join(["monai-lgg", "evaluate", str(run), "--data", str(dataset_dir)])
    click.echo(f"next: {evaluating}; watch: {shlex.join(['monai-lgg', 'board', str(run)])}")


@click.command()
@click.argument("bundle")
@click.option("--data", "dataset_dir", type=FOLDER, required=True, help="Folder in the public layout.")
@click.option("--output", "-o", type=FOLDER, help="Folder of the tables; default <bundle>/eval/<part>.")
@click.option("--split", "split_file", type=EXISTING, help="Split file; default the run's own.")
@click.option("--part", type=click.Choice(["test", "validation", "train", "all"]), default="test", show_default=True)
@set_option
@device_option
@json_option
@common_options
def evaluate(
    bundle: str,
    dataset_dir: Path,
    output: Path | None,
    split_file: Path | None,
    part: str,
    settings: tuple[str, ...],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Evaluate a trained BUNDLE: one row a patient, one a slice, and a summary with baselines."""
    from monai_lgg import bundle as bundles
    from monai_lgg.evaluation import summary_text

    root = bundles.find_bundle(bundle)
    if output is None and bundles.is_shipped(root):
        raise click.UsageError(f"{bundle} is part of the installation, where nothing is written; give -o FOLDER")
    output = output or root / "eval" / part
    summary = bundles.evaluate(
        root,
        dataset_dir,
        output,
        split_file=split_file,
        part=part,
        settings=settings,
        device=device,
        progress=not quiet,
    )
    if as_json:
        echo_json(summary)
    else:
        click.echo(summary_text(summary))
        click.echo(f"tables: {output}")


@click.command()
@click.argument("inputs", nargs=-1, type=EXISTING)
@click.option("--bundle", default="unet_25d", show_default=True, help=_BUNDLE_HELP)
@click.option("--output", "-o", type=FOLDER, required=True, help="Gets a folder a case and results.csv.")
@click.option("--flair", type=EXISTING, help="NIfTI FLAIR volume of one case, with --pre and --post.")
@click.option("--pre", type=EXISTING, help="NIfTI pre-contrast volume of the same geometry.")
@click.option("--post", type=EXISTING, help="NIfTI post-contrast volume of the same geometry.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["auto", "tiff", "nifti", "dicomseg"]),
    default="auto",
    show_default=True,
    help="auto: as the input, and NIfTI for DICOM; dicomseg needs DICOM input.",
)
@click.option(
    "--seg-type", type=click.Choice(["binary", "fractional"]), help="Of dicomseg: the mask, or the probabilities."
)
@click.option(
    "--flair-series", metavar="NAME", help="DICOM: which series is FLAIR (UID, number, or a part of its description)."
)
@click.option(
    "--keep-identifiers", is_flag=True, help="DICOM: let names and messages hold what identifies the patient."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Probability from which a voxel is tumour; default the bundle's.",
)
@click.option("--tta", is_flag=True, help="Average with the mirrored image; takes twice as long.")
@click.option("--ensemble", is_flag=True, help="Average the networks in the bundle's models/ensemble.pt.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "openvino", "onnxruntime", "tensorrt"]),
    help="Library that runs the network; auto takes the fastest that is installed, with the same masks.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8"]),
    help="Of the network's arithmetic; int8 after 'export --to int8 --calibrate DIR'.",
)
@click.option("--keep-probabilities", is_flag=True, help="Write the probability maps too.")
@click.option("--uncertainty", is_flag=True, help="Write the entropy of the probabilities, in bits, too.")
@click.option("--preview", is_flag=True, help="Write preview.html: all cases of the output folder on one page.")
@click.option("--overwrite", is_flag=True, help="Do finished cases again.")
@set_option
@device_option
@json_option
@common_options
def predict(
    inputs: tuple[Path, ...],
    bundle: str,
    output: Path,
    flair: Path | None,
    pre: Path | None,
    post: Path | None,
    output_format: str,
    seg_type: str | None,
    flair_series: str | None,
    keep_identifiers: bool,
    threshold: float | None,
    tta: bool,
    ensemble: bool,
    backend: str | None,
    precision: str | None,
    keep_probabilities: bool,
    uncertainty: bool,
    preview: bool,
    overwrite: bool,
    settings: tuple[str, ...],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Segment INPUTS: patient folders, folders of patients, TIFFs, NIfTI volumes, folders of DICOM.

    Exit code 1 if any case failed.
    """
    with quick_imports():
        from monai_lgg import bundle as bundles
        from monai_lgg import inference, prediction_inputs, saving

    if flair is None and (pre or post):
        raise click.UsageError("--pre and --post go with --flair")
    if not inputs and flair is None:
        raise click.UsageError("give INPUTS, or --flair FILE")
    if seg_type and output_format != "dicomseg":
        raise click.UsageError("--seg-type goes with --format dicomseg")
    records = []
    if inputs:
        records = prediction_inputs.prediction_records(
            inputs, flair_series=flair_series, keep_identifiers=keep_identifiers
        )
    if flair is not None:
        records.append(prediction_inputs.sequences_record(flair, pre, post))
    root = bundles.find_bundle(bundle)
    chosen = bundles.parse_settings(settings, [root / "configs" / "inference.json"])
    given = {
        "output_format": None if output_format == "auto" else output_format,
        "seg_type": seg_type,
        "threshold": threshold,
        "mirror": tta or None,
        "backend": backend,
        "precision": precision,
        "save_probabilities": keep_probabilities or None,
        "save_uncertainty": uncertainty or None,
    }
    chosen = _with_options(chosen, {key: value for key, value in given.items() if value is not None})
    results = inference.predict(
        records,
        root,
        output,
        settings=chosen,
        device=device,
        ensemble=ensemble,
        overwrite=overwrite,
        progress=lambda todo: _bar(todo, "predicting", quiet),
    )
    counts = {of: sum(item.status == of for item in results) for of in ("done", "skipped", "failed")}
    saving.write_manifest(
        output, root, {**chosen, "device": device, "ensemble": ensemble, "overwrite": overwrite}, counts
    )
    if preview:
        from monai_lgg.report.preview import write_preview

        click.echo(f"preview: {write_preview(output)}", err=True)
    _report_predictions(results, output, as_json)


def _with_options(chosen: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings of --set and those of options of their own; the same one twice would leave one without effect."""
    for key in given:
        if key in chosen:
            raise click.UsageError(f"--set {key}=... and the option for it: give one of them")
    return {**chosen, **given}


def _bar(items: list[Any], title: str, quiet: bool) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, desc=title, unit="case", disable=quiet)


def _report_predictions(results: list[Any], output: Path, as_json: bool) -> None:
    failed = [item for item in results if item.status == "failed"]
    if as_json:
        echo_json([vars(item) for item in results])
    else:
        for item in failed:
            click.echo(f"{item.case}: {item.error}", err=True)
        counts = ", ".join(
            f"{sum(item.status == status for item in results)} {status}" for status in ("done", "skipped", "failed")
        )
        click.echo(f"{counts}; table: {output / 'results.csv'}")
    if failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--output", "-o", type=FOLDER, default=Path("demo"), show_default=True)
@click.option("--data", "dataset_dir", type=FOLDER, help="Your kaggle_3m folder; without it phantoms are made.")
@click.option("--bundle", default="unet_cosine", show_default=True, help=_BUNDLE_HELP)
@click.option("--epochs", type=click.IntRange(1), help="Default: the demo's few for phantoms, the recipe's for data.")
@device_option
@common_options
def demo(output: Path, dataset_dir: Path | None, bundle: str, epochs: int | None, device: str, quiet: bool) -> None:
    """The whole journey in one command: data, split, training, evaluation on test patients, masks and pictures."""
    from monai_lgg.demo import run_demo

    run_demo(output, dataset_dir, bundle, epochs, device, progress=not quiet, say=click.echo)
