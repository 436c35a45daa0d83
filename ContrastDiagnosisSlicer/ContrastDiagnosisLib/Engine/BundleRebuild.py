"""A bundle without the prototypes that were removed, made by the engine in a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.EngineProcess import ownFolder, processEnvironment, sentenceOf
from ContrastDiagnosisLib.Engine.Settings import Settings

END_LIMIT_MS = 3000
DEFAULT_BUNDLE = Path("Resources") / "Bundles" / "lidc"


def bundleFolderOf(settings: Settings, modulePath: str) -> Path:
    """The bundle that the engine on this computer uses, as the engine itself finds it."""
    if settings.bundle:
        return Path(settings.bundle)
    inTree = Path(modulePath).parent / DEFAULT_BUNDLE
    return inTree if inTree.is_dir() else Path(modulePath) / DEFAULT_BUNDLE


def newFolderIn(parent: Path, bundle: Path) -> Path:
    """A folder that does not exist yet, named after the bundle."""
    names = [f"{bundle.name}-pruned", *(f"{bundle.name}-pruned-{n}" for n in range(2, 1000))]
    return next(parent / name for name in names if not (parent / name).exists())


def addPixelsCommand(settings: Settings, modulePath: str, bundle: Path) -> str:
    """The line for a terminal that adds pictures of the bundle's cases; FOLDER is the user's.

    Another Python need not have the engine installed: `-m` finds it in the current folder.
    """
    if settings.location == "remote":
        return "contrastdiagnosis cases add-pixels --from FOLDER"
    arguments = [settings.python or sys.executable, "-m", "contrastdiagnosis", "cases"]
    arguments += ["add-pixels", "--bundle", str(bundle), "--from", "FOLDER"]
    if os.name == "nt":
        return f'cd /d "{modulePath}" && {subprocess.list2cmdline(arguments)}'
    return f"cd {shlex.quote(modulePath)} && {shlex.join(arguments)}"


class BundleRebuild:
    """Runs `contrastdiagnosis bundle prune`; one at a time."""

    def __init__(self, onDone: Callable[[Path], None], onError: Callable[[str], None]) -> None:
        """Nothing runs yet.

        Args:
            onDone: Called with the folder of the new bundle.
            onError: Called with the engine's sentence.
        """
        self._onDone, self._onError = onDone, onError
        self._process: Any = None
        self._ended: list[Any] = []
        self._out = Path()
        self._folder: Any = None

    @property
    def isRunning(self) -> bool:
        """Whether a bundle is being made."""
        return self._process is not None

    def start(
        self, settings: Settings, modulePath: str, bundle: Path, pruning: Path, out: Path
    ) -> None:
        """Begins to write a new bundle; the old one stays as it is."""
        process = qt.QProcess()
        self._process, self._out = process, out
        self._folder = ownFolder()
        process.setWorkingDirectory(self._folder.name)
        process.setProcessEnvironment(processEnvironment(settings.python, modulePath))
        process.connect(
            "finished(int,QProcess::ExitStatus)",
            lambda code, status: self._onFinished(process, code, status, settings.python),
        )
        process.connect(
            "errorOccurred(QProcess::ProcessError)",
            lambda error: self._onFailed(process, error, settings.python or sys.executable),
        )
        arguments = ["-m", "contrastdiagnosis", "bundle", "prune", str(bundle.absolute())]
        arguments += ["--pruning", str(pruning.absolute()), "--out", str(out.absolute())]
        process.start(settings.python or sys.executable, arguments)

    def cancel(self) -> None:
        """Ends the process; the engine puts a bundle in place only when it is complete."""
        process = self._forget()
        if process is not None:
            # PythonSlicer is a launcher: asked to end, it may take its child along.
            process.terminate()

    def stop(self) -> None:
        """Ends the process and waits for it a moment, as the program ends."""
        self.cancel()
        for process in self._ended:
            if not process.waitForFinished(END_LIMIT_MS):
                process.kill()
                process.waitForFinished(1000)

    def _forget(self) -> Any:
        """The process, no longer listened to; it must not be deleted by its own signal."""
        process, self._process = self._process, None
        self._ended = [p for p in self._ended if p.state() != qt.QProcess.NotRunning]
        if process is not None:
            self._ended.append(process)
        return process

    def _onFinished(self, process: Any, code: int, status: Any, python: str) -> None:
        if process is not self._process:
            return
        self._forget()
        if code == 0 and status == qt.QProcess.NormalExit:
            self._onDone(self._out)
            return
        text = process.readAllStandardError().data().decode(errors="replace")
        said = sentenceOf(text.splitlines(), python).splitlines()
        told = _("The engine ended with code {code}.").format(code=code)
        # What comes before the last line is progress.
        self._onError(said[-1] if said else told)

    def _onFailed(self, process: Any, error: Any, program: str) -> None:
        if process is self._process and error == qt.QProcess.FailedToStart:
            self._forget()
            told = _("The program {program} cannot be started.")
            self._onError(told.format(program=program))
