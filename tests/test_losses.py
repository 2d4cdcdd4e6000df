import pytest
import torch
from monai.bundle import ConfigParser

from monai_lgg.losses import LOSSES, find_loss


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_builds_falls_and_gives_gradients(name: str) -> None:
    loss = ConfigParser({"loss": find_loss(name)}).get_parsed_content("loss")
    truth = torch.zeros(2, 1, 8, 8)
    truth[0, :, 2:5, 2:5] = 1
    logits = torch.zeros(2, 1, 8, 8, requires_grad=True)
    value = loss(logits, truth)
    value.backward()
    assert value.ndim == 0
    assert torch.isfinite(value)
    assert (logits.grad[0] != 0).all()
    right = loss((truth * 2 - 1) * 20, truth)
    assert 0 <= right < 0.01 < value


def test_a_missed_tumour_costs_tversky_more_than_a_false_one() -> None:
    loss = ConfigParser({"loss": find_loss("tversky")}).get_parsed_content("loss")
    some, more = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    some[..., 2:4, 2:4], more[..., 2:6, 2:6] = 1, 1
    missed, false = loss((some * 2 - 1) * 20, more), loss((more * 2 - 1) * 20, some)
    # TP 4, other 12, smoothing 1: 1 - 5 / (5 + 0.7 * 12) and 1 - 5 / (5 + 0.3 * 12)
    assert missed.item() == pytest.approx(1 - 5 / 13.4, abs=1e-5)
    assert false.item() == pytest.approx(1 - 5 / 8.6, abs=1e-5)


def test_unknown_loss() -> None:
    with pytest.raises(ValueError, match=r"no loss 'dice_foca'; did you mean dice_focal\?"):
        find_loss("dice_foca")
    with pytest.raises(ValueError, match="no loss 'lovasz'; give one of: dice_ce"):
        find_loss("lovasz")
