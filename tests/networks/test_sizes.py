import pytest
import torch
from torch import nn

from monai_lgg.networks.sizes import check_size


class Checked(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        check_size(image, 16, "Checked")
        return image * 2


MESSAGE = "Checked got 100 x 130; rows and columns must be multiples of 16; pad or resize, for example to 112 x 144"


def test_value_rule_and_remedy() -> None:
    with pytest.raises(ValueError, match=f"^{MESSAGE}$"):
        check_size(torch.zeros(1, 3, 100, 130), 16, "Checked")


@pytest.mark.parametrize(("size", "fit"), [((16, 17), "16 x 32"), ((15, 16), "16 x 16"), ((1, 33), "16 x 48")])
def test_either_side(size: tuple[int, int], fit: str) -> None:
    with pytest.raises(ValueError, match=f"to {fit}$"):
        check_size(torch.zeros(1, 3, *size), 16, "Checked")


def test_multiples_pass() -> None:
    check_size(torch.zeros(1, 3, 16, 48), 16, "Checked")


def test_scripted() -> None:
    scripted = torch.jit.script(Checked())
    assert scripted(torch.ones(1, 1, 16, 32)).unique().item() == 2
    with pytest.raises(torch.jit.Error, match=MESSAGE):
        scripted(torch.ones(1, 1, 100, 130))


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
def test_traced_without_a_warning_and_for_other_sizes() -> None:
    traced = torch.jit.trace(Checked(), torch.ones(1, 1, 16, 16))
    assert traced(torch.ones(1, 1, 32, 48)).shape == (1, 1, 32, 48)


def test_exported_for_any_size() -> None:
    """The check alone would tie the graph to multiples of 16, or refuse to export."""
    sizes = {2: torch.export.Dim("rows"), 3: torch.export.Dim("columns")}
    exported = torch.export.export(Checked(), (torch.ones(1, 1, 16, 32),), dynamic_shapes=(sizes,))
    assert exported.module()(torch.ones(1, 1, 48, 80)).shape == (1, 1, 48, 80)
