"""The server as users start it: a process, sockets, signals, TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from contrastdiagnosis import __version__
from contrastdiagnosis.commands import serve
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.commands.serve import JsonLines, Serve, is_own_machine
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.tensors import unpack
from contrastdiagnosis.service.requests import read_request, request_body

from engine.asking import one_thread  # noqa: F401
from engine.conftest import NODULE
from engine.readme import run_serve_block
from engine.running import EXPECTED_ERRORS, Running, check_document

ROOT = Path(__file__).parents[3]
TOKEN = "one-token-for-the-department"


@pytest.fixture(scope="module")
def options(bundle_folder):
    return ["--bundle", bundle_folder, "--device", "cpu"]


@pytest.fixture(scope="module")
def server(options):
    with Running(options) as running:
        yield running


@pytest.fixture(scope="module")
def bodies(phantom):
    """Requests at different points."""
    points = np.add(NODULE.center_ras_mm, np.random.default_rng(0).uniform(-8, 8, (6, 3)))
    return [request_body(phantom.volume, point) for point in points]


@pytest.fixture(scope="module")
def truth(bundle, phantom, bodies):
    """What the engine says to them without a server."""
    diagnoser = Diagnoser(bundle, "cpu")
    return [diagnoser.diagnose(phantom.volume, read_request(body).point_ras_mm) for body in bodies]


def logged_requests(running):
    lines = [json.loads(line) for line in running.logged().splitlines()]
    return [line for line in lines if line["message"] == "request"]


def wait_until(holds):
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("waited for 10 s")


def test_it_says_when_it_is_ready(server):
    assert set(server.ready) == {"url", "token", "version"}
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.ready["url"])
    assert server.ready["version"] == __version__
    assert len(server.token) > 30
    assert json.loads(server.ask("GET", "/health")[1])["device"] == "cpu"


def test_a_wrong_token_is_refused(server):
    for method, path in (("GET", "/health"), ("POST", "/diagnose"), ("GET", "/openapi.json")):
        status, body = server.ask(method, path, b"x", token="wrong")
        assert (status, json.loads(body)["status"]) == (401, 401)


def test_a_body_that_is_too_large_is_refused_and_the_connection_lives_on(server, bodies):
    kept = server.connect()
    status, answer = server.ask("POST", "/diagnose", b"x" * 65_000_000, connection=kept)
    assert (status, json.loads(answer)["status"]) == (413, 413)
    assert server.diagnose(bodies[0], kept)["cases"]
    kept.close()


def test_sixteen_clients_at_once_lose_nothing(server, bodies, truth):
    expected = []
    for d in truth:
        judged = d.confidence.judged
        probability, malignant = round(d.probability, 4), d.malignant_voters
        cases = [c.case.case_id for c in d.cases]
        expected.append((cases, probability if judged else None, malignant if judged else None))
    assert any(probability for _, probability, _ in expected)

    def client(n):
        kept = server.connect()
        told = []
        for turn in range(len(bodies)):
            which = (n + turn) % len(bodies)
            answer = server.diagnose(bodies[which], kept)
            cases = [c["case_id"] for c in answer["cases"]]
            malignant = answer["vote"] and answer["vote"]["malignant"]
            told.append((which, (cases, answer["probability"], malignant)))
        kept.close()
        return told

    with ThreadPoolExecutor(16) as clients:
        answers = [a for told in clients.map(client, range(16)) for a in told]
    assert len(answers) == 16 * len(bodies)
    for which, told in answers:
        assert told == expected[which]


def test_who_leaves_is_dropped_and_the_rest_is_answered(server, phantom):
    """Reports keep the engine busy; those who wait for one leave before it begins."""
    before = len(logged_requests(server))
    random = np.random.default_rng(1)
    points = np.add(NODULE.center_ras_mm, random.uniform(-5, 5, (12, 3)))
    reports = [request_body(phantom.volume, point) for point in points]
    host, _, port = server.address.rpartition(":")
    with ThreadPoolExecutor(4) as clients:
        staying = [clients.submit(server.ask, "POST", "/report", r) for r in reports[:4]]
        wait_until(lambda: json.loads(server.ask("GET", "/health")[1])["waiting"] == 4)
        for report in reports[4:]:
            head = "".join(f"{name}: {value}\r\n" for name, value in server.headers().items())
            head = (
                f"POST /report HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(report)}\r\n\r\n"
            )
            with socket.create_connection((host, int(port))) as leaving:
                leaving.sendall(head.encode() + report)
        assert [s.result()[0] for s in staying] == [200] * 4
    wait_until(lambda: json.loads(server.ask("GET", "/health")[1])["waiting"] == 0)
    statuses = [
        line["status"] for line in logged_requests(server)[before:] if line["route"] == "/report"
    ]
    assert sorted(statuses) == [200] * 4 + [499] * 8


def test_half_a_request_harms_nobody(server):
    host, _, port = server.address.rpartition(":")
    head = "POST /diagnose HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    for sent in (
        b"",
        b"\x00\xff" * 100,
        b"GET /" + b"x" * 200_000,
        head.encode() + b"\r\nabc",
        (head + f"Authorization: Bearer {server.token}\r\n\r\nabc").encode(),
        (head + "Transfer-Encoding: chunked\r\n\r\nzz").encode(),
    ):
        with socket.create_connection((host, int(port))) as client, contextlib.suppress(OSError):
            client.sendall(sent)
    assert server.ask("GET", "/health")[0] == 200


def test_the_server_keeps_to_its_document(server):
    """Statuses, types and schemas of its answers to what the document allows, and to what not."""
    asked = check_document(server, examples=8)
    assert len(asked) == 11 and min(asked.values()) >= 2


def test_nothing_went_wrong_in_all_this_and_it_ends_with_its_input(server):
    """Last: no error, no warning, only JSON, nobody's name in the log; a clean end."""
    assert server.process.poll() is None
    kept = server.connect()
    assert server.ask("GET", "/health", connection=kept)[0] == 200
    assert server.end() == 0
    kept.close()
    assert server.process.stdout.read() == ""
    lines = [json.loads(line) for line in server.logged().splitlines()]
    assert {line["level"] for line in lines} <= {"info", "warning"}
    assert {line["message"] for line in lines if line["level"] == "warning"} <= {
        "Invalid HTTP request received."
    }
    assert {line.get("status") for line in lines} <= {200, 499, None} | EXPECTED_ERRORS
    assert "127.0.0.1" not in server.logged()
    assert not re.search(r"P\d+_\d", server.logged())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of localhost and its key."""
    if not shutil.which("openssl"):
        pytest.skip("TLS IS NOT TESTED: there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost -keyout key.pem -out certificate.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\nwhat follows is no part of it\n")
    return file


def test_other_machines_are_served_behind_tls_and_a_token(
    options, certificate, token_file, bodies, truth
):
    tls = ["--tls-certificate", certificate[0], "--tls-key", certificate[1]]
    remote = ["--host", "0.0.0.0", *tls, "--token-file", token_file, "--keep-running"]
    with Running([*options, *remote], TOKEN, certificate[0]) as running:
        assert set(running.ready) == {"url", "version"}
        assert running.ready["url"].startswith("https://0.0.0.0:")
        assert running.diagnose(bodies[0])["probability"] == round(truth[0].probability, 4)
        assert running.ask("GET", "/health", token=TOKEN + "x")[0] == 401
        port = int(running.address.rpartition(":")[2])
        with socket.create_connection(("localhost", port)) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(OSError):
                assert not plain.recv(1000)
        with pytest.raises(ssl.SSLCertVerificationError):
            http.client.HTTPSConnection(
                "localhost", port, context=ssl.create_default_context()
            ).request("GET", "/health")
        # It outlives its standard input, and ends by itself when it is told to.
        running.process.stdin.close()
        time.sleep(0.3)
        assert running.ask("GET", "/health")[0] == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) in (0, -signal.SIGTERM)
        assert all(json.loads(line) for line in running.logged().splitlines())


def refused(capsys, *arguments):
    """What `serve` says where it does not start."""
    assert main(["serve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_a_port_that_is_taken_is_told():
    """By the process itself, before it loads anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"exit 2: .* listen at 127.0.0.1, port {port}"):
            Running(["--port", port])


@pytest.mark.parametrize("port", [-1, 65_536, 10**30])
def test_a_port_that_is_none_is_told(capsys, port):
    assert f"port must lie between 0 and 65535, got {port}" in refused(capsys, "--port", port)


def test_a_wrong_bundle_is_told(capsys, tmp_path, own_bundle_folder):
    assert "wanted a bundle folder" in refused(capsys, "--bundle", tmp_path / "nowhere")
    (own_bundle_folder / "cases.csv").write_text("no")
    assert "is damaged or was changed" in refused(capsys, "--bundle", own_bundle_folder)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.x"])
def test_other_machines_are_not_served_in_the_open(capsys, host, certificate, token_file, tmp_path):
    tls = ["--tls-certificate", certificate[0], "--tls-key", certificate[1]]
    told = refused(capsys, "--host", host)
    assert f"{host} can be reached by other machines, which needs" in told
    assert "--tls-certificate and --tls-key and --token-file or --clients; without" in told
    assert "needs --token-file or --clients; without" in refused(capsys, "--host", host, *tls)
    told = refused(capsys, "--host", host, "--token-file", token_file)
    assert "needs --tls-certificate and --tls-key; without" in told


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.org", False),
    ],
)  # fmt: skip
def test_which_addresses_others_cannot_reach(host, own):
    assert is_own_machine(host) == own


def test_half_of_tls_is_refused(capsys, certificate, tmp_path, bundle_folder):
    told = refused(capsys, "--tls-key", certificate[1])
    assert "--tls-certificate and --tls-key belong together" in told
    absent = ["--tls-certificate", certificate[0], "--tls-key", tmp_path / "no"]
    assert f"no file at {tmp_path / 'no'}" in refused(capsys, *absent)


@pytest.mark.parametrize("kind", ["swapped", "encrypted"])
def test_an_unusable_key_is_told(capsys, certificate, tmp_path, bundle_folder, kind):
    """And nobody is asked for its password."""
    pem, key = certificate
    if kind == "swapped":
        pem, key = key, pem
    else:
        command = f"openssl rsa -aes256 -passout pass:secret -in {key} -out {tmp_path / 'key.pem'}"
        subprocess.run(command.split(), check=True, capture_output=True)
        key = tmp_path / "key.pem"
    options = ["--bundle", bundle_folder, "--tls-certificate", pem, "--tls-key", key]
    assert "for TLS: " in refused(capsys, *options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*token: No such file"),
        (b"", "at least 16 printable ASCII characters in the first line of .*, got 0"),
        (b"short\n" + b"x" * 50, "got 5"),
        ("ä".encode() * 20, "printable ASCII"),
        (b"with\x07bell" * 4, "printable ASCII"),
        (b"\xff\xfe" * 20, "is not in UTF-8"),
    ],
)
def test_a_token_that_is_none_is_refused(tmp_path, content, message):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Serve(token_file=file).run()


def test_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(InputError, match=r"pip install 'contrastdiagnosis\[server\]'"):
        Serve().run()


def test_without_standard_input_it_does_not_start(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="no standard input to end with; use --keep-running"):
        Serve().run()


def test_a_diagnosis_that_hangs_does_not_keep_the_process(monkeypatch):
    class Server:
        should_exit = False

    ended = []
    monkeypatch.setattr(serve.time, "sleep", lambda s: ended.append(Server.should_exit))
    monkeypatch.setattr(serve.os, "_exit", ended.append)
    reader, writer = os.pipe()
    os.write(writer, b"x" * 5000)
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        serve._end_with_input(Server)
    assert ended == [True, 0]


def test_a_line_of_the_log_is_json_without_what_others_filled_in():
    def line(name, text, arguments=(), error=None, **fields):
        record = logging.LogRecord(name, logging.ERROR, "x.py", 1, text, arguments, error)
        record.__dict__.update(fields)
        return json.loads(JsonLines().format(record))

    ours = line("contrastdiagnosis.service.app", "request", fields={"status": 200})
    assert (ours["level"], ours["status"]) == ("error", 200)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", ours["time"])
    try:
        raise ValueError("patient Doe")
    except ValueError:
        theirs = line("uvicorn.error", "from %s", ("192.0.2.7",), sys.exc_info())
    assert theirs["message"] == "from %s"
    assert theirs["error"] == "ValueError"
    assert "Doe" not in json.dumps(theirs)
    assert line("py.warnings", "%s", ("beware",))["message"] == "beware"


def test_the_readmes_example_works_as_printed(tmp_path):
    """And reaches no proxy, reads no ~/.curlrc, shows the token to nobody, leaves it nowhere."""
    if not shutil.which("curl"):
        pytest.skip("THE README'S EXAMPLE IS NOT TESTED: there is no curl")
    done = run_serve_block(tmp_path)
    assert done.code == 0, done.errors
    assert not done.reached_proxy
    assert '"status":"ok"' in done.out
    out = tmp_path / "out"
    assert "</html>" in (out / "report.html").read_text()
    assert unpack((out / "diagnosis.safetensors").read_bytes())[1]["verdict"] == "malignant"
    (work,) = (f for f in tmp_path.iterdir() if (f / "token").is_file())
    assert work.stat().st_mode & 0o077 == 0
    assert "contrastdiagnosis serve" in done.commands
    assert "--header @" in done.commands and '--header "Auth' not in done.commands
