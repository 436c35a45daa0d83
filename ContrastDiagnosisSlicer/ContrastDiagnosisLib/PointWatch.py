"""Follows the points of one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer


class PointWatch:
    """Tells when a point is placed, moved, unset or removed."""

    def __init__(self, onPlaced: Callable[[], None], onRemoved: Callable[[], None]) -> None:
        self._onPlaced, self._onRemoved = onPlaced, onRemoved
        self._points: Any = None
        # VTKObservationMixin would keep the points of every scene that was closed.
        self._tags: list[int] = []

    @property
    def isDeleted(self) -> bool:
        """Whether the node that is followed is no longer in the scene."""
        return self._points is not None and self._points.GetScene() is None

    def follow(self, points: Any) -> None:
        """Follows this markups node and no other; None for none."""
        if self._points is points:
            return
        for tag in self._tags:
            self._points.RemoveObserver(tag)
        self._points, self._tags = points, []
        if points is None:
            return
        markups = slicer.vtkMRMLMarkupsNode
        for event in (markups.PointPositionDefinedEvent, markups.PointEndInteractionEvent):
            self._tags.append(points.AddObserver(event, self._placed))
        for event in (markups.PointRemovedEvent, markups.PointPositionUndefinedEvent):
            self._tags.append(points.AddObserver(event, self._removed))

    def _placed(self, _caller: Any, _event: Any) -> None:
        self._onPlaced()

    def _removed(self, _caller: Any, _event: Any) -> None:
        self._onRemoved()
