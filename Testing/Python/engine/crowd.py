"""Many connections that say nothing, or hardly anything, to a running server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from contrastdiagnosis.protocol.tensors import CONTENT_TYPE

from engine.running import Running

UPLOAD = 10_000_000
"""Bytes that a slow upload announces."""


def opened(server: Running) -> socket.socket:
    """A bare connection."""
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def post_head(token: str, length: int) -> bytes:
    """The head of a diagnosis's request."""
    return (
        f"POST /diagnose HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


class Crowd:
    """Silent connections, half of them in the middle of a head, and slow uploads."""

    def __init__(self, server: Running, token: str, silent: int, slow: int) -> None:
        self._stack, self._stop = contextlib.ExitStack(), threading.Event()
        self.begun = time.perf_counter()
        self.silent = [self._stack.enter_context(opened(server)) for _ in range(silent)]
        for connection in self.silent[: silent // 2]:
            connection.sendall(b"POST /diagnose HTTP/1.1\r\nHost")
        self.slow = [self._stack.enter_context(opened(server)) for _ in range(slow)]
        for connection in self.slow:
            connection.sendall(post_head(token, UPLOAD))
            threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()

    def _drip(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self._stop.wait(0.5):
                connection.sendall(b"x" * 100)

    def last_end_s(self, connections: list[socket.socket]) -> float:
        """Seconds after the beginning at which the server had ended all of some connections."""
        for connection in connections:
            with contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    pass
        return time.perf_counter() - self.begun
