"""Starting the label server: what it needs is checked before MONAI Label, which takes seconds, is loaded."""

import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_lgg.bundle import find_bundle
from monai_lgg.inference import check_writable
from monai_lgg.label_app.studies import PATTERNS

#: Variable with the host names that are trusted besides those of this machine, between commas.
TRUSTED = "MONAI_LGG_LABEL_TRUSTED"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """How to serve.

    Args:
        studies: folder of the images; with ``dicomweb`` of what is fetched from there.
        bundles: names or folders; two must not have the same folder name.
        dicomweb: URL of the DICOMweb server that has the images.
        host, port: to listen on.
        models: folder of the versions that are trained; None is ``models`` in the studies folder.
        scoring: measure by itself how unsure the networks are of unlabelled images. None does so for a folder; not with
            ``dicomweb``, where it would fetch every series of the server.
        trusted: names by which a proxy in front of the server is reached.
    """

    studies: Path
    bundles: Sequence[str]
    dicomweb: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    models: Path | None = None
    scoring: bool | None = None
    trusted: Sequence[str] = ()


def start(options: Options, say: Callable[[str], Any]) -> None:
    """Serve until interrupted, in an empty working directory.

    MONAI Label takes an image's id for a file if there is one of that name, such as a patient's folder, in the working
    directory.

    Raises:
        ModuleNotFoundError: MONAI Label is not installed.
        FileNotFoundError: the studies folder does not exist; with ``dicomweb`` it is made.
        ValueError: no such bundle, or two of one name.
        OSError: the studies folder cannot be written, or the port is in use.
    """
    if options.dicomweb is not None:
        options.studies.mkdir(parents=True, exist_ok=True)  # nothing need be in it
    _check_studies(options.studies)
    roots = [find_bundle(name) for name in options.bundles]
    _check_names(roots)
    listening = _listen(options.host, options.port)
    try:
        _check_installed()
        os.environ.update(_environment(options, roots, listening.getsockname()[1]))
        with tempfile.TemporaryDirectory(prefix="monai-lgg-serving-") as empty, chdir(empty), _own_temporary_files():
            _serve(options, listening, say)
    finally:
        listening.close()


@contextmanager
def _own_temporary_files() -> Iterator[None]:
    """In a folder that nobody else may read, and that is gone at the end.

    MONAI Label leaves there what came with a request that it refused: scans and labels.
    """
    usual = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="monai-lgg-requests-") as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = usual[0]
            if usual[1] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = usual[1]


def _check_installed() -> None:
    try:
        import_module("monailabel")
    except ImportError as error:
        raise ModuleNotFoundError(
            "MONAI Label is not installed here; it needs an environment of its own: 'make label-env', or the extra "
            "'label' as under Annotate in the README"
        ) from error


def _check_studies(studies: Path) -> None:
    if not studies.is_dir():
        raise FileNotFoundError(
            f"studies folder {studies} does not exist; make one with 'monai-lgg label prepare', or give another"
        )
    check_writable(studies)  # finished labels are kept there


def _check_names(roots: Sequence[Path]) -> None:
    names = [root.name for root in roots]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two bundles are named {twice[0]}; rename the folder of one, or serve them one at a time")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # or a second server could take the port until this one is loaded
    except OSError as error:
        listening.close()
        raise OSError(
            error.errno, f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
        ) from error
    return listening


def _environment(options: Options, roots: Sequence[Path], port: int) -> dict[str, str]:
    """Settings of MONAI Label, by which its background processes find them too. Those that are set already stay."""
    studies = options.studies.resolve()
    conf = {
        "bundles": json.dumps([str(root) for root in roots]),
        "models": str((options.models or studies / "models").resolve()),
    }
    own = {
        "MONAI_LABEL_APP_DIR": str(Path(__file__).parent),
        "MONAI_LABEL_STUDIES": options.dicomweb or str(studies),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
        "MONAI_LABEL_SERVER_PORT": str(port),
    }
    if options.trusted:
        own[TRUSTED] = ",".join(options.trusted)
    if options.scoring is not None:
        own["MONAI_LABEL_AUTO_UPDATE_SCORING"] = str(options.scoring).lower()
    choices = {
        "MONAI_LABEL_AUTO_UPDATE_SCORING": str(options.dicomweb is None).lower(),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(PATTERNS),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": "30",  # seconds, after which new series and labels are seen
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(studies),
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "MR"}),
        "MONAI_LABEL_SESSION_PATH": str(studies / ".sessions"),
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "PYTHONPATH": "",  # MONAI Label fails without one
    }
    chosen = {key: os.environ.get(key, value) for key, value in choices.items()} | own
    for key in ("MONAI_LABEL_DICOMWEB_CACHE_PATH", "MONAI_LABEL_SESSION_PATH"):
        chosen[key] = os.path.abspath(chosen[key])  # the server has a working directory of its own
    chosen["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, chosen["PYTHONPATH"].split(os.pathsep))))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # tools of the environment
    return chosen | {"PATH": path}


def _serve(options: Options, listening: socket.socket, say: Callable[[str], Any]) -> None:
    import uvicorn
    from monailabel.interfaces.utils.app import app_instance

    from monai_lgg.label_app.background import stop_all
    from monai_lgg.label_app.server import app

    logging.getLogger("monailabel").setLevel(logging.WARNING)  # it logs each file and each request
    logging.getLogger("timeloop").addFilter(lambda record: False)
    instance = app_instance()
    host, port = listening.getsockname()[:2]
    say(f"models: {', '.join(instance.models)}; images: {len(instance.datastore().list_images())}")
    say(f"MONAI Label server: http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)")
    if options.host not in LOOPBACK:
        say(f"WARNING: {options.host} can be reached by others, and the server asks for no password")
    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # how uvicorn ends after it was interrupted and has shut down
        pass
    finally:
        stop_all()
    say("stopped")
