"""What every network in the registry must do. A new one is tested by being there."""

import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_lgg.networks import NETWORKS, find_network

#: Parameters for 3 channels in and 1 out. A change here is a change of the network: old weights no longer load.
PARAMETERS = {
    "unet": 1_948_417,
    "resunet": 6_500_734,
    "deeplab": 1_698_529,
    "segmentation_ae": 3_206_721,
    "resnext50_unet": 31_581_553,
    "lite_unet": 3_760_596,
}
#: The default ONNX exporter takes 3 to 15 s for these (it works for all), the older one a second.
OLD_EXPORTER = ("unet", "resunet", "resnext50_unet", "lite_unet")
SIZE = (64, 96)


def make(name: str, in_channels: int = 3, out_channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return find_network(name)(in_channels=in_channels, out_channels=out_channels)


def calibrated(name: str) -> nn.Module:
    """In evaluation mode, with batch statistics of one random batch, so that values stay of a size as in use."""
    network = make(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of all batches, here of one
    with torch.no_grad():
        network.train()(images(4))
    return network.eval()


def images(count: int = 2, channels: int = 3, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
class TestContract:
    def test_parameter_count(self, name: str) -> None:
        assert sum(parameter.numel() for parameter in make(name).parameters()) == PARAMETERS[name]

    @pytest.mark.parametrize(("in_channels", "out_channels", "size"), [(3, 1, (64, 96)), (1, 2, (96, 64))])
    def test_logits_have_the_size_of_the_image(
        self, name: str, in_channels: int, out_channels: int, size: tuple[int, int]
    ) -> None:
        network, image = make(name, in_channels, out_channels).eval(), images(2, in_channels, size)
        before = image.clone()
        with torch.no_grad():
            logits = network(image)
        assert logits.shape == (2, out_channels, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        assert torch.equal(image, before)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_logits_are_unbounded(self, name: str, sign: int) -> None:
        """Neither a sigmoid nor a ReLU at the end: the last layer's bias alone takes them beyond [0, 1], either way."""
        network = make(name).eval()
        bias_name, bias = list(network.named_parameters())[-1]
        assert bias_name.endswith("bias")
        with torch.no_grad():
            bias += sign * 1000
            logits = network(images())
        assert (logits * sign).min() > 10

    @pytest.mark.parametrize("size", [(65, 83), (64, 70)])
    def test_other_sizes_work_or_name_the_multiple(self, name: str, size: tuple[int, int]) -> None:
        network = make(name).eval()
        try:
            with torch.no_grad():
                result: torch.Tensor | str = network(images(1, size=size))
        except ValueError as error:
            result = str(error)
        if isinstance(result, torch.Tensor):
            assert result.shape == (1, 1, *size)
            return
        rule = rf"got {size[0]} x {size[1]}; rows and columns must be multiples of (\d+); .* to (\d+) x (\d+)$"
        found = re.search(rule, result)
        assert found, result
        multiple, rows, columns = map(int, found.groups())
        assert rows % multiple == columns % multiple == 0
        assert 0 <= rows - size[0] < multiple
        assert 0 <= columns - size[1] < multiple

    def test_gradient_reaches_every_parameter(self, name: str) -> None:
        """In evaluation mode: in training, a batch normalization cancels the bias before it, whose gradient is 0."""
        network = calibrated(name)
        network(images()).square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name

    def test_gradient_in_training_is_finite(self, name: str) -> None:
        network = make(name).train()
        network(images()).square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name

    def test_scripted_equals_eager(self, name: str, tmp_path: Path) -> None:
        """All can be scripted, so none is traced: one file serves every size."""
        network = calibrated(name)
        torch.jit.script(network).save(str(tmp_path / "network.ts"))
        scripted = torch.jit.load(str(tmp_path / "network.ts"))
        for image in (images(), images(1, size=(96, 64))):
            with torch.no_grad():
                torch.testing.assert_close(scripted(image), network(image), rtol=1e-4, atol=1e-5)

    def test_onnx_equals_eager(self, name: str, tmp_path: Path) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        network, image, path = calibrated(name), images(1), tmp_path / "network.onnx"
        new = name not in OLD_EXPORTER
        torch.onnx.export(network, (image,), str(path), dynamo=new, verbose=False, external_data=not new)
        session = onnxruntime.InferenceSession(str(path))
        exported = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(exported), network(image), rtol=1e-4, atol=1e-5)

    def test_bfloat16_is_near_float32(self, name: str) -> None:
        """Within 5 % of the largest logit; bfloat16 keeps 8 bits, a step of 0.4 %, in each of many layers."""
        network, image = calibrated(name), images()
        with torch.no_grad():
            full = network(image)
            with torch.autocast("cpu", torch.bfloat16):
                half = network(image).float()
        assert half.isfinite().all()
        assert (half - full).abs().max() < 0.05 * full.abs().max()
        assert not torch.equal(half, full)

    def test_same_seed_same_weights_same_output(self, name: str) -> None:
        one, two = make(name).eval(), make(name).eval()
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
        with torch.no_grad():
            assert torch.equal(one(images()), two(images()))

    def test_built_by_a_config(self, name: str) -> None:
        cls = NETWORKS[name]
        parser = ConfigParser(
            {"network": {"_target_": f"{cls.__module__}.{cls.__name__}", "in_channels": 3, "out_channels": 1}}
        )
        assert type(parser.get_parsed_content("network")) is cls


def test_every_network_has_its_count_recorded() -> None:
    assert PARAMETERS.keys() == NETWORKS.keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet50_unet", "no network 'resnet50_unet'; did you mean resnext50_unet?"), ("xyz", "give one of: unet, resu")],
)
def test_unknown_network(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        find_network(name)


def test_names_of_monai_still_mean_monai() -> None:
    """MONAI looks up short names in this package too."""
    parser = ConfigParser({"network": {"_target_": "BasicUNet", "spatial_dims": 2}})
    assert type(parser.get_parsed_content("network")).__module__ == "monai.networks.nets.basic_unet"
