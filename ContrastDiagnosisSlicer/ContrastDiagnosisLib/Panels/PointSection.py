"""The points of the selected CT: what the user places, moves and removes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene import NoduleScene
from ContrastDiagnosisLib.Scene.NoduleScene import PointState
from ContrastDiagnosisLib.Scene.PointWatch import PointWatch
from ContrastDiagnosisLib.Scene.SliceViews import clickedVolume
from ContrastDiagnosisLib.Scene.VolumeBridge import InputError, checkVolume


class PointSection:
    """Points on one side, the session's diagnoses on the other; one node of points a CT."""

    def __init__(
        self,
        placeWidget: Any,
        session: Any,
        say: Callable[[str], None],
        onChanged: Callable[[], None],
    ) -> None:
        """Follows nothing yet.

        Args:
            placeWidget: The qSlicerMarkupsPlaceWidget.
            session: The `DiagnosisSession`.
            say: Shows a message.
            onChanged: Called when points came, went or moved without a diagnosis being asked.
        """
        self._placeWidget, self._session = placeWidget, session
        self._say, self._onChanged = say, onChanged
        self._node: Any = None
        self._watch = PointWatch(self._onPlaced, self._onRemoved)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Another scene's points; None while a scene closes."""
        self._watch.follow(None)
        self._node = parameterNode
        if parameterNode is None:
            self._placeWidget.setCurrentNode(None)

    def follow(self) -> None:
        """Follows the points of the selected CT, made where it can be diagnosed."""
        points = self._pointsOfVolume()
        self._watch.follow(points)
        if self._placeWidget.currentNode() is not points:
            self._placeWidget.setCurrentNode(points)

    def areDeleted(self) -> bool:
        """Whether the scene just lost the node of points; the diagnoses go with it, soon."""
        if not self._watch.isDeleted or self._node.points is not None:
            return False
        self._watch.follow(None)
        self._placeWidget.setCurrentNode(None)
        # The scene is in the middle of it.
        qt.QTimer.singleShot(0, self._afterDeletion)
        return True

    def startPlacing(self) -> None:
        """The next click in a slice is a point."""
        if self._node is not None and self._node.inputVolume is not None:
            self._placeWidget.setPlaceModeEnabled(True)

    def _pointsOfVolume(self) -> Any:
        try:
            checkVolume(self._node.inputVolume)
        except InputError:
            NoduleScene.selectVolume(self._node)
            return self._node.points
        return NoduleScene.ensurePoints(self._node)

    def _afterDeletion(self) -> None:
        node = self._node
        if node is not None and not slicer.mrmlScene.IsBatchProcessing():
            self._removeOrphans()
            node.parameterNode.Modified()

    def _onPlaced(self, changed: list[str]) -> None:
        """Diagnoses points that were placed or moved by hand; each belongs to what was clicked."""
        node = self._node
        if node is None:
            return
        self._say("")
        here = [p for p in changed if not self._givesAway(p)]
        waiting = (PointState.NEW, PointState.MOVED)
        here = [p for p in here if NoduleScene.stateOf(node, p) in waiting]
        if here and node.live:
            self._session.diagnose(here)
        else:
            self._onChanged()

    def _givesAway(self, pointId: str) -> bool:
        """Gives a point to the CT that is seen where it was clicked, if that is another."""
        node = self._node
        at = NoduleScene.pointWorld(node, pointId)
        volume = None if at is None else clickedVolume(at)
        if volume is None or volume is node.inputVolume:
            return False
        points = node.points
        # Slicer's widget is still busy with the point.
        qt.QTimer.singleShot(0, lambda: self._move(points, pointId, volume, at))
        return True

    def _move(self, points: Any, pointId: str, volume: Any, pointWorld: Any) -> None:
        node = self._node
        if node is None or points.GetScene() is None or volume.GetScene() is None:
            return
        index = points.GetNthControlPointIndexByID(pointId)
        if index < 0:
            return
        points.RemoveNthControlPoint(index)
        try:
            checkVolume(volume)
        except InputError as error:
            self._say(_("Click on the CT itself. {reason}").format(reason=error))
            return
        isPlacing = self._placeWidget.placeModeEnabled
        node.inputVolume = volume
        NoduleScene.ensurePoints(node).AddControlPointWorld(*pointWorld)
        if isPlacing:
            self._placeWidget.setPlaceModeEnabled(True)

    def _onRemoved(self) -> None:
        if self._node is not None:
            self._removeOrphans()
            self._onChanged()

    def _removeOrphans(self) -> None:
        for pointId in NoduleScene.orphans(self._node):
            self._session.removePoint(pointId)
