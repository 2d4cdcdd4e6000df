"""Writes the configuration of each bundle: what all share (``bundles/common``) and its own recipe (``recipe.json``).

    python scripts/build_bundles.py

A recipe has the sections ``both`` (training and inference), ``decision`` (evaluation and inference: how probabilities
become a mask), ``train``, ``evaluate``, ``inference``, ``multi_gpu_train`` and ``metadata``.
They are merged into the shared files as by RFC 7396 (JSON merge patch: null removes a key), but a component (a
dictionary with ``_target_``) replaces the shared one as a whole.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUNDLES = ROOT / "bundles"
COMMON = BUNDLES / "common"
CONFIGS = ("train", "evaluate", "inference", "multi_gpu_train", "metadata")


def merge(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``shared`` with the values of ``own``, without changing either."""
    result = {key: value for key, value in shared.items() if key not in own or own[key] is not None}
    for key, value in own.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "_target_" not in value:
            result[key] = merge(old, value)
        elif value is not None:
            result[key] = value
    return result


def bundle_files(folder: Path) -> dict[str, str]:
    """Relative path -> text of every generated file of the bundle in ``folder``."""
    recipe = json.loads((folder / "recipe.json").read_text())
    files = {}
    for name in CONFIGS:
        config = json.loads((COMMON / f"{name}.json").read_text())
        if name in ("train", "inference"):
            config = merge(config, recipe.get("both", {}))
        if name in ("evaluate", "inference"):
            config = merge(config, recipe.get("decision", {}))
        config = merge(config, recipe.get(name, {}))
        files[f"configs/{name}.json"] = json.dumps(config, indent=4, ensure_ascii=False) + "\n"
    files["configs/logging.conf"] = (COMMON / "logging.conf").read_text()
    files["LICENSE"] = (ROOT / "LICENSE").read_text()
    return files


def main() -> None:
    for recipe in sorted(BUNDLES.glob("*/recipe.json")):
        for name, text in bundle_files(recipe.parent).items():
            path = recipe.parent / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        print(f"wrote {recipe.parent.name}")


if __name__ == "__main__":
    main()
