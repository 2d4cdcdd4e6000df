"""The whole journey in one call: data, check, split, training, evaluation, masks and pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_lgg import bundle as bundles
from monai_lgg.evaluation import summary_text
from monai_lgg.inference import predict
from monai_lgg.phantom import write_patients
from monai_lgg.splits import part_volumes

#: Small enough for a few minutes on two cores, large enough that the network beats the always-empty baseline.
PHANTOMS = 20
PHANTOM_SIZE = (128, 128)
PHANTOM_SEED = 0
PHANTOM_EPOCHS = 10
#: What a run on phantoms changes in the recipe: the images' size and, for more steps in few epochs, the batch.
PHANTOM_SETTINGS = ("image_size=[128,128]", "batch_size=8")


def run_demo(
    output: Path,
    dataset_dir: Path | None,
    bundle: str,
    epochs: int | None,
    device: str,
    progress: bool,
    say: Callable[[str], Any],
) -> None:
    """Train and evaluate ``bundle`` on ``dataset_dir``, or on phantoms, and write masks of the test patients.

    Args:
        output: gets ``data`` (phantoms only), ``run`` and ``predictions``. A second call goes on, or only reports.
        epochs: None takes the demo's number for phantoms and the recipe's for real data.
    """
    settings: tuple[str, ...] = ()
    if dataset_dir is None:
        dataset_dir = output / "data"
        say(f"1/4 phantoms: {PHANTOMS} synthetic patients in {dataset_dir}")
        write_patients(dataset_dir, PHANTOMS, seed=PHANTOM_SEED, size=PHANTOM_SIZE)
        settings, epochs = PHANTOM_SETTINGS, epochs or PHANTOM_EPOCHS
    else:
        say(f"1/4 data: {dataset_dir}")
    settings += (f"max_epochs={epochs}",) if epochs else ()
    run = output / "run"
    say(f"2/4 training {bundle} in {run} (TensorBoard: monai-lgg board {run})")
    bundles.train(bundles.find_bundle(bundle), dataset_dir, run, settings=settings, device=device, progress=progress)
    say("3/4 evaluation on the test patients, who were in no part of the training")
    summary = bundles.evaluate(run.resolve(), dataset_dir, run / "eval" / "test", device=device, progress=progress)
    say(summary_text(summary))
    say("4/4 masks of the test patients")
    _predict_test(run, dataset_dir, output / "predictions", device, say)


def _predict_test(run: Path, dataset_dir: Path, output: Path, device: str, say: Callable[[str], Any]) -> None:
    records = part_volumes(dataset_dir, run / "eval" / "split.json", "test")
    for record in records:
        record["truth"] = record.pop("label")
    results = predict(records, run.resolve(), output, device=device, overwrite=True)
    failed = [result for result in results if result.status == "failed"]
    if failed:
        raise RuntimeError(f"{len(failed)} case(s) failed, first {failed[0].case}: {failed[0].error}")
    say(f"look at {output / records[0]['case'] / 'overlay.png'}: orange is the prediction, cyan the truth")
