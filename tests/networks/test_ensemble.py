import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_lgg.networks.ensemble import Ensemble


class Constant(nn.Module):
    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logit.expand(image.shape[0], 1, image.shape[2], image.shape[3])


def of(*logits: float) -> float:
    result = Ensemble([Constant(logit) for logit in logits])(torch.zeros(1, 3, 2, 4))
    assert result.shape == (1, 1, 2, 4)
    assert result.unique().numel() == 1
    return result[0, 0, 0, 0].item()


def logit(probability: float) -> float:
    return torch.logit(torch.tensor(probability, dtype=torch.float64)).item()


@pytest.mark.parametrize(
    ("probabilities", "mean"),
    [((0.2, 0.6), 0.4), ((0.5, 0.5, 0.5), 0.5), ((0.9, 0.9, 0.3), 0.7), ((0.01, 0.03), 0.02)],
)
def test_mean_of_the_probabilities(probabilities: tuple[float, ...], mean: float) -> None:
    """Not of the logits: those of 0.2 and 0.6 average to a probability of 0.38."""
    assert of(*map(logit, probabilities)) == pytest.approx(logit(mean), abs=1e-5)


@pytest.mark.parametrize("value", [-100.0, -20.0, 0.0, 3.5, 20.0, 100.0])
def test_one_network_is_itself(value: float) -> None:
    assert of(value) == pytest.approx(value, abs=1e-5)
    assert of(value, value) == pytest.approx(value, abs=1e-5)


def test_confident_networks_that_disagree_cancel() -> None:
    """p near 1 and p near 0: the mean is 1/2. With one more at 1, 2/3."""
    assert of(1000.0, -1000.0) == pytest.approx(0, abs=1e-5)
    assert of(1000.0, 1000.0, -1000.0) == pytest.approx(logit(2 / 3), abs=1e-5)


def test_gradient_is_finite_at_confident_logits() -> None:
    ensemble = Ensemble([Constant(200.0), Constant(-200.0), Constant(0.0)])
    ensemble(torch.zeros(1, 3, 2, 2)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite() for parameter in ensemble.parameters())


def test_half_precision_of_a_member_is_averaged_in_float32() -> None:
    result = Ensemble([Constant(1.0).to(torch.bfloat16), Constant(3.0)])(torch.zeros(1, 3, 2, 2))
    assert result.dtype == torch.float32


def test_state_dict_keeps_all_members() -> None:
    source = Ensemble([Constant(1.0), Constant(2.0)])
    assert list(source.state_dict()) == ["networks.0.logit", "networks.1.logit"]
    target = Ensemble([Constant(0.0), Constant(0.0)])
    target.load_state_dict(source.state_dict())
    assert [network.logit.item() for network in target.networks] == [1.0, 2.0]


def test_scripted() -> None:
    ensemble = Ensemble([nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 1, 1)])
    image = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(torch.jit.script(ensemble)(image), ensemble(image))


def test_built_by_a_config() -> None:
    member = {"_target_": "monai_lgg.networks.unet.UNet2d", "features": [4, 4, 4, 4, 4, 4]}
    config = {"_target_": "monai_lgg.networks.ensemble.Ensemble", "networks": [member, member]}
    ensemble = ConfigParser({"network_def": config}).get_parsed_content("network_def")
    assert type(ensemble) is Ensemble
    assert len(ensemble.networks) == 2
    first, second = (network.final_conv.weight for network in ensemble.networks)
    assert not torch.equal(first, second)
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        expected = torch.stack([network(image).sigmoid() for network in ensemble.eval().networks]).mean(dim=0)
        torch.testing.assert_close(ensemble(image).sigmoid(), expected)


def test_a_reference_in_a_config_would_share_weights() -> None:
    config = {
        "member": {"_target_": "monai_lgg.networks.unet.UNet2d", "features": [4, 4, 4, 4, 4, 4]},
        "network_def": {"_target_": "monai_lgg.networks.ensemble.Ensemble", "networks": ["@member", "@member"]},
    }
    with pytest.raises(RuntimeError) as error:
        ConfigParser(config).get_parsed_content("network_def")
    assert "one object more than once among its 2 networks" in str(error.value.__cause__)


def test_no_network() -> None:
    with pytest.raises(ValueError, match="got 0 networks; give at least one"):
        Ensemble([])
