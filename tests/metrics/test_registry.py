import pytest

from monai_lgg.metrics import ALIASES, METRICS, find_metric, unit_of


def test_names_and_aliases() -> None:
    assert find_metric("hd95").title == "HD95"
    assert find_metric("PR-AUC").name == "pr_auc"
    assert find_metric("f1") is METRICS["dice"]
    assert set(ALIASES.values()) <= METRICS.keys()
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("name", "hint"), [("dcie", "did you mean dice"), ("f_1", "did you mean f1"), ("beauty", "give one of: dice, iou")]
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"no metric '{name}'; {hint}"):
        find_metric(name)


def test_units() -> None:
    summary = {"distance_unit": "mm", "volume_unit": "ml"}
    assert [unit_of(METRICS[name], summary) for name in ("hd95", "volume_difference", "dice")] == ["mm", "ml", ""]
