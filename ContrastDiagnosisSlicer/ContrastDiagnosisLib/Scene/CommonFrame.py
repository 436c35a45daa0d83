"""Results stay with their CT: all nodes of ours lie in its own frame, under its transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from ContrastDiagnosisLib.Scene.OwnNodes import RESULT_CLASSES, ROLES, nodesOfVolume, roleOf
from ContrastDiagnosisLib.Scene.VolumeBridge import pointInVolume

FRAME_ATTRIBUTE = "ContrastDiagnosis.frame"
"""Set on markups whose coordinates are the CT's own; those of older scenes are of the world."""

MARKUPS = ("vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsROINode")


def keepWithVolume(parameterNode: Any) -> None:
    """Puts points, segments, boxes and maps of the selected CT under the CT's transform.

    Their own coordinates stay, so that they keep their place in the anatomy.
    """
    volume = parameterNode.inputVolume
    if volume is None:
        return
    for className in MARKUPS:
        for node in nodesOfVolume(className, volume):
            if node.GetAttribute(FRAME_ATTRIBUTE) is None:
                putInFrame(volume, node)
    for node in followersOf(parameterNode):
        if node.GetTransformNodeID() != volume.GetTransformNodeID():
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())


def moveAlong(parameterNode: Any, moved: np.ndarray) -> None:
    """Moves all of ours in the selected CT's own frame, as its grid was.

    Hardening a transform moves the grid, and so does centring the volume.

    Args:
        parameterNode: With the CT.
        moved: (4, 4) from old to new coordinates, RAS mm.
    """
    for node in followersOf(parameterNode):
        node.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(moved))


def followersOf(parameterNode: Any) -> list[Any]:
    """Points, segments, boxes and maps of the selected CT."""
    results = [n for c in RESULT_CLASSES for n in nodesOfVolume(c, parameterNode.inputVolume)]
    shown = [roleOf(parameterNode, role) for role in ROLES]
    return [*results, *(node for node in shown if node is not None)]


def putInFrame(volume: Any, markups: Any) -> None:
    """Puts markups into a volume's own frame; they stay where they are in the world."""
    if markups.IsA("vtkMRMLMarkupsROINode"):
        matrix = boxInFrame(volume, markups)
        markups.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        markups.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    else:
        world = slicer.util.arrayFromMarkupsControlPoints(markups, world=True)
        markups.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        for index, point in enumerate(world):
            if markups.GetNthControlPointPositionStatus(index) == markups.PositionDefined:
                own = pointInVolume(volume, point)
                markups.SetNthControlPointPosition(index, *own)
    markups.SetAttribute(FRAME_ATTRIBUTE, "volume")


def boxInFrame(volume: Any, roi: Any) -> np.ndarray:
    """(4, 4) from the axes of a ROI to a volume's own RAS; linear transforms are taken along."""
    toWorld = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    if roi.GetTransformNodeID() == volume.GetTransformNodeID():
        return slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix())
    origin = pointInVolume(volume, toWorld[:3, 3])
    result = np.eye(4)
    result[:3, 3] = origin
    for axis in range(3):
        result[:3, axis] = pointInVolume(volume, toWorld[:3, 3] + toWorld[:3, axis]) - origin
    return result
