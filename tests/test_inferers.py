import pytest
import torch
from monai.inferers import Inferer, SimpleInferer, SliceInferer, SlidingWindowInferer

from monai_lgg.inferers import MixedPrecisionInferer, ResizeSliceInferer


class Recorder(torch.nn.Module):
    """A convolution that notes the dtype that autocast gave its output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.seen: set[torch.dtype] = set()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result = self.convolution(batch)
        self.seen.add(result.dtype)
        return result


INFERERS = [
    (SimpleInferer(), (2, 3, 16, 12)),
    (SlidingWindowInferer((8, 8), sw_batch_size=3, overlap=0.25, mode="gaussian"), (1, 3, 16, 12)),
    (SliceInferer(roi_size=(8, 8), spatial_dim=2, sw_batch_size=3, overlap=0.25), (1, 3, 16, 12, 4)),
]


@pytest.mark.parametrize(("inferer", "shape"), INFERERS, ids=["simple", "window", "slice"])
@pytest.mark.parametrize("amp", [True, False])
def test_equals_the_plain_inferer(inferer: Inferer, shape: tuple[int, ...], amp: bool) -> None:
    network, images = Recorder(), torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = inferer(images, network)
        network.seen.clear()
        got = MixedPrecisionInferer(inferer, amp=amp)(images, network)
    assert network.seen == {torch.bfloat16 if amp else torch.float32}
    assert got.dtype == torch.float32
    assert got.shape == wanted.shape
    if amp:
        torch.testing.assert_close(got, wanted, atol=0.02, rtol=0.02)
    else:
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)  # channels_last adds in another order


@pytest.mark.parametrize("amp", [True, False])
def test_an_autocast_of_the_caller_stays(amp: bool) -> None:
    """MONAI's trainer opens one on a GPU; the bundle then passes amp=False."""
    network = Recorder()
    with torch.autocast("cpu", torch.float16):
        MixedPrecisionInferer(SimpleInferer(), amp=amp)(torch.rand(1, 3, 8, 8), network)
    assert network.seen == {torch.float16}


def test_gradients_flow() -> None:
    network = Recorder()
    MixedPrecisionInferer(SimpleInferer())(torch.rand(1, 3, 8, 8), network).mean().backward()
    assert network.convolution.weight.grad is not None
    assert network.convolution.weight.grad.dtype == torch.float32


def test_arguments_reach_the_network() -> None:
    def network(batch: torch.Tensor, factor: int, *, plus: int) -> torch.Tensor:
        return batch[:, :1] * factor + plus

    result = MixedPrecisionInferer(SimpleInferer())(torch.ones(1, 3, 2, 2), network, 3, plus=1)
    assert result.unique().tolist() == [4]


def test_slices_are_resized_and_brought_back() -> None:
    """A network that marks the bright half of what it is given: the answer lies on the input's own grid."""
    seen: list[tuple[int, ...]] = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(batch.shape))
        return batch[:, :1]

    volume = torch.zeros(2, 3, 20, 12, 5)
    volume[:, :, :10] = 1
    volume[1, :, :, :, 3] = 0
    result = ResizeSliceInferer((8, 16), batch_size=4)(volume, network)
    assert seen == [(4, 3, 8, 16), (4, 3, 8, 16), (2, 3, 8, 16)]
    assert result.shape == (2, 1, 20, 12, 5)
    assert torch.equal(result[0] > 0.5, volume[0, :1] > 0.5)
    assert not result[1, :, :, :, 3].any()
    assert torch.equal(result[1, 0, ..., 4] > 0.5, volume[1, 0, ..., 4] > 0.5)


def test_a_slice_of_the_right_size_is_not_touched() -> None:
    image = torch.rand(3, 1, 8, 8)
    assert torch.equal(ResizeSliceInferer((8, 8), 2)(image, lambda batch: batch), image)


def test_shrinking_averages_what_it_merges() -> None:
    """A checkerboard of 0 and 1 becomes grey; without antialiasing it would become stripes."""
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    small: list[torch.Tensor] = []
    ResizeSliceInferer((8, 8))(board[None, None].float(), lambda batch: (small.append(batch), batch)[1])
    assert small[0][0, 0, 2:-2, 2:-2].sub(0.5).abs().max() < 0.05
