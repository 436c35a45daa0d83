"""Connections of the HTTP server: who is silent, slow or does not read holds nobody up.

uvicorn ends idle connections between requests alone. Here every connection must make progress: a
head within `head_s`, a body at `least_rate`, an answer that is read. One sweep a second ends those
that do not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

OUT_OF_MEMORY_CODE = 71
"""Exit status of a server whose memory ended where no answer was possible."""

FILES = 4096
"""Open files that the process asks for; each connection is one."""


@dataclass(frozen=True)
class Patience:
    """How long a connection may make no progress."""

    handshake_s: float = 10.0
    """For TLS."""
    head_s: float = 10.0
    """From the connection, or the first byte of a next request, to the end of its head."""
    rate_s: float = 5.0
    """Over which the rate of a body is taken."""
    least_rate: float = 16_000.0
    """Bytes a second of a body; a crop of 2 MB takes two minutes at most."""
    unread_s: float = 30.0
    """For an answer of which nothing is read."""
    connections: int = 1000
    """Open at once; one more ends the longest silent one."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that knows how long it has waited for what."""

    patience = Patience()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The head is awaited from now on."""
        self._head_since: float | None = time.monotonic()
        self._window: tuple[float, int] | None = None
        self._unread: tuple[float, int] | None = None
        self._received = 0
        super().connection_made(transport)
        if len(self.connections) > self.patience.connections:
            silent = [c for c in patient(self.connections) if c is not self and c.is_silent]
            oldest = min(silent, key=lambda c: c._head_since or 0, default=self)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Counts, and notes whether a request began or its head is complete."""
        self._received += len(data)
        before = self.cycle
        if self._head_since is None and (before is None or not before.more_body):
            self._head_since = time.monotonic()
        super().data_received(data)
        if self.cycle is not before or (before is not None and before.more_body):
            self._head_since = None
            if self.cycle is not before:
                self._window = None

    def on_response_complete(self) -> None:
        """A next request may have begun to come in meanwhile."""
        super().on_response_complete()
        begun = self.is_silent and bool(self.conn.trailing_data[0])
        self._head_since = time.monotonic() if begun else None

    @property
    def is_silent(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def overdue(self, now: float) -> str:
        """What was waited for too long; empty if nothing was."""
        patience = self.patience
        if self._head_since is not None and self.is_silent:
            if now - self._head_since > patience.head_s:
                return "head"
            return ""
        if self._body_is_slow(now):
            return "body"
        return "answer" if self._answer_is_unread(now) else ""

    def _body_is_slow(self, now: float) -> bool:
        cycle = self.cycle
        if cycle is None or not cycle.more_body or self.flow.read_paused:
            self._window = None
            return False
        if self._window is None:
            self._window = now, self._received
            return False
        since, received = self._window
        if now - since < self.patience.rate_s:
            return False
        self._window = now, self._received
        return self._received - received < self.patience.least_rate * (now - since)

    def _answer_is_unread(self, now: float) -> bool:
        left = self.transport.get_write_buffer_size()
        if not left:
            self._unread = None
            return False
        if self._unread is None or left < self._unread[1]:
            self._unread = now, left
            return False
        return now - self._unread[0] > self.patience.unread_s


def patient(connections: Iterable[object]) -> list[PatientProtocol]:
    """Those of uvicorn's connections that are of this kind: all of them."""
    return [c for c in connections if isinstance(c, PatientProtocol)]


class PatientServer(uvicorn.Server):
    """uvicorn with a sweep over its connections and an end where memory ends."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens at the sockets, with a limit to the handshake too."""
        _ask_for_files()
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_end_without_memory)
        patience = PatientProtocol.patience
        tls: dict[str, Any] = {}
        if self.config.ssl:
            self.config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": patience.handshake_s}
        for listening in sockets or []:
            self.servers.append(
                await loop.create_server(
                    self._protocol(), sock=listening, backlog=self.config.backlog, **tls
                )
            )
        self._sweeping = loop.create_task(self._sweep())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends as uvicorn does."""
        self._sweeping.cancel()
        await super().shutdown(sockets)

    def _protocol(self) -> Callable[[], PatientProtocol]:
        return lambda: PatientProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            now, ended = time.monotonic(), []
            for connection in patient(self.server_state.connections):
                if what := connection.overdue(now):
                    ended.append(what)
                    connection.transport.abort()
            if ended:
                counts = {what: ended.count(what) for what in dict.fromkeys(ended)}
                log.info("connections ended", extra={"fields": {"waited_for": counts}})


def _ask_for_files() -> None:
    """Connections are open files; many systems give a process 1024 unless it asks for more."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _end_without_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A loop that lost a piece of work to a lack of memory may wait for it for ever."""
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, b'{"level": "error", "message": "out of memory: the server ends"}\n')
        os._exit(OUT_OF_MEMORY_CODE)
    loop.default_exception_handler(context)
