"""Writing a bundle's network for other programs, with all that is needed to use it inside the file.

Every file takes images as the bundle's preprocessing makes them and gives logits. Its metadata (:func:`describe`) says
how to make the one and what to do with the other: in words, and as the fragments ``preprocessing`` and ``inferer`` of
``inference.json``, which MONAI's ConfigParser builds.
"""

import hashlib
import importlib
import inspect
import io
import json
import logging
import os
import pydoc
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_lgg import __version__
from monai_lgg.backends import INT8_FILE, MULTIPLE, check_name, export_onnx, openvino_model, quantize
from monai_lgg.bundle import is_shipped, stored_settings, training_split, workflow
from monai_lgg.cases import intensity_range
from monai_lgg.errors import UsageError, deepest
from monai_lgg.io.atomic import atomic_text, atomic_write
from monai_lgg.prediction_inputs import prediction_records

#: Format -> suffixes of its files; the first is the default.
FORMATS = {
    "torchscript": (".ts", ".pt"),
    "onnx": (".onnx",),
    "openvino": (".xml",),
    "tensorrt": (".engine", ".plan"),
    "int8": (".zip",),
}
#: Name of the metadata in a TorchScript file, the one that MONAI's load_net_with_metadata reads.
EXTRA_FILE = "metadata.json"
#: Patients, and slices of each, that the INT8 network is calibrated with.
CALIBRATION = (12, 4)
#: (least, best, most) of images, rows and columns that a TensorRT engine is made for.
ENGINE_SIZES = ((1, 32, 32), (8, 256, 256), (32, 512, 512))

_log = logging.getLogger(__name__)
Write = Callable[[torch.nn.Module, int, Path, Mapping[str, Any]], object]


def export_bundle(
    bundle: Path,
    to: str,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    calibrate: Path | None = None,
) -> Path:
    """Write the network of a trained bundle in another format.

    Args:
        bundle: of :func:`monai_lgg.bundle.find_bundle`, with weights at ``models/model.pt``.
        to: one of :data:`FORMATS`. ``openvino`` writes a ``.bin`` beside the ``.xml``, ``tensorrt`` a ``.json`` with
            the metadata. ``int8`` is for ``predict``, see :func:`monai_lgg.backends.quantize`.
        output: None is ``<bundle's name><suffix>`` in the working folder, and for ``int8`` the bundle's own
            ``models/model.int8.zip``.
        overwrite: replace files that exist.
        calibrate: patients in the public layout, or NIfTI volumes, for ``int8`` alone.
    Returns:
        The path of the file.
    Raises:
        UsageError: an unknown format, a suffix of another, or ``int8`` into a bundle of the installation.
        ValueError: weights of another network.
        FileNotFoundError: the bundle has no weights.
        FileExistsError: a file is there already.
        ModuleNotFoundError: a package is missing; the extra that brings it is named.
    """
    check_name("format", to, FORMATS)
    if (to == "int8") != (calibrate is not None):
        raise UsageError("int8 needs patients to calibrate with (--calibrate), and no other format takes them")
    if to == "int8" and output is None and is_shipped(bundle):
        raise UsageError(
            f"{bundle.name} is part of the installation, where nothing is written; copy {bundle} and give the copy, or "
            "give an output file"
        )
    output = output or (bundle / INT8_FILE if to == "int8" else Path(bundle.name + FORMATS[to][0]))
    _check_output(to, output, overwrite)
    flow = _trained(bundle)
    network = flow.parser.get_parsed_content("network").eval().to(memory_format=torch.contiguous_format)
    if calibrate is not None:
        with torch.inference_mode():
            agreement = quantize(network, _calibration_images(flow, bundle, calibrate), output)
        _log.info("masks of the INT8 network agree with those of the network to a Dice of %.4f", agreement)
        return output
    facts = describe(bundle, flow)
    _WRITERS[to](network, _checked_channels(network, bundle), output, facts)
    return output


def _check_output(to: str, output: Path, overwrite: bool) -> None:
    if output.suffix not in FORMATS[to]:
        raise UsageError(f"{output}: a file of format {to} ends in {' or '.join(FORMATS[to])}; give such a name")
    taken = [path for path in _files(to, output) if path.exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{taken[0]} exists; give --overwrite to replace it, or another name")


def _files(to: str, output: Path) -> list[Path]:
    beside = {"openvino": [output.with_suffix(".bin")], "tensorrt": [output.with_suffix(".json")]}
    return [output, *beside.get(to, [])]


def _trained(bundle: Path) -> ConfigWorkflow:
    """The bundle's inference, with its weights, on the CPU."""
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}; train the bundle first, or give a trained run as the bundle")
    try:
        return workflow(bundle, ["inference.json"], "infer", "inferring", {"device_name": "cpu"})
    except RuntimeError as error:  # MONAI's, around the one that says what is wrong
        raise deepest(error) from error


def _checked_channels(network: torch.nn.Module, bundle: Path) -> int:
    """Of the network's input, as the bundle's metadata has it."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    channels = int(metadata["network_data_format"]["inputs"]["image"]["num_channels"])
    try:
        with torch.inference_mode():
            network(torch.zeros(1, channels, 2 * MULTIPLE, 2 * MULTIPLE))
    except RuntimeError as error:
        raise ValueError(
            f"{bundle}: the network does not take the {channels} channels that configs/metadata.json names; correct "
            "num_channels there"
        ) from error
    return channels


# --- the metadata


def describe(bundle: Path, flow: ConfigWorkflow) -> dict[str, Any]:
    """What a program needs to know to use the network of a bundle, as JSON values.

    Args:
        flow: the bundle's inference.
    """
    config = flow.parser
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    inputs, outputs = (metadata["network_data_format"][side] for side in ("inputs", "outputs"))
    image, prediction = inputs["image"], outputs["pred"]
    threshold = config.get("threshold", 0.5)
    steps = _resolved(config, config["preprocessing"])["transforms"]
    inferer = _resolved(config, config["slice_inferer" if "slice_inferer" in config else "inferer"])
    size = " x ".join(map(str, image["spatial_shape"]))
    return {
        "bundle": bundle.name,
        "name": metadata["name"],
        "version": metadata["version"],
        "weights_sha256": hashlib.sha256((bundle / "models" / "model.pt").read_bytes()).hexdigest(),
        "made_by": f"monai-lgg {__version__}, torch {torch.__version__}",
        **_licence(metadata["license"], bundle / "models" / "NOTICE"),
        "intended_use": metadata["intended_use"],
        "input": f"image: float32 (B, {image['num_channels']}, H, W), H x W being {size}; one item a slice",
        "input_channels": image["channel_def"],
        "input_range": image["value_range"],
        "input_steps": [_words(step) for step in _flat(steps)],
        "intensity_range": _plain(pydoc.getdoc(intensity_range)),
        "inferer_steps": [*_mirroring(config), _words(inferer)],
        "output": f"logits: float32 (B, {prediction['num_channels']}, H, W), not probabilities; the probability is "
        f"{_probability(config)}, and a pixel from {threshold} on is {', '.join(prediction['channel_def'].values())}",
        "output_steps": _decision(config),
        "output_channels": prediction["channel_def"],
        "calibration": dict(config["calibration"]),
        "threshold": threshold,
        "fill_holes": config.get("fill_holes", False),
        "component_share": config.get("component_share", 0.0),
        "preprocessing": steps,
        "inferer": inferer,
    }


def _licence(of_code: str, notice: Path) -> dict[str, str]:
    """Weights that were trained on data under a licence of its own have a NOTICE beside them, which goes with them."""
    if not notice.is_file():
        return {"license": of_code}
    return {"license": f"code {of_code}; weights as the notice says", "notice": notice.read_text()}


def _probability(config: ConfigParser) -> str:
    points = [config["calibration"][key] for key in ("logits", "calibrated")]
    if points == [[0, 1], [0, 1]]:
        return "sigmoid(logits)"
    through = ", ".join(f"({logit}, {calibrated})" for logit, calibrated in zip(*points, strict=True))
    return (
        f"the sigmoid of the calibrated logit, which lies on straight lines through (logit, calibrated) {through}, "
        "beyond which the first and the last line go on"
    )


def _mirroring(config: ConfigParser) -> list[str]:
    return ["the logits are averaged with those of the image mirrored left to right"] if config.get("mirror") else []


def _decision(config: ConfigParser) -> list[str]:
    """What comes after the probabilities, as :func:`monai_lgg.decision.decide` does it."""
    steps = [f"threshold: a voxel with a probability of {config.get('threshold', 0.5)} or more is tumour"]
    if config.get("fill_holes", False):
        steps.append("holes: what the mask encloses within a slice is filled")
    if share := config.get("component_share", 0):
        steps.append(
            f"components: 3D components of less than {share} of the voxels of the largest are dropped (26 neighbours)"
        )
    return steps


def _resolved(config: ConfigParser, value: Any) -> Any:
    """``value`` with references to other parts (``@intensity``) replaced by these; expressions stay as they are."""
    if isinstance(value, dict):
        return {key: _resolved(config, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(config, item) for item in value]
    if isinstance(value, str) and value.startswith("@") and _reference(value) in config:
        return _resolved(config, config[_reference(value)])
    return value


def _reference(value: str) -> str:
    return value[1:].replace("::", "#")


def _flat(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transforms in order, those inside a Compose too."""
    return [inner for step in steps for inner in (_flat(step["transforms"]) if "transforms" in step else [step])]


def _words(step: Mapping[str, Any]) -> str:
    """A component's name, what its documentation says (this project's), and its settings."""
    name = step["_target_"].rpartition(".")[2]
    settings = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
    component: Any = pydoc.locate(step["_target_"])
    if component is None or not step["_target_"].startswith("monai_lgg."):
        return f"{name}: {', '.join(f'{key} {value}' for key, value in settings.items())}"
    documentation = pydoc.getdoc(component)
    meanings = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", documentation.partition("Args:\n")[2], re.M))
    parameters = inspect.signature(component).parameters.values()
    settings = {item.name: item.default for item in parameters if item.default is not item.empty} | settings
    described = [f"{key} {value}: {_plain(meanings[key])}" for key, value in settings.items() if key in meanings]
    return " ".join([f"{name}: {_plain(re.split(r'(?m)^(?:Args|Raises|Source):', documentation)[0])}", *described])


def _plain(documentation: str) -> str:
    """A docstring's text in one line, without its markup."""
    return " ".join(re.sub(r":\w+:|`|~", "", documentation).split())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- the formats


def _write_torchscript(network: torch.nn.Module, channels: int, output: Path, facts: Mapping[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is no longer developed
        scripted = torch.jit.script(network)
        extra = {EXTRA_FILE: json.dumps(facts, indent=1)}
        packed = io.BytesIO()  # a file's partial name would be in its own archive
        torch.jit.save(scripted, packed, _extra_files=extra)
    atomic_write(output, lambda partial: partial.write_bytes(packed.getbuffer()))


def _write_onnx(network: torch.nn.Module, channels: int, output: Path, facts: Mapping[str, Any]) -> None:
    atomic_write(output, lambda partial: _described_onnx(network, channels, partial, facts))


def _described_onnx(network: torch.nn.Module, channels: int, path: Path, facts: Mapping[str, Any]) -> None:
    export_onnx(network, channels, path)
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {key: _text(value) for key, value in facts.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _write_openvino(network: torch.nn.Module, channels: int, output: Path, facts: Mapping[str, Any]) -> None:
    model = openvino_model(network, channels)
    for key, value in facts.items():
        model.set_rt_info(_text(value), ["monai_lgg", key])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        whole = Path(folder, output.name)
        importlib.import_module("openvino").save_model(model, str(whole), compress_to_fp16=False)
        for path in reversed(_files("openvino", output)):  # the .xml last: it is the one that is asked for
            os.replace(whole.with_suffix(path.suffix), path)


def _write_tensorrt(network: torch.nn.Module, channels: int, output: Path, facts: Mapping[str, Any]) -> None:
    """An engine for the GPU of this machine, float32. Written from TensorRT's documentation; not run by any test."""
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise ModuleNotFoundError(
            'format tensorrt needs the package tensorrt, which is not installed; pip install "monai-lgg[tensorrt]" on '
            "the machine with the GPU that will run the engine, or export to onnx"
        ) from error
    log = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(log)
    definition = builder.create_network(0)
    parser = tensorrt.OnnxParser(definition, log)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(network, channels, path)
        if not parser.parse(path.read_bytes()):
            raise ValueError(f"TensorRT cannot read the network ({parser.get_error(0)}); export to onnx instead")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", *((images, channels, rows, columns) for images, rows, columns in ENGINE_SIZES))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(definition, config)
    if engine is None:
        raise ValueError("TensorRT made no engine of the network (its log says why); export to onnx instead")
    atomic_text(output.with_suffix(".json"), json.dumps({**facts, "engine_sizes": ENGINE_SIZES}, indent=1) + "\n")
    atomic_write(output, lambda partial: partial.write_bytes(engine))


_WRITERS: dict[str, Write] = {
    "torchscript": _write_torchscript,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "tensorrt": _write_tensorrt,
}


# --- INT8


def _calibration_images(flow: ConfigWorkflow, bundle: Path, source: Path) -> list[torch.Tensor]:
    """Some of the images (1, C, H, W) that the network gets when the bundle predicts patients of its training."""
    patients, slices = CALIBRATION
    preprocessing, inferer, network = (
        flow.parser.get_parsed_content(name) for name in ("preprocessing", "slice_inferer", "network")
    )
    seen: list[torch.Tensor] = []

    def remember(batch: torch.Tensor) -> torch.Tensor:
        seen.extend(batch.as_subclass(torch.Tensor).float().contiguous().split(1))
        return network(batch[:1]).repeat(len(batch), 1, 1, 1)  # of the right shape; what it says is not used

    chosen = []
    for record in _spread(_training_records(bundle, source), patients):
        seen.clear()
        inferer(preprocessing(dict(record))["image"][None], remember)
        chosen += _spread(seen, slices)
    return chosen


def _training_records(bundle: Path, source: Path) -> list[dict[str, Any]]:
    """Records below ``source``; only those of the run's own training, if there are such."""
    records = [record for record in prediction_records(source) if "broken" not in record]
    if not records:
        raise ValueError(f"{source}: no patient that can be read; give patients of the training")
    split = training_split(bundle)
    if split is None:
        return records
    fold = stored_settings(bundle).get("fold", 0)
    training = split.part("train", fold if len(split.folds) > fold else 0)
    return [record for record in records if record["case"] in training] or records


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly spaced and away from the ends."""
    count = min(count, len(items))
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]
