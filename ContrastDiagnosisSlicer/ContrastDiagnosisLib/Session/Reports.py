"""Reports of nodules on disk: HTML as the engine makes it, or PDF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.WholeFiles import replacing
from ContrastDiagnosisLib.Scene import NoduleScene
from ContrastDiagnosisLib.Session.Dialogs import askSaveFile

REPORT_SUFFIXES = {"HTML": ".html", "PDF": ".pdf"}

MARGIN_MM = 15.0

PIXELS_PER_INCH = 96
"""Of the pixels in which the engine gives the sizes of pictures: 680 to the width of a page."""

FONT_PIXELS, FOOTER_PIXELS = 12, 24


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


class ReportButtons:
    """The two buttons that ask where reports shall go."""

    def __init__(
        self, one: Any, every: Any, writer: ReportWriter, say: Callable[[str], None]
    ) -> None:
        """Connects the buttons.

        Args:
            one: Button for the shown nodule.
            every: Button for all nodules.
            writer: Saves.
            say: Shows a message.
        """
        self._one, self._every, self._writer, self._say = one, every, writer, say
        self._parameterNode: Any = None
        one.clicked.connect(self.onOne)
        every.clicked.connect(self.onEvery)

    def follow(self, parameterNode: Any, isOne: bool, isAny: bool) -> None:
        """The state of the panel: is the shown nodule diagnosed, is any?"""
        self._parameterNode = parameterNode
        self._one.enabled, self._every.enabled = isOne, isAny

    def onOne(self, _checked: bool = False) -> None:
        """Saves the report of the shown nodule."""
        file = askSaveFile(self._one, _("Save report"), "report", REPORT_SUFFIXES)
        if file:
            self._writer.save({self._parameterNode.nodule: Path(file)}, self._onWritten)

    def onEvery(self, _checked: bool = False) -> None:
        """Saves the reports of all nodules into a folder."""
        folder = qt.QFileDialog.getExistingDirectory(self._every, _("Folder for reports"))
        if folder:
            node = self._parameterNode
            files = {
                p: Path(folder) / f"nodule{NoduleScene.numberOfPoint(node, p)}.html"
                for p in NoduleScene.diagnosedPoints(node)
            }
            self._writer.save(files, self._onWritten)

    def _onWritten(self, files: list[Path]) -> None:
        self._say(_("wrote {names}").format(names=", ".join(str(f) for f in files)))


def writeReport(file: Path, html: bytes) -> None:
    """Writes HTML, or the PDF that Qt makes of it; what stood there before stays on failure.

    Raises:
        OSError: The folder cannot be written to, or the disk is full.
    """
    with replacing(file) as draft:
        if _isPdf(file):
            # Qt does not tell of failures: what can be tried without it is tried first.
            draft.write_bytes(b"")
            _writePdf(draft, html.decode())
            if draft.stat().st_size == 0:
                raise OSError(_("the PDF is empty"))
        else:
            draft.write_bytes(html)


def _writePdf(file: Path, html: str) -> None:
    """Puts HTML on A4 pages, with the notice and the page's number under each."""
    writer = qt.QPdfWriter(str(file))
    size, upright = qt.QPageSize(qt.QPageSize.A4), qt.QPageLayout.Portrait
    margins = qt.QMarginsF(MARGIN_MM, MARGIN_MM, MARGIN_MM, MARGIN_MM)
    writer.setPageLayout(qt.QPageLayout(size, upright, margins, qt.QPageLayout.Millimeter))
    writer.setResolution(PIXELS_PER_INCH)
    area = writer.pageLayout().paintRectPixels(PIXELS_PER_INCH)
    width, height = area.width(), area.height() - FOOTER_PIXELS
    font = qt.QFont()
    # Points would be as large as the screen's resolution makes them.
    font.setPixelSize(FONT_PIXELS)
    document = _layOut(html, font, width, height)
    count = document.pageCount()
    footer = _("Research use only, not for clinical use. Page {page} of {count}.")
    painter = qt.QPainter(writer)
    painter.setFont(font)
    for page in range(count):
        if page:
            writer.newPage()
        painter.save()
        painter.translate(0, -page * height)
        document.drawContents(painter, qt.QRectF(0, page * height, width, height))
        painter.restore()
        painter.drawText(0, area.height() - 1, footer.format(page=page + 1, count=count))
    # The file is not complete before.
    painter.end()


def _layOut(html: str, font: Any, width: float, height: float) -> Any:
    """A text document in pages of that size."""
    document = qt.QTextDocument()
    # Else letters stand where they fit on a screen.
    document.setUseDesignMetrics(True)
    document.setDefaultFont(font)
    document.setDocumentMargin(0)
    document.setPageSize(qt.QSizeF(width, height))
    document.setHtml(html)
    _keepTablesWhole(document, height)
    return document


def _keepTablesWhole(document: Any, height: float) -> None:
    """Starts a new page before each outer table that the end of a page would tear."""
    layout = document.documentLayout()
    for table in document.rootFrame().childFrames():
        # Asked anew for each: what was moved before it has moved it too.
        box = layout.frameBoundingRect(table)
        if box.top() // height != (box.bottom() - 1) // height and box.height() <= height:
            form = table.frameFormat()
            form.setPageBreakPolicy(qt.QTextFormat.PageBreak_AlwaysBefore)
            table.setFrameFormat(form)


def _isPdf(file: Path) -> bool:
    return file.suffix.lower() == ".pdf"
