"""How the CT is shown: its window, and whether the views are zoomed to the nodule."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene import NoduleScene
from ContrastDiagnosisLib.Scene.CtWindow import (
    CtWindow,
    setLungWindowOnce,
    setWindow,
    setWindowAfterLoading,
    windowOf,
)
from ContrastDiagnosisLib.Scene.SliceViews import (
    NoduleZoom,
    seenVolumes,
    showResultsOf,
    showVolume,
    turnCameras,
)
from ContrastDiagnosisLib.Scene.VolumeBridge import InputError, checkVolume


class ViewPanel:
    """Two buttons for windows, one for the zoom; the slice views follow the selected CT."""

    def __init__(self, ui: Any) -> None:
        """Connects the widgets.

        Args:
            ui: With `lungButton`, `mediastinumButton` and `zoomButton`, all checkable.
        """
        self._ui = ui
        self._node: Any = None
        self._zoom = NoduleZoom()
        self._shown: tuple[str, str] | None = None
        self._volumeId = ""
        self._buttons = {CtWindow.LUNG: ui.lungButton, CtWindow.MEDIASTINUM: ui.mediastinumButton}
        ui.lungButton.clicked.connect(lambda: self.onWindow(CtWindow.LUNG))
        ui.mediastinumButton.clicked.connect(lambda: self.onWindow(CtWindow.MEDIASTINUM))
        ui.zoomButton.clicked.connect(self.onZoom)

    def onVolume(self, parameterNode: Any) -> None:
        """Shows another CT where no view shows it, and its results alone."""
        self._node = parameterNode
        volume = parameterNode.inputVolume
        if volume is None or volume.GetID() != self._volumeId:
            self._volumeId = "" if volume is None else volume.GetID()
            self._zoom.zoomBack()
        if not _isCt(volume):
            return
        showResultsOf(volume)
        if volume not in seenVolumes():
            showVolume(volume)

    def onLoaded(self, volume: Any) -> None:
        """The selected volume is loaded to its end."""
        if _isCt(volume):
            setWindowAfterLoading(volume)
            self.refresh(self._node)

    def onNodule(self, parameterNode: Any) -> None:
        """Turns the views to the selected nodule."""
        self._node = parameterNode
        point = NoduleScene.pointWorld(parameterNode, parameterNode.nodule)
        if point is not None:
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *point)
            turnCameras(point)
            if self._zoom.isOn:
                self._zoom.zoomTo(point)

    def refresh(self, parameterNode: Any) -> None:
        """Brings the buttons up to date; the 3-D views turn to a nodule that is new."""
        self._node = parameterNode
        volume = None if parameterNode is None else parameterNode.inputVolume
        if _isCt(volume):
            # A large volume is selected while it is still being loaded, and has no display yet.
            setLungWindowOnce(volume)
        shown = windowOf(volume)
        for window, button in self._buttons.items():
            button.setEnabled(volume is not None)
            button.setChecked(shown is window)
        point = None
        if volume is not None:
            point = NoduleScene.pointWorld(parameterNode, parameterNode.nodule)
            self._followNodule((volume.GetID(), parameterNode.nodule), point)
        hasPoint = point is not None
        self._ui.zoomButton.setEnabled(hasPoint or self._zoom.isOn)
        self._ui.zoomButton.setChecked(self._zoom.isOn)
        told = _("Zooms the slice views to the selected nodule, and back.")
        self._ui.zoomButton.setToolTip(told if hasPoint else _("Select a nodule first."))

    def _followNodule(self, shown: tuple[str, str], point: Any) -> None:
        # A loaded scene brings its cameras along. The slices stay: the next click may be under way.
        if self._shown not in (None, shown) and point is not None:
            turnCameras(point)
        self._shown = shown

    def onWindow(self, window: CtWindow) -> None:
        """Shows the CT in a window."""
        if self._node is not None and self._node.inputVolume is not None:
            setWindow(self._node.inputVolume, window)
        self.refresh(self._node)

    def onZoom(self, _checked: bool = False) -> None:
        """Zooms to the nodule, or back."""
        if self._zoom.isOn:
            self._zoom.zoomBack()
        elif self._node is not None:
            point = NoduleScene.pointWorld(self._node, self._node.nodule)
            if point is not None:
                self._zoom.zoomTo(point)
        self.refresh(self._node)

    def clear(self) -> None:
        """The scene closes."""
        self._zoom.forget()
        self._shown = None
        self._volumeId = ""
        self.refresh(None)


def _isCt(volume: Any) -> bool:
    """Whether a volume can be a CT, by its kind."""
    try:
        checkVolume(volume)
    except InputError:
        return False
    return True
