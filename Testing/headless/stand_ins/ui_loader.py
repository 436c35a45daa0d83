"""Loads Slicer's .ui files with the stand-in widgets."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import ctk
import qt
import slicer
from PySide6 import QtUiTools


def _standIns() -> dict[str, type]:
    both = {**vars(ctk), **vars(slicer)}
    classes = {n: c for n, c in both.items() if n.startswith(("ctk", "qMRML", "qSlicer"))}
    return {n: c for n, c in classes.items() if isinstance(c, type) and issubclass(c, qt.QWidget)}


class QUiLoader(QtUiTools.QUiLoader):
    """An unknown class is an error, and connections between the widgets are made here.

    Qt cannot match `mrmlSceneChanged(vtkMRMLScene*)` with a signal that Python declared.
    """

    def __init__(self, parent=None):
        super().__init__(parent)
        self.__dict__["_classes"] = _standIns()
        for cls in self._classes.values():
            self.registerCustomWidget(cls)

    def load(self, device, parent=None):
        root = ET.fromstring(device.readAll().data())
        for widget in root.iter("widget"):
            name = widget.get("class")
            if name not in self._classes and not hasattr(qt, name):
                raise RuntimeError(f"the .ui file names {name}, which no stand-in provides")
        found = root.find("connections")
        connections = list(found) if found is not None else []
        if found is not None:
            root.remove(found)
        buffer = qt.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(qt.QIODevice.ReadOnly)
        qt.LOADING.append(device)
        try:
            loaded = super().load(buffer, parent)
        finally:
            qt.LOADING.clear()
        for connection in connections:
            _join(loaded, *(connection.find(k).text for k in ("sender", "signal")),
                  *(connection.find(k).text for k in ("receiver", "slot")))  # fmt: skip
        return loaded


def _join(root, sender, signal, receiver, slot) -> None:
    ends = [root if root.name == n else root.findChild(qt.QObject, n) for n in (sender, receiver)]
    if None in ends:
        raise RuntimeError(f"the .ui file connects {sender} to {receiver}, one is missing")
    getattr(ends[0], signal.split("(")[0]).connect(getattr(ends[1], slot.split("(")[0]))
