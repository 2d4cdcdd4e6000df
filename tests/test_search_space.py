from types import SimpleNamespace
from typing import Any

import pytest

from monai_lgg.losses import LOSSES
from monai_lgg.search_space import parse_parameter, setting_text, values_of


@pytest.mark.parametrize(
    ("text", "kind", "low", "high"),
    [("learning_rate=log:1e-5:1e-2", "log", 1e-5, 1e-2), ("overlap=float:0:0.75", "float", 0, 0.75),
     ("network_def#depth=int:2:5", "int", 2, 5), ("shift=float:-1:1", "float", -1, 1)],
)  # fmt: skip
def test_ranges(text: str, kind: str, low: float, high: float) -> None:
    parameter = parse_parameter(text)
    assert (parameter.key, parameter.kind) == (text.partition("=")[0], kind)
    assert (parameter.low, parameter.high) == (low, high)
    assert parse_parameter(str(parameter)) == parameter


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("batch_size=8,16,32", {8: 8, 16: 16, 32: 32}),
        ("amp=true,false", {True: True, False: False}),
        ("image_size=[64,64],[128,128]", {"[64, 64]": [64, 64], "[128, 128]": [128, 128]}),
        ("amp=True,False", {True: True, False: False}),
        ("overlap=.25, .5", {0.25: 0.25, 0.5: 0.5}),
        ("norm=batch, instance", {"batch": "batch", "instance": "instance"}),
        ("loss=dice,tversky", {"dice": LOSSES["dice"], "tversky": LOSSES["tversky"]}),
    ],
)
def test_choices(text: str, choices: dict[Any, Any]) -> None:
    assert parse_parameter(text).choices == choices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate", "parameter 'learning_rate': give KEY=SPACE"),
        ("learning_rate=", "give KEY=SPACE"),
        ("lr=lin:1:2", "parameter 'lr': range lin:1:2 is of no known kind"),
        ("lr=log:0:1", "a logarithmic range begins above 0"),
        ("lr=log:1e-2:1e-5", "is empty or endless; give the lower end first"),
        ("lr=float:1:inf", "is empty or endless"),
        ("lr=float:nan:1", "is empty or endless"),
        ("lr=float:a:1", "has an end that is no number"),
        ("n=int:1:2.5", "give whole numbers"),
        ("batch_size=8", "leaves no choice"),
        ("batch_size=8,8", "leaves no choice"),
        ("loss=dice,dice_c", r"no loss 'dice_c'; did you mean dice_ce\?"),
    ],
)
def test_bad_spaces(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_parameter(text)


def test_suggestions_and_values() -> None:
    asked = []
    trial = SimpleNamespace(
        suggest_categorical=lambda key, names: asked.append((key, names)) or names[-1],
        suggest_int=lambda key, low, high: asked.append((key, low, high)) or high,
        suggest_float=lambda key, low, high, log: asked.append((key, low, high, log)) or low,
    )
    texts = ("a=log:0.1:1", "b=float:0:2", "c=int:1:3", "loss=dice,jaccard", "size=[1,2],[3,4]")
    parameters = [parse_parameter(text) for text in texts]
    stored = {parameter.key: parameter.suggest(trial) for parameter in parameters}
    assert stored == {"a": 0.1, "b": 0, "c": 3, "loss": "jaccard", "size": "[3, 4]"}
    assert asked == [
        ("a", 0.1, 1, True), ("b", 0, 2, False), ("c", 1, 3), ("loss", ["dice", "jaccard"]),
        ("size", ["[1, 2]", "[3, 4]"]),
    ]  # fmt: skip
    values = values_of(parameters, stored)
    assert values == {"a": 0.1, "b": 0, "c": 3, "loss": LOSSES["jaccard"], "size": [3, 4]}
    assert setting_text("size", values["size"]) == "size=[3, 4]"
    assert setting_text("name", "8") == 'name="8"'
