"""Follows the points of one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

Position = tuple[float, float, float]


class PointWatch:
    """Tells which points are placed or moved, and that some are unset or removed."""

    def __init__(
        self, onPlaced: Callable[[list[str]], None], onRemoved: Callable[[], None]
    ) -> None:
        """Follows nothing yet.

        Args:
            onPlaced: Called with the IDs of the points that are new, or lie elsewhere than when
                it was last called.
            onRemoved: Called when placed points are gone.
        """
        self._onPlaced, self._onRemoved = onPlaced, onRemoved
        self._points: Any = None
        # VTKObservationMixin would keep the points of every scene that was closed.
        self._tags: list[int] = []
        self._known: dict[str, Position] = {}

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
        self._known = {} if points is None else _positionsOf(points)
        if points is None:
            return
        markups = slicer.vtkMRMLMarkupsNode
        for event in (markups.PointPositionDefinedEvent, markups.PointEndInteractionEvent):
            self._tags.append(points.AddObserver(event, self._placed))
        for event in (markups.PointRemovedEvent, markups.PointPositionUndefinedEvent):
            self._tags.append(points.AddObserver(event, self._removed))

    def _placed(self, _caller: Any, _event: Any) -> None:
        known, self._known = self._known, _positionsOf(self._points)
        self._onPlaced([p for p, at in self._known.items() if known.get(p) != at])

    def _removed(self, _caller: Any, _event: Any) -> None:
        known, self._known = self._known, _positionsOf(self._points)
        # The preview of a point that is being placed comes and goes with the mouse.
        if known.keys() - self._known.keys():
            self._onRemoved()


def _positionsOf(points: Any) -> dict[str, Position]:
    """Where the placed points lie, in the node's own frame: transforms move the CT along."""
    return {
        points.GetNthControlPointID(n): tuple(points.GetNthControlPointPosition(n))
        for n in range(points.GetNumberOfControlPoints())
        if points.GetNthControlPointPositionStatus(n) == points.PositionDefined
    }
