"""The PDF of a report, as Qt makes it of the print form with the bundle that comes along."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
from ContrastDiagnosisLib.Session import Reports

from slicer_side.conftest import ENGINE_PYTHON, IN_SLICER, MODULES, users_shell
from slicer_side.print_reports import KINDS, write_print_reports


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Print forms of a nodule of the demo, with all that one can hold and with the least."""
    folder = tmp_path_factory.mktemp("reports")
    if IN_SLICER:
        command = [ENGINE_PYTHON, str(Path(__file__).with_name("print_reports.py")), str(folder)]
        environment = users_shell() | {"PYTHONPATH": str(MODULES)}
        subprocess.run(command, check=True, env=environment)
    else:
        write_print_reports(folder)
    return {kind: (folder / f"{kind}.html").read_bytes() for kind in KINDS}


@pytest.fixture(params=KINDS)
def html(reports, request):
    return reports[request.param]


@pytest.fixture
def printed(html, tmp_path, monkeypatch):
    """The PDF, the document that was printed, and what was written beside it, page by page."""
    documents, written, plain = [], [], qt.QPainter

    class Document(qt.QTextDocument):
        def __init__(self):
            super().__init__()
            documents.append(self)

    class Painter(qt.QPainter):
        def drawText(self, x, y, text):
            written.append(text)
            plain.drawText(self, x, y, text)  # PythonQt's `super()` finds no slots.

    monkeypatch.setattr(qt, "QTextDocument", Document)
    monkeypatch.setattr(qt, "QPainter", Painter)
    Reports.writeReport(tmp_path / "report.pdf", html)
    return (tmp_path / "report.pdf").read_bytes(), documents[0], written


def blocks(document):
    block = document.begin()
    while block.isValid():
        yield block
        block = block.next()


def split_words(document):
    """Where a line ends inside a word, as in a column that is narrower than it."""
    found = []
    for block in blocks(document):
        layout, text = block.layout(), block.text()
        lines = [layout.lineAt(n) for n in range(layout.lineCount())]
        ends = [line.textStart() + line.textLength() for line in lines[:-1]]
        # A line may also end after a hyphen or a slash.
        found += [text for end in ends if re.match(r"[^\s/-]\S", text[end - 1 : end + 1])]
    return found


def boxes_of(document):
    layout = document.documentLayout()
    return [layout.frameBoundingRect(table) for table in document.rootFrame().childFrames()]


def test_the_pages_are_a4(printed):
    pdf, document, _written = printed
    media = {
        tuple(map(float, m)) for m in re.findall(rb"/MediaBox \[(.+?) (.+?) (.+?) (.+?)\]", pdf)
    }
    (box,) = media
    np.testing.assert_allclose(np.array(box) / 72 * 25.4, (0, 0, 210, 297), atol=0.5)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == document.pageCount() <= 4
    # 15 mm are left on each side.
    assert document.pageSize.width() / 96 * 25.4 == pytest.approx(180, abs=0.5)


def test_no_column_is_narrower_than_its_words(printed):
    _pdf, document, _written = printed
    assert split_words(document) == []
    # Qt rounds each column's percents.
    assert document.size.width() <= document.pageSize.width() + 2


def test_no_table_is_torn_and_no_heading_is_left_behind(printed, html):
    _pdf, document, _written = printed
    height = document.pageSize.height()
    assert len(boxes_of(document)) >= 7
    for box in boxes_of(document):
        assert box.top() // height == (box.bottom() - 1) // height
    layout = document.documentLayout()
    headings = [b for b in blocks(document) if b.blockFormat().headingLevel()]
    assert len(headings) == html.count(b"<h3>") + 1
    for heading in headings:
        page = layout.blockBoundingRect(heading).top() // height
        assert layout.blockBoundingRect(heading.next()).top() // height == page


def test_no_page_ends_early_without_need(printed):
    _pdf, document, _written = printed
    height, layout = document.pageSize.height(), document.documentLayout()
    tables = document.rootFrame().childFrames()
    moved = 0
    for before, table in pairwise(tables):
        above, box = layout.frameBoundingRect(before), layout.frameBoundingRect(table)
        if box.top() // height > above.top() // height:
            block = table.firstCursorPosition().block().previous()
            lowest = max(above.bottom(), layout.blockBoundingRect(block).bottom())
            # Qt counts the margin above a table, up to 12 pixels, twice.
            assert height - lowest % height < box.height() + 12
            moved += 1
    assert moved >= document.pageCount() - 2


def test_every_page_bears_the_notice(printed):
    _pdf, document, written = printed
    count = document.pageCount()
    told = "Research use only, not for clinical use. Page {} of {}."
    assert written == [told.format(page, count) for page in range(1, count + 1)]
    text = document.toPlainText().strip()
    assert text.startswith("Research use only, not for clinical use.")
    assert "Research use only, not for clinical use." in text.rpartition("\n")[2]


@pytest.mark.parametrize("html", KINDS[:1], indirect=True)
def test_the_letters_are_black_in_a_dark_style_too(printed):
    _pdf, document, _written = printed
    before, dark = slicer.app.palette(), qt.QPalette()
    dark.setColor(qt.QPalette.Text, qt.QColor("white"))
    image = qt.QImage(680, 60, qt.QImage.Format_Grayscale8)
    image.fill(qt.QColor("white"))
    painter = qt.QPainter(image)
    slicer.app.setPalette(dark)
    try:
        document.drawContents(painter, qt.QRectF(0, 0, 680, 60))
    finally:
        painter.end()
        slicer.app.setPalette(before)
    assert min(image.pixelColor(x, y).value() for x in range(0, 680) for y in range(60)) < 50


def test_a_table_longer_than_a_page_is_printed_all_the_same(tmp_path):
    rows = "".join(f"<tr><td>row {n}</td></tr>" for n in range(200))
    Reports.writeReport(tmp_path / "long.pdf", f"<p>x</p><table>{rows}</table>".encode())
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "long.pdf").read_bytes())) >= 4
