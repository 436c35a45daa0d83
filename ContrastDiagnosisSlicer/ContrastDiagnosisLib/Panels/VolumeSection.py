"""The selected CT: what follows when another is selected, seen, moved, edited or removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

from ContrastDiagnosisLib.Panels.ViewPanel import ViewPanel
from ContrastDiagnosisLib.Scene.CommonFrame import keepWithVolume, moveAlong
from ContrastDiagnosisLib.Scene.NodeWatch import NodeWatch
from ContrastDiagnosisLib.Scene.OwnNodes import isOurs
from ContrastDiagnosisLib.Scene.SliceViews import seenVolumes, viewNodes
from ContrastDiagnosisLib.Scene.VolumeWatch import VolumeWatch


class VolumeSection:
    """Keeps selector, views and results of one CT together."""

    def __init__(
        self,
        views: ViewPanel,
        onAnother: Callable[[], None],
        dropMaps: Callable[[], None],
        onViews: Callable[[], None],
        onChanged: Callable[[], None],
    ) -> None:
        """Follows nothing yet.

        Args:
            views: Show the CT.
            onAnother: Called when the user selected another volume.
            dropMaps: Called when the maps in the scene are of no selected CT any more.
            onViews: Called when the views or the layout show something else.
            onChanged: Called when the CT was moved, edited or is shown otherwise.
        """
        self._views = views
        self._onAnother, self._dropMaps, self._onViews = onAnother, dropMaps, onViews
        self._node: Any = None
        self._volumeId, self._ct = "", None
        self._watch = VolumeWatch(self._onMoved, self._onGridMoved, onChanged)
        self._viewWatch = NodeWatch(self._onViewsChanged)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Another scene's CT; None while a scene closes."""
        self._watch.follow(None)
        self._viewWatch.follow([])
        self._node, self._volumeId = parameterNode, ""
        if parameterNode is None:
            self._views.clear()

    def follow(self) -> None:
        """Follows the CT of the parameter node, and the views."""
        self._viewWatch.follow(viewNodes())
        volume = self._node.inputVolume
        volumeId = "" if volume is None else volume.GetID()
        self._watch.follow(volume)
        if volumeId == self._volumeId:
            return
        isAnother, self._volumeId = bool(self._volumeId), volumeId
        if isAnother:
            self._onAnother()
        if isOurs(volume):
            qt.QTimer.singleShot(0, self._leaveMap)
        else:
            self._ct = volume
            if isAnother:
                self._dropMaps()
        self._views.onVolume(self._node)

    def keepResults(self) -> None:
        """Results lie in their CT's own frame."""
        keepWithVolume(self._node)

    def _leaveMap(self) -> None:
        """The selector takes a map for the next CT when the CT is removed: then the maps go."""
        isGone = self._ct is not None and self._ct.GetScene() is None
        if self._node is not None and isOurs(self._node.inputVolume) and isGone:
            self._node.inputVolume = next((v for v in seenVolumes() if not isOurs(v)), None)

    def _onViewsChanged(self) -> None:
        """A CT that no view shows any more gives way to the one that is seen."""
        node = self._node
        if node is None or slicer.mrmlScene.IsBatchProcessing():
            return
        self._viewWatch.follow(viewNodes())
        self._onViews()
        seen = [volume for volume in seenVolumes() if not isOurs(volume)]
        if len(seen) == 1 and node.inputVolume is not None and node.inputVolume not in seen:
            node.inputVolume = seen[0]

    def _onMoved(self) -> None:
        if self._node is not None and not slicer.mrmlScene.IsBatchProcessing():
            keepWithVolume(self._node)

    def _onGridMoved(self, moved: Any) -> None:
        """As when its transform is hardened; the diagnoses are of another CT all the same."""
        if self._node is not None and not slicer.mrmlScene.IsBatchProcessing():
            moveAlong(self._node, moved)
