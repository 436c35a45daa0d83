"""A file's name gets the suffix of the chosen kind."""

from __future__ import annotations

import pytest
import qt
import slicer
from ContrastDiagnosisLib.Session.Dialogs import askSaveFile

KINDS = {"HTML": ".html", "PDF": ".pdf"}


@pytest.fixture
def answered(monkeypatch, scene, tmp_path):
    """`answered(name, kind)`: the real dialog, filled in and accepted by a user."""

    def run(name, kind="", suggested="report"):
        def accept(dialog):
            dialog.setDirectory(str(tmp_path))
            if kind:
                shown = next(f for f in dialog.nameFilters() if f.startswith(kind))
                dialog.selectNameFilter(shown)
                dialog.filterSelected.emit(shown)
            if name is None:
                return qt.QDialog.Rejected
            if name:
                dialog.selectFile(name)
            return qt.QDialog.Accepted

        monkeypatch.setattr(qt.QFileDialog, "exec", accept)
        return askSaveFile(qt.QWidget(), "Save report", suggested, KINDS)

    return run


@pytest.mark.parametrize(
    ("typed", "kind", "wanted"),
    [
        ("mine", "", "mine.html"),
        ("mine", "PDF", "mine.pdf"),
        ("mine.pdf", "", "mine.pdf"),
        ("mine.PDF", "", "mine.PDF"),
        ("mine.v2", "PDF", "mine.v2.pdf"),
        ("", "", "report.html"),
        ("", "PDF", "report.pdf"),
    ],
)
def test_the_kind_decides_where_the_name_does_not(answered, tmp_path, typed, kind, wanted):
    assert answered(typed, kind) == str(tmp_path / wanted)


def test_cancelling_gives_no_file(answered):
    assert answered(None) == ""


def test_a_file_whose_name_was_completed_is_not_replaced_unasked(answered, tmp_path, monkeypatch):
    (tmp_path / "mine.v2.html").write_text("older")
    asked = []
    for answer in (False, True):
        monkeypatch.setattr(
            slicer.util, "confirmYesNoDisplay", lambda text, a=answer: asked.append(text) or a
        )
        file = answered("mine.v2")
        assert file == (str(tmp_path / "mine.v2.html") if answer else "")
    assert all("mine.v2.html exists" in text for text in asked)
