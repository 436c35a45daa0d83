"""The HTTP server: a FastAPI app over one `Engine`; requests are stateless."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contrastdiagnosis import RESEARCH_USE_NOTICE, __version__
from contrastdiagnosis.answers import (
    atlas_document,
    bundle_facts,
    case_row,
    concepts_body,
    diagnosis_body,
    maps_body,
    picture_png,
    pixels_body,
    print_report_html,
    prototype_png,
    report_html,
)
from contrastdiagnosis.bundle import Bundle
from contrastdiagnosis.engine_queue import DamagedError, Engine, EngineQueue
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.pixels import CasePixels
from contrastdiagnosis.problems import add_problem_answers, described, problem, problem_answers
from contrastdiagnosis.wire import CONTENT_TYPE, NoduleRequest, read_request

T = TypeVar("T")

log = logging.getLogger(__name__)

ALWAYS = problem_answers(
    s401="The token is missing or wrong.",
    s500="The server failed.",
    s503="The server is ending.",
)
OF_CASES = problem_answers(s422="A parameter cannot be used; `detail` says why.")
OF_A_CASE = OF_CASES | problem_answers(s404="There is no such case, or no picture of it.")
OF_NODULES = problem_answers(
    s413="The body is too large.",
    s415="The body is not of the type that is wanted.",
    s422="The request cannot be used; `detail` says what was wanted and what came.",
    s429="Too many requests are under way, or the answer took too long.",
)
NODULE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": (
            "safetensors: tensor `hu` (D, H, W) of int16 or float32 Hounsfield units, (k, j, i);"
            " optionally `overview_hu`, a thin slab for the report. Metadata `json`: `ijk_to_ras`"
            " (4x4), `point_ras_mm` (3); optionally `patient_id`, `series_sha256`, `case_ids`,"
            " `revision` (`boxes` of `center_ras_mm`, `size_mm`, `look`, `concept`, `axes`;"
            " `rejected`, `mode`, `elsewhere`),"
            " `map` (how maps are made: `levels`, of 4, 3, 2 and 1, deepest first; `window_cells`,"
            " odd or null for the whole level; `rectified`; `through_mask`; `outside`, 0 to 1),"
            " `signs` (which maps: `similar`, `different`),"
            " `overview_ijk_to_ras` and `part_of_ct` (true: `hu` holds no air, its CT does)."
        ),
        "content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}
CaseId = Annotated[str, Path(max_length=200)]


class SafetensorsResponse(Response):
    """Tensors and JSON in one body."""

    media_type = CONTENT_TYPE


class PngResponse(Response):
    """A picture."""

    media_type = "image/png"


def make_app(queue: EngineQueue, token: str) -> FastAPI:
    """The app over one engine.

    Args:
        queue: The engine.
        token: What every request must bear.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="ContrastDiagnosis",
        version=__version__,
        description=RESEARCH_USE_NOTICE,
        docs_url=None,  # These pages would load scripts from elsewhere.
        redoc_url=None,
        redirect_slashes=False,  # A redirect would name the address that the server believes in.
        lifespan=lifespan,
        responses=ALWAYS,
        # For the OpenAPI document alone: the doorkeeper also guards what has no route.
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The server's token."))],
    )
    add_problem_answers(app)
    _add_facts(app, queue)
    _add_cases(app, queue)
    _add_atlas(app, queue)
    _add_diagnosis(app, queue)
    app.add_middleware(Doorkeeper, token=token)
    return app


class Doorkeeper:
    """Asks every request for the token, answers for what fails, and logs how it went.

    No address, no path and no content gets into the log.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = None

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        except Exception as error:
            log.error("failed", extra={"fields": described(error)})
            if status is None:
                failure = problem(500, "the server failed; its log says where")
                await failure(scope, receive, noting)
        except asyncio.CancelledError:
            # The server is told to end, and has waited long enough.
            if status is None:
                await problem(503, "the server is ending")(scope, receive, noting)
        finally:
            fields = {
                "route": getattr(scope.get("route"), "path", None),
                "status": status,
                "duration_s": round(time.perf_counter() - started, 4),
            }
            log.info("request", extra={"fields": fields})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        answer: ASGIApp = self.app
        if not hmac.compare_digest(given, self.expected):
            answer = problem(401, "wanted the server's token as 'Authorization: Bearer ...'")
            answer.headers["WWW-Authenticate"] = "Bearer"
        await answer(scope, receive, send)


def _add_facts(app: FastAPI, queue: EngineQueue) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the engine is there, and where it runs."""
        return {
            "status": "ok",
            "version": __version__,
            "device": str(queue.engine.diagnoser.device),
            "waiting": queue.waiting,
            "notice": RESEARCH_USE_NOTICE,
        }

    @app.get("/bundle")
    def bundle() -> dict[str, Any]:
        """What the bundle is, and how good it was measured to be."""
        return bundle_facts(queue.engine.bundle)


def _add_cases(app: FastAPI, queue: EngineQueue) -> None:
    bundle = queue.engine.bundle

    @app.get("/cases", responses=OF_CASES)
    def cases(
        start: Annotated[int, Query(ge=0, le=10**9)] = 0,
        count: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """The case table, a part at a time."""
        rows = [case_row(bundle, case) for case in bundle.library.cases[start : start + count]]
        return {"total": len(bundle.library), "start": start, "cases": rows}

    @app.get("/cases/{case_id}/picture", response_class=PngResponse, responses=OF_A_CASE)
    def picture(case_id: CaseId) -> PngResponse:
        """The case's largest cross-section with its outline."""
        return PngResponse(picture_png(pixels_of(bundle, case_id)))

    @app.get("/cases/{case_id}/pixels", response_class=SafetensorsResponse, responses=OF_A_CASE)
    def pixels(case_id: CaseId) -> SafetensorsResponse:
        """The case's patch and mask."""
        return SafetensorsResponse(pixels_body(pixels_of(bundle, case_id)))


def _add_atlas(app: FastAPI, queue: EngineQueue) -> None:
    bundle = queue.engine.bundle

    @app.get("/atlas")
    def atlas() -> dict[str, Any]:
        """The prototypes of the concepts; none where the bundle has no concepts."""
        return atlas_document(bundle)

    @app.get("/atlas/{concept}/{number}/picture", response_class=PngResponse, responses=OF_A_CASE)
    def prototype_picture(concept: CaseId, number: Annotated[int, Path(ge=0)]) -> PngResponse:
        """The case that a prototype looks like, the cell framed."""
        part = bundle.concepts
        for p in part.atlas if part else ():
            if (p.concept, p.number) == (concept, number):
                return PngResponse(prototype_png(pixels_of(bundle, p.case_id), p))
        raise HTTPException(404, "the bundle has no such prototype")


def pixels_of(bundle: Bundle, case_id: str) -> CasePixels:
    """The picture of a case.

    Raises:
        HTTPException: There is no such case, or no picture.
        DamagedError: The picture cannot be read.
    """
    if all(case.case_id != case_id for case in bundle.library.cases):
        raise HTTPException(404, "the bundle has no such case")
    if not bundle.pixels.has(case_id):
        raise HTTPException(404, "the bundle has no picture of this case")
    try:
        return bundle.pixels.read(case_id)
    except InputError as error:
        raise DamagedError("the stored picture of this case is damaged") from error


def _add_diagnosis(app: FastAPI, queue: EngineQueue) -> None:
    async def answer(
        request: Request, response: type[Response], work: Callable[[Engine, NoduleRequest], T]
    ) -> Response:
        async with queue.place():
            asked = read_request(await _body(request, queue.limits.body_mb))

            def timed(engine: Engine) -> tuple[T, float]:
                begun = time.perf_counter()
                return work(engine, asked), time.perf_counter() - begun

            made, seconds = await queue.call(timed, request.is_disconnected)
        # W3C Server Timing: what of the waiting was the engine's own.
        return response(made, headers={"Server-Timing": f"engine;dur={1000 * seconds:.1f}"})

    posted: dict[str, Any] = {"openapi_extra": NODULE_BODY, "responses": OF_NODULES}

    @app.post("/diagnose", response_class=SafetensorsResponse, **posted)
    async def diagnose(request: Request) -> Response:
        """Segmentation, vote, probability, confidence and the nearest cases."""
        return await answer(request, SafetensorsResponse, diagnosis_body)

    @app.post("/maps", response_class=SafetensorsResponse, **posted)
    async def maps(request: Request) -> Response:
        """Maps of what makes the nodule and the shown cases similar or different."""
        return await answer(request, SafetensorsResponse, maps_body)

    @app.post("/concepts", response_class=SafetensorsResponse, **posted)
    async def concepts(request: Request) -> Response:
        """Concepts, where each is seen, and the decision they add up to, under a revision."""
        return await answer(request, SafetensorsResponse, concepts_body)

    @app.post("/report", response_class=HTMLResponse, **posted)
    async def report(request: Request, form: Literal["screen", "print"] = "screen") -> Response:
        """The HTML report, one file; for print it has nothing but tables and pictures."""
        make = print_report_html if form == "print" else report_html
        return await answer(request, HTMLResponse, make)


async def _body(request: Request, limit_mb: float) -> bytes:
    """The body of a request, of the right type and not too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (CONTENT_TYPE, "application/octet-stream"):
        raise HTTPException(415, f"wanted a body of type {CONTENT_TYPE}, got {kind or 'none'}")
    parts, size = [], int(request.headers.get("content-length", 0))
    received = 0
    # A length that is announced is refused before anything is sent to a client that asks first.
    if size <= limit_mb * 1e6:
        async for part in request.stream():
            parts.append(part)
            received += len(part)
            if received > limit_mb * 1e6:
                break
    if max(size, received) > limit_mb * 1e6:
        raise HTTPException(413, f"wanted a body of at most {limit_mb:g} MB")
    return b"".join(parts)
