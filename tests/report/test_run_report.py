import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from monai.networks.nets import BasicUNet
from torch.utils.tensorboard import SummaryWriter

from monai_lgg import splits
from monai_lgg.leakage import leakage_in_words
from monai_lgg.report.run_report import write_report
from tests.fake_runs import write_checkpoint

Parse = Callable[[Path], Any]
SECTIONS = {
    "protocol", "baselines", "metrics", "groups", "cases", "patients", "curves", "probabilities", "network",
    "environment",
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(cohort: Path, tmp_path_factory: pytest.TempPathFactory, make_results: Callable[..., Any]) -> Path:
    """A run with a split, two epochs of events, a tiny network, an evaluation and its page."""
    folder = tmp_path_factory.mktemp("reported") / "a run"
    (folder / "configs").mkdir(parents=True)
    sizes = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "features": [4] * 6}
    network = {"_target_": "BasicUNet", **sizes, "norm": "batch"}
    train = {
        "image_size": [32, 32],
        "max_epochs": 9,
        "network_def": network,
        "settings": {"max_epochs": "@max_epochs"},
    }
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    (folder / "configs" / "overrides.json").write_text('{"max_epochs": 2}')
    (folder / "configs" / "metadata.json").write_text('{"name": "Tiny <net> & co"}')
    members = [path.name for path in sorted(cohort.iterdir()) if path.is_dir()]
    parts = {"train": {"X": [1, 2]}, "validation": {"Y": [1]}, "test": {name: [1, 2, 3, 4, 5] for name in members}}
    split = splits.Split("patient", 7, [0.7, 0.1, 0.2], "f", [parts])
    splits.save_split(split, folder / "eval" / "split.json")
    with SummaryWriter(str(folder / "eval")) as writer:
        for epoch in (1, 2):
            writer.add_scalar("train_loss_epoch", 1 / epoch, epoch)
            writer.add_scalar("val_mean_dice", 0.4 * epoch, epoch)
    make_results(folder / "eval" / "test", cohort)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(reported: Path, parse: Parse) -> Any:
    return parse(reported / "eval" / "test" / "report.html")


@pytest.fixture
def run(reported: Path, tmp_path: Path, undrawn: None) -> Path:
    """A copy to change."""
    return shutil.copytree(reported, tmp_path / "a run", ignore=shutil.ignore_patterns("report.html"))


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "eval" / "test" / "summary.json").read_text())


def change_summary(folder: Path, **changes: Any) -> None:
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in summary.items() if value != "drop"}))


def test_the_whole_page(reported: Path, page: Any) -> None:
    summary = summary_of(reported)

    assert page.ids() >= SECTIONS
    assert "Tiny <net> & co: results on test patients" in page.text
    assert "Tiny &lt;net&gt; &amp; co" in page.raw
    dice = summary["per_patient_dice"]
    low, high = dice["mean_ci95"]
    assert f"{dice['mean']:.3f} mean Dice per patient, 6 patients; 95 % interval {low:.3f} to {high:.3f}" in page.text
    assert f"{dice['median']:.3f} median" in page.text
    assert "divided by patient (seed 7)" in page.text
    assert "Leaks: none known." in page.text
    assert "no test patient has slices in training" in page.text
    assert page.tables["Parts of the split"][1:] == [
        ["train", "1", "2"],
        ["validation", "1", "1"],
        ["test (shown here)", "6", "30"],
    ]
    parameters = sum(weights.numel() for weights in BasicUNet(2, 3, 1, [4] * 6, norm="batch").parameters())
    assert f"BasicUNet : {parameters:,} parameters" in page.text
    assert "for an image of 3 x 32 x 32" in page.text
    assert ["conv_0", "TwoConv", "4 x 32 x 32"] in [row[:3] for row in page.tables["Stages of the network"]]
    assert len(page.all("rect")) == len(page.tables["Stages of the network"]) - 1
    assert "best" in page.text
    assert len(page.all("svg")) == 1
    assert page.text.count("max_epochs") == 2


def test_numbers_are_those_of_the_summary(reported: Path, page: Any) -> None:
    summary = summary_of(reported)

    def f(value: float | None, digits: int = 3) -> str:
        return "undef." if value is None else f"{value:,.{digits}f}"

    rows = {row[0]: row for row in page.tables["Metrics per patient"][1:]}
    assert len(rows) == len(summary["per_patient"])
    for title, name, digits in (
        ("Dice", "dice", 3),
        ("HD95 (px)", "hd95", 1),
        ("Volume difference (voxels)", "volume_difference", 0),
    ):
        of = summary["per_patient"][name]
        assert rows[title][2] == f(of["mean"], digits)
        assert rows[title][3] == " to ".join(f(end, digits) for end in of["mean_ci95"])
        assert rows[title][4] == f(of["median"], digits)
        assert rows[title][7:] == [str(of[key]) for key in ("defined", "infinite", "undefined")]
    assert [rows[title][1] for title in ("Dice", "HD95 (px)", "Volume difference (voxels)")] == [
        "higher",
        "lower",
        "nearer 0",
    ]
    assert rows["HD95 (px)"][7:] == ["4", "1", "1"]
    assert rows["Brier score"][2] == f(summary["per_patient"]["brier"]["mean"], 5)
    assert page.tables["Metrics per slice"][1][2] == f(summary["per_slice"]["dice"]["mean"])
    assert not any("interval" in head for head in page.tables["Metrics per slice"][0])
    pooled = {row[0]: row[1] for row in page.tables["Pooled metrics"][1:]}
    assert pooled.keys() >= {"Dice", "F1", "Lesions", "Predicted volume (voxels)"}
    for title, name, digits in (("Dice", "dice", 3), ("ROC-AUC", "roc_auc", 3), ("Brier score", "brier", 5),
                                ("Lesions", "lesions", 0), ("True volume (voxels)", "volume_truth", 0)):  # fmt: skip
        assert pooled[title] == f(summary["pooled"][name], digits)
    empty = summary["always_empty"]["slice_dice"]
    for row, (key, value) in zip(
        page.tables["Dice by convention, with baselines"][2:], summary["slice_dice"].items(), strict=True
    ):
        assert row[1:] == [f(value), f(empty[key]), "-"]
    for label, key, count in (
        ("Institution", "by_institution", summary["patients"]),
        ("Missing sequences", "by_missing_sequences", summary["patients"]),
        ("Tumour volume", "by_tumour_volume", summary["detection"]["patients"]["positives"]),
    ):
        table = page.tables[f"Dice per patient by {label}"][1:]
        assert [row[2] for row in table] == [f(of["mean"]) for of in summary[key].values()]
        assert sum(int(row[1]) for row in table) == count
    found = {row[0]: row[1:] for row in page.tables["Detection"][1:]}
    assert found["slices"][2] == f(summary["detection"]["slices"]["sensitivity"])
    assert found["patients"] == ["5", "1", f(summary["detection"]["patients"]["sensitivity"]), "0.000"]


def test_every_patient_is_there_and_sortable(reported: Path, page: Any) -> None:
    with (reported / "eval" / "test" / "patients.csv").open() as file:
        patients = list(csv.DictReader(file))
    heads, *rows = page.tables["Every patient"]
    assert [row[0] for row in rows] == [row["patient"] for row in patients]
    for row, wanted in zip(rows, patients, strict=True):
        assert row[heads.index("Dice")] == (f"{float(wanted['dice']):.3f}" if wanted["dice"] else "undef.")
        assert row[heads.index("True volume (voxels)")] == f"{float(wanted['volume_truth']):,.0f}"
    distances = [row[heads.index("HD95 (px)")] for row in rows]
    assert distances[1] == "undef."  # no tumour, none predicted
    assert distances[-1] == "∞"  # a tumour, none predicted
    assert distances[2] == f"{float(patients[2]['hd95']):.1f}"
    cells = [cell for cell in page.all("td") if "data-key" in cell or cell.get("class") == "undefined"]
    assert len(cells) == sum(len(row) - 1 for row in rows) + len(page.tables["Pooled metrics"]) - 1
    keys = {cell.get("data-key") for cell in cells}
    assert {patients[2]["dice"], "Infinity", "P1"} <= keys  # all digits, as a script reads them
    assert 'class="sortable' in page.raw
    assert 'querySelectorAll("table.sortable")' in page.raw
    assert len(page.all("script")) == 1


def test_cases_and_charts(reported: Path, page: Any) -> None:
    pooled = summary_of(reported)["pooled"]
    alts = [image["alt"] for image in page.all("img")]
    starts = ("Dice of each patient", "Loss by epoch", "Validation by epoch", "Reliability diagram",
              f"ROC curve of all pixels, area {pooled['roc_auc']:.3f}",
              f"Precision-recall curve of all pixels, area {pooled['pr_auc']:.3f}")  # fmt: skip
    for start in starts:
        assert any(alt.startswith(start) for alt in alts), start
    assert "last: mean Dice 0.8 in epoch 2" in " ".join(alts)
    roles = re.findall(r'<span class="tag">(\w+)</span>', page.raw)
    assert {"best", "median", "worst", "missed", "faint"} == set(roles)
    assert sum(image["src"].startswith("data:image/png") for image in page.all("img")) >= 6


def leaking(**facts: float) -> dict[str, float]:
    shares = {"patient_in_training": 1.0, "neighbour_in_training": 0.947}
    scores = {"slice_dice": 0.872, "tumour_slice_dice": 0.75, "pooled_dice": 0.829}
    return shares | {f"copy_nearest_{name}": value for name, value in scores.items()} | facts


def test_slice_level_split_says_that_it_leaks(run: Path, parse: Parse) -> None:
    split = splits.Split("slice", 3, [0.8, 0.1, 0.1], "f", [], leaking())
    change_summary(
        run / "eval" / "test",
        split_level="slice",
        split_seed=3,
        leakage=leaking(),
        warning=leakage_in_words(split.leakage),
    )
    page = parse(write_report(run))

    assert "divided by slice (seed 3)" in page.text
    assert leakage_in_words(split.leakage) in page.text
    assert "94.7% have an adjacent slice there" in page.text
    assert "Leaks: none known" not in page.text
    copies = [row[3] for row in page.tables["Dice by convention, with baselines"][1:]]
    assert copies == ["-", "0.872", "-", "0.750", "0.829", "-", "-"]
    assert "scores 0.872: what the model adds" in page.text
    assert "Parts of the split" not in page.tables  # the run's own split is another


def test_undefined_copy_score(run: Path, parse: Parse) -> None:
    facts = leaking(copy_nearest_tumour_slice_dice=math.nan)
    change_summary(run / "eval" / "test", split_level="slice", leakage=facts | {"copy_nearest_tumour_slice_dice": None})
    assert parse(write_report(run)).tables["Dice by convention, with baselines"][4][3] == "-"


@pytest.mark.parametrize(
    ("part", "words"),
    [("validation", "may choose its model by: expect less"), ("train", "say nothing about new patients")],
)
def test_other_parts_are_not_sold_as_a_test(run: Path, parse: Parse, part: str, words: str) -> None:
    (run / "eval" / "test").rename(run / "eval" / part)
    change_summary(run / "eval" / part, part=part)
    page = parse(write_report(run, part=part))
    assert words in page.text
    assert "what to expect of new patients" not in page.text
    assert "Leaks: none known" not in page.text


def test_warning_comes_first_and_takes_back_the_promise(run: Path, parse: Parse) -> None:
    change_summary(run / "eval" / "test", warning="3 of the 6 patients were used in this run's training.")
    page = parse(write_report(run))
    assert "Read this first. 3 of the 6 patients were used" in page.text
    assert "none was used in training" not in page.text


def test_no_split(run: Path, parse: Parse) -> None:
    change_summary(run / "eval" / "test", split_level="none", split_seed=None, fingerprint=None)
    page = parse(write_report(run))
    assert "No split was used." in page.text
    assert "no split says what was in training" in page.text


def test_pooled_from_different_splits(run: Path, parse: Parse) -> None:
    change_summary(run / "eval" / "test", split_level="mixed", part="drop", fold="drop")
    page = parse(write_report(run))
    assert "pooled from several evaluations whose splits are of different kinds" in page.text
    assert "No split was used" not in page.text


def test_without_probabilities(run: Path, parse: Parse) -> None:
    none = dict.fromkeys(("roc_auc", "pr_auc", "brier", "ece"))
    summary = summary_of(run)
    empty = {"edges": [0, 1], "count": [0], "mean_probability": [None], "observed": [None]}
    change_summary(run / "eval" / "test", pooled=summary["pooled"] | none, reliability=empty)
    page = parse(write_report(run))
    assert "These results hold no probabilities" in page.text
    assert ["ROC-AUC", "undef."] in page.tables["Pooled metrics"]


def test_names_are_escaped(run: Path, parse: Parse) -> None:
    table = run / "eval" / "test" / "patients.csv"
    table.write_text(table.read_text().replace(",P1,", ",<i>&P1,"))
    change_summary(run / "eval" / "test", by_institution={"<script>": summary_of(run)["by_institution"]["P1"]})
    page = parse(write_report(run))
    assert len(page.all("script")) == 1
    assert not page.all("i")
    assert "&lt;i&gt;&amp;P1" in page.raw
    assert page.tables["Dice per patient by Institution"][1][0] == "<script>"


def test_data_that_is_gone(run: Path, parse: Parse, tmp_path: Path) -> None:
    change_summary(run / "eval" / "test", dataset_dir=str(tmp_path / "gone"))
    page = parse(write_report(run))
    assert "No pictures. The images are not at hand" in page.text
    assert "give it with --data" in page.text


def test_data_given(run: Path, cohort: Path, parse: Parse, tmp_path: Path) -> None:
    change_summary(run / "eval" / "test", dataset_dir=str(tmp_path / "gone"))
    page = parse(write_report(run, data=cohort.parent))  # the folder that holds kaggle_3m
    assert "No pictures" not in page.text


def test_data_without_the_patients(run: Path, cohort: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    name = sorted(path.name for path in cohort.iterdir() if path.is_dir())[0]
    shutil.copytree(cohort / name, other / name)
    with pytest.raises(ValueError, match=r"no folder for 5 patient\(s\), first TCGA_P1_0003_20000104"):
        write_report(run, data=other)
    with pytest.raises(FileNotFoundError, match=r"data folder .*absent does not exist"):
        write_report(run, data=tmp_path / "absent")


def test_results_without_masks(run: Path, parse: Parse) -> None:
    shutil.rmtree(run / "eval" / "test" / "masks")
    assert "hold no predicted masks; run monai-lgg evaluate again" in parse(write_report(run)).text


def test_slices_without_a_patient(run: Path) -> None:
    table = run / "eval" / "test" / "slices.csv"
    table.write_text(table.read_text().replace("TCGA_P1_0000", "TCGA_P1_9999"))
    with pytest.raises(ValueError, match=r"slices.csv has no slices of TCGA_P1_0000_\d+; run 'monai-lgg evaluate'"):
        write_report(run)


def test_results_of_an_earlier_version(run: Path, parse: Parse) -> None:
    new = ("per_patient", "per_slice", "pooled", "by_institution", "by_missing_sequences",
           "by_tumour_volume", "reliability", "roc", "pr",
           "distance_unit", "volume_unit", "surface_tolerance", "undefined")  # fmt: skip
    change_summary(run / "eval" / "test", **dict.fromkeys(new, "drop"))
    page = parse(write_report(run))
    assert page.ids() >= SECTIONS
    assert [row[0] for row in page.tables["Dice and IoU per patient"][1:]] == ["Dice", "IoU"]
    assert "run monai-lgg evaluate again for the rest" in page.text


def test_results_folder_itself(run: Path, parse: Parse, tmp_path: Path) -> None:
    page = parse(write_report(run / "eval" / "test", tmp_path / "pooled.html"))
    assert page.ids() >= SECTIONS
    assert "No training events were found" in page.text
    assert "this page was made from a results folder, not from a run" in page.text


@pytest.mark.parametrize(
    ("pretrained", "said"),
    [(True, ["pretrained weights of the encoder"]), (False, ["random weights, not from the pretrained"]), (None, [])],
)
def test_what_the_training_began_from(run: Path, parse: Parse, pretrained: bool | None, said: list[str]) -> None:
    write_checkpoint(run, epochs=2, pretrained=pretrained)
    text = " ".join(parse(write_report(run)).text.split())
    assert re.findall(f"Its training began from ({'|'.join(said or ['.'])})", text) == said


def test_where_the_training_ran(run: Path, parse: Parse) -> None:
    assert "Environment of the training" not in parse(write_report(run)).text
    write_checkpoint(run, epochs=2, environments=[{"torch": "9.8.7"}])
    assert re.search(r"Environment of the training\s+torch\s*9\.8\.7", parse(write_report(run)).text)
    write_checkpoint(run, epochs=2, environments=[{"torch": "9.8.7"}, {"torch": "9.9.9"}])
    said = re.findall(r"Environment of the training, ([\w ]+)\s+torch\s*([\d.]+)", parse(write_report(run)).text)
    assert [(when.strip(), version) for when, version in said] == [
        ("at its start", "9.8.7"),
        ("as it went on after an interruption", "9.9.9"),
    ]


def test_network_that_cannot_be_built(run: Path, parse: Parse) -> None:
    train = json.loads((run / "configs" / "train.json").read_text())
    train["network_def"]["features"] = "wide"
    (run / "configs" / "train.json").write_text(json.dumps(train))
    assert "No description of the network: " in parse(write_report(run)).text


def test_run_without_evaluation(run: Path) -> None:
    shutil.rmtree(run / "eval" / "test")
    with pytest.raises(FileNotFoundError, match="monai-lgg evaluate"):
        write_report(run)
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; give a run"):
        write_report(run / "absent")


def test_output_is_checked_before_the_work(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the page is HTML"):
        write_report(run, tmp_path / "page.pdf", data=tmp_path / "absent")


def test_folds_are_named(run: Path, parse: Parse) -> None:
    path = run / "eval" / "split.json"
    split = splits.read_split(path)
    split.folds = [split.folds[0], split.folds[0]]
    path.write_text(json.dumps(asdict(split)))
    change_summary(run / "eval" / "test", fold=1)
    assert "Fold 1 of 2 (numbered from 0)." in parse(write_report(run)).text
