"""The real server in a process of its own, and a client of the standard library."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import schemathesis
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE, unpack
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.mutations import make_body, mutated
from engine.users import USERS_PATH

EXPECTED_ERRORS = {401, 404, 405, 413, 415, 422}
"""What an odd request may meet; 429 only where too many come at once."""


class Running:
    """`python -m contrastdiagnosis serve`, ended by closing its standard input."""

    def __init__(
        self,
        options: Sequence[object] = (),
        token: str | None = None,
        certificate: Path | None = None,
        threads: int = 1,
    ) -> None:
        command = [sys.executable, "-m", "contrastdiagnosis", "serve", *map(str, options)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # On several threads, tiny networks take 50 times as long where others use the cores too.
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": USERS_PATH,
            "PYTHONWARNINGS": "default",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        line = self.process.stdout.readline()
        if not line:
            told = f"exit {self.process.wait()}: {self.logged()}"
            self.__exit__()
            raise RuntimeError(told)
        self.ready: dict[str, Any] = json.loads(line)
        self.token = token or self.ready["token"]
        scheme, _, self.address = self.ready["url"].partition("://")
        self.tls = ssl.create_default_context(cafile=certificate) if scheme == "https" else None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.process.stdout.close()
        self.log.close()

    def end(self) -> int:
        """Closes the server's standard input; its exit status."""
        self.process.stdin.close()
        return self.process.wait(20)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that may be kept for several requests."""
        host, _, port = self.address.rpartition(":")
        host = host.replace("0.0.0.0", "localhost").strip("[]")
        if self.tls:
            return http.client.HTTPSConnection(host, int(port), timeout=60, context=self.tls)
        return http.client.HTTPConnection(host, int(port), timeout=60)

    def headers(self, token: str | None = None) -> dict[str, str]:
        """What every request bears."""
        return {"Authorization": f"Bearer {token or self.token}", "Content-Type": CONTENT_TYPE}

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        token: str | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of one answer."""
        own = connection or self.connect()
        own.request(method, path, body, self.headers(token))
        answer = own.getresponse()
        told = answer.status, answer.read()
        if not connection:
            own.close()
        return told

    def diagnose(self, body: bytes, connection: Any = None) -> dict[str, Any]:
        """The JSON of a diagnosis."""
        status, answer = self.ask("POST", "/diagnose", body, connection=connection)
        assert status == 200, answer
        return unpack(answer)[1]

    def logged(self) -> str:
        """What it has written to standard error."""
        self.log.seek(0)
        return self.log.read()

    def memory_mb(self) -> float:
        """Resident memory (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def check_document(running: Running, examples: int) -> dict[str, int]:
    """Schemathesis: whether answers keep to the OpenAPI document, whatever is asked.

    Args:
        running: The server.
        examples: Requests to each operation.

    Returns:
        How many requests each operation got.
    """
    schemathesis.openapi.media_type(CONTENT_TYPE, mutated(make_body()))
    schema = schemathesis.openapi.from_url(
        f"{running.ready['url']}/openapi.json", headers=running.headers()
    )
    asked: dict[str, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        asked[operation.label] = 0

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            asked[case.operation.label] += 1
            # Whether a sequence of bytes is a sound body is more than the document can say.
            untold = [schemathesis.checks.positive_data_acceptance]
            answer = case.call_and_validate(headers=running.headers(), excluded_checks=untold)
            assert answer.status_code in EXPECTED_ERRORS | {200}, answer.content

        check()
    return asked


def send_changed_bodies(running: Running, count: int) -> dict[int, int]:
    """Sends bodies that no sound client sends; how often each status was answered."""
    connection = running.connect()
    statuses: dict[int, int] = {}

    @given(path=st.sampled_from(["/diagnose", "/maps"]), body=mutated(make_body()))
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def send(path: str, body: bytes) -> None:
        status, _ = running.ask("POST", path, body, connection=connection)
        statuses[status] = statuses.get(status, 0) + 1

    send()
    connection.close()
    return statuses
