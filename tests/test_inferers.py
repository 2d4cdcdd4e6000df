from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer, SliceInferer, SlidingWindowInferer
from monai.transforms import Resize

from monai_lgg import inferers
from monai_lgg.backends import BackendError
from monai_lgg.datasets import VolumeSlices
from monai_lgg.inferers import (
    BackendInferer,
    ContextSliceInferer,
    MirrorInferer,
    MixedPrecisionInferer,
    ResizeSliceInferer,
)


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


def test_half_the_size_is_as_in_training() -> None:
    """By MONAI's Resized without antialiasing, as the recipes' training has it: the mean of two by two pixels."""
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    small: list[torch.Tensor] = []
    ResizeSliceInferer((16, 16))(image, lambda batch: (small.append(batch), batch)[1])
    torch.testing.assert_close(small[0], torch.nn.functional.avg_pool2d(image, 2))
    torch.testing.assert_close(small[0][0], Resize((16, 16), mode="bilinear")(image[0]).as_tensor())


class Middle(torch.nn.Module):
    """The middle slice of the second sequence, times ten; sizes that it is given are noted."""

    def __init__(self, channel: int = 4) -> None:
        super().__init__()
        self.channel = channel
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(batch.shape))
        return batch[:, self.channel : self.channel + 1] * 10


def head_volume(rows: int = 70, columns: int = 60, slices: int = 7) -> torch.Tensor:
    """(1, 3, rows, columns, slices): heads that differ in each pixel; the first slice is empty."""
    volume = torch.full((1, 3, rows, columns, slices), -1.0)
    inner = torch.rand(1, 3, 40, 30, slices - 1, generator=torch.Generator().manual_seed(2))
    volume[:, :, 20:60, 5:35, 1:] = inner
    return volume


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("mirror", [False, True])
def test_context_gives_each_pixel_its_place(batch_size: int, mirror: bool) -> None:
    volume, network = head_volume(), Middle()
    logits = MirrorInferer(ContextSliceInferer(batch_size=batch_size, margin=0), mirror)(volume, network)
    assert logits.shape == (1, 1, 70, 60, 7)
    torch.testing.assert_close(logits[..., 20:60, 5:35, 1:], volume[:, 1:2, 20:60, 5:35, 1:] * 10)
    outside = torch.ones_like(logits, dtype=torch.bool)
    outside[..., 20:60, 5:35, 1:] = False
    assert logits[outside].unique().tolist() == [-15]
    assert {size[1:] for size in network.sizes} == {(9, 64, 32)}
    assert sum(size[0] for size in network.sizes) == 6 * (1 + mirror)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    """Heads that grow from slice to slice, and a network that answers with the size of the window it was given."""
    volume = torch.full((1, 3, 100, 90, 20), -1.0)
    for k in range(20):
        volume[:, :, 10 : 40 + 2 * k, 5 : 35 + 2 * k, k] = 0.5
    logits = ContextSliceInferer(batch_size=batch_size, margin=0, multiple=1)(volume, Size())
    assert [logits[0, 0, 20, 20, k].item() for k in range(20)] == [44 * 44] * 8 + [60 * 60] * 8 + [68 * 68] * 4


@pytest.mark.parametrize(("channel", "step"), [(0, -1), (3, -1), (5, 1), (8, 1)])
def test_neighbours_and_sequences_are_in_order(channel: int, step: int) -> None:
    volume = head_volume()
    logits = ContextSliceInferer(margin=0)(volume, Middle(channel))
    for k in range(1, 7):
        beside = min(max(k + step, 0), 6)
        expected = volume[0, channel // 3, 20:60, 5:35, beside] * 10
        torch.testing.assert_close(logits[0, 0, 20:60, 5:35, k], expected)


def test_training_and_inference_stack_alike() -> None:
    volume = head_volume(slices=4)
    data = VolumeSlices(
        [{"image": volume[0].numpy(), "label": np.zeros((1, 70, 60, 4)), "intensity_range": [(-1, 1)] * 3}],
        lambda record: record,
        (40, 30),
    )
    stacks: list[torch.Tensor] = []
    ContextSliceInferer(margin=0, multiple=1)(volume, lambda stack: (stacks.append(stack), stack[:, :1])[1])
    for k in range(3):
        torch.testing.assert_close(stacks[0][k], data[k + 1]["image"])


@pytest.mark.parametrize("spacing", [None, (0.5, 1.0, 4.0)])
@pytest.mark.parametrize("side", [20, 160])
def test_training_and_inference_resize_alike(side: int, spacing: tuple[float, ...] | None) -> None:
    """A head of ``side`` rows, a ramp with a quarter of it tumour, that must get 40 of rows or columns."""
    ramp = torch.linspace(-0.7, 0.5, side)[:, None] + torch.linspace(0, 0.4, side * 3 // 4)
    image = torch.full((3, 2 * side, 2 * side, 3), -1.0)
    inside = (slice(side // 4, side // 4 + side), slice(side // 2, side // 2 + ramp.shape[1]))
    image[(slice(None), *inside)] = ramp[..., None]
    label = torch.zeros(1, *image.shape[1:])
    label[0, side // 4 : side // 4 + side // 2, side // 2 : side // 2 + ramp.shape[1] // 2] = 1
    if spacing is not None:
        meta = {"spacing_known": torch.tensor([True])}
        image = MetaTensor(image, affine=torch.diag(torch.tensor([*spacing, 1.0])), meta=meta)
    record = {"image": image, "label": label, "intensity_range": [(-1, 1)] * 3}
    item = VolumeSlices([record], lambda record: record, (48, 48), head_size=(40, 40))[1]
    stacks: list[torch.Tensor] = []
    inferer = ContextSliceInferer(margin=0, multiple=1, head_size=(40, 40))
    inferer(image[None], lambda stack: (stacks.append(stack), stack[:, :1])[1])
    head = item["image"][1] > -0.76
    rows, columns = head.any(dim=1).sum(), head.any(dim=0).sum()
    assert max(stacks[0].shape[-2:]) == 40
    assert abs(int(rows) - stacks[0].shape[-2]) <= 2  # half pixels at the edges
    assert abs(int(columns) - stacks[0].shape[-1]) <= 2
    rows, columns = (48 - size for size in stacks[0].shape[-2:])
    middle = item["image"][:, rows // 2 : 48 - rows + rows // 2, columns // 2 : 48 - columns + columns // 2]
    pixel = 1.2 / (48 - rows) + 0.4 / (48 - columns)  # what the ramp rises by from one to the next
    torch.testing.assert_close(middle[:, 3:-3, 3:-3], stacks[0][1][:, 3:-3, 3:-3], atol=2 * pixel, rtol=0)
    share = float(label[0, ..., 1].sum() / ramp.numel())
    assert float(item["label"].sum() / stacks[0][0, 0].numel()) == pytest.approx(share, abs=0.02)


def test_a_large_head_is_resized_and_its_logits_come_back() -> None:
    """A ramp, which bilinear resizing keeps, so that every pixel's place can be told from its value."""
    rows, columns = torch.meshgrid(torch.linspace(0, 0.5, 160), torch.linspace(0, 0.4, 120), indexing="ij")
    big = torch.full((1, 3, 280, 240, 3), -1.0)
    big[:, :, 80:240, 20:140] = (rows + columns)[..., None]
    network = Middle()
    logits = ContextSliceInferer(head_size=(30, 40), margin=0)(big, network)
    assert logits.shape == (1, 1, 280, 240, 3)
    assert {size[2:] for size in network.sizes} == {(64, 32)}  # 160 x 120 pixels of head became 40 x 30
    inner = (slice(90, 230), slice(30, 130))
    torch.testing.assert_close(logits[0, 0, :, :, 1][inner], big[0, 1, :, :, 1][inner] * 10, atol=0.05, rtol=0)
    assert logits[0, 0, :60].max() == logits[0, 0, 250:].max() == -15


@pytest.mark.parametrize(("spacing", "shape"), [((0.5, 1.0, 4.0), (64, 96)), ((1.0, 1.03, 4.0), (64, 64))])
def test_pixels_become_square_where_the_spacing_is_known(spacing: tuple[float, ...], shape: tuple[int, int]) -> None:
    """A ramp over 60 x 44 pixels of head; pixels of 0.5 x 1 mm are half as high as wide, so columns are doubled."""
    ramp = torch.linspace(-0.5, 0.5, 60)[:, None] + torch.linspace(0, 0.4, 44)
    volume = torch.full((1, 3, 80, 70, 3), -1.0)
    volume[:, :, 10:70, 20:64] = ramp[..., None]
    meta = {"spacing_known": torch.tensor([True])}
    known = MetaTensor(volume, affine=torch.diag(torch.tensor([*spacing, 1.0]))[None], meta=meta)
    network = Middle()
    logits = ContextSliceInferer(margin=0)(known, network)
    assert {size[2:] for size in network.sizes} == {shape}
    inner = (slice(12, 68), slice(22, 62))
    torch.testing.assert_close(logits[0, 0, :, :, 1][inner], volume[0, 1, :, :, 1][inner] * 10, atol=0.05, rtol=0)
    known.meta["spacing_known"] = torch.tensor([False])
    network.sizes.clear()
    ContextSliceInferer(margin=0)(known, network)
    assert {size[2:] for size in network.sizes} == {(64, 64)}


def test_a_single_slice_is_its_own_neighbour() -> None:
    image = head_volume()[..., 3]
    assert torch.equal(ContextSliceInferer(margin=0)(image, Middle(3)), ContextSliceInferer(margin=0)(image, Middle(5)))
    assert ContextSliceInferer()(image, Middle()).shape == (1, 1, 70, 60)


def test_nothing_is_asked_of_an_empty_volume() -> None:
    network = Middle()
    logits = ContextSliceInferer(head_size=(200, 256))(torch.full((1, 3, 32, 32, 4), -1.0), network)
    assert logits.unique().tolist() == [-15]
    assert not network.sizes


def test_context_takes_one_volume() -> None:
    with pytest.raises(ValueError, match="2 volumes in a batch; give one"):
        ContextSliceInferer()(torch.zeros(2, 3, 32, 32, 4), Middle())


class Size(torch.nn.Module):
    """Logits that are the number of pixels of the image."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.full((len(image), 1, *image.shape[2:]), float(image[0, 0].numel()))


class Ramp(torch.nn.Module):
    """Logits that grow from the first column to the last, so that mirroring can be told."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.arange(image.shape[3], dtype=torch.float32).expand(len(image), 1, *image.shape[2:])


def test_mirrored_images_are_averaged_in_place() -> None:
    logits = MirrorInferer(SimpleInferer())(torch.zeros(1, 3, 2, 5), Ramp())
    assert logits[0, 0].tolist() == [[2.0] * 5] * 2  # each is the mean of k and 4 - k
    assert MirrorInferer(SimpleInferer(), mirror=False)(torch.zeros(1, 3, 2, 5), Ramp())[0, 0, 0].tolist() == [
        *range(5)
    ]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_backend_gives_what_the_network_gives(backend: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(9, 1, 3, padding=1).eval()
    wanted = ContextSliceInferer()(head_volume(), network)
    inferer = BackendInferer(ContextSliceInferer(), backend)
    with torch.inference_mode():
        torch.testing.assert_close(inferer(head_volume(), network), wanted, atol=1e-4, rtol=1e-4)
        other = torch.nn.Conv2d(9, 1, 3, padding=1).eval()
        torch.testing.assert_close(
            inferer(head_volume(), other), ContextSliceInferer()(head_volume(), other), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("autocasts", [True, False])
def test_logits_keep_the_metadata_of_the_image(monkeypatch: pytest.MonkeyPatch, autocasts: bool) -> None:
    """Without it nothing can be turned back to the geometry of the input; the first way is that of a GPU."""
    monkeypatch.setattr(BackendInferer, "_autocasts", lambda *_: autocasts)
    image = MetaTensor(head_volume(), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    logits = BackendInferer(ContextSliceInferer(), "torch")(image, torch.nn.Conv2d(9, 1, 3, padding=1).eval())
    assert isinstance(logits, MetaTensor)
    assert torch.equal(logits.affine, image.affine)


def test_a_small_head_in_a_large_image_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is around the head is enlarged, not the whole field of view."""
    sizes: list[tuple[int, ...]] = []
    resize = inferers.resize_slices
    monkeypatch.setattr(
        inferers, "resize_slices", lambda images, size: (sizes.append(tuple(size)), resize(images, size))[1]
    )
    image = torch.full((1, 3, 512, 512, 2), -1.0)
    image[:, :, 200:240, 300:330] = 0.2
    logits = ContextSliceInferer(head_size=(200, 256), margin=4)(image, Middle())
    assert max(max(size) for size in sizes) == 240  # 40 pixels of head became 200, and 4 on each side 20
    assert torch.nonzero(logits[0, 0, :, :, 0] > 0).amin(0).tolist() == [200, 300]
    assert torch.nonzero(logits[0, 0, :, :, 0] > 0).amax(0).tolist() == [239, 329]


def test_a_backend_that_cannot_be_used_is_an_error_of_its_own() -> None:
    with pytest.raises(BackendError, match="no INT8 file"):
        BackendInferer(ContextSliceInferer(), "auto", "int8")(head_volume(), Middle().eval())


def test_a_backend_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = inferers.load_backend

    def count(name: str, *args: Any, **kwargs: Any) -> Any:
        loaded.append(kwargs["precision"])
        return load(name, *args, **kwargs)

    monkeypatch.setattr(inferers, "load_backend", count)
    inferer, network = BackendInferer(ContextSliceInferer(batch_size=2), "torch"), Middle().eval()
    for _ in range(2):
        inferer(head_volume(), network)
    assert loaded == ["fp32"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("opnvino",), "no backend 'opnvino'; did you mean openvino"),
        (("torch", "fp61"), "no precision 'fp61'; give one of: auto"),
    ],
)
def test_unknown_backends_are_refused_before_the_first_case(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackendInferer(SimpleInferer(), *arguments)
