"""The writer on a bare engine, and a bundle's evaluation against the files on disk."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_lgg import bundle
from monai_lgg.evaluation import EvaluationWriter, known_spacing, read_results, summary_text
from monai_lgg.metrics import METRICS
from monai_lgg.phantom import make_patient

SHAPE = (1, 12, 10, 3)


def item(seed: int, probabilities: bool = True) -> dict[str, torch.Tensor]:
    prob = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    output = {"pred": (prob >= 0.5).float(), "label": (prob + 0.2 * torch.rand(SHAPE) >= 0.6).float()}
    return output | ({"prob": prob} if probabilities else {})


def evaluate(writer: EvaluationWriter, cases: dict[str, dict[str, torch.Tensor]], **record: Any) -> None:
    engine = Engine(lambda _engine, batch: [cases[batch[0]["case"]]])
    writer.attach(engine)
    engine.run([[{"case": name, "slices": [torch.tensor(4), 5, 7], **record}] for name in cases])


def test_writes_tables_and_masks(tmp_path: Path) -> None:
    cases = {"TCGA_HT_1_1": item(1), "TCGA_DU_1_1": item(0)}
    evaluate(EvaluationWriter(str(tmp_path), {"part": "test"}), cases, missing_sequences="post")
    results = read_results(tmp_path)
    assert [row["patient"] for row in results.patients] == ["TCGA_DU_1_1", "TCGA_HT_1_1"]
    for row in results.patients:
        pred, label = (cases[row["patient"]][key][0].bool() for key in ("pred", "label"))
        assert row["dice"] == pytest.approx(2 * (pred & label).sum().item() / (pred.sum() + label.sum()).item())
        assert 0.5 < row["roc_auc"] <= 1
        assert row["missing_sequences"] == "post"
        for k, number in enumerate((4, 5, 7)):
            mask = tifffile.imread(tmp_path / "masks" / row["patient"] / f"{row['patient']}_{number}_mask.tif")
            np.testing.assert_array_equal(mask, pred[..., k].numpy() * np.uint8(255))
    assert results.summary["split_level"] == "none"
    assert "No split was used" in results.summary["warning"]
    assert set(METRICS) <= results.patients[0].keys()


def test_a_configuration_without_probabilities_works(tmp_path: Path) -> None:
    evaluate(EvaluationWriter(str(tmp_path), {}, masks=False), {"a": item(0, probabilities=False)})
    results = read_results(tmp_path)
    assert math.isnan(results.patients[0]["roc_auc"])
    assert results.summary["pooled"]["ece"] is None
    assert results.summary["undefined"]["pr_auc"] == 1
    assert results.patients[0]["missing_sequences"] == "unknown"
    assert not (tmp_path / "masks").exists()


def test_half_precision_probabilities(tmp_path: Path) -> None:
    output = item(0) | {"prob": item(0)["prob"].bfloat16()}
    evaluate(EvaluationWriter(str(tmp_path), {}), {"a": output})
    assert read_results(tmp_path).patients[0]["roc_auc"] > 0.5


def test_tolerance(tmp_path: Path) -> None:
    far = {"pred": torch.zeros(SHAPE), "label": torch.zeros(SHAPE)}
    far["pred"][0, 2, 2, 1] = far["label"][0, 2, 5, 1] = 1
    for tolerance, expected in ((2.9, 0), (3.0, 1)):
        evaluate(EvaluationWriter(str(tmp_path), {}, surface_tolerance=tolerance), {"a": far})
        results = read_results(tmp_path)
        assert results.patients[0]["surface_dice"] == expected
        assert results.patients[0]["hd95"] == 3
        assert results.summary["surface_tolerance"] == tolerance


def test_one_run_after_another_starts_afresh(tmp_path: Path) -> None:
    writer = EvaluationWriter(str(tmp_path), {})
    evaluate(writer, {"a": item(0)})
    evaluate(writer, {"b": item(1)})
    assert [row["patient"] for row in read_results(tmp_path).patients] == ["b"]


def volume(spacing_known: bool, units: int = 2) -> MetaTensor:
    meta = {"spacing_known": torch.tensor(spacing_known), "xyzt_units": units}
    return MetaTensor(torch.zeros(SHAPE), affine=torch.diag(torch.tensor([0.5, 0.8, 4.0, 1])), meta=meta)


def test_spacing_is_taken_only_where_it_is_known(tmp_path: Path) -> None:
    assert known_spacing({"label": volume(True), "image": volume(False)}) == pytest.approx([0.5, 0.8, 4])
    assert known_spacing({"label": torch.zeros(1), "image": volume(True)}) == pytest.approx([0.5, 0.8, 4])
    assert known_spacing({"label": volume(True, units=3)}) == pytest.approx([0.0005, 0.0008, 0.004])
    assert known_spacing({"label": volume(False), "image": torch.zeros(1)}) is None
    evaluate(EvaluationWriter(str(tmp_path), {}), {"a": item(0)}, label=volume(True))
    results = read_results(tmp_path)
    assert (results.summary["distance_unit"], results.summary["volume_unit"]) == ("mm", "ml")
    assert results.patients[0]["volume_truth"] == pytest.approx(item(0)["label"].sum().item() * 1.6 / 1000, rel=0.2)


def test_known_and_unknown_spacing_do_not_mix(tmp_path: Path) -> None:
    engine = Engine(lambda _engine, batch: [item(0)])
    EvaluationWriter(str(tmp_path), {}).attach(engine)
    records = [[{"case": name, "slices": [1, 2, 3], "label": volume(name == "b")}] for name in "ab"]
    with pytest.raises(ValueError, match="b: distances in mm, but a in px"):
        engine.run(records)
    assert not (tmp_path / "summary.json").exists()


def test_a_network_that_gives_no_probabilities_names_the_case(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="P_7: probabilities from nan to nan"):
        evaluate(EvaluationWriter(str(tmp_path), {}), {"P_7": item(0) | {"prob": torch.full(SHAPE, math.nan)}})


def test_summary_text(tmp_path: Path) -> None:
    evaluate(EvaluationWriter(str(tmp_path), {"part": "test"}), {"a": item(0), "b": item(1)})
    summary = json.loads((tmp_path / "summary.json").read_text())
    text = summary_text(summary)
    patient = summary["per_patient"]
    assert f"HD95              median {patient['hd95']['median']:.3f} px" in text
    assert f"surface Dice      mean {patient['surface_dice']['mean']:.3f}" in text
    assert "at a tolerance of 2 px" in text
    assert f"ROC-AUC {summary['pooled']['roc_auc']:.3f}" in text
    assert f"Brier {summary['pooled']['brier']:.5f}" in text
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines()[:-1])) <= 120
    old = {key: value for key, value in summary.items() if key not in ("per_patient", "pooled")}
    assert "HD95" not in summary_text(old)


@pytest.fixture(scope="module")
def evaluated(run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated")
    bundle.evaluate(run, phantoms, output, part="all", progress=False)
    return output


def test_a_bundle_gives_every_figure(evaluated: Path, phantoms: Path) -> None:
    results = read_results(evaluated)
    assert len(results.patients) == 10
    for row in results.patients:
        for name in ("roc_auc", "pr_auc", "brier", "ece", "dice", "accuracy"):
            assert 0 <= row[name] <= 1, name
    pooled = results.summary["pooled"]
    assert 0 <= pooled["roc_auc"] <= 1
    assert sum(results.summary["reliability"]["count"]) == 10 * 6 * 64 * 64
    assert 0 <= results.summary["roc_auc_error"] <= 0.5
    assert results.summary["distance_unit"] == "px"


def test_a_bundle_notes_the_missing_sequences(evaluated: Path) -> None:
    missing = {
        patient.name: "+".join(patient.missing)
        for patient in (make_patient(k, seed=3, size=(64, 64), slices=6) for k in range(10))
    }
    assert {row["patient"]: row["missing_sequences"] for row in read_results(evaluated).patients} == missing
    assert set(missing.values()) == {"", "pre", "post", "pre+post"}


def test_the_table_agrees_with_the_masks_on_disk(evaluated: Path, phantoms: Path) -> None:
    for row in read_results(evaluated).patients:
        name = row["patient"]
        masks = sorted((evaluated / "masks" / name).glob("*_mask.tif"))
        assert [path.name for path in masks] == sorted(path.name for path in (phantoms / name).glob("*_mask.tif"))
        pairs = [(tifffile.imread(path) > 0, tifffile.imread(phantoms / name / path.name) > 0) for path in masks]
        assert row["tp"] == sum(np.count_nonzero(p & t) for p, t in pairs)
        assert row["fp"] == sum(np.count_nonzero(p & ~t) for p, t in pairs)
        assert row["fn"] == sum(np.count_nonzero(t & ~p) for p, t in pairs)


def test_masks_can_be_left_out(run: Path, phantoms: Path, tmp_path: Path) -> None:
    bundle.evaluate(run, phantoms, tmp_path, settings=("save_masks=false",), progress=False)
    assert not (tmp_path / "masks").exists()
    assert (tmp_path / "summary.json").is_file()
