"""`contrastdiagnosis serve`: the engine in a process of its own."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contrastdiagnosis import __version__
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_text
from contrastdiagnosis.service.clients import ClientFile, OneToken

if TYPE_CHECKING:
    import uvicorn

LEAST_TOKEN = 16
"""A token that can be guessed is none."""

CLOSING_S = 2
"""How long requests may take to end once the server shall."""

PATIENCE_S = 5.0
"""After which the process ends without waiting for a diagnosis that nobody reads."""


@dataclass(frozen=True)
class Serve:
    """Serve diagnoses over HTTP: to this machine alone, or behind TLS to a department.

    When it is ready it prints one line of JSON: URL, version and, if it drew one, the token. It
    ends when its standard input closes, so that it never outlives the program that started it.
    """

    host: str = "127.0.0.1"
    """Address to listen at. One that other machines can reach needs TLS and a token file."""
    port: int = 0
    """Port; 0 takes a free one."""
    bundle: Path | None = None
    """Bundle folder; the one that comes with the program if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs."""
    token_file: Path | None = None
    """File whose first line is the token; a new one is drawn if not given."""
    clients: Path | None = None
    """File of clients with a token each, made by `contrastdiagnosis clients add`; read again
    whenever it changes."""
    tls_certificate: Path | None = None
    """PEM file of the certificate."""
    tls_key: Path | None = None
    """PEM file of its key, not encrypted."""
    keep_running: bool = False
    """Do not end when standard input closes, as under a service manager."""

    def run(self) -> None:
        """Loads the bundle, listens, says that it is ready, serves until told to end."""
        self._check()
        clients = self._clients()
        with self._socket() as listening:
            server = self._server(clients)
            self._say_ready(listening, clients)
            if not self.keep_running:
                threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
            server.run(sockets=[listening])

    def _check(self) -> None:
        """Refuses to be reached by others without TLS and a token that they were given."""
        if not (find_spec("fastapi") and find_spec("uvicorn")):
            raise InputError("serving needs more: pip install 'contrastdiagnosis[server]'")
        if sys.stdin is None and not self.keep_running:
            raise InputError("there is no standard input to end with; use --keep-running")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise InputError("--tls-certificate and --tls-key belong together, got one of them")
        for file in (self.tls_certificate, self.tls_key):
            if file and not file.is_file():
                raise InputError(f"no file at {file}")
        if self.token_file and self.clients:
            raise InputError("wanted --token-file or --clients, got both")
        if is_own_machine(self.host):
            return
        needed = {
            "--tls-certificate and --tls-key": self.tls_certificate,
            "--token-file or --clients": self.token_file or self.clients,
        }
        lacking = [name for name, given in needed.items() if not given]
        if lacking:
            raise InputError(
                f"{self.host} can be reached by other machines, which needs"
                f" {' and '.join(lacking)}; without them only 127.0.0.1 is served"
            )

    def _clients(self) -> ClientFile | OneToken:
        return ClientFile(self.clients) if self.clients else OneToken(self._token())

    def _token(self) -> str:
        if self.token_file is None:
            return secrets.token_urlsafe(32)
        token = read_text(self.token_file).partition("\n")[0].strip()
        if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
            raise InputError(
                f"wanted a token of at least {LEAST_TOKEN} printable ASCII characters in the first"
                f" line of {self.token_file}, got {len(token)}"
            )
        return token

    def _socket(self) -> socket.socket:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port must lie between 0 and 65535, got {self.port}")
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family)
        except (OSError, UnicodeError) as error:
            raise InputError(f"cannot listen at {self.host}, port {self.port}: {error}") from error
        # Connections inherit it; asyncio sets it for sockets of its own alone. Without it an answer
        # of two packets waits 40 ms for the first to be acknowledged.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening

    def _server(self, clients: ClientFile | OneToken) -> uvicorn.Server:
        import uvicorn

        from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
        from contrastdiagnosis.service.app import make_app
        from contrastdiagnosis.service.connections import PatientProtocol, PatientServer
        from contrastdiagnosis.service.engine_queue import Engine, EngineQueue, Limits

        bundle = load_bundle(self.bundle or default_bundle_folder())
        # One client of several leaves room for the others.
        limits = Limits(of_client=16) if self.clients else Limits()
        app = make_app(EngineQueue(Engine(bundle, self.device), limits), clients)
        config = uvicorn.Config(
            app,
            http=PatientProtocol,  # On h11: the same wherever it runs, whatever else is installed.
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # Longer than clients keep a connection for the next click: whoever closes first wins.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=CLOSING_S,
            ssl_certfile=self.tls_certificate,
            ssl_keyfile=str(self.tls_key) if self.tls_key else None,
            # OpenSSL would ask the terminal for the password of an encrypted key.
            ssl_keyfile_password="none" if self.tls_key else None,
        )
        try:
            config.load()
        except OSError as error:
            raise InputError(
                f"cannot use {self.tls_certificate} and {self.tls_key} for TLS: {error}"
            ) from error
        log_as_json()
        return PatientServer(config)

    def _say_ready(self, listening: socket.socket, clients: ClientFile | OneToken) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https" if self.tls_certificate else "http"
        ready = {"url": f"{scheme}://{host}:{listening.getsockname()[1]}", "version": __version__}
        if self.token_file is None and isinstance(clients, OneToken):
            ready["token"] = clients.token
        print(json.dumps(ready), flush=True)


def is_own_machine(host: str) -> bool:
    """Whether a server at this address is out of reach for other machines."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _end_with_input(server: uvicorn.Server) -> None:
    """Ends the server, then the process, once standard input has closed."""
    # Not by `sys.stdin.buffer`: its lock would still be held when the interpreter ends.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    server.should_exit = True
    time.sleep(CLOSING_S + PATIENCE_S)
    os._exit(0)


def log_as_json() -> None:
    """One JSON object a line on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("contrastdiagnosis").setLevel(logging.INFO)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """Time, level, logger, message and the `fields` of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        own = record.name.startswith(("contrastdiagnosis", "py.warnings"))
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            # What other packages fill into their messages may be an address or a content.
            "message": record.getMessage() if own else str(record.msg),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)
