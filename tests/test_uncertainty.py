import math

import pytest
import torch
from monai.inferers import SimpleInferer

from monai_lgg.uncertainty import DropoutInferer, FlipInferer


class RightHalf(torch.nn.Module):
    """Probability 0.9 in the right half of the columns and 0.1 in the left, whatever the image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = torch.full_like(image, math.log(1 / 9))
        logits[..., image.shape[-1] // 2 :] = math.log(9)
        return logits


def test_flips_average_probabilities() -> None:
    """A network that looks at places and not at the image says the opposite of a mirrored one: 0.5, logit 0."""
    image = torch.zeros(1, 1, 4, 6)
    found = FlipInferer(SimpleInferer())(image, RightHalf())
    torch.testing.assert_close(found, torch.zeros_like(image), atol=1e-6, rtol=0)
    with_rows = FlipInferer(SimpleInferer(), axes=(2,))(image, RightHalf())  # rows play no part
    torch.testing.assert_close(with_rows.sigmoid()[0, 0, 0], torch.tensor([0.1, 0.1, 0.1, 0.9, 0.9, 0.9]))


@pytest.mark.parametrize(("shape", "passes"), [((1, 1, 4, 6), 2), ((1, 1, 4, 6, 1), 2), ((1, 1, 4, 6, 3), 4)])
def test_flips_that_change_nothing_are_left_out(shape: tuple[int, ...], passes: int) -> None:
    seen = []

    def inferer(image: torch.Tensor, network: object) -> torch.Tensor:
        seen.append(image.clone())
        return image

    image = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) / 100
    found = FlipInferer(inferer)(image, None)  # type: ignore[arg-type]
    assert len(seen) == passes
    assert len({tuple(one.flatten().tolist()) for one in seen}) == passes
    torch.testing.assert_close(found, image, atol=1e-4, rtol=0)  # each flip was undone


def network(rate: float | None = None) -> torch.nn.Sequential:
    torch.manual_seed(0)
    middle = [torch.nn.Dropout2d(rate)] if rate else []
    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), *middle, torch.nn.Conv2d(8, 1, 1)).eval()


@pytest.mark.parametrize("rate", [None, 0.5])
def test_dropout_is_random_only_within_and_repeatable(rate: float | None) -> None:
    model, image = network(rate), torch.rand(1, 1, 8, 8)
    plain = model(image)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    inferer = DropoutInferer(SimpleInferer(), samples=3, rate=0.5)
    with torch.no_grad():
        first, second = inferer(image, model), inferer(image, model)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(first, plain, atol=1e-3)
    torch.testing.assert_close(torch.random.get_rng_state(), state)
    torch.testing.assert_close(model(image), plain)
    assert not any(layer.training for layer in model.modules())


def test_the_first_convolution_sees_the_whole_image() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    image = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(DropoutInferer(SimpleInferer(), rate=0.9)(image, model), model(image))


@pytest.mark.parametrize(("samples", "rate"), [(1, 0.1), (2, 0.0), (2, 1.0)])
def test_bad_numbers(samples: int, rate: float) -> None:
    with pytest.raises(ValueError, match="give 2 samples or more, and a rate above 0 and below 1"):
        DropoutInferer(SimpleInferer(), samples=samples, rate=rate)


def test_both_work_in_every_bundle() -> None:
    """Their settings refer to what each bundle's inference has, and act on its network."""
    from monai_lgg.bundle import bundle_names, find_bundle, read_config
    from monai_lgg.label_app.predictions import UNCERTAINTY

    for name in bundle_names():
        parser = read_config([find_bundle(name) / "configs" / "inference.json"])
        parser.update({"device_name": "cpu", **UNCERTAINTY})
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def").eval()
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        channels = 1 if first.in_channels == 1 else 3  # of the image; 2.5D puts neighbouring slices together
        image = torch.rand(1, channels, 64, 64, 2)
        with torch.no_grad():
            plain = parser.get_parsed_content("slice_inferer")(image, network)
            for method in UNCERTAINTY:
                found = parser.get_parsed_content(method)(image, network)
                assert found.shape == plain.shape == (1, 1, 64, 64, 2), (name, method)
                change = (found - plain).std() / plain.std()
                assert change > 0.05, (name, method, change)  # of rounding alone it is 0.003 at most
