"""Dialogs that ask where a file shall go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _


def askSaveFile(parent: Any, title: str, name: str, filters: Mapping[str, str]) -> str:
    """The file that the user names, with the suffix of the chosen filter; empty if none.

    `QFileDialog.getSaveFileName` neither adds the suffix nor, in PythonQt, tells the filter.

    Args:
        parent: Widget that the dialog belongs to.
        title: Of the dialog.
        name: Suggested name; its suffix follows the filter.
        filters: Suffix of each kind of file, such as {"PDF": ".pdf"}; the first is chosen.
    """
    suffixes = list(filters.values())
    shown = [f"{kind} (*{suffix})" for kind, suffix in filters.items()]
    dialog = qt.QFileDialog(parent, title)
    dialog.setAcceptMode(qt.QFileDialog.AcceptSave)
    dialog.setNameFilters(shown)
    dialog.setDefaultSuffix(suffixes[0])
    dialog.selectFile(withSuffix(name, suffixes[0], suffixes))

    def onFilter(chosen: str) -> None:
        suffix = suffixes[shown.index(chosen)]
        dialog.setDefaultSuffix(suffix)
        if files := dialog.selectedFiles():
            dialog.selectFile(Path(withSuffix(files[0], suffix, suffixes)).name)

    dialog.connect("filterSelected(QString)", onFilter)
    try:
        # Named `exec_` in Slicer with Qt 5, `exec` with Qt 6.
        run = dialog.exec if hasattr(dialog, "exec") else dialog.exec_
        if not run():
            return ""
        typed = dialog.selectedFiles()[0]
        chosen = suffixes[shown.index(dialog.selectedNameFilter())]
    finally:
        dialog.deleteLater()
    file = typed if typed.lower().endswith(tuple(suffixes)) else typed + chosen
    return file if file == typed or _mayReplace(file) else ""


def withSuffix(name: str, suffix: str, known: list[str]) -> str:
    """A name with a suffix in place of another known one; what is no known suffix stays."""
    found = next((s for s in known if name.lower().endswith(s)), "")
    return name[: len(name) - len(found)] + suffix


def _mayReplace(file: str) -> bool:
    """The dialog asked about the name that was typed, not about the one with its suffix."""
    told = _("{file} exists. Replace it?").format(file=file)
    return not Path(file).exists() or slicer.util.confirmYesNoDisplay(told)
