"""Who is silent, slow, unknown or greedy keeps nobody else waiting; at the real server."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

import pytest
from contrastdiagnosis.cli import main
from contrastdiagnosis.wire import CONTENT_TYPE, request_body

from engine.conftest import NODULE
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


def opened(server):
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(token, length):
    return (
        f"POST /diagnose HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def seconds(server, body):
    begun = time.perf_counter()
    assert server.ask("POST", "/diagnose", body)[0] == 200
    return time.perf_counter() - begun


def ended_after(connection, begun):
    """When the server ended a connection; what it said before is read over."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.perf_counter() - begun


def dripping(connection, stop):
    with contextlib.suppress(OSError):
        while not stop.wait(0.5):
            connection.sendall(b"x" * 100)


def test_silent_and_slow_ones_keep_nobody_waiting_and_are_ended(server, clients, body):
    seconds(server, body)
    alone = min(seconds(server, body) for _ in range(3))
    begun, stop = time.perf_counter(), threading.Event()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(opened(server)) for _ in range(SILENT)]
        halves = silent[: SILENT // 2]
        for connection in halves:
            connection.sendall(b"POST /diagnose HTTP/1.1\r\nHost")
        slow = [stack.enter_context(opened(server)) for _ in range(SLOW)]
        for connection in slow:
            connection.sendall(head(clients[1]["slow"], 10_000_000))
            threading.Thread(target=dripping, args=(connection, stop), daemon=True).start()
        time.sleep(0.5)
        assert max(seconds(server, body) for _ in range(3)) < alone + TURN_S
        ends = [ended_after(connection, begun) for connection in slow]
        assert max(ends) < 15
        stop.set()
        assert max(ended_after(connection, begun) for connection in silent) < 20
    assert seconds(server, body) < alone + TURN_S
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
    told = [json.loads(line) for line in server.logged().splitlines()]
    assert sum(line.get("not_logged", 0) for line in told) > 250


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process's memory")
def test_where_memory_ends_there_is_an_answer_or_an_end(bundle_folder, body):
    import resource

    with Running(["--bundle", bundle_folder, "--device", "cpu"]) as running:
        assert running.ask("POST", "/diagnose", body)[0] == 200
        with open(f"/proc/{running.process.pid}/status") as stream:
            taken = int(stream.read().partition("VmSize:")[2].split()[0]) * 1024
        limit = taken + 100_000_000
        resource.prlimit(running.process.pid, resource.RLIMIT_AS, (limit, limit))
        begun, large = time.perf_counter(), body + b"\0" * (60_000_000 - len(body))
        try:
            status = running.ask("POST", "/diagnose", large)[0]
            assert status in (413, 422, 429, 503)
        except OSError:
            running.process.wait(5)
        assert time.perf_counter() - begun < 5
        if running.process.poll() is None:
            assert running.ask("POST", "/diagnose", body)[0] == 200


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
