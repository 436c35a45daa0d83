"""The grey window of a CT: lung or mediastinum."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ContrastDiagnosisLib.Scene.VolumeBridge import holdsAir

SET_ATTRIBUTE = "ContrastDiagnosis.windowSet"


class CtWindow(Enum):
    """Width and level, HU, as chest radiologists read with."""

    LUNG = (1500.0, -600.0)
    MEDIASTINUM = (400.0, 40.0)


def setWindow(volume: Any, window: CtWindow) -> None:
    """Shows a volume in a window; nothing where it has no display."""
    display = volume.GetDisplayNode()
    if display is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(*window.value)


def windowOf(volume: Any) -> CtWindow | None:
    """The window that a volume is shown in; None if another."""
    display = None if volume is None else volume.GetDisplayNode()
    # A label map's display has no window.
    if display is None or not display.IsA("vtkMRMLScalarVolumeDisplayNode"):
        return None
    if display.GetAutoWindowLevel():
        return None
    shown = display.GetWindow(), display.GetLevel()
    return next((w for w in CtWindow if w.value == shown), None)


def setLungWindowOnce(volume: Any) -> None:
    """The lung window for a CT that is shown for the first time, unless the user chose one.

    Slicer's automatic window shows lung in one grey. A window that the file brought along is no
    choice of the user: DICOM's are kept as presets. What holds no air is no CT of a chest.
    """
    display = volume.GetDisplayNode()
    if display is None or volume.GetAttribute(SET_ATTRIBUTE):
        return
    volume.SetAttribute(SET_ATTRIBUTE, "1")
    if not holdsAir(volume):
        return
    presets = [
        (display.GetWindowPreset(n), display.GetLevelPreset(n))
        for n in range(display.GetNumberOfWindowLevelPresets())
    ]
    if display.GetAutoWindowLevel() or (display.GetWindow(), display.GetLevel()) in presets:
        setWindow(volume, CtWindow.LUNG)


def setWindowAfterLoading(volume: Any) -> None:
    """A file was loaded to its end: what was set before, Slicer has replaced."""
    volume.RemoveAttribute(SET_ATTRIBUTE)
    setLungWindowOnce(volume)
