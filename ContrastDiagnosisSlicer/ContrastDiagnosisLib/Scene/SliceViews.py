"""Which CT is seen in which slice view, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
import slicer

from ContrastDiagnosisLib.Scene.OwnNodes import RESULT_CLASSES, VOLUME_REFERENCE, isOurs

ZOOM_MM = 64.0
"""Width of a view that is zoomed to a nodule."""

CAMERA_MM = 350.0
"""From the camera of a 3-D view to the nodule."""

CLICK_MM = 0.5
"""A point further from the cursor was not placed by a click there."""

QUERY_VIEW, CASE_VIEW = "ContrastQuery", "ContrastCase"
"""Of the layout that compares; they are filled one by one."""


@dataclass(frozen=True)
class FieldOfView:
    """What a slice view showed, to return to it."""

    widthMm: float
    originXyz: tuple[float, float, float]


def sliceNodes() -> list[Any]:
    """All slice nodes but those of the comparison."""
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")
        if node.GetLayoutName() not in (QUERY_VIEW, CASE_VIEW)
    ]


def sliceNodeOf(name: str) -> Any:
    """The slice node of a view, None where it does not exist."""
    return slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")


def compositeOf(name: str) -> Any:
    """The slice composite node of a view, None where it does not exist."""
    return slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")


def showVolume(volume: Any) -> None:
    """Shows a volume in all slice views but those of the comparison, each fitted to it."""
    for node in sliceNodes():
        composite = compositeOf(node.GetLayoutName())
        if composite is None or composite.GetBackgroundVolumeID() == volume.GetID():
            continue
        composite.SetBackgroundVolumeID(volume.GetID())
        composite.SetForegroundVolumeID(None)
        logic = slicer.app.applicationLogic().GetSliceLogic(node)
        if logic is not None:
            logic.FitSliceToBackground()


def showResultsOf(volume: Any) -> None:
    """Shows points, segments and boxes of a volume, and hides those of every other one.

    Two scans of a patient lie at the same place: results of one would be seen over the other.
    """
    for className in RESULT_CLASSES:
        for node in slicer.util.getNodesByClass(className):
            owner = node.GetNodeReferenceID(VOLUME_REFERENCE)
            display = node.GetDisplayNode()
            if owner and display is not None:
                display.SetVisibility(owner == volume.GetID())


def seenVolume(sliceNode: Any) -> Any:
    """The volume that a view shows; None if none.

    A foreground that covers the background is what is seen, unless it is a map of ours.
    """
    composite = compositeOf(sliceNode.GetLayoutName())
    if composite is None:
        return None
    scene = slicer.mrmlScene
    front = scene.GetNodeByID(composite.GetForegroundVolumeID() or "")
    if front is not None and not isOurs(front) and composite.GetForegroundOpacity() > 0.5:
        return front
    return scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")


def viewNodes() -> list[Any]:
    """Nodes that tell when the views show something else: a view's volumes, the layout."""
    classes = ("vtkMRMLSliceCompositeNode", "vtkMRMLLayoutNode")
    return [node for name in classes for node in slicer.util.getNodesByClass(name)]


def seenVolumes() -> list[Any]:
    """What the slice views show, each once."""
    seen = [seenVolume(node) for node in sliceNodes()]
    return [v for n, v in enumerate(seen) if v is not None and v not in seen[:n]]


def clickedVolume(pointWorld: Sequence[float]) -> Any:
    """The volume seen in the view in which a point was just placed; None if there is none.

    The cursor tells the view. A point that a script placed, or that was placed in a 3-D view, is
    in none.
    """
    cursor = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if cursor is None:
        return None
    position = [0.0, 0.0, 0.0]
    sliceNode = cursor.GetCursorPositionXYZ(position)
    if sliceNode is None or not cursor.GetCursorPositionRAS(position):
        return None
    if np.linalg.norm(np.subtract(position, pointWorld)) > CLICK_MM:
        return None
    return seenVolume(sliceNode)


class NoduleZoom:
    """Zooms the slice views to a nodule, and back to where they looked before."""

    def __init__(self) -> None:
        self._before: dict[str, FieldOfView] = {}

    @property
    def isOn(self) -> bool:
        """Whether the views are zoomed."""
        return bool(self._before)

    def zoomTo(self, pointWorld: Sequence[float]) -> None:
        """Zooms all slice views but those of the comparison."""
        for node in sliceNodes():
            if node.GetLayoutName() not in self._before:
                self._before[node.GetLayoutName()] = fieldOfViewOf(node)
            aim(node, pointWorld, ZOOM_MM)

    def zoomBack(self) -> None:
        """Returns to where the views looked; the slice stays the one that is shown now."""
        for node in sliceNodes():
            shown = self._before.get(node.GetLayoutName())
            if shown is not None:
                offset = node.GetSliceOffset()
                setWidth(node, shown.widthMm)
                node.SetXYZOrigin(*shown.originXyz)
                node.SetSliceOffset(offset)
        self.forget()

    def forget(self) -> None:
        """Another CT: where the views looked no longer matters."""
        self._before.clear()


def fieldOfViewOf(sliceNode: Any) -> FieldOfView:
    """What a view shows."""
    return FieldOfView(sliceNode.GetFieldOfView()[0], tuple(sliceNode.GetXYZOrigin()))


def deliverQueued(name: str) -> None:
    """Lets the slider of a view say what it has still to say, before the view is moved.

    Its values go to the slice by a queued connection: one that it had as its view was made would
    be set after the move, and take it back.
    """
    manager = slicer.app.layoutManager()
    widget = None if manager is None else manager.sliceWidget(name)
    if widget is not None:
        qt.QCoreApplication.sendPostedEvents(widget.sliceController(), 0)


def aim(sliceNode: Any, pointWorld: Sequence[float], widthMm: float) -> None:
    """Centres a view on a point, some millimetres wide."""
    setWidth(sliceNode, widthMm)
    sliceNode.SetXYZOrigin(0.0, 0.0, 0.0)
    sliceNode.JumpSliceByCentering(*pointWorld)


def setWidth(sliceNode: Any, widthMm: float) -> None:
    """Makes a view some millimetres wide; its height follows from its size on the screen now."""
    width, height, depth = sliceNode.GetFieldOfView()
    # A view that was never drawn has no width yet.
    ratio = height / width if width else 1.0
    sliceNode.SetFieldOfView(widthMm, widthMm * ratio, depth)


def turnCameras(pointWorld: Sequence[float]) -> None:
    """Centres the 3-D views on a point, from where they looked."""
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        direction = np.subtract(camera.GetPosition(), camera.GetFocalPoint())
        direction = direction / (np.linalg.norm(direction) or 1.0)
        wasModifying = camera.StartModify()
        camera.SetFocalPoint(*pointWorld)
        camera.SetPosition(*(np.array(pointWorld) + CAMERA_MM * direction))
        camera.ResetClippingRange()
        camera.EndModify(wasModifying)
