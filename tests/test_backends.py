import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_lgg.backends import (
    AGREEMENT,
    available,
    int8,
    load_backend,
    loading,
    onnx_graphs,
    packages,
    quantize,
    require,
    weights_hash,
)
from monai_lgg.backends.onnx_graphs import onnx_files, onnxruntime_run
from monai_lgg.networks import NETWORKS, find_network
from monai_lgg.networks.ensemble import Ensemble
from monai_lgg.networks.unet import UNet2d

GRAPHS = [name for name in ("openvino", "onnxruntime") if name in available()]
both_graphs = pytest.mark.parametrize("backend", GRAPHS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONAI_LGG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "backends"


def images(count: int, rows: int, columns: int, channels: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, rows, columns, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def ready(network: nn.Module, channels: int = 3) -> nn.Module:
    """As a bundle hands it over: batch statistics, evaluation mode, channels_last; half of the pixels are tumour."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of all batches, here of one
    with torch.no_grad():
        network.train()(images(4, 64, 96, channels))
        median = network.eval()(images(2, 64, 96, channels)).median()
        list(network.parameters())[-1].sub_(median)
    return network.to(memory_format=torch.channels_last)


def tiny(seed: int = 0, channels: int = 3, out: int = 1) -> nn.Module:
    """Few layers, because each of these tests exports it anew."""
    torch.manual_seed(seed)
    down = [nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return ready(nn.Sequential(*down, nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(8, out, 1)), channels)


def assert_same(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-3) -> None:
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert (found.sigmoid() - expected.sigmoid()).abs().max() < tolerance
    clear = expected.abs() > 4 * tolerance  # the sigmoid's slope is at most 1/4
    assert clear.float().mean() > 0.5
    assert torch.equal((found > 0)[clear], (expected > 0)[clear])
    assert 0.02 < (expected > 0).float().mean() < 0.98  # a mask of one value would say little


@both_graphs
@pytest.mark.parametrize("name", NETWORKS)
def test_same_as_the_network_for_all_batches_and_sizes(name: str, backend: str) -> None:
    torch.manual_seed(0)
    network = ready(find_network(name)(in_channels=3, out_channels=1))
    run = load_backend(backend, network, 3)
    for count, rows, columns in ((1, 64, 96), (3, 64, 96), (2, 128, 64)):
        batch = images(count, rows, columns).contiguous(memory_format=torch.channels_last)
        before = batch.clone()
        with torch.inference_mode():
            assert_same(run(batch), network(batch))
        assert torch.equal(batch, before)


@both_graphs
def test_an_ensemble_and_two_outputs(backend: str) -> None:
    network = Ensemble([tiny(seed, channels=1, out=2) for seed in (0, 1)]).eval()
    with torch.no_grad():
        assert_same(load_backend(backend, network, 1)(images(2, 64, 64, 1)), network(images(2, 64, 64, 1)))


@both_graphs
def test_other_sizes_and_batches_with_metadata(backend: str) -> None:
    """70 x 65 has odd maps inside, which are padded by code that no exported graph holds."""
    torch.manual_seed(0)
    network = ready(UNet2d(features=(8,) * 6))
    run = load_backend(backend, network, 3)
    with torch.no_grad():
        assert torch.equal(run(images(1, 70, 65)), network(images(1, 70, 65)))
        assert_same(run(MetaTensor(images(2, 64, 64))), network(images(2, 64, 64)))


def test_torch_is_the_network_itself() -> None:
    network = tiny()
    with torch.no_grad():
        assert torch.equal(load_backend("torch", network, 3)(images(2, 64, 64)), network(images(2, 64, 64)))


@pytest.mark.parametrize("backend", ["torch", *[name for name in GRAPHS if name == "openvino"]])
def test_bfloat16_is_near(backend: str) -> None:
    network = tiny()
    run = load_backend(backend, network, 3, precision="bf16")
    with torch.no_grad():
        assert_same(run(images(2, 64, 64)), network(images(2, 64, 64)), tolerance=0.02)


@pytest.mark.skipif("openvino" not in GRAPHS, reason="openvino is not installed")
def test_openvino_keeps_float32_where_it_would_choose_bfloat16() -> None:
    network = tiny()
    run = load_backend("openvino", network, 3)
    with torch.no_grad():
        torch.testing.assert_close(run(images(2, 64, 64)), network(images(2, 64, 64)), rtol=1e-4, atol=1e-5)


# --- the cache


def no_export(*_: Any) -> None:
    raise AssertionError("exported again")


@both_graphs
def test_exported_once(backend: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_backend(backend, tiny(), 3)
    (stored,) = cache.iterdir()
    monkeypatch.setattr(loading, "onnx_files", no_export)
    monkeypatch.setattr(loading, "openvino_files", no_export)
    with torch.no_grad():
        assert_same(load_backend(backend, tiny(), 3)(images(1, 64, 64)), tiny()(images(1, 64, 64)))
    with pytest.raises(AssertionError, match="exported again"):
        load_backend(backend, tiny(seed=1), 3)
    assert list(cache.iterdir()) == [stored]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def one_bit_wrong(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def no_archive(path: Path) -> None:
    path.write_text("thesis")


def without_network(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        manifest = archive.read("manifest.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)


@both_graphs
@pytest.mark.parametrize("damage", [truncated, one_bit_wrong, no_archive, without_network])
def test_a_damaged_file_is_made_again(backend: str, damage: Any, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny()
    load_backend(backend, network, 3)
    (stored,) = cache.iterdir()
    damage(stored)
    with torch.no_grad():
        assert_same(load_backend(backend, network, 3)(images(1, 64, 64)), network(images(1, 64, 64)))
    assert f"{stored} cannot be used" in caplog.text
    assert "made again" in caplog.text
    caplog.clear()
    load_backend(backend, network, 3)
    assert not caplog.text


@both_graphs
def test_a_file_of_other_weights_is_made_again(
    backend: str, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tiny(), tiny(seed=1)
    load_backend(backend, first, 3)
    (of_first,) = cache.iterdir()
    load_backend(backend, second, 3)
    (of_second,) = set(cache.iterdir()) - {of_first}
    of_second.write_bytes(of_first.read_bytes())
    with torch.no_grad():
        assert_same(load_backend(backend, second, 3)(images(1, 64, 64)), second(images(1, 64, 64)))
    assert "made from other weights" in caplog.text
    assert of_second.read_bytes() != of_first.read_bytes()

    caplog.clear()
    of_second.write_bytes(of_first.read_bytes())  # and where the record says nothing, the results do
    monkeypatch.setattr(loading, "read_graph", lambda path, key: archive_of(path))
    with torch.no_grad():
        assert_same(load_backend(backend, second, 3)(images(1, 64, 64)), second(images(1, 64, 64)))
    assert "differs from the network" in caplog.text


def archive_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@both_graphs
def test_works_where_the_cache_cannot_be_written(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MONAI_LGG_CACHE", str(tmp_path / "file"))
    network = tiny()
    with torch.no_grad():
        assert_same(load_backend(backend, network, 3)(images(1, 64, 64)), network(images(1, 64, 64)))
    assert "cannot be written" in caplog.text


def test_hash_of_weights() -> None:
    network, other = tiny(), tiny()
    assert weights_hash(network) == weights_hash(other.to(memory_format=torch.contiguous_format))
    buffer = dict(other.named_buffers())["1.running_mean"]
    buffer[3] += 1
    assert weights_hash(network) != weights_hash(other)
    assert weights_hash(nn.Conv2d(1, 2, 3)) != weights_hash(nn.Conv2d(2, 1, 3))


# --- auto


def test_auto_takes_the_fastest_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny()
    for missing, chosen in (((), "openvino"), (("openvino",), "onnxruntime"), (("openvino", "onnxruntime"), "torch")):
        if chosen != "torch" and chosen not in GRAPHS:
            continue
        monkeypatch.setattr(
            packages, "missing_packages", lambda name, missing=missing: ["x"] if name in missing else []
        )
        assert load_backend("auto", network, 3).name == chosen


def test_auto_leaves_a_backend_that_fails_or_differs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(files: Any, name: str, precision: str, device: torch.device) -> Any:
        return lambda batch: torch.full((len(batch), 1, *batch.shape[-2:]), float("nan"))

    def fails(*_: Any) -> Any:
        raise OSError("libfoo.so.2: cannot open shared object file")

    if len(GRAPHS) < 2:
        pytest.skip("openvino and onnxruntime are not both installed")
    monkeypatch.setattr(loading, "openvino_run", wrong)
    monkeypatch.setattr(loading, "onnxruntime_run", fails)
    network = tiny()
    assert load_backend("auto", network, 3).name == "torch"
    assert "openvino cannot be used: backend openvino differs" in caplog.text
    assert "onnxruntime cannot be used: libfoo" in caplog.text
    with pytest.raises(ValueError, match=r"differs from the network by nan of the largest logit, more than 0\.001"):
        load_backend("openvino", network, 3)


def test_auto_in_bfloat16_passes_over_what_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda name: ["openvino"] if name == "openvino" else [])
    assert load_backend("auto", tiny(), 3, precision="bf16").name == "torch"


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "openvno"}, r"no backend 'openvno'; did you mean openvino\?"),
        ({"name": "x"}, "give one of: auto, torch, openvino, onnxruntime, tensorrt"),
        ({"name": "torch", "precision": "fp23"}, r"no precision 'fp23'; did you mean fp32\?"),
        ({"name": "onnxruntime", "precision": "bf16"}, "has no precision bf16; use backend torch or openvino"),
        ({"name": "torch", "precision": "int8"}, "has no precision int8; use backend openvino or onnxruntime"),
        ({"name": "openvino", "device": "cuda"}, "openvino runs on cpu, not on cuda"),
        ({"name": "tensorrt"}, "tensorrt runs on cuda, not on cpu"),
    ],
)
def test_refuses(arguments: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "missing_packages", lambda name: [])
    with pytest.raises(ValueError, match=message):
        load_backend(network=tiny(), channels=3, **arguments)  # type: ignore[arg-type]


def test_refuses_a_network_in_training() -> None:
    with pytest.raises(ValueError, match=r"training mode.*network.eval\(\)"):
        load_backend("torch", tiny().train(), 3)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "tensorrt"])
def test_what_is_not_installed_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert available() == ["torch"]
    message = rf'backend {name} needs .*, which is not installed; pip install "monai-lgg\[{name}\]", or use backend'
    with pytest.raises(ModuleNotFoundError, match=message):
        load_backend(name, tiny(), 3, device="cuda" if name == "tensorrt" else "cpu")
    assert load_backend("auto", tiny(), 3).name == "torch"


def test_tensorrt_needs_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModuleNotFoundError, match=r"onnxruntime-gpu .* pip install \"monai-lgg\[tensorrt\]\""):
        require("tensorrt")


def test_tensorrt_keeps_the_engines_of_each_graph_apart(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ONNX Runtime notes where TensorRT would keep its engines."""
    folders: list[Path] = []

    class Session:
        def __init__(self, graph: bytes, options: object, providers: list[Any]) -> None:
            folders.append(Path(dict(providers[:1])[packages.TENSORRT]["trt_engine_cache_path"]))

        def get_providers(self) -> list[str]:
            return [packages.TENSORRT]

    stand_in = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=Session)
    monkeypatch.setattr(onnx_graphs, "load_onnxruntime", lambda: stand_in)
    for graph in (b"one", b"two", b"one"):
        onnxruntime_run({"model.onnx": graph}, "tensorrt", "fp32", torch.device("cuda"))
    assert folders[0] == folders[2] != folders[1]
    assert all(folder.is_relative_to(cache) for folder in folders)


def test_onnxruntime_that_falls_back_to_the_cpu_is_refused(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime for a GPU is here")
    with pytest.raises(ValueError, match="has no CUDAExecutionProvider on this machine; use backend torch"):
        onnxruntime_run(onnx_files(tiny(), 3), "onnxruntime", "fp32", torch.device("cuda"))


@pytest.mark.skipif("openvino" not in GRAPHS, reason="openvino is not installed")
def test_openvino_sends_no_telemetry() -> None:
    load_backend("openvino", tiny(), 3)
    assert sys.modules["openvino_telemetry"] is None
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


# --- INT8


@pytest.fixture
def slices() -> list[torch.Tensor]:
    return [*images(4, 64, 96, seed=2).split(1), *images(2, 64, 64, seed=3).split(1)]


needs_quantizer = pytest.mark.skipif("onnxruntime" not in GRAPHS, reason="onnxruntime is not installed")


@needs_quantizer
def test_int8_runs_near_the_network(slices: list[torch.Tensor], tmp_path: Path) -> None:
    network, path = tiny(), tmp_path / "models" / "model.int8.zip"
    agreement = quantize(network, slices, path)
    assert AGREEMENT <= agreement < 1
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    batch = images(3, 96, 64)
    with torch.no_grad():
        expected = network(batch)
        for name in ["auto", *GRAPHS]:
            run = load_backend(name, network, 3, precision="int8", int8_file=path)
            assert run.precision == "int8"
            assert_same(run(batch), expected, tolerance=0.01)
            assert not torch.equal(run(batch), expected)
            assert torch.equal(run(images(1, 70, 66)), network(images(1, 70, 66)))


@needs_quantizer
def test_int8_agreement_is_the_dice_of_the_masks(
    slices: list[torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four pixels found and none too many: 2 * 3 / (3 + 4)."""
    logits = torch.tensor([[1.0, 1.0], [1.0, -1.0]])

    def run(batch: torch.Tensor) -> torch.Tensor:
        return logits.expand(len(batch), 1, 2, 2)

    class Four(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(batch), 1, 2, 2)

    monkeypatch.setattr(int8, "_quantized", lambda network, images: b"")
    monkeypatch.setattr(int8, "onnxruntime_run", lambda *_: run)
    with pytest.raises(ValueError, match=r"agree with the network's to a Dice of 0.8571, less than 0.99"):
        quantize(Four(), slices, tmp_path / "int8.zip")
    assert not (tmp_path / "int8.zip").exists()
    logits[1, 1] = 1
    assert quantize(Four(), slices, tmp_path / "int8.zip") == 1


@needs_quantizer
def test_int8_file_must_fit(slices: list[torch.Tensor], tmp_path: Path) -> None:
    network, path = tiny(), tmp_path / "int8.zip"

    def load(name: str, other: nn.Module = network) -> None:
        load_backend(name, other, 3, precision="int8", int8_file=path)

    for name in ["auto", *GRAPHS]:
        with pytest.raises(FileNotFoundError, match=r"no INT8 file at .*int8.zip; make one by .*--calibrate DIR'"):
            load(name)
    quantize(network, slices, path)
    for name in ["auto", *GRAPHS]:
        with pytest.raises(ValueError, match="made from other weights"):
            load(name, tiny(seed=1))
    for damage in (truncated, one_bit_wrong, no_archive):
        quantize(network, slices, path)
        damage(path)
        for name in ["auto", *GRAPHS]:
            with pytest.raises(ValueError, match="damaged"):
                load(name)


@needs_quantizer
def test_int8_needs_images_and_a_library_to_run_it(
    slices: list[torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="0 images to calibrate with"):
        quantize(tiny(), [], tmp_path / "int8.zip")
    quantize(tiny(), slices, tmp_path / "int8.zip")
    monkeypatch.setattr(packages, "missing_packages", lambda name: ["x"])
    with pytest.raises(ModuleNotFoundError, match=r'int8 by backend auto .* pip install "monai-lgg\[openvino\]"'):
        load_backend("auto", tiny(), 3, precision="int8", int8_file=tmp_path / "int8.zip")
    with pytest.raises(ModuleNotFoundError, match=r"backend onnxruntime needs x"):
        quantize(tiny(), slices, tmp_path / "int8.zip")
