"""The layout manager and its views, on real MRML."""

from __future__ import annotations

import types
import weakref

import qt
import slicer
import vtk
from PySide6.QtCore import Property, Signal


class qMRMLSliceView(qt.QWidget):
    """Where a slice is drawn: a real renderer, which no window draws.

    A vtkRenderWindow would load Mesa with its LLVM, and PyTorch's own LLVM crashes beside it.
    """

    def __init__(self):
        super().__init__()
        renderers = vtk.vtkRendererCollection()
        renderers.AddItem(vtk.vtkRenderer())
        self.__dict__["_window"] = types.SimpleNamespace(GetRenderers=lambda: renderers)

    def renderWindow(self):
        return self._window

    def scheduleRender(self):
        pass


class qMRMLSliceControllerWidget(qt.QWidget):
    """The bar above a slice view.

    Its slider tells the slice of each of its values by a queued connection, so the one it has as
    the view is made is set when the event loop next runs.
    """

    sliderMoved = Signal(float)

    def __init__(self, logic):
        super().__init__()
        self.__dict__.update(_logic=logic)
        self.sliderMoved.connect(self.setSliceOffsetValue, qt.Qt.QueuedConnection)
        self.sliderMoved.emit(0.0)

    def setSliceOffsetValue(self, offset):
        self._logic.SetSliceOffset(offset)


class qMRMLSliceWidget(qt.QWidget):
    """One slice view: real logic and nodes, no picture.

    As in Slicer its layout gives it its size, and with it its width in millimetres, only when the
    event loop next runs after it was made.
    """

    def __init__(self, logic):
        super().__init__()
        self.__dict__.update(
            _logic=logic, _view=qMRMLSliceView(), _controller=qMRMLSliceControllerWidget(logic)
        )
        reference = weakref.ref(self)
        qt.QTimer.singleShot(0, lambda: _layOut(reference()))

    def sliceController(self):
        return self._controller

    def sliceView(self):
        return self._view

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()


def _layOut(widget):
    if widget is not None and qt.shiboken6.isValid(widget):
        widget.sliceLogic().ResizeSliceNode(300, 200)


class qSlicerLayoutManager(qt.QObject):
    """Real layout logic; a slice view has a widget once its node is in the scene."""

    layoutChanged = Signal(int)

    def __init__(self):
        super().__init__()
        scene = slicer.mrmlScene
        logic = slicer.vtkMRMLLayoutLogic()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        logic.SetMRMLScene(scene)
        self.__dict__.update(_logic=logic, _slices={}, _sliceLogics=vtk.vtkCollection())
        slicer.app.applicationLogic().SetSliceLogics(self._sliceLogics)
        logic.GetLayoutNode().AddObserver("ModifiedEvent", lambda *_: self._fill())
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def setLayout(self, layout):
        node = self._logic.GetLayoutNode()
        if node.GetViewArrangement() != layout:
            node.SetViewArrangement(layout)
            self.layoutChanged.emit(layout)

    layout = Property(int, lambda self: self._logic.GetLayoutNode().GetViewArrangement(), setLayout)

    def layoutLogic(self):
        return self._logic

    def mrmlScene(self):
        return slicer.mrmlScene

    def _fill(self):
        """A logic and a widget for each slice node; in Slicer its view factories make them."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            name = node.GetLayoutName()
            found = self._slices.get(name)
            if found is None:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
                logic.SetSliceNode(node)
                logic.SetMRMLScene(slicer.mrmlScene)
                self._sliceLogics.AddItem(logic)
                self._slices[name] = qMRMLSliceWidget(logic)
            elif found.mrmlSliceNode() is not node:
                found.sliceLogic().SetSliceNode(node)

    def sliceViewNames(self):
        self._fill()
        return tuple(self._slices)

    def sliceWidget(self, name):
        self._fill()
        return self._slices.get(name)

    def mrmlSliceLogics(self):
        self._fill()
        return self._sliceLogics

    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self):
        pass

    pauseRender = resumeRender = resetThreeDViews

    def setRenderPaused(self, paused):
        pass
