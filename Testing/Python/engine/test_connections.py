"""Who is silent, slow, unknown or greedy keeps nobody else waiting; at the real server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE
from contrastdiagnosis.service.requests import request_body

from engine.conftest import NODULE
from engine.crowd import Crowd
from engine.running import Running

SILENT, SLOW = 300, 64
TURN_S = 2.0
"""How much longer than alone a diagnosis may take while others are silent or slow."""


@pytest.fixture(scope="module")
def body(phantom):
    return request_body(phantom.volume, NODULE.center_ras_mm)


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """A file of two clients, and their tokens."""
    file = tmp_path_factory.mktemp("clients") / "clients"
    tokens = {}
    for name in ("reader", "slow"):
        done = subprocess.run(
            [sys.executable, "-m", "contrastdiagnosis", "clients", "add", name, "--file", file],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        tokens[name] = done.stdout.strip()
    assert not any(token in file.read_text() for token in tokens.values())
    return file, tokens


@pytest.fixture(scope="module")
def server(bundle_folder, clients):
    options = ["--bundle", bundle_folder, "--device", "cpu", "--clients", clients[0]]
    with Running(options, token=clients[1]["reader"]) as running:
        yield running


def seconds(server, phantom, points=count(1)):
    """Of a diagnosis at another point each time: the engine remembers what it was asked."""
    body = request_body(phantom.volume, np.add(NODULE.center_ras_mm, next(points) / 10))
    begun = time.perf_counter()
    assert server.ask("POST", "/diagnose", body)[0] == 200
    return time.perf_counter() - begun


def test_silent_and_slow_ones_keep_nobody_waiting_and_are_ended(server, clients, phantom):
    seconds(server, phantom)
    alone = min(seconds(server, phantom) for _ in range(3))
    with Crowd(server, clients[1]["slow"], SILENT, SLOW) as crowd:
        time.sleep(0.5)
        assert max(seconds(server, phantom) for _ in range(3)) < alone + TURN_S
        assert crowd.last_end_s(crowd.slow) < 15
        assert crowd.last_end_s(crowd.silent) < 20
    assert seconds(server, phantom) < alone + TURN_S
    told = [json.loads(line).get("waited_for", {}) for line in server.logged().splitlines()]
    assert sum(counts.get("head", 0) for counts in told) == SILENT
    # Those beyond a client's share are refused at once; nobody waits for their bodies either.
    assert sum(counts.get("body", 0) for counts in told) >= 16


def test_a_kept_connection_outlasts_the_limits(server, body):
    """What ends the silent ones does not end who comes back for the next click."""
    kept = server.connect()
    server.diagnose(body, connection=kept)
    before = kept.sock
    time.sleep(12)
    server.diagnose(body, connection=kept)
    assert kept.sock is before
    kept.close()


def test_a_client_that_is_revoked_is_out_at_once_and_the_log_names_who_asked(server, clients, body):
    file, tokens = clients
    assert server.ask("GET", "/health", token=tokens["slow"])[0] == 200
    assert main(["clients", "revoke", "slow", "--file", str(file)]) == 0
    assert server.ask("GET", "/health", token=tokens["slow"])[0] == 401
    assert server.ask("POST", "/diagnose", body)[0] == 200
    lines = [json.loads(line) for line in server.logged().splitlines()]
    asked = [(r["client"], r["route"], r["status"]) for r in lines if r["message"] == "request"]
    assert asked[-3:] == [("slow", "/health", 200), (None, None, 401), ("reader", "/diagnose", 200)]
    before = file.read_text()
    file.write_text("reader nothing\n")
    assert server.ask("GET", "/health")[0] == 401
    file.write_text(before)
    assert server.ask("GET", "/health")[0] == 200


def test_refusals_do_not_fill_the_log(server):
    count = len(server.logged().splitlines())
    kept = server.connect()
    for _ in range(400):
        assert server.ask("GET", "/health", token="x" * 20, connection=kept)[0] == 401
    kept.close()
    assert len(server.logged().splitlines()) - count < 120
    time.sleep(1)
    server.ask("GET", "/health", token="x" * 20)

    def not_logged() -> int:
        told = [json.loads(line) for line in server.logged().splitlines()]
        return sum(line.get("not_logged", 0) for line in told)

    # The answer may be here before its line is.
    end = time.monotonic() + 10
    while not_logged() <= 250 and time.monotonic() < end:
        time.sleep(0.05)
    assert not_logged() > 250


def test_answers_keep_out_of_caches_and_are_taken_for_nothing_else(server, body):
    for path, kind in (("/report", "text/html"), ("/diagnose", CONTENT_TYPE)):
        connection = server.connect()
        connection.request("POST", path, body, server.headers())
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("Content-Type").startswith(kind)
        assert answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        policy = answer.getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'none'") and "script" not in policy
        assert ("img-src data:" in policy) == (path == "/report")
        connection.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "names no client"),
        ("a " + "0" * 63, "line 1: wanted a name and a SHA-256"),
        ("Dr. Miller " + "0" * 64, "line 1: wanted a name"),
        (f"a {'0' * 64}\na {'1' * 64}", "line 2: a is there already"),
    ],
)
def test_a_file_of_clients_that_cannot_be_is_told(tmp_path, capsys, content, message):
    file = tmp_path / "clients"
    file.write_text(content)
    assert main(["serve", "--clients", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_clients_are_added_listed_and_revoked(tmp_path, capsys):
    file = ["--file", str(tmp_path / "clients")]
    assert main(["clients", "add", "ct1", *file]) == 0
    assert main(["clients", "add", "ct2", *file]) == 0
    first, second = capsys.readouterr().out.split()
    assert len(first) > 40 and first != second
    assert main(["clients", "list", *file]) == 0
    assert capsys.readouterr().out.split() == ["ct1", "ct2"]
    for asked, message in (
        (["add", "ct1"], "revoke it first"),
        (["add", "Anna Miller"], "wanted a name of up to 40 letters"),
        (["revoke", "ct3"], "has no ct3; it has ct1, ct2"),
    ):
        assert main(["clients", *asked, *file]) == 2
        assert message in capsys.readouterr().err
    assert main(["clients", "revoke", "ct1", *file]) == 0
    assert main(["clients", "list", *file]) == 0
    assert capsys.readouterr().out.split()[-1:] == ["ct2"]
