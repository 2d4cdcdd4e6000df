"""The app that a MONAI Label server loads; see the package's head."""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.async_tasks.utils import processes

from monai_lgg import __version__
from monai_lgg.bundle import find_bundle
from monai_lgg.label_app.datastore import SeriesDatastore, StudiesDatastore
from monai_lgg.label_app.predictions import Predictions
from monai_lgg.label_app.tasks import (
    BatchInference,
    DiceScoring,
    Inference,
    SumScoring,
    Training,
    UncertaintyScoring,
)
from monai_lgg.label_app.versions import Versions

DEFAULT_BUNDLES = '["unet_25d"]'


class App(MONAILabelApp):
    """Serves bundles of this package to annotators.

    Args:
        app_dir: this folder.
        studies: folder of the images, or URL of a DICOMweb server.
        conf: ``bundles``, a JSON list of names or folders; ``models``, the folder of the versions that are trained,
            by default ``models`` in the studies folder.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        logging.getLogger("ignite").setLevel(logging.WARNING)  # of a task, viewers show the last lines
        parent = Path(conf.get("models") or Path(studies) / "models")
        roots = [find_bundle(name) for name in json.loads(conf.get("bundles", DEFAULT_BUNDLES))]
        self.models = {root.name: Predictions(Versions(root, parent / root.name)) for root in roots}
        for model in self.models.values():
            model.versions.remove_leftovers()
        self.descriptions = {root.name: _description(root) for root in roots}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="monai-lgg",
            description="Lower-grade glioma (the FLAIR abnormality) in brain MRI. Research use only.",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return StudiesDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, Inference]:
        return {name: Inference(model, self.descriptions[name]) for name, model in self.models.items()}

    def init_trainers(self) -> dict[str, Training]:
        return {name: Training(model.versions, self.descriptions[name]) for name, model in self.models.items()}

    def init_strategies(self) -> dict[str, Any]:
        return {
            "first": First(),
            "random": Random(),
            "epistemic": Epistemic(key="epistemic_entropy", desc="the image that the network itself is least sure of"),
            "tta": Epistemic(key="tta_entropy", desc="the image whose mirror images are segmented least alike"),
        }

    def init_scoring_methods(self) -> dict[str, Any]:
        return {
            "dice": DiceScoring(),
            "sum": SumScoring(),
            "epistemic": UncertaintyScoring("epistemic", self.models, "mean entropy over passes with dropout, in bits"),
            "tta": UncertaintyScoring("tta", self.models, "mean entropy over flips of the image, in bits"),
        }

    def init_batch_infer(self) -> BatchInference:
        return BatchInference()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Raises: ImageNotFoundException: the image is neither a file nor in the studies."""
        image = request.get("image")
        if isinstance(image, str) and not self._is_given(image):
            known = (datastore or self.datastore()).list_images()
            if image not in known:
                raise ImageNotFoundException(f"no image {image!r} among the {len(known)} of the studies")
        return super().infer(request, datastore)

    def _is_given(self, image: str) -> bool:
        """A file that came with the request or a session, or lies in the studies; not any file of this machine."""
        path = Path(image).resolve()
        given = (tempfile.gettempdir(), settings.MONAI_LABEL_SESSION_PATH, self.studies)
        return path.is_file() and any(path.is_relative_to(Path(folder).resolve()) for folder in given)

    def async_scoring(self, method: str | None, params: Any = None) -> Any:
        """Without a method: those that choose the next image, if they have not seen all; nothing is scored twice."""
        if method:
            return super().async_scoring(method, params)
        if not self._server_mode:
            return {}  # after a training, in its process: the server does it when it is asked for the next image
        if processes("scoring") or not any(model.versions.numbers() for model in self.models.values()):
            return {}
        due = [name for name, task in self._scoring_methods.items() if _is_due(task, self.datastore())]
        return {name: super(App, self).async_scoring(name, params) for name in due}

    def _init_dicomweb_datastore(self) -> Datastore:
        """As MONAI Label's, but it would fetch dcmqi, which here is a package.

        Raises: FileNotFoundError: that package is not installed.
        """
        if shutil.which("itkimage2segimage") is None:
            raise FileNotFoundError(
                "itkimage2segimage is not on the path; pip install dcmqi, see the README's Annotate"
            )
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies,
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        return SeriesDatastore(
            client=client,
            search_filter=settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or None,
            fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
        )


def _description(root: Path) -> str:
    return str(json.loads((root / "configs" / "metadata.json").read_text()).get("description", root.name))


def _is_due(task: Any, datastore: Datastore) -> bool:
    return isinstance(task, UncertaintyScoring) and bool(task.due(datastore))
