"""Where a concept is seen: its map over the CT in the slice views."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene.MapVolumes import addLegend, colourAsMap, putVolume
from ContrastDiagnosisLib.Scene.OwnNodes import POINT_ATTRIBUTE, removeRole, roleOf
from ContrastDiagnosisLib.Scene.SliceViews import compositeOf, sliceNodes

ROLE = "conceptMap"
CONCEPT_ATTRIBUTE = "ContrastDiagnosis.concept"
BEFORE_REFERENCE = "ContrastDiagnosis.foreground"

WEAKEST_SHARE, WEAKEST = 0.5, 0.1
"""Cells below half of the map's maximum, or that are hardly like a prototype, are transparent.

From .02 on a halo of 8 to 110 cells outside the nodule hid its margin; from half of the maximum on
0 to 16 are left on a real CT (a fixed .3 would show nothing of most concepts; bundle lidc 9).
"""


def showMap(
    parameterNode: Any, pointId: str, concept: str, values: np.ndarray, affine: np.ndarray
) -> Any:
    """Shows the map of a concept in every slice view that shows the CT.

    Args:
        parameterNode: With the CT and the opacity.
        pointId: The nodule's control point.
        concept: Name of the concept.
        values: (d, h, w) in [0, 1], one a cell.
        affine: (4, 4) from cells (i, j, k) to the CT's own RAS.
    """
    node = putVolume(parameterNode, ROLE, _("concept map"), values, affine)
    node.SetName(_("concept map: {concept}").format(concept=concept))
    node.SetAttribute(POINT_ATTRIBUTE, pointId)
    node.SetAttribute(CONCEPT_ATTRIBUTE, concept)
    colourAsMap(node, max(WEAKEST, WEAKEST_SHARE * float(values.max())))
    for composite in _viewsOf(parameterNode.inputVolume):
        _keepForeground(composite, node)
        composite.SetForegroundVolumeID(node.GetID())
        composite.SetForegroundOpacity(parameterNode.mapOpacity)
    addLegend(node)
    return node


def shownMap(parameterNode: Any) -> tuple[str, str]:
    """Point and concept of the map that is in the scene; two empty texts if there is none."""
    node = roleOf(parameterNode, ROLE)
    if node is None:
        return "", ""
    return node.GetAttribute(POINT_ATTRIBUTE) or "", node.GetAttribute(CONCEPT_ATTRIBUTE) or ""


def setOpacity(parameterNode: Any) -> None:
    """Of the map in all views that show it."""
    node = roleOf(parameterNode, ROLE)
    if node is not None:
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if composite.GetForegroundVolumeID() == node.GetID():
                composite.SetForegroundOpacity(parameterNode.mapOpacity)


def removeMap(parameterNode: Any) -> None:
    """Takes the map out of the views and the scene."""
    node = roleOf(parameterNode, ROLE)
    if node is None:
        return
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() == node.GetID():
            _restoreForeground(composite)
    removeRole(parameterNode, ROLE)


def _keepForeground(composite: Any, ours: Any) -> None:
    """What a user blends over the CT comes back after the map."""
    before = composite.GetForegroundVolumeID()
    if before and before != ours.GetID():
        composite.SetNodeReferenceID(BEFORE_REFERENCE, before)
        composite.SetAttribute(BEFORE_REFERENCE, str(composite.GetForegroundOpacity()))


def _restoreForeground(composite: Any) -> None:
    before = composite.GetNodeReferenceID(BEFORE_REFERENCE)
    composite.SetForegroundVolumeID(before)
    if before:
        composite.SetForegroundOpacity(float(composite.GetAttribute(BEFORE_REFERENCE)))
    composite.SetNodeReferenceID(BEFORE_REFERENCE, None)


def _viewsOf(volume: Any) -> list[Any]:
    """The slice views with the CT as background, but for those of the comparison."""
    composites = [compositeOf(node.GetLayoutName()) for node in sliceNodes()]
    return [c for c in composites if c is not None and c.GetBackgroundVolumeID() == volume.GetID()]
