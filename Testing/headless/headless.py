"""Slicer without Slicer: puts the stand-ins of this folder in place, once per process.

`start()`, then `import slicer, qt` as anywhere in Slicer; `load_module(path)` gives a module
whose `widget` is its panel.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path

HERE = Path(__file__).parent
STAND_INS = (
    "mrml_widgets",
    "application",
    "views",
    "module_widgets",
    "ui_loader",
)
"""In the order in which they need each other."""
_alive: list = []

NONES = 4_000_000
"""References of None to lose: PySide6 6.12 takes one with every call that returns nothing. Below
Python 3.12, where None became immortal, 17,000 such calls end the process.
"""


def start() -> types.ModuleType:
    """The module `slicer` with its app, scene and modules as in Slicer; `qt` and `ctk` beside."""
    if _alive:
        return sys.modules["slicer"]
    if sys.version_info < (3, 12):
        # For ever: given back at the end of the process, they would end it all the same.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object([None] * NONES))
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    import slicer

    # Not found by slicer's own search, which would import all of it and copy its names.
    slicer.__path__.append(str(HERE / "slicer_python"))
    import qt

    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.modules = sys.modules["slicer.modules"] = types.ModuleType("slicer.modules")
    slicer.moduleNames = types.SimpleNamespace()
    for name in STAND_INS:
        _publish(slicer, importlib.import_module(f"stand_ins.{name}"))
    slicer.app = slicer.qSlicerApplication()
    _alive.append(slicer.app)
    qt.QUiLoader = sys.modules["stand_ins.ui_loader"].QUiLoader
    _wire(slicer)
    return slicer


def _publish(slicer, module) -> None:
    for name, value in vars(module).items():
        if name.startswith(("qMRML", "qSlicer")):
            setattr(slicer, name, value)


def _wire(slicer) -> None:
    from stand_ins import application, hierarchy

    scene = slicer.mrmlScene
    logics = application.makeLogics(scene)
    slicer.app.__dict__["_logic"] = logics.pop("")
    for name, logic in logics.items():
        setattr(slicer.modules, name, application.qSlicerLoadableModule(name, logic))
    _alive.append(application.readBundles(scene, slicer.app.cachePath))
    hierarchy.followSubjectHierarchy(scene)
    _alive.append(slicer.qSlicerLayoutManager())
    slicer.app.setLayoutManager(_alive[-1])


class LoadedModule:
    """A scripted module, loaded as Slicer loads it."""

    def __init__(self, path: Path):
        import slicer

        self.name = path.stem
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.append(folder)
        spec = importlib.util.spec_from_file_location(self.name, path)
        self.python = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = self.python
        spec.loader.exec_module(self.python)
        self.parent = slicer.qSlicerScriptedLoadableModule(str(path))
        self.instance = getattr(self.python, self.name)(self.parent)
        setattr(slicer.modules, self.name.lower(), self.parent)
        setattr(slicer.modules, f"{self.name}Instance", self.instance)
        setattr(slicer.moduleNames, self.name, self.name)
        slicer.app.moduleManager().moduleLoaded.emit(self.name)

    @property
    def widget(self):
        """The panel; made when it is first asked for, as in Slicer."""
        return self.parent.widgetRepresentation().self()

    def unload(self) -> None:
        """Leaves the panel, cleans up and deletes it; does nothing the second time."""
        import qt
        import slicer

        if sys.modules.get(self.name) is not self.python:
            return
        widget = self.parent._widget
        if widget is not None and widget.isEntered:
            widget.exit()
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(self.name)
        if widget is not None:
            widget.delete()
        for name in (self.name.lower(), f"{self.name}Instance", f"{self.name}Widget"):
            slicer.modules.__dict__.pop(name, None)
        slicer.moduleNames.__dict__.pop(self.name, None)
        slicer.selfTests.pop(self.name, None)
        sys.modules.pop(self.name, None)
        self.parent.delete()
        qt.QCoreApplication.sendPostedEvents(None, qt.QEvent.DeferredDelete)


def load_module(path) -> LoadedModule:
    """The scripted module of a file; call `unload()` when done."""
    start()
    return LoadedModule(Path(path).resolve())


def reset() -> None:
    """An empty scene, the default layout and settings, testing mode; no panel stays open."""
    import ctk
    import qt
    import slicer
    import slicer.packaging

    scene = slicer.mrmlScene
    scene.Clear(False)
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        scene.RemoveNode(node)  # a singleton survives Clear
    scene.ClearUndoStack()
    layouts = _alive[-1]
    slicer.app.setLayoutManager(layouts)
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.app.setTestingEnabled(True)
    qt.QSettings().clear()
    ctk.ctkMessageBox.shown.clear()
    ctk.ctkMessageBox.answer = qt.QMessageBox.Ok
    slicer.packaging.installed.clear()
