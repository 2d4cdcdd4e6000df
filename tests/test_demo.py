from pathlib import Path

import pytest

from monai_lgg import demo
from tests.conftest import TINY


def test_demo_from_nothing_to_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own code on a few tiny phantoms; `make demo` is the same with more of them."""
    monkeypatch.setattr(demo, "PHANTOMS", 8)
    monkeypatch.setattr(demo, "PHANTOM_SIZE", (64, 64))
    monkeypatch.setattr(demo, "PHANTOM_SETTINGS", TINY)
    said: list[str] = []
    demo.run_demo(tmp_path, None, "unet_cosine", 1, "cpu", False, said.append)
    assert any("per-patient Dice" in line for line in said)
    picture = Path(said[-1].removeprefix("look at ").split(": orange")[0])
    assert picture.is_file()
    assert len(list((tmp_path / "predictions").glob("*/result.json"))) == 2
