import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from monai_lgg.label_app.studies import LABELS, Pair, prepare_studies
from monai_lgg.label_app.training import Plan, check_labels, train_version
from monai_lgg.label_app.versions import Versions


@pytest.fixture
def pairs(phantoms: Path, tmp_path: Path) -> list[Pair]:
    prepare_studies(phantoms, tmp_path / "studies", labelled=4)
    labels = sorted((tmp_path / "studies" / LABELS).iterdir())
    return [Pair(tmp_path / "studies" / label.name, label) for label in labels]


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "models" / "model.pt", weights_only=True))


def test_training_adds_a_version_and_leaves_the_one_it_began_from(run: Path, pairs: list[Pair], tmp_path: Path) -> None:
    run = shutil.copytree(run, tmp_path / "run")
    (run / "models" / "reference.json").write_text("what the first scans looked like")
    versions = Versions(run, tmp_path / "models" / run.name)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    pairs[3].label.write_bytes(b"\x1f\x8b cut")
    facts = train_version(versions, pairs, Plan(epochs=1, learning_rate=1e-6, validation=0.3))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    assert facts["version"] == versions.latest() == 1
    assert facts["patients"] == {"train": 2, "validation": 1}
    assert list(facts["left_out"]) == [pairs[3].image.name]
    before, after = state(run), state(versions.folder(1))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    weight = "conv_0.conv_0.conv.weight"  # so small a step from the version in use, and not from random weights
    torch.testing.assert_close(before[weight], after[weight], rtol=0, atol=1e-3)
    assert json.loads((versions.folder(1) / "version.json").read_text()) == facts
    reference = "models/reference.json"
    assert (versions.folder(1) / reference).read_bytes() == (run / reference).read_bytes()

    facts = train_version(versions, pairs[:3], Plan(epochs=1))
    assert (facts["version"], facts["started_from"]) == (2, 1)
    digest = hashlib.sha256((versions.folder(1) / "models" / "model.pt").read_bytes())
    assert versions.numbers() == [0, 1, 2]
    assert digest.digest() != hashlib.sha256((versions.folder(2) / "models" / "model.pt").read_bytes()).digest()


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_labels(run: Path, pairs: list[Pair], tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=rf"{count} patient\(s\) with a final label; training needs at least 3"):
        check_labels(pairs[:count])


def test_too_few_labels_that_can_be_used(run: Path, pairs: list[Pair], tmp_path: Path) -> None:
    for pair in pairs[:2]:
        pair.label.write_bytes(b"")
    versions = Versions(run, tmp_path / "models")
    with pytest.raises(ValueError, match=r"2 patient\(s\) with a usable label; training needs 3\. .*not a readable"):
        train_version(versions, pairs, Plan(epochs=1))
    assert versions.numbers() == [0]


def test_bad_plans() -> None:
    with pytest.raises(ValueError, match="max_epochs 0 is not 1 or more"):
        Plan(epochs=0)
    with pytest.raises(ValueError, match=r"val_split 1.0 is not above 0 and below 1"):
        Plan(validation=1.0)
