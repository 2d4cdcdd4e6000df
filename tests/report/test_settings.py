import json
from pathlib import Path

from monai_lgg.report.settings import overrides_of, settings_of


def test_settings_are_those_in_force_and_no_code_is_run(tmp_path: Path) -> None:
    train = {
        "max_epochs": 130,
        "rate": "@base",
        "base": 0.5,
        "loop": "@loop",
        "boom": "$1/0",
        "settings": {"max_epochs": "@max_epochs", "rate": "@rate", "device": "$1/0", "b": "@boom", "plain": "x"},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps(train))
    (tmp_path / "configs" / "overrides.json").write_text(json.dumps({"max_epochs": 5}))
    assert settings_of(tmp_path) == {"max_epochs": "5", "rate": "0.5", "plain": "x"}
    assert overrides_of(tmp_path) == {"max_epochs": "5"}


def test_reference_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps({"loop": "@loop", "settings": {"loop": "@loop"}}))
    assert settings_of(tmp_path) == {"loop": "@loop"}
