"""The routes: which path answers what. What is done for them is the service's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from segpipe import __version__
from segpipe.serving.answers import KINDS, KINDS_OF_THINGS, Kind, chosen
from segpipe.serving.bodies import picture_of
from segpipe.serving.guard import PICTURES, App, Message, Receive, Send
from segpipe.serving.models import BusyError
from segpipe.serving.page import HEADERS, documentation
from segpipe.serving.service import Service
from segpipe.web.page import served_page

Segment = Callable[[Request], Awaitable[Response]]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"picture": _FILE["schema"]},
        "required": ["picture"],
        "additionalProperties": False,
    }
}
_PICTURE = {
    "required": True,
    "content": {"application/octet-stream": _FILE, "image/*": _FILE, "multipart/form-data": _FORM},
}
_DETAIL = {
    "application/json": {
        "schema": {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
    }
}
_WHY = {
    400: "The body is empty, or its form cannot be read.",
    401: "The token is wanted.",
    403: "Reloading is not done by request here: why.",
    406: "Accept names no kind of answer that there is.",
    408: "The body came too slowly.",
    409: "A reload is under way.",
    413: "The body is too large.",
    415: "The body is of a type that is not taken.",
    422: "The picture cannot be segmented, or the gate refused the model: why, in the runtime's words.",
    429: "The queue is full; Retry-After says when to come again.",
    500: "A bug of segpipe's; its log has the traceback.",
    503: "No model is loaded and warm yet, or the backend failed on this picture: why, in the runtime's words.",
}
_QUIET = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""FastAPI would tell OpenTelemetry, and by it whoever the environment names."""


def build_app(service: Service, no_reload: str = "") -> App:
    """The application behind the guard; `no_reload`: why nobody may reload by POST /reload, if so."""
    app = FastAPI(
        title="segpipe", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False, telemetry=_QUIET  # type: ignore[arg-type]
    )  # fmt: skip
    segment = _add_pictures(app, service)
    _add_model(app, service, no_reload)
    _add_probes(app, service)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return _bug(error)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if service.models.current is not None and service.kinds is not KINDS:  # the page draws masks
            return RedirectResponse("/docs")
        return Response(served_page(), media_type="text/html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(documentation(app.openapi()), media_type="text/html", headers=HEADERS)

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if (scope["type"], scope.get("method"), scope.get("path")) == ("http", "POST", PICTURES):
            await _straight(segment, scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


async def _straight(segment: Segment, scope: Message, receive: Receive, send: Send) -> None:
    """A picture past the framework, whose layers take longer than ours: it describes this path and has the others."""
    try:
        answer = await segment(Request(scope, receive))
    except HTTPException as refused:
        answer = JSONResponse({"detail": refused.detail}, refused.status_code, refused.headers)
    except Exception as error:
        await _bug(error)(scope, receive, send)
        raise  # uvicorn logs it
    await answer(scope, receive, send)


def _bug(error: Exception) -> Response:
    return JSONResponse({"detail": f"a bug: {type(error).__name__}. The server's log has more"}, 500)


def _answers(*statuses: int, **content: Any) -> dict[int | str, dict[str, Any]]:
    """The answers of a route for its description."""
    good: dict[int | str, dict[str, Any]] = {200: content} if content else {}
    return good | {status: {"description": _WHY[status], "content": _DETAIL} for status in statuses}


def _add_pictures(app: FastAPI, service: Service) -> Segment:
    kinds = {kind.name: {**(_BINARY if kind.media_type != "application/json" else {})} for kind in KINDS}
    what = f"{_listed(KINDS)}\n\nOf a network that tells things one by one:\n\n{_listed(KINDS_OF_THINGS)}"

    @app.post(
        PICTURES,
        summary="Segment one picture",
        description=f"Accept chooses the answer:\n\n{what}",
        responses=_answers(400, 401, 406, 408, 413, 415, 422, 429, 500, 503, description="The answer.", content=kinds),
        openapi_extra={"requestBody": _PICTURE},
        response_class=Response,
    )
    async def segment(request: Request) -> Response:
        kind = chosen(",".join(request.headers.getlist("accept")), service.kinds)
        if kind is None:
            names = ", ".join(known.name for known in service.kinds)
            raise HTTPException(406, f"there is no such answer. Accept one of: {names}")
        return await service.answer(await picture_of(request), kind, request.receive)

    return segment


def _listed(kinds: Sequence[Kind]) -> str:
    return "\n".join(f"- `{kind.name}`: {kind.what}" for kind in kinds)


def _add_model(app: FastAPI, service: Service, no_reload: str) -> None:
    @app.get("/model", summary="Contract, hashes, verdicts, and how the last reload went", responses=_answers(401))
    async def model() -> dict[str, Any]:
        current = service.models.current
        return {**service.describe(), "palette": current.segmenter.palette if current else ()}

    @app.post(
        "/reload",
        summary="Open the run or bundle anew, and let it take over",
        responses=_answers(401, 403, 409, 422, description="It took over."),
    )
    async def reload() -> dict[str, Any]:
        if no_reload:
            raise HTTPException(403, no_reload)
        try:
            done = await asyncio.to_thread(service.models.reload, "POST /reload")
        except BusyError as busy:
            raise HTTPException(409, str(busy)) from None
        if done.outcome != "accepted":
            raise HTTPException(422, done.reason)
        return service.describe()


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get(
        "/healthz", summary="Whether the process lives, with its GPU and all of its threads", responses=_answers(503)
    )
    async def healthz() -> dict[str, str]:
        if reason := service.beyond_help:
            raise HTTPException(503, reason)
        return {"status": "alive"}

    @app.get("/readyz", summary="Whether a model is loaded and warm", responses=_answers(503))
    async def readyz() -> dict[str, str]:
        if service.not_ready:
            raise HTTPException(503, service.not_ready)
        return {"status": "ready"}

    @app.get("/metrics", summary="Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
