"""Problem documents (RFC 9457): what the server answers where something goes wrong."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.service.documents import Problem
from contrastdiagnosis.service.engine_queue import BusyError, DamagedError, GoneError
from contrastdiagnosis.service.openapi import reference

PROBLEM_TYPE = "application/problem+json"

CLIENT_LEFT = 499
"""Status that nobody reads; it stands in the log."""

RETRY_AFTER_S = 5


def problem_answers(**texts: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI descriptions of error answers; keywords are `s` and the status."""
    content = {PROBLEM_TYPE: {"schema": reference("Problem")}}
    return {int(s[1:]): {"description": text, "content": content} for s, text in texts.items()}


def described(error: BaseException) -> dict[str, Any]:
    """An exception without its message, which may quote a case or a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "at": [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames],
    }


def problem(status: int, detail: str) -> JSONResponse:
    """A problem document (RFC 9457); `detail` is shown to the user as it is."""
    known = status in set(HTTPStatus)
    document = Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase if known else "Client Closed Request",
        status=status,
        # What quotes a request may hold half a surrogate pair.
        detail=detail.encode("utf-8", "replace").decode(),
    )
    return JSONResponse(document.model_dump(), status, media_type=PROBLEM_TYPE)


def add_problem_answers(app: FastAPI) -> None:
    """Answers every error that a route raises by a problem document."""

    def answer(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handler(_: Request, error: Exception) -> Response:
            return problem(status, str(error))

        return handler

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> Response:
        shown = problem(error.status_code, str(error.detail))
        shown.headers.update(error.headers or {})
        return shown

    @app.exception_handler(RequestValidationError)
    async def of_parameters(_: Request, error: RequestValidationError) -> Response:
        places = (".".join(map(str, e["loc"])) + ": " + e["msg"] for e in error.errors())
        return problem(422, "; ".join(places))

    @app.exception_handler(BusyError)
    async def of_busy(_: Request, error: BusyError) -> Response:
        shown = problem(429, str(error))
        shown.headers["Retry-After"] = str(RETRY_AFTER_S)
        return shown

    app.add_exception_handler(InputError, answer(422))
    app.add_exception_handler(DamagedError, answer(500))
    app.add_exception_handler(GoneError, answer(CLIENT_LEFT))
    app.add_exception_handler(ClientDisconnect, answer(CLIENT_LEFT))
