"""Follows the boxes of a nodule while they are dragged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer
import vtk


class BoxWatch:
    """Tells, once per turn of the event loop, that a box was changed, moved or removed."""

    def __init__(self, onChanged: Callable[[], None]) -> None:
        self._boxes: list[Any] = []
        # VTKObservationMixin would keep the nodes of every scene that was closed.
        self._tags: list[tuple[Any, int]] = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.connect("timeout()", onChanged)

    def follow(self, boxes: Sequence[Any]) -> None:
        """Follows these ROI nodes and no others."""
        if list(boxes) == self._boxes:
            return
        for watched, tag in self._tags:
            watched.RemoveObserver(tag)
        self._boxes, self._tags = list(boxes), []
        if not self._boxes:
            self._timer.stop()
            return
        scene = slicer.mrmlScene
        self._observe(scene, scene.NodeRemovedEvent)
        for box in self._boxes:
            self._observe(box, vtk.vtkCommand.ModifiedEvent)
            # Of the transform that the box is under.
            self._observe(box, slicer.vtkMRMLTransformableNode.TransformModifiedEvent)

    def _observe(self, watched: Any, event: int) -> None:
        self._tags.append((watched, watched.AddObserver(event, self._onEvent)))

    def _onEvent(self, _caller: Any, _event: Any) -> None:
        self._timer.start()
