"""Stand-ins for training and evaluation: the files of the real ones at once, to test the logic around them."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_lgg import bundle as bundles
from monai_lgg.evaluation import split_facts
from monai_lgg.metrics.case import measure_case
from monai_lgg.results import start_masks, write_results
from monai_lgg.splits import read_split, save_split
from tests.conftest import TINY


class Fakes:
    """Replaces ``bundle.train`` and ``bundle.evaluate``; remembers the calls.

    Args:
        wrong: name of a run's folder -> tumour pixels (of 8) that its prediction misses in each patient, plus 0, 1, 2
            in the first, second, third patient.
    """

    def __init__(self, wrong: dict[str, int]) -> None:
        self.wrong = wrong
        self.calls: list[str] = []
        self.fail: dict[str, BaseException] = {}

    def train(self, bundle: Path, dataset_dir: Path, run: Path, **options: Any) -> Path:
        self._called("train", run)
        train = [bundle / "configs" / "train.json"]
        overrides = {**bundles.stored_settings(bundle), "dataset_dir": str(dataset_dir.resolve())}
        overrides |= bundles.parse_settings(options["settings"], train)
        bundles.prepare_run(bundle, run, overrides)
        save_split(read_split(options["split_file"]), run / "eval" / "split.json")
        (run / "models").mkdir(exist_ok=True)
        torch.manual_seed(len(self.calls))
        network = bundles.read_config([*train, run / "configs" / "overrides.json"]).get_parsed_content("network_def")
        torch.save(network.state_dict(), run / "models" / "model.pt")
        write_checkpoint(run, epochs=overrides.get("max_epochs", 130))
        return run / "models" / "model.pt"

    def evaluate(self, bundle: Path, dataset_dir: Path, output: Path, **options: Any) -> dict[str, Any]:
        self._called("evaluate", bundle)
        split_file = options.get("split_file") or bundle / "eval" / "split.json"
        patients = sorted(read_split(split_file).part("test", bundles.stored_settings(bundle).get("fold", 0)))
        truth = np.zeros((8, 8, 2), dtype=bool)
        truth[2:4, 2:4] = True  # 8 pixels
        cases = []
        for k, name in enumerate(patients):
            prediction = truth.copy()
            prediction.reshape(-1)[np.flatnonzero(truth)[: self.wrong.get(bundle.name, 0) + k % 3]] = False
            cases.append(measure_case(name, prediction, truth))
        return write_results(output, cases, {"part": "test", **split_facts(str(split_file))}, start_masks(output))

    def _called(self, what: str, run: Path) -> None:
        self.calls.append(f"{what} {run.name}")
        if self.calls[-1] in self.fail:
            raise self.fail[self.calls[-1]]

    def since(self) -> list[str]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls


def write_checkpoint(run: Path, epochs: int, max_epochs: int | None = None, best: float = 0.5, **more: object) -> None:
    """The part of a checkpoint that says how far a training came."""
    progress = {"epoch": epochs, "iteration": 3, "max_epochs": max_epochs or epochs, "stopped_early": False, **more}
    (run / "models").mkdir(parents=True, exist_ok=True)
    torch.save({"progress": progress, "best_model": {"best": best, "best_epoch": 1}}, run / "models" / "checkpoint.pt")


def install(monkeypatch: pytest.MonkeyPatch, **wrong: int) -> Fakes:
    fakes = Fakes(wrong)
    monkeypatch.setattr(bundles, "train", fakes.train)
    monkeypatch.setattr(bundles, "evaluate", fakes.evaluate)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # slow, and nothing large is made here
    return fakes


def copies(folder: Path, *names: str) -> list[str]:
    """Bundles of these names with the tiny network, as paths."""
    bundle = bundles.find_bundle("unet_cosine")
    settings = bundles.parse_settings(TINY, [bundle / "configs" / "train.json"])
    for name in names:
        bundles.prepare_run(bundle, folder / name, settings)
    return [str(folder / name) for name in names]


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))
