"""Follows the CT that is selected: its transform, its grid, its voxels, its window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
import vtk

from ContrastDiagnosisLib.Scene.VolumeBridge import ijkToRasOf


class VolumeWatch:
    """Tells at once that a volume was moved, and soon that anything of it changed."""

    def __init__(
        self,
        onMoved: Callable[[], None],
        onGridMoved: Callable[[np.ndarray], None],
        onChanged: Callable[[], None],
    ) -> None:
        """Follows nothing yet.

        Args:
            onMoved: Called when the volume's transform is another, or was changed.
            onGridMoved: Called with (4, 4) from old to new coordinates when the grid lies elsewhere
                in the volume's own frame.
            onChanged: Called once per turn of the event loop after any change.
        """
        self._onMoved, self._onGridMoved = onMoved, onGridMoved
        self._grid: tuple[Any, Any] | None = None
        self._volume: Any = None
        self._tags: list[int] = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.connect("timeout()", onChanged)

    def follow(self, volume: Any) -> None:
        """Follows this volume node and no other; None for none."""
        if self._volume is volume:
            return
        for tag in self._tags:
            self._volume.RemoveObserver(tag)
        self._volume, self._tags = volume, []
        self._timer.stop()
        if volume is None:
            return
        self._grid = _gridOf(volume)
        moved = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        self._tags.append(volume.AddObserver(moved, self._moved))
        for event in (
            vtk.vtkCommand.ModifiedEvent,
            slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
            slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
        ):
            self._tags.append(volume.AddObserver(event, self._changed))

    def _moved(self, _caller: Any, _event: Any) -> None:
        self._onMoved()
        self._timer.start()

    def _changed(self, _caller: Any, _event: Any) -> None:
        before, now = self._grid, _gridOf(self._volume)
        self._grid = now
        if before and now and before[0] == now[0] and (before[1] != now[1]).any():
            self._onGridMoved(now[1] @ np.linalg.inv(before[1]))
        self._timer.start()


def _gridOf(volume: Any) -> tuple[Any, Any] | None:
    """Size and affine of a volume; None while it has no voxels."""
    image = volume.GetImageData()
    return None if image is None else (image.GetDimensions(), ijkToRasOf(volume))
