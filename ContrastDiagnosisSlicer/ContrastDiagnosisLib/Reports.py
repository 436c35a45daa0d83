"""Reports of nodules on disk: HTML as the engine makes it, or PDF."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _


class ReportWriter:
    """Asks for reports and writes them, whole or not at all."""

    def __init__(self, session: Any, onError: Callable[[str], None]) -> None:
        self._session = session
        self._onError = onError

    def save(self, files: dict[str, Path], onDone: Callable[[list[Path]], None]) -> None:
        """Writes the reports of points to their files; the suffix .pdf makes a PDF.

        Args:
            files: File of each control point.
            onDone: Called with the files when all are written.
        """
        written: list[Path] = []

        def onHtml(file: Path, html: bytes) -> None:
            try:
                writeReport(file, html)
            except OSError as error:
                reason = error.strerror or error
                told = _("cannot write {file}: {reason}").format(file=file, reason=reason)
                self._onError(told)
                return
            written.append(file)
            if len(written) == len(files):
                onDone(written)

        for pointId, file in files.items():
            self._session.requestReport(
                pointId, _isPdf(file), lambda html, file=file: onHtml(file, html)
            )


def writeReport(file: Path, html: bytes) -> None:
    """Writes HTML, or the PDF that Qt makes of it; what stood there before stays on failure.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    partial = file.with_name(f".partial-{file.name}")
    try:
        if _isPdf(file):
            # Qt does not tell of failures: what can be tried without it is tried first.
            partial.write_bytes(b"")
            document = qt.QTextDocument()
            document.setHtml(html.decode())
            getattr(document, "print")(qt.QPdfWriter(str(partial)))  # noqa: B009
            if partial.stat().st_size == 0:
                raise OSError(_("the PDF is empty"))
        else:
            partial.write_bytes(html)
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _isPdf(file: Path) -> bool:
    return file.suffix.lower() == ".pdf"
