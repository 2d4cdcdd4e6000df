"""MONAI Label's web application, with errors that say what is wrong in place of a bare 500."""

import logging
import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from monailabel.app import app
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from monai_lgg.errors import deepest
from monai_lgg.label_app import background
from monai_lgg.label_app.overview import overview
from monai_lgg.label_app.start import LOOPBACK, TRUSTED

#: Error -> status; the first that fits.
STATUS: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (ImageNotFoundException, HTTPStatus.NOT_FOUND),
    (LabelNotFoundException, HTTPStatus.NOT_FOUND),
    (MONAILabelException, HTTPStatus.BAD_REQUEST),
    (FileNotFoundError, HTTPStatus.NOT_FOUND),
    (ValueError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Exception, HTTPStatus.INTERNAL_SERVER_ERROR),
)
#: First words of the paths that name a model, strategy or scoring method -> what they must be among.
_NAMES = {
    ("infer",): "models",
    ("train",): "trainers",
    ("batch", "infer"): "models",
    ("activelearning",): "strategies",
    ("scoring",): "scoring",
}
#: Pages that load programs from other sites.
PAGES = ("/", "/docs", "/logs", "/logs/")
#: How a query says yes.
_YES = ("1", "true", "on", "t", "y", "yes")
_log = logging.getLogger(__name__)


def _answer(request: Request, error: Exception) -> JSONResponse:
    cause = deepest(error)
    status = next(status for kind, status in STATUS if isinstance(cause, kind))
    text = getattr(cause, "msg", None) if isinstance(cause, MONAILabelException) else str(cause)
    return JSONResponse({"detail": text or type(cause).__name__}, status)


# MONAI Label lets pages from anywhere use it; only its own have business here, and they need no leave. (Its setting for
# this makes all background tasks fail.)
app.user_middleware = [item for item in app.user_middleware if item.cls is not CORSMiddleware]
app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in PAGES]
background.install()
for _kind, _ in STATUS[:-1]:  # of all others Starlette would print the traceback too
    app.add_exception_handler(_kind, _answer)


@app.get("/", include_in_schema=False)
@app.get("/docs", include_in_schema=False)
def _overview() -> HTMLResponse:
    return HTMLResponse(overview(app.openapi()))


@app.middleware("http")
async def _refuse_early(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """What MONAI Label would begin and fail at later, in another process, or must not do at all."""
    try:
        _check_sender(request)
        if request.url.path.startswith("/session") and request.query_params.get("uncompress", "").lower() in _YES:
            raise ValueError(
                "archives are not unpacked, because their members could be written anywhere; send the files"
            )
        _check(request.method, request.url.path.strip("/").split("/"))
    except HTTPException as error:
        return JSONResponse({"detail": error.detail}, error.status_code)
    except (FileNotFoundError, ValueError) as error:
        return _answer(request, error)
    try:
        return await call_next(request)
    except Exception as error:
        answer = _answer(request, error)
        if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.exception(f"{request.method} {request.url.path}")
        return answer


def _check_sender(request: Request) -> None:
    """That no page of another site is asking, which a browser on this machine would let reach a local server.

    A page sends its own name as Origin. By DNS rebinding it reaches this address under its name, which is in Host.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    trusted = {*LOOPBACK, *os.environ.get(TRUSTED, "").lower().split(",")}
    address = (request.scope.get("server") or ("", 0))[0]
    if address in LOOPBACK and urlsplit(f"//{host}").hostname not in trusted:
        raise HTTPException(HTTPStatus.FORBIDDEN, f"host {host!r} is not this server's; a proxy needs --trusted-host")
    if origin and urlsplit(origin).netloc != host and urlsplit(origin).hostname not in trusted - {*LOOPBACK}:
        raise HTTPException(HTTPStatus.FORBIDDEN, f"pages of {origin} may not use this server")


def _check(method: str, words: list[str]) -> None:
    if words[0] == "model" and method in ("PUT", "DELETE"):
        raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "weights are never replaced; train, which adds a version")
    if method == "POST" and words == ["train"]:
        for trainer in app_instance()._trainers.values():
            trainer.check(app_instance().datastore())
    name = words[-1]
    group = _NAMES.get(tuple(words[:-1])) if method == "POST" else None
    if group is None or name == "wsi":
        return
    instance = app_instance()
    known = instance.models if group == "models" else instance.info()[group]
    if name not in known:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"no {name!r} among the {group}: {', '.join(known) or 'none'}")
    if group == "models":
        instance.models[name].versions.latest()  # raises, and says what to do, where there are no weights yet
    if group == "trainers":
        instance._trainers[name].check(instance.datastore())
