"""MONAI Label's tasks, each of which hands its work to this package.

MONAI Label's own BundleInferTask is not used: it rebuilds a bundle's pipeline from its parts, without the decision rule
and the reader of ours, and numbers the labels by channel.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from monai_lgg.errors import deepest
from monai_lgg.io.reader import CaseReader
from monai_lgg.label_app.predictions import Predictions
from monai_lgg.label_app.studies import Pair
from monai_lgg.label_app.training import Plan, check_labels, train_version
from monai_lgg.label_app.versions import FACTS, WEIGHTS, Versions
from monai_lgg.metrics.overlap import dice, slice_counts

_log = logging.getLogger(__name__)

#: Name of the segment, and its value in a mask.
LABELS = {"tumour": 1}
LATEST = "latest"


class Inference(InferTask):
    """Masks of one model."""

    def __init__(self, predictions: Predictions, description: str) -> None:
        super().__init__(InferType.SEGMENTATION, LABELS, 3, description)
        self.predictions = predictions
        self.versions = predictions.versions

    def is_valid(self) -> bool:
        return bool(self.versions.numbers())

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.versions.latest()}

    def config(self) -> dict[str, Any]:
        numbers = [str(number) for number in reversed(self.versions.numbers())]
        return {"device": device_list(), "version": [LATEST, *numbers]}

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.versions.folder(self.versions.latest()) / WEIGHTS) if self.is_valid() else None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        began = time.perf_counter()
        if not isinstance(request["image"], str):
            raise ValueError("the image must be a file; give its id, or upload it as .nii.gz or .tif")
        version = _version(request.get("version"))
        path, facts = self.predictions.mask(Path(request["image"]), version, name_to_device(request.get("device")))
        seconds = round(time.perf_counter() - began, 2)
        return str(path), {"label_names": LABELS, **facts, "latencies": {"total": seconds}}


def _version(asked: Any) -> int | None:
    """Of a request, in which viewers send back the list of choices or one of them."""
    asked = asked[0] if isinstance(asked, list) and asked else asked
    if asked in (None, "", [], LATEST):
        return None
    try:
        return int(asked)
    except (TypeError, ValueError) as error:
        raise ValueError(f"version {asked!r}: give a number, or {LATEST!r}") from error


class Training(TrainTask):
    """Adds a version of one model."""

    def __init__(self, versions: Versions, description: str) -> None:
        super().__init__(description)
        self.versions = versions

    def config(self) -> dict[str, Any]:
        plan = Plan()
        return {
            "device": device_list(),
            "pretrained": plan.pretrained,
            "max_epochs": plan.epochs,
            "val_split": plan.validation,
        }

    def stats(self) -> dict[str, Any]:
        """Of the version in use, if it was trained here; viewers show ``best_metric``."""
        numbers = self.versions.numbers()
        if not numbers or numbers[-1] == 0:
            return {}
        facts = json.loads((self.versions.folder(numbers[-1]) / FACTS).read_text())
        return {**facts, "best_metric": facts["validation_dice"]}

    def check(self, datastore: Datastore) -> None:
        """Raises: ValueError: there are too few labels."""
        check_labels(_pairs(datastore))

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """What is wrong with the request or the labels ends the task with one line, which the server shows."""
        try:
            return self._train(request, datastore)
        except ValueError as error:
            _log.error(f"{self.versions.name} was not trained: {error}")
            raise SystemExit(1) from error

    def _train(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        plan = Plan(
            epochs=int(request.get("max_epochs", Plan.epochs)),
            validation=float(request.get("val_split", Plan.validation)),
            learning_rate=request.get("learning_rate"),
            pretrained=_yes(request.get("pretrained", Plan.pretrained)),
            device=name_to_device(request.get("device")),
        )
        facts = train_version(self.versions, _pairs(datastore), plan)
        for reason in facts["left_out"].values():
            _log.warning(f"left out: {reason}")
        _log.info(f"version {facts['version']} of {self.versions.name} is in use now")
        return facts


def _yes(value: Any) -> bool:
    """Of a request, in which viewers send true and false as they are or as words."""
    words = {"true": True, "false": False, "1": True, "0": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError(f"pretrained {value!r}: give true or false")
    return found


def _pairs(datastore: Datastore) -> list[Pair]:
    return [Pair(Path(item["image"]), Path(item["label"])) for item in datastore.datalist()]


class BatchInference(BatchInferTask):
    """Masks of many images; one that fails is reported as its ``error`` and stops no other."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> Any:
        def careful(one: Mapping[str, Any], store: Datastore) -> dict[str, Any]:
            try:
                return dict(infer(one, store))
            except Exception as error:
                _log.warning(f"{one['image']}: {deepest(error)}")
                return {"error": str(deepest(error))}

        several = bool(request.get("multi_gpu", True)) and torch.cuda.device_count() > 1
        return super().__call__({**request, "multi_gpu": several}, datastore, careful)


class UncertaintyScoring(ScoringMethod):
    """Mean entropy of each unlabelled image by the version in use, for the strategy of the same name.

    Args:
        method: of :data:`monai_lgg.label_app.predictions.UNCERTAINTY`.
        models: by name; a request's ``model`` chooses, else the first.
    """

    def __init__(self, method: str, models: Mapping[str, Predictions], description: str) -> None:
        super().__init__(description)
        self.method = method
        self.models = models

    def due(self, datastore: Datastore, model: str | None = None) -> list[str]:
        """Unlabelled images that the version in use has not scored yet."""
        versions = self._model(model).versions
        made_by = _made_by(versions, versions.latest())
        images = datastore.get_unlabeled_images()
        return [image for image in images if datastore.get_image_info(image).get(f"{self.method}_by") != made_by]

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        predictions = self._model(request.get("model"))
        version, device = predictions.versions.latest(), name_to_device(request.get("device"))
        result: dict[str, Any] = {}
        for image in self.due(datastore, request.get("model")):
            info: dict[str, Any] = {f"{self.method}_by": _made_by(predictions.versions, version)}
            try:
                path = Path(datastore.get_image_uri(image))
                info[f"{self.method}_entropy"] = predictions.entropy(path, self.method, version, device)
            except Exception as error:  # it comes last in the strategy, and stops no other
                _log.warning(f"{image}: {_reason(error)}")
                info |= {f"{self.method}_entropy": 0.0, f"{self.method}_error": _reason(error)}
            try:
                datastore.update_image_info(image, info)
            except ImageNotFoundException:  # a series that could not be fetched, or a file that is gone by now
                _log.warning(f"{image}: is not in the studies, so its score is not kept")
            result[image] = info
        return result

    def _model(self, name: str | None) -> Predictions:
        if name is not None and name not in self.models:
            raise ValueError(f"no model {name!r}; served are: {', '.join(self.models)}")
        return self.models[name] if name is not None else next(iter(self.models.values()))


def _reason(error: Exception) -> str:
    """MONAI Label's own errors have an empty text."""
    cause = deepest(error)
    return str(getattr(cause, "msg", None) or cause) or type(cause).__name__


def _made_by(versions: Versions, version: int) -> str:
    return f"{versions.name} {version}"


class DiceScoring(ScoringMethod):
    """Dice of the proposed masks (``original``) with the labels that the annotator made of them (``final``)."""

    def __init__(self) -> None:
        super().__init__("Dice of proposed and final labels; none where both are empty")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, float | None]:
        tags = (request.get("y", DefaultLabelTag.FINAL), request.get("y_pred", DefaultLabelTag.ORIGINAL))
        result: dict[str, float | None] = {}
        for image in datastore.list_images():
            if not all(datastore.get_label_by_image_id(image, tag) for tag in tags):
                continue
            truth, proposed = (_read_label(datastore, image, tag) for tag in tags)
            score = float(dice(slice_counts(proposed, truth).sum(axis=0)))
            result[image] = None if math.isnan(score) else score
            datastore.update_image_info(image, {"dice": result[image]})
        return result


class SumScoring(ScoringMethod):
    """Voxels and slices of each label."""

    def __init__(self) -> None:
        super().__init__("voxels and slices of the proposed and final labels")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, dict[str, dict[str, int]]]:
        result: dict[str, dict[str, dict[str, int]]] = {}
        for image in datastore.list_images():
            for tag in (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL):
                if not datastore.get_label_by_image_id(image, tag):
                    continue
                label = _read_label(datastore, image, tag)
                info = {"sum": int(label.sum()), "slices": int(label.any(axis=(0, 1)).sum())}
                datastore.update_label_info(image, tag, info)
                result.setdefault(image, {})[tag.value] = info
        return result


def _read_label(datastore: Datastore, image: str, tag: str) -> np.ndarray:
    """bool, (X, Y, Z)."""
    path = datastore.get_label_uri(datastore.get_label_by_image_id(image, tag), tag)
    return np.asarray(CaseReader().get_data([path])[0][..., 0] > 0)
