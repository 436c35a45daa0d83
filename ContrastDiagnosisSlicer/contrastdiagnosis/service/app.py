"""The HTTP server: a FastAPI app over one `Engine`; requests are stateless."""

from __future__ import annotations

import asyncio
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

from contrastdiagnosis import __version__
from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.cases.pixels import CasePixels
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE
from contrastdiagnosis.service.answers import (
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
from contrastdiagnosis.service.clients import Doorlist
from contrastdiagnosis.service.documents import Atlas, BundleFacts, CasePage, Health
from contrastdiagnosis.service.engine_queue import DamagedError, Engine, EngineQueue
from contrastdiagnosis.service.openapi import (
    CONCEPTS,
    DIAGNOSIS,
    MAPS,
    PIXELS,
    REQUEST,
    Answers,
    add_schemas,
)
from contrastdiagnosis.service.problems import (
    add_problem_answers,
    described,
    problem,
    problem_answers,
)
from contrastdiagnosis.service.requests import NoduleRequest, read_request

T = TypeVar("T")

CLIENT = "contrastdiagnosis.client"
"""Key of a request's scope: the name of who asks."""

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content-Security-Policy of a report: it has pictures and styles of its own, and no script."""

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
CaseId = Annotated[str, Path(max_length=200)]


class SafetensorsResponse(Response):
    """Tensors and JSON in one body."""

    media_type = CONTENT_TYPE


class PngResponse(Response):
    """A picture."""

    media_type = "image/png"


def make_app(queue: EngineQueue, clients: Doorlist) -> FastAPI:
    """The app over one engine.

    Args:
        queue: The engine.
        clients: Who is let in, by the token that every request must bear.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="ContrastDiagnosis",
        version=__version__,
        description=queue.engine.bundle.info.case_source.notice,
        docs_url=None,  # These pages would load scripts from elsewhere.
        redoc_url=None,
        redirect_slashes=False,  # A redirect would name the address that the server believes in.
        lifespan=lifespan,
        responses=ALWAYS,
        # For the OpenAPI document alone: the doorkeeper also guards what has no route.
        dependencies=[Depends(HTTPBearer(auto_error=False, description="The server's token."))],
    )
    add_problem_answers(app)
    add_schemas(app)
    _add_facts(app, queue)
    _add_cases(app, queue)
    _add_atlas(app, queue)
    _add_diagnosis(app, queue)
    app.add_middleware(Doorkeeper, clients=clients)
    return app


class Doorkeeper:
    """Asks every request for the token, answers for what fails, and logs how it went.

    No address, no path and no content gets into the log. Each request of a client leaves one line,
    with the client's name where clients have one; of those that are not let in only so many.
    """

    def __init__(self, app: ASGIApp, clients: Doorlist) -> None:
        self.app = app
        self.clients = clients
        self.refusals = Sparing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = None
        scope[CLIENT] = self._client(scope)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_guards(message)]}
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        except Exception as error:
            log.error("failed", extra={"fields": described(error)})
            if status is None:
                await _failure(error)(scope, receive, noting)
        except asyncio.CancelledError:
            # The server is told to end, and has waited long enough.
            if status is None:
                await problem(503, "the server is ending")(scope, receive, noting)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int | None, seconds: float) -> None:
        client = scope[CLIENT]
        fields = {
            "client": client or None,
            "route": getattr(scope.get("route"), "path", None),
            "status": status,
            "duration_s": round(seconds, 4),
        }
        passed_over = 0 if client is not None else self.refusals.passed_over()
        if passed_over is not None:
            fields |= {"not_logged": passed_over} if passed_over else {}
            log.info("request", extra={"fields": fields})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self.app
        if scope[CLIENT] is None:
            answer = problem(401, "wanted the server's token as 'Authorization: Bearer ...'")
            answer.headers["WWW-Authenticate"] = "Bearer"
        await answer(scope, receive, send)

    def _client(self, scope: Scope) -> str | None:
        """The client's name; None for who has no token, or a wrong one."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return self.clients.name_of(token) if scheme == b"Bearer" else None


def _failure(error: Exception) -> Response:
    """What is answered where a request failed."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return problem(503, "there is not enough memory for this now; try again later")
    return problem(500, "the server failed; its log says where")


class Sparing:
    """Lets through so many a second, and counts what it holds back."""

    def __init__(self, per_s: float = 5, burst: int = 50) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at, self._held = float(burst), time.monotonic(), 0

    def passed_over(self) -> int | None:
        """How many were held back since the last that was let through; None: so is this one."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            self._held += 1
            return None
        self._left -= 1
        held, self._held = self._held, 0
        return held


def _guards(message: Message) -> list[tuple[bytes, bytes]]:
    """Headers that keep an answer out of caches and from being taken for something else."""
    kind = dict(message["headers"]).get(b"content-type", b"")
    policy = REPORT_POLICY if kind.startswith(b"text/html") else "default-src 'none'"
    return [
        (b"cache-control", b"no-store"),
        (b"content-security-policy", f"{policy}; frame-ancestors 'none'".encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _add_facts(app: FastAPI, queue: EngineQueue) -> None:
    @app.get("/health")
    async def health() -> Health:
        """Whether the engine is there, and where it runs."""
        return Health(
            status="ok",
            version=__version__,
            device=str(queue.engine.diagnoser.device),
            waiting=queue.waiting,
            notice=queue.engine.bundle.info.case_source.notice,
        )

    @app.get("/bundle")
    def bundle() -> BundleFacts:
        """What the bundle is, and how good it was measured to be."""
        return bundle_facts(queue.engine.bundle)


def _add_cases(app: FastAPI, queue: EngineQueue) -> None:
    bundle = queue.engine.bundle

    @app.get("/cases", responses=OF_CASES)
    def cases(
        start: Annotated[int, Query(ge=0, le=10**9)] = 0,
        count: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> CasePage:
        """The case table, a part at a time."""
        rows = [case_row(bundle, case) for case in bundle.library.cases[start : start + count]]
        return CasePage(total=len(bundle.library), start=start, cases=rows)

    @app.get("/cases/{case_id}/picture", response_class=PngResponse, responses=OF_A_CASE)
    def picture(case_id: CaseId) -> PngResponse:
        """The case's largest cross-section with its outline."""
        return PngResponse(picture_png(pixels_of(bundle, case_id)))

    @app.get(
        "/cases/{case_id}/pixels",
        response_class=SafetensorsResponse,
        responses=PIXELS | OF_A_CASE,
    )
    def pixels(case_id: CaseId) -> SafetensorsResponse:
        """The case's patch and mask."""
        return SafetensorsResponse(pixels_body(pixels_of(bundle, case_id)))


def _add_atlas(app: FastAPI, queue: EngineQueue) -> None:
    bundle = queue.engine.bundle

    @app.get("/atlas")
    def atlas() -> Atlas:
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
        async with queue.visit(request.scope.get(CLIENT, "")) as note:
            async with queue.in_time():
                body = await _body(request, queue.limits.body_mb, note)
            asked = read_request(body)

            def timed(engine: Engine) -> tuple[T, float]:
                begun = time.perf_counter()
                return work(engine, asked), time.perf_counter() - begun

            async with queue.place():
                made, seconds = await queue.call(timed, request.is_disconnected)
        # W3C Server Timing: what of the waiting was the engine's own.
        return response(made, headers={"Server-Timing": f"engine;dur={1000 * seconds:.1f}"})

    def told(answers: Answers) -> dict[str, Any]:
        return {"openapi_extra": REQUEST, "responses": answers | OF_NODULES}

    @app.post("/diagnose", response_class=SafetensorsResponse, **told(DIAGNOSIS))
    async def diagnose(request: Request) -> Response:
        """Segmentation, vote, probability, confidence and the nearest cases."""
        return await answer(request, SafetensorsResponse, diagnosis_body)

    @app.post("/maps", response_class=SafetensorsResponse, **told(MAPS))
    async def maps(request: Request) -> Response:
        """Maps of what makes the nodule and the shown cases similar or different."""
        return await answer(request, SafetensorsResponse, maps_body)

    @app.post("/concepts", response_class=SafetensorsResponse, **told(CONCEPTS))
    async def concepts(request: Request) -> Response:
        """Concepts, where each is seen, and the decision they add up to, under a revision."""
        return await answer(request, SafetensorsResponse, concepts_body)

    @app.post("/report", response_class=HTMLResponse, **told({}))
    async def report(request: Request, form: Literal["screen", "print"] = "screen") -> Response:
        """The HTML report, one file; for print it has nothing but tables and pictures."""
        make = print_report_html if form == "print" else report_html
        return await answer(request, HTMLResponse, make)


async def _body(request: Request, limit_mb: float, note: Callable[[int], None]) -> bytes:
    """The body of a request, of the right type and not too large; `note` is told of every part."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (CONTENT_TYPE, "application/octet-stream"):
        raise HTTPException(415, f"wanted a body of type {CONTENT_TYPE}, got {kind or 'none'}")
    parts, size = [], int(request.headers.get("content-length", 0))
    received = 0
    # A length that is announced is refused before anything is sent to a client that asks first.
    if size <= limit_mb * 1e6:
        async for part in request.stream():
            note(len(part))
            parts.append(part)
            received += len(part)
            if received > limit_mb * 1e6:
                break
    if max(size, received) > limit_mb * 1e6:
        raise HTTPException(413, f"wanted a body of at most {limit_mb:g} MB")
    return b"".join(parts)
