"""Where the engine answers: in a process of its own on this machine, or on a server elsewhere."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.Settings import Settings

REMEMBERED_LINES = 12
"""Of the server's log, shown when it fails."""

START_LIMIT_MS = 180_000
"""A cold disk may take a minute to load PyTorch."""

END_LIMIT_MS = 4000
"""An engine whose input was closed ends within about 2 s."""

OnReady = Callable[[str, str], None]
OnFailed = Callable[[str], None]


@dataclass(frozen=True)
class EngineOptions:
    """How the local engine is started."""

    python: str = ""
    """Program of another Python environment; empty for Slicer's own."""
    bundle: str = ""
    """Bundle folder; empty for the one that comes along."""
    device: str = "auto"


def processEnvironment(python: str, modulePath: str) -> qt.QProcessEnvironment:
    """Slicer's own environment for its own Python, the user's for any other.

    Args:
        python: Program of another Python environment; empty for Slicer's own.
        modulePath: Folder of the engine's package.
    """
    if python:
        values = dict(slicer.util.startupEnvironment())
        values.pop("PYTHONHOME", None)
        paths = []
    else:
        values = dict(os.environ)
        paths = values.get("PYTHONPATH", "").split(os.pathsep)
    # An empty or relative entry is the folder that Slicer happens to stand in, as is what -m adds:
    # whoever can write there could plant a tyro.py.
    paths = [modulePath, *(path for path in paths if os.path.isabs(path))]
    values["PYTHONPATH"] = os.pathsep.join(paths)
    values["PYTHONSAFEPATH"] = "1"
    environment = qt.QProcessEnvironment()
    for name, value in values.items():
        environment.insert(name, value)
    return environment


def ownFolder() -> tempfile.TemporaryDirectory[str]:
    """A new folder for a process to stand in, which nobody else can write into."""
    return tempfile.TemporaryDirectory(prefix="ContrastDiagnosis-", ignore_cleanup_errors=True)


def sentenceOf(lines: Iterable[str], python: str) -> str:
    """What the last lines of an engine tell the user: its own words, never a traceback.

    Args:
        lines: Of its standard error.
        python: Program of another Python environment; empty for Slicer's own.
    """
    said = [line.rstrip() for line in lines if line.strip()]
    missing = re.search(r"No module named '?([\w.]+)", "\n".join(said))
    if missing:
        told = _(
            "The engine's packages are not installed in {python}: {package} is missing. Install"
            " them in the set-up, or name a Python there that has them."
        )
        return told.format(python=python or _("Slicer's own Python"), package=missing.group(1))
    if any(line.startswith(("Traceback ", '  File "')) for line in said):
        return said[-1]
    return "\n".join(line.removeprefix("contrastdiagnosis: ") for line in said)


class RemoteEngine:
    """A server that runs elsewhere already."""

    isLocal = False

    def __init__(self, url: str, token: str, agreed: bool) -> None:
        """Nothing is sent unless the user agreed to it."""
        self.url = url.rstrip("/")
        self.token = token
        self.agreed = agreed

    def whenReady(self, onReady: OnReady, onFailed: OnFailed) -> None:
        """Calls one of the two."""
        scheme = qt.QUrl(self.url).scheme()
        if scheme != "https" or not self.token:
            onFailed(_("A remote server needs an address that begins with https:// and a token."))
        elif not self.agreed:
            onFailed(_("Nothing was sent: agree to it in the set-up first."))
        else:
            onReady(self.url, self.token)

    def giveUp(self, url: str) -> None:
        """There is nothing that could be started again."""

    def describeFailure(self, reason: str) -> str:
        """What the user is told when no answer came."""
        return _("The server {url} does not answer: {reason}").format(url=self.url, reason=reason)

    def retire(self) -> None:
        """The server goes on."""

    def stop(self) -> None:
        """The server goes on."""


class LocalEngine:
    """The server as a child process; it ends when its standard input closes, so with Slicer."""

    isLocal = True

    def __init__(self, options: EngineOptions, modulePath: str) -> None:
        self.options = options
        self._modulePath = modulePath
        self._process: Any = None
        self._url = self._token = ""
        self._waiting: list[tuple[OnReady, OnFailed]] = []
        self._lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._buffer = b""
        self._ended: list[Any] = []
        self._folder = ownFolder()
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._onStartLimit)

    @property
    def processId(self) -> int:
        """0 if it does not run."""
        return 0 if self._process is None else int(self._process.processId())

    def whenReady(self, onReady: OnReady, onFailed: OnFailed) -> None:
        """Calls one of the two, now or when the server has started."""
        if self._url:
            onReady(self._url, self._token)
            return
        self._waiting.append((onReady, onFailed))
        if self._process is None:
            self._start()

    def giveUp(self, url: str) -> None:
        """Ends the process that does not answer at this address; the next request starts another.

        Several requests may lose the same process: only the first ends it.
        """
        if url == self._url:
            self._end(killed=True)

    def describeFailure(self, reason: str) -> str:
        """What the user is told when no answer came."""
        told = _("The engine stopped or does not answer: {reason}").format(reason=reason)
        said = sentenceOf(self._lines, self.options.python)
        # What the engine says comes first: it tells what to do.
        return f"{said}\n\n{told}" if said else told

    def retire(self) -> None:
        """Asks the process to end, without waiting for it; keep this object until then."""
        self._waiting.clear()
        self._end(killed=False)

    def stop(self) -> None:
        """Ends the process and waits for it a moment, as the program ends."""
        self.retire()
        for process in self._ended:
            if not process.waitForFinished(END_LIMIT_MS):
                process.kill()
                process.waitForFinished(1000)

    def _start(self) -> None:
        self._buffer = b""
        self._lines.clear()
        process = qt.QProcess()
        self._process = process
        process.setWorkingDirectory(self._folder.name)
        process.setProcessEnvironment(processEnvironment(self.options.python, self._modulePath))
        # A process that was given up may still have its say after the next one has started.
        process.connect("readyReadStandardOutput()", lambda: self._onOutput(process))
        process.connect("readyReadStandardError()", lambda: self._onLog(process))
        process.connect(
            "finished(int,QProcess::ExitStatus)",
            lambda code, _status: self._onFinished(process, code),
        )
        process.connect(
            "errorOccurred(QProcess::ProcessError)", lambda error: self._onError(process, error)
        )
        arguments = ["-m", "contrastdiagnosis", "serve", "--device", self.options.device]
        if self.options.bundle:
            arguments += ["--bundle", self.options.bundle]
        self._timer.start(START_LIMIT_MS)
        process.start(self.options.python or sys.executable, arguments)

    def _onOutput(self, process: Any) -> None:
        data = process.readAllStandardOutput().data()
        if process is not self._process or self._url:
            return
        self._buffer += data
        line, end, _rest = self._buffer.partition(b"\n")
        if not end:
            return
        try:
            ready = json.loads(line)
            url, token = ready["url"], ready["token"]
        except (KeyError, TypeError, ValueError):
            self._fail(_("The engine said something unexpected: {line}").format(line=line[:200]))
            return
        self._timer.stop()
        self._url, self._token = url, token
        waiting, self._waiting = self._waiting, []
        for onReady, _onFailed in waiting:
            onReady(url, token)

    def _onLog(self, process: Any) -> None:
        if process is self._process:
            text = process.readAllStandardError().data().decode(errors="replace")
            self._lines.extend(line for line in text.splitlines() if line.strip())

    def _onFinished(self, process: Any, code: int) -> None:
        if process is self._process:
            self._onLog(process)
            self._fail(_("The engine ended with code {code}.").format(code=code))

    def _onError(self, process: Any, error: Any) -> None:
        if process is self._process and error == qt.QProcess.FailedToStart:
            program = self.options.python or sys.executable
            self._fail(_("The program {program} cannot be started.").format(program=program))

    def _onStartLimit(self) -> None:
        self._fail(_("The engine did not start in time."))

    def _fail(self, reason: str) -> None:
        self._end(killed=True)
        waiting, self._waiting = self._waiting, []
        for _onReady, onFailed in waiting:
            onFailed(self.describeFailure(reason))

    def _end(self, killed: bool) -> None:
        self._timer.stop()
        process, self._process = self._process, None
        self._url = self._token = ""
        if process is None:
            return
        # It must not be deleted by its own signal.
        self._ended = [p for p in self._ended if p.state() != qt.QProcess.NotRunning]
        self._ended.append(process)
        # PythonSlicer is a launcher: its child, the server, ends by the closed input alone.
        process.closeWriteChannel()
        if killed:
            process.kill()


def makeEngine(settings: Settings, modulePath: str) -> Any:
    """The engine that the user set up; nothing is started yet."""
    if settings.location == "remote":
        agreed = settings.remoteUrl and settings.remoteAllowed == settings.remoteUrl
        return RemoteEngine(settings.remoteUrl, settings.remoteToken, bool(agreed))
    options = EngineOptions(settings.python, settings.bundle, settings.device)
    return LocalEngine(options, modulePath)
