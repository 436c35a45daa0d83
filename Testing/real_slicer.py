"""A real Slicer for the tests of `slicer_side`: what `headless` is to its stand-ins."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util


def start() -> types.ModuleType:
    """The module `slicer` of the application that runs."""
    return slicer


_CLEANED: set[str] = set()
"""Modules whose panel was cleaned up: the next one is made as Slicer's "Reload" does."""


class LoadedModule:
    """A module that Slicer loaded as it started, with its panel made anew."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.parent = getattr(slicer.modules, self.name.lower())
        self.instance = getattr(slicer.modules, f"{self.name}Instance")
        self.python = sys.modules[self.name]
        # At once, for another module may ask Slicer for this panel.
        if self.name in _CLEANED:
            _CLEANED.discard(self.name)
            self.parent.widgetRepresentation().reload()

    @property
    def widget(self) -> Any:
        """The panel."""
        return self.parent.widgetRepresentation().self()

    def unload(self) -> None:
        """Leaves the panel, cleans up and deletes it; does nothing the second time."""
        # Nobody may have asked for the panel: asking makes it.
        if not hasattr(slicer.modules, f"{self.name}Widget") or self.name in _CLEANED:
            return
        _CLEANED.add(self.name)
        representation = self.parent.widgetRepresentation()
        widget = representation.self()
        if representation.isEntered:
            representation.exit()
        widget.cleanup()
        told = widget._onModuleAboutToBeUnloaded
        slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", told)
        layout = representation.layout()
        while layout.count():
            layout.removeItem(layout.itemAt(0))
        for child in representation.children():
            if child.isWidgetType():
                child.hide()
                child.deleteLater()


def load_module(path: Path) -> LoadedModule:
    """The scripted module of a file; call `unload()` when done."""
    return LoadedModule(Path(path).resolve())


def reset() -> None:
    """An empty scene, the default layout, and none of our settings."""
    scene = slicer.mrmlScene
    scene.Clear(False)
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        scene.RemoveNode(node)  # A singleton survives Clear.
    scene.ClearUndoStack()
    if slicer.app.layoutManager() is not None:
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    # Of the testing mode's own file; all of Slicer's are read at its start.
    qt.QSettings().remove("ContrastDiagnosis")
