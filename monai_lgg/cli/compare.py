"""compare, crossval and tune: several trainings, one after the other, that go on where they were stopped."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from monai_lgg.cli.options import common_options, echo_json, json_option
from monai_lgg.cli.run import EXISTING, FOLDER, device_option, set_option

if TYPE_CHECKING:
    from monai_lgg.crossval import CrossValidation
    from monai_lgg.leaderboard import Comparison
    from monai_lgg.tune import Outcome, Tuning

data_option = click.option("--data", "dataset_dir", type=FOLDER, required=True, help="Folder in the public layout.")
output_option = click.option(
    "--output", "-o", type=FOLDER, required=True, help="Gets everything; the same command goes on where it was stopped."
)


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--bundles", "names", help="Train these in place of taking RUNs: names or folders, separated by commas.")
@click.option(
    "--budget", help="Of each of --bundles: 3epochs, 50000slices (seen in training) or 30min. Default: its own."
)
@data_option
@output_option
@click.option(
    "--split", "split_file", type=EXISTING, help="Split file; for --bundles one by patient is made if missing."
)
@click.option("--rank-by", default="dice", show_default=True, help="A per-patient metric: dice, iou, hd95, ...")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="[NAME:]KEY=VALUE",
    help="Override a value of the configuration of all, or of the bundle or run NAME.",
)
@device_option
@json_option
@common_options
def compare(
    runs: tuple[str, ...],
    names: str | None,
    budget: str | None,
    dataset_dir: Path,
    output: Path,
    split_file: Path | None,
    rank_by: str,
    settings: tuple[str, ...],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rank trained RUNs, or bundles trained here, on the same test patients by the same code.

    Writes comparison.csv, .md, .tex, .html and .json. Exit code 1 if any of them failed; the others are ranked.
    """
    if bool(runs) == bool(names):
        raise click.UsageError("give either RUNs or --bundles")
    if budget is not None and not names:
        raise click.UsageError("--budget goes with --bundles; RUNs are trained already")
    from monai_lgg import compare as comparing
    from monai_lgg.budget import parse_budget

    task = comparing.Task(dataset_dir, output, split_file, settings, rank_by, device, not quiet)
    if names:
        chosen = [name.strip() for name in names.split(",") if name.strip()]
        result = comparing.compare_bundles(chosen, task, None if budget is None else parse_budget(budget))
    else:
        result = comparing.compare_runs(runs, task)
    _report_comparison(result, output, as_json)


def _report_comparison(result: "Comparison", output: Path, as_json: bool) -> None:
    from monai_lgg.leaderboard import NOT_ON_TERMINAL
    from monai_lgg.report.tables import to_text

    if as_json:
        echo_json(result.to_dict())
    else:
        click.echo(to_text(result.table(NOT_ON_TERMINAL)))
        click.echo(f"\ntables: {output / 'comparison'}.csv, .md, .tex, .html, .json")
    if result.failed:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("bundle")
@data_option
@click.option("--folds", type=click.IntRange(2), help="How many, by patient. With --split, as many as that has.")
@output_option
@click.option("--split", "split_file", type=EXISTING, help="Split file with folds, of 'data split --folds K'.")
@click.option("--epochs", type=click.IntRange(1), help="Shorthand for --set max_epochs=N.")
@set_option
@device_option
@json_option
@common_options
def crossval(
    bundle: str,
    dataset_dir: Path,
    folds: int | None,
    output: Path,
    split_file: Path | None,
    epochs: int | None,
    settings: tuple[str, ...],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Cross-validate BUNDLE by patient: a run a fold, pooled out-of-fold results, and an ensemble as a bundle."""
    if folds is None and split_file is None and not (output / "split.json").exists():
        raise click.UsageError("give --folds K, or --split FILE with folds")
    from monai_lgg import bundle as bundles
    from monai_lgg.crossval import cross_validate

    if epochs is not None:
        settings = (*settings, f"max_epochs={epochs}")
    result = cross_validate(
        bundles.find_bundle(bundle),
        dataset_dir,
        output,
        folds=folds,
        split_file=split_file,
        settings=settings,
        device=device,
        progress=not quiet,
    )
    if as_json:
        echo_json(result.summary)
    else:
        _echo_crossval(result)


def _echo_crossval(result: "CrossValidation") -> None:
    from monai_lgg.evaluation import summary_text
    from monai_lgg.report.tables import cell_text

    for fold, summary in enumerate(result.folds):
        dice = summary["per_patient_dice"]
        figures = f"mean {cell_text(dice['mean'])}, median {cell_text(dice['median'])}"
        click.echo(f"fold {fold}: {summary['patients']} patients, per-patient Dice {figures}")
    click.echo(summary_text(result.summary))
    click.echo(f"out-of-fold tables and masks: {result.output / 'oof'}")
    click.echo(
        f"ensemble of the folds, for other data than this: monai-lgg predict INPUTS --bundle {result.ensemble} -o OUT"
    )


@click.command()
@click.argument("bundle")
@data_option
@output_option
@click.option("--trials", type=click.IntRange(1), required=True, help="In all, those of other processes included.")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    required=True,
    metavar="KEY=SPACE",
    help="log:1e-5:1e-2, float:0:1, int:2:8, or choices (8,16,32). Losses by name: dice_ce, dice, dice_focal, tversky, "
    "jaccard, focal.",
)
@click.option("--epochs", type=click.IntRange(1), help="Of each trial; default the recipe's.")
@click.option("--split", "split_file", type=EXISTING, help="Split file; without it a patient-level one is made.")
@set_option
@device_option
@json_option
@common_options
def tune(
    bundle: str,
    dataset_dir: Path,
    output: Path,
    trials: int,
    parameters: tuple[str, ...],
    epochs: int | None,
    split_file: Path | None,
    settings: tuple[str, ...],
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Search settings of BUNDLE with Optuna by its Dice on the validation part; the test part is never used.

    Several processes may run the same command at once: they share the study. Writes best.json, an overlay of the
    bundle's configuration, and plots of the study. Exit code 1 if no trial was finished.

    Needs the package optuna: pip install "monai-lgg[tune]".
    """
    from monai_lgg import bundle as bundles
    from monai_lgg import tune as tuning

    root = bundles.find_bundle(bundle)
    space = tuning.parse_parameters(parameters, root)
    task = tuning.Tuning(root, dataset_dir, output, space, settings, epochs, split_file, device, not quiet)
    outcome = tuning.tune(task, trials)
    if as_json:
        echo_json({**vars(outcome), "note": tuning.VALIDATION_ONLY})
    else:
        _echo_tuning(outcome, bundle, task)
    if outcome.number is None:
        raise click.exceptions.Exit(1)


def _echo_tuning(outcome: "Outcome", bundle: str, task: "Tuning") -> None:
    from monai_lgg.tune import VALIDATION_ONLY

    states = ", ".join(f"{count} {state}" for state, count in outcome.states.items())
    click.echo(f"trials: {states}; study: {task.output / 'study.db'}; plots: {task.output / 'plots'}")
    if outcome.number is not None:
        click.echo(f"best: trial {outcome.number}, validation Dice {outcome.value:.4f}")
        words = ["monai-lgg", "train", bundle, "--data", str(task.dataset_dir), "-o", "RUN"]
        words += ["--split", str(task.output / "split.json")]
        words += [word for text in (*task.settings, *outcome.settings()) for word in ("--set", text)]
        click.echo(f"  {shlex.join(words)}")
        files = [str(Path("RUN") / "configs" / "train.json"), str(task.output.resolve() / "best.json")]
        click.echo(f"  or by MONAI's own runner, where RUN is a copy of {task.bundle}:")
        words = ["--bundle_root", "RUN", "--dataset_dir", str(task.dataset_dir)]
        words += ["--split_file", str(task.output / "split.json")]
        click.echo(f'  python -m monai.bundle run training --config_file "{files}" {shlex.join(words)}')
        if task.epochs:
            click.echo(f"  both train for the bundle's own number of epochs; the trials had {task.epochs}")
    click.echo(VALIDATION_ONLY)
    if outcome.warning:
        click.echo(f"WARNING: {outcome.warning}")
