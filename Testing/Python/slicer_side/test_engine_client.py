"""Requests go to the engine that was named and to nobody else."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import qt
from ContrastDiagnosisLib.Engine.EngineClient import EngineClient


class Place:
    """A server that keeps what it is asked, and answers as told."""

    def __init__(self, status=200, headers=()):
        self.asked = asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                asked.append(
                    (self.path, self.headers.get("Authorization"), self.rfile.read(length))
                )
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_CONNECT = do_any

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Engine:
    def __init__(self, url, isLocal):
        self.url, self.isLocal = url, isLocal

    def whenReady(self, onReady, onFailed):
        onReady(self.url, "t" * 20)

    def describeFailure(self, reason):
        return reason

    def giveUp(self, url):
        pass

    def stop(self):
        pass


@pytest.fixture
def place():
    places = []

    def make(*arguments):
        places.append(Place(*arguments))
        return places[-1]

    yield make
    for made in places:
        made.close()


CLIENTS = []
"""Qt's own objects must outlive their replies."""


def ask(engine, wait_until, body):
    told = []
    client = EngineClient(engine)
    CLIENTS.append(client)
    client.ask("/diagnose", body, told.append, lambda message, _reached: told.append(message))
    wait_until(lambda: told, 20)
    return told[0]


@pytest.mark.parametrize("body", [None, b"voxels"])
@pytest.mark.parametrize("isLocal", [True, False])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirection_is_followed(place, wait_until, body, isLocal, status):
    elsewhere = place()
    asked = place(status, [("Location", elsewhere.url + "/diagnose")])
    told = ask(Engine(asked.url, isLocal), wait_until, body)
    assert len(asked.asked) == 1 and elsewhere.asked == []
    assert str(status) in told


@pytest.mark.parametrize("body", [None, b"voxels"])
def test_no_proxy_stands_before_the_engine_of_this_computer(place, wait_until, body):
    proxy, engine = place(), place()
    before = qt.QNetworkProxy.applicationProxy()
    qt.QNetworkProxy.setApplicationProxy(
        qt.QNetworkProxy(qt.QNetworkProxy.HttpProxy, "127.0.0.1", proxy.port)
    )
    try:
        assert ask(Engine(engine.url, True), wait_until, body) == b"{}"
    finally:
        qt.QNetworkProxy.setApplicationProxy(before)
    assert proxy.asked == []
    assert [(path, token) for path, token, _ in engine.asked] == [
        ("/diagnose", f"Bearer {'t' * 20}")
    ]


@pytest.mark.parametrize(
    "error", [KeyError("pairs"), IndexError("0"), TypeError("x"), ValueError()]
)
def test_an_answer_that_cannot_be_read_is_an_error_like_any_other(place, wait_until, error):
    """As where a proxy answers in the engine's place: whoever asked gets no exception."""

    def onAnswer(_body):
        raise error

    told = []
    client = EngineClient(Engine(place().url, True))
    CLIENTS.append(client)
    client.ask("/maps", b"voxels", onAnswer, lambda *message: told.append(message))
    wait_until(lambda: told, 20)
    (message, reached), *more = told
    assert "The engine's answer cannot be used" in message and reached and not more


def test_what_a_proxy_says_instead_of_maps_is_told_in_the_panel(
    place, widget, click, wait_until, monkeypatch
):
    click(widget)
    monkeypatch.setattr(widget.panel.client, "engine", Engine(place().url, True))
    widget.panel.result.cases.selectRow(0)
    wait_until(lambda: "cannot be used" in widget.ui.messageLabel.text, 20)
    assert not widget.panel.session.isAskingMaps
