import hashlib
import importlib
import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import load_net_with_metadata
from monai.inferers import Inferer

from monai_lgg import bundle as bundles
from monai_lgg import export as exports
from monai_lgg.backends import INT8_FILE, available, load_backend
from monai_lgg.bundle import bundle_names, find_bundle, workflow
from monai_lgg.export import FORMATS, describe, export_bundle
from monai_lgg.splits import save_split, split_patients
from tests.test_bundle_journeys import small

CHANNELS = {"unet_cosine": 3, "unet_25d": 9, "segmentation_ae": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a cache of the test's own."""
    monkeypatch.setenv("MONAI_LGG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def trained(
    folder: Path, name: str = "unet_cosine", *settings: str, measured: bool = False
) -> tuple[Path, torch.nn.Module]:
    """A run with random weights, small as in tests/test_bundle_journeys.py, and its network.

    Args:
        measured: with the batch statistics of one batch, so that logits are of the size that training gives: below ten,
            not thousands, of which float32 keeps no 1e-4.
    """
    run, train = folder / "my run", [find_bundle(name) / "configs" / "train.json"]
    bundles.prepare_run(find_bundle(name), run, bundles.parse_settings((*small(name), *settings), train))
    torch.manual_seed(0)
    network = bundles.read_config([*train, run / "configs" / "overrides.json"]).get_parsed_content("network_def").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if measured:
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None
            network.train()(torch.rand(4, CHANNELS[name], 64, 96) * 2 - 1)
            network.eval()
    (run / "models").mkdir()
    torch.save(network.state_dict(), run / "models" / "model.pt")
    return run, network


def load(path: Path, to: str) -> tuple[Any, dict[str, Any]]:
    """A file as another program reads it: a function of (B, C, H, W), and the metadata."""
    if to == "torchscript":
        extra = {"metadata.json": ""}
        network = torch.jit.load(str(path), _extra_files=extra)
        return network, json.loads(extra["metadata.json"])
    if to == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
        found = session.get_modelmeta().custom_metadata_map
        assert [item.name for item in session.get_inputs()] == ["image"]
        assert [item.name for item in session.get_outputs()] == ["logits"]
        return lambda batch: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0]), decoded(found)
    openvino = importlib.import_module("openvino")
    model = openvino.Core().read_model(path)
    facts = {key: value.astype(str) for key, value in model.get_rt_info(["monai_lgg"]).astype(dict).items()}
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: torch.from_numpy(compiled({"image": batch.numpy()})["logits"]), decoded(facts)


def decoded(facts: dict[str, str]) -> dict[str, Any]:
    return {
        key: json.loads(value) if value[:1] in "[{" or key == "threshold" else value for key, value in facts.items()
    }


def test_a_torchscript_file_names_neither_the_machine_nor_itself(tmp_path: Path, here: Path) -> None:
    run, _ = trained(tmp_path, "unet_cosine", measured=True)
    paths = [export_bundle(run, "torchscript", here / name) for name in ("a.ts", "b.ts")]
    for path in paths:
        with zipfile.ZipFile(path) as archive:
            assert not [name for name in archive.namelist() if "partial" in name]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_weights_of_another_licence_keep_their_notice(tmp_path: Path, here: Path) -> None:
    run, _ = trained(tmp_path, "unet_cosine", measured=True)
    (run / "models" / "NOTICE").write_text("CC BY-NC-SA 4.0: no commercial use\n")
    _, facts = load(export_bundle(run, "torchscript"), "torchscript")
    assert facts["notice"] == "CC BY-NC-SA 4.0: no commercial use\n"
    assert facts["license"] == "code Apache-2.0; weights as the notice says"


@pytest.mark.parametrize("to", ["torchscript", "onnx", "openvino"])
@pytest.mark.parametrize("name", ["unet_cosine", "unet_25d"])
def test_a_file_gives_the_logits_and_says_how(name: str, to: str, tmp_path: Path, here: Path) -> None:
    if to == "openvino" and to not in available():
        pytest.skip("openvino is not installed")
    if to == "onnx":
        pytest.importorskip("onnx")
    run, network = trained(tmp_path, name, measured=True)
    path = export_bundle(run, to)
    assert path == Path("my run" + FORMATS[to][0])
    beside = {"openvino": ["my run.bin"]}.get(to, [])
    assert sorted(item.name for item in here.iterdir()) == sorted([path.name, *beside])

    forward, facts = load(path, to)
    for count, rows, columns in ((1, 64, 96), (3, 32, 64)):
        batch = torch.rand(count, CHANNELS[name], rows, columns) * 2 - 1
        with torch.no_grad():
            torch.testing.assert_close(forward(batch), network(batch), rtol=1e-4, atol=1e-4)

    assert facts["bundle"] == "my run"
    assert facts["weights_sha256"] == hashlib.sha256((run / "models" / "model.pt").read_bytes()).hexdigest()
    assert facts["license"] == "Apache-2.0"
    assert facts["intended_use"] == "Research only; not a medical device"
    config = json.loads((run / "configs" / "inference.json").read_text())
    assert facts["threshold"] == config["threshold"]
    assert facts["input_channels"]["0"].startswith("pre-contrast")
    assert facts["preprocessing"][0]["_target_"] == "LoadImaged"
    assert f"float32 (B, {CHANNELS[name]}, H, W)" in facts["input"]
    assert "not probabilities" in facts["output"]


def test_monai_reads_the_torchscript_file(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    _, facts, _ = load_net_with_metadata(str(export_bundle(run, "torchscript")))
    assert facts["version"] == json.loads((run / "configs" / "metadata.json").read_text())["version"]


@pytest.mark.parametrize("name", bundle_names())
def test_description_of_every_bundle(name: str, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, name)
    config = run / "configs" / "inference.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "threshold": 0.25}))
    flow = workflow(run, ["inference.json"], "infer", "inferring", {"device_name": "cpu"})
    facts = describe(run, flow)
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    assert facts["name"] == metadata["name"]
    assert facts["input_channels"] == metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    assert "a pixel from 0.25 on is tumour" in facts["output"]
    steps = [step.partition(":")[0] for step in facts["input_steps"]]
    assert steps[:3] == ["LoadImaged", "Orientationd", "ThreeSequencesd"]
    (scaling,) = [step for step in facts["input_steps"] if step.startswith("ScaleVolumeIntensityd")]
    assert "to [-1, 1], clipped, as float32." in scaling
    assert "@intensity" not in json.dumps(facts["preprocessing"])
    parsed = ConfigParser({key: facts[key] for key in ("preprocessing", "inferer")})
    assert isinstance(parsed.get_parsed_content("inferer"), Inferer)
    assert all(map(callable, parsed.get_parsed_content("preprocessing")))
    assert facts["calibration"] == {"logits": [0, 1], "calibrated": [0, 1]} or name == "unet_25d"


def test_steps_inside_a_compose_are_told(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "segmentation_ae")
    flow = workflow(run, ["inference.json"], "infer", "inferring", {"device_name": "cpu"})
    scaling, numbers, grey = describe(run, flow)["input_steps"][3:6]
    assert scaling.startswith("ScaleVolumeIntensityd: Maps each channel from the intensity range of its whole volume")
    assert numbers == "ScaleIntensityRanged: a_min -1, a_max 1, b_min 0, b_max 1"
    assert grey.startswith("GreySequencesd: Makes one grey channel of (pre-contrast, FLAIR, post-contrast), as reading")


def test_replaces_only_when_told(tmp_path: Path, here: Path) -> None:
    run, _ = trained(tmp_path)
    (here / "a.ts").write_text("thesis")
    with pytest.raises(FileExistsError, match=r"a\.ts exists; give --overwrite"):
        export_bundle(run, "torchscript", Path("a.ts"))
    assert (here / "a.ts").read_text() == "thesis"
    export_bundle(run, "torchscript", Path("a.ts"), overwrite=True)
    torch.jit.load("a.ts")
    (here / "b.bin").write_text("thesis")
    with pytest.raises(FileExistsError, match=r"b\.bin exists"):
        export_bundle(run, "openvino", Path("b.xml"))
    assert sorted(item.name for item in here.iterdir()) == ["a.ts", "b.bin"]


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    run, _ = trained(tmp_path)
    (here / "a.onnx").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export_bundle(run, "onnx", Path("a.onnx"), overwrite=True)
    assert [item.name for item in here.iterdir()] == ["a.onnx"]
    assert (here / "a.onnx").read_text() == "old"


@pytest.mark.parametrize(
    ("to", "output", "message"),
    [
        ("onx", None, r"no format 'onx'; did you mean onnx\?"),
        ("docx", None, "give one of: torchscript, onnx, openvino, tensorrt, int8"),
        ("onnx", "a.ts", r"a\.ts: a file of format onnx ends in \.onnx"),
        ("openvino", "a.bin", r"ends in \.xml"),
        ("tensorrt", "a", r"ends in \.engine or \.plan"),
        ("int8", None, "int8 needs patients to calibrate with"),
    ],
)
def test_refuses(to: str, output: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_bundle(tmp_path, to, Path(output) if output else None)


def test_refuses_bundles_that_are_not_ready(tmp_path: Path, here: Path) -> None:
    run, _ = trained(tmp_path)
    weights = run / "models" / "model.pt"
    with pytest.raises(ValueError, match="no other format takes them"):
        export_bundle(run, "onnx", calibrate=tmp_path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), weights)
    with pytest.raises(ValueError, match="weights of another network"):
        export_bundle(run, "onnx")
    weights.write_text("thesis")
    with pytest.raises(ValueError, match="not a weights file"):
        export_bundle(run, "onnx")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*model\.pt; train the bundle first"):
        export_bundle(run, "onnx")
    assert list(here.iterdir()) == []


def test_refuses_metadata_of_another_number_of_channels(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "unet_25d", "neighbours=2")
    with pytest.raises(ValueError, match=r"does not take the 9 channels that configs/metadata\.json names"):
        export_bundle(run, "torchscript")


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnx"), ("openvino", "openvino"), ("tensorrt", "tensorrt")])
def test_what_is_not_installed_names_its_extra(
    to: str, package: str, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    run, _ = trained(tmp_path)
    extra = {"onnx": "onnxruntime"}.get(to, to)
    with pytest.raises(
        ModuleNotFoundError, match=rf'{package}, which is not installed; pip install "monai-lgg\[{extra}'
    ):
        export_bundle(run, to)
    assert list(here.iterdir()) == []


# --- TensorRT: its calls, against a stand-in, because there is no GPU


class FakeTensorRT:
    """Remembers what it is given."""

    WARNING = 2
    engine: bytes | None = b"engine"

    def __init__(self) -> None:
        self.shapes: tuple[Any, ...] = ()
        self.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})
        self.Builder = lambda log: SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(),
            create_builder_config=lambda: SimpleNamespace(add_optimization_profile=lambda profile: None),
            create_optimization_profile=lambda: SimpleNamespace(set_shape=self.set_shape),
            build_serialized_network=lambda network, config: self.engine,
        )
        self.OnnxParser = lambda network, log: SimpleNamespace(parse=self.parse, get_error=lambda number: "bad node")
        self.parsed = b""
        self.can_parse = True

    def parse(self, content: bytes) -> bool:
        self.parsed = content
        return self.can_parse

    def set_shape(self, *shapes: Any) -> None:
        self.shapes = shapes


def test_tensorrt(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    run, _ = trained(tmp_path, "unet_25d")
    assert export_bundle(run, "tensorrt").read_bytes() == b"engine"
    assert sorted(item.name for item in here.iterdir()) == ["my run.engine", "my run.json"]
    assert json.loads((here / "my run.json").read_text())["input_channels"]["4"] == "FLAIR"
    assert fake.shapes == ("image", (1, 9, 32, 32), (8, 9, 256, 256), (32, 9, 512, 512))
    onnx.checker.check_model(onnx.load_from_string(fake.parsed))

    fake.engine = None
    with pytest.raises(ValueError, match="TensorRT made no engine"):
        export_bundle(run, "tensorrt", Path("other.plan"))
    fake.can_parse = False
    with pytest.raises(ValueError, match=r"cannot read the network \(bad node\)"):
        export_bundle(run, "tensorrt", Path("other.plan"))
    assert not list(here.glob("other*"))


# --- INT8


def test_int8_is_calibrated_on_patients_of_the_training(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trained(tmp_path, "unet_25d")
    split = split_patients(phantoms, seed=1)
    save_split(split, run / "eval" / "split.json")
    read: list[str] = []
    preprocessing = exports._training_records

    def remember(bundle: Path, source: Path) -> list[dict[str, Any]]:
        records = preprocessing(bundle, source)
        read.extend(record["case"] for record in records)
        return records

    given: list[torch.Tensor] = []

    def quantize(network: torch.nn.Module, images: list[torch.Tensor], path: Path) -> float:
        assert not network.training
        given.extend(images)
        path.write_text("made")
        return 1.0

    monkeypatch.setattr(exports, "_training_records", remember)
    monkeypatch.setattr(exports, "quantize", quantize)
    path = export_bundle(run, "int8", calibrate=phantoms)
    assert path == run / INT8_FILE
    assert sorted(read) == sorted(split.part("train", 0))
    assert len(given) == 4 * len(read)
    assert {image.shape[:2] for image in given} == {(1, 9)}
    assert all(type(image) is torch.Tensor and image.dtype == torch.float32 for image in given)
    assert all(image.shape[2] % 32 == image.shape[3] % 32 == 0 for image in given)
    assert -1 <= min(image.min() for image in given) < max(image.max() for image in given) <= 1
    with pytest.raises(FileExistsError, match="exists; give --overwrite"):
        export_bundle(run, "int8", calibrate=phantoms)


def test_int8_file_runs(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("monai_lgg.backends.int8.AGREEMENT", 0.5)  # random weights
    monkeypatch.setattr(exports, "CALIBRATION", (2, 2))
    run, network = trained(tmp_path)
    path = export_bundle(run, "int8", tmp_path / "small.zip", calibrate=phantoms)
    batch = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = network(batch)
        found = load_backend("onnxruntime", network, 3, precision="int8", int8_file=path)(batch)
    assert (found - expected).abs().max() < 0.2 * expected.abs().max()


def test_evenly_spaced() -> None:
    assert exports._spread(list(range(12)), 3) == [2, 6, 10]
    assert exports._spread([1, 2], 4) == [1, 2]
    assert exports._spread([1, 2, 3], 1) == [2]
