"""Follows nodes of the scene: boxes that are dragged, views that show something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer
import vtk


class NodeWatch:
    """Tells, once per turn of the event loop, that a node was changed, moved or removed."""

    def __init__(self, onChanged: Callable[[], None]) -> None:
        self._nodes: list[Any] = []
        # VTKObservationMixin would keep the nodes of every scene that was closed.
        self._tags: list[tuple[Any, int]] = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.connect("timeout()", onChanged)

    def follow(self, nodes: Sequence[Any]) -> None:
        """Follows these nodes and no others."""
        if list(nodes) == self._nodes:
            return
        for watched, tag in self._tags:
            watched.RemoveObserver(tag)
        self._nodes, self._tags = list(nodes), []
        if not self._nodes:
            self._timer.stop()
            return
        scene = slicer.mrmlScene
        self._observe(scene, scene.NodeRemovedEvent)
        for node in self._nodes:
            self._observe(node, vtk.vtkCommand.ModifiedEvent)
            # Of the transform that a box is under.
            self._observe(node, slicer.vtkMRMLTransformableNode.TransformModifiedEvent)

    def _observe(self, watched: Any, event: int) -> None:
        self._tags.append((watched, watched.AddObserver(event, self._onEvent)))

    def _onEvent(self, _caller: Any, _event: Any) -> None:
        self._timer.start()
