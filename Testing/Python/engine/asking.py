"""Asking the app without a socket, as a server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE, unpack

TOKEN = "a token that nobody guesses"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks on several threads take 50 times as long where others use the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Answer:
    """What the app said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """Content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def json(self) -> Any:
        """The body, or the JSON of a safetensors body; refuses NaN."""
        if self.kind == CONTENT_TYPE:
            return unpack(self.body)[1]
        return json.loads(self.body, parse_constant=refuse)


def refuse(name: str) -> None:
    """No JSON that others can read holds NaN or infinity."""
    raise AssertionError(f"{name} in JSON")


def ask(app, method, path, body=None, headers=None, token=TOKEN) -> Answer:
    """One request in an event loop of its own."""
    return asyncio.run(ask_in_loop(app, method, path, body, headers, token))


async def ask_in_loop(
    app, method, path, body=None, headers=None, token=TOKEN, leaving=None
) -> Answer:
    """One request; the client leaves when the event `leaving` is set."""
    path, _, query = path.partition("?")
    given = {"authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        given |= {"content-type": CONTENT_TYPE, "content-length": str(len(body))}
    given |= headers or {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
        "client": ("192.0.2.7", 4711),
        "server": ("testserver", 80),
    }
    inbox = [{"type": "http.request", "body": body or b"", "more_body": False}]
    sent: list[dict] = []

    async def receive():
        if inbox:
            return inbox.pop()
        await (leaving or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    names = {k.decode(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], names, b"".join(m.get("body", b"") for m in rest))
