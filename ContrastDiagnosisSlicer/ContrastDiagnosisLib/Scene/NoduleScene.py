"""Diagnoses as nodes of the scene: a segment, a text and a table a nodule, saved with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene import Revisions
from ContrastDiagnosisLib.Scene.CommonFrame import FRAME_ATTRIBUTE, keepWithVolume
from ContrastDiagnosisLib.Scene.DiagnosedVoxels import (
    VOXELS_ATTRIBUTE,
    isSameCt,
    pointOf,
    recordOf,
)
from ContrastDiagnosisLib.Scene.OwnNodes import (
    CASES,
    CONCEPTS,
    DIAGNOSIS,
    FINDINGS,
    POINT_ATTRIBUTE,
    VOLUME_REFERENCE,
    newNode,
    nodeOf,
    nodesOfVolume,
    placeUnder,
    removeNodes,
)
from ContrastDiagnosisLib.Scene.Tables import fillCases, fillFindings, isJudged
from ContrastDiagnosisLib.Scene.VolumeBridge import (
    Crop,
    ijkToRasOf,
    labelmapOf,
    maskOf,
    pointInVolume,
)

TERMINOLOGY = (
    "Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^27925004^Nodule~^^"
    "~Anatomic codes - DICOM master list~SCT^39607008^Lung~^^"
)

COLOURS = {"malignant": (0.86, 0.24, 0.16), "benign": (0.13, 0.6, 0.42)}
DOUBTFUL = (0.93, 0.76, 0.2)
"""Colour of a segment whose diagnosis is not confident."""

NOT_JUDGED = (0.62, 0.62, 0.62)
"""Colour of a segment that has no verdict."""

LABELMAP = "Binary labelmap"
"""Slicer's name of the representation."""

STALE_TAG = "ContrastDiagnosis.stale"

GLYPH_PERCENT, TEXT_PERCENT = 1.2, 2.0
"""Of the points, of the view's size; Slicer's own 3 % hides a small nodule."""


class PointState(Enum):
    """How a point stands to its diagnosis."""

    NEW = "not diagnosed"
    CURRENT = "current"
    MOVED = "point moved"
    CT_CHANGED = "CT changed"


@dataclass(frozen=True)
class Diagnosed:
    """What is kept of a diagnosed nodule, enough to put it back.

    Attributes:
        pointId: ID of its control point.
        document: What the engine said.
        mask: (d, h, w) uint8 on a box of the volume's grid.
        startKji: Voxel of the volume where the box begins.
        revision: What the user had corrected; None leaves what is corrected now.
        record: What it was made of, as `DiagnosedVoxels` tells it; empty if unknown.
    """

    pointId: str
    document: dict[str, Any]
    mask: np.ndarray
    startKji: tuple[int, int, int]
    revision: Revisions.RevisionState | None = None
    record: str = ""


def diagnosedOf(
    volume: Any, pointId: str, crop: Crop, mask: np.ndarray, document: dict[str, Any]
) -> Diagnosed:
    """The engine's answer about a crop, on the volume's grid."""
    k, j, i = (a + b for a, b in zip(crop.startKji, document["mask_start_kji"], strict=True))
    document = {**document, "mask_start_kji": [k, j, i]}
    return Diagnosed(pointId, document, mask, (k, j, i), record=recordOf(volume, crop))


def storeDiagnosis(parameterNode: Any, diagnosed: Diagnosed) -> Any:
    """Puts a diagnosis into the scene, in place of an older one of the same point.

    Returns:
        Its text node, the one that tells that the nodule is diagnosed.
    """
    volume = parameterNode.inputVolume
    _putSegment(parameterNode, diagnosed)
    text = nodeOf(DIAGNOSIS, volume, diagnosed.pointId)
    if text is None:
        text = newNode(DIAGNOSIS, volume, diagnosed.pointId)
    text.SetText(json.dumps(diagnosed.document))
    text.SetAttribute(VOXELS_ATTRIBUTE, diagnosed.record)
    # It told of the diagnosis before.
    removeNodes(CONCEPTS, volume, diagnosed.pointId)
    if diagnosed.revision is not None:
        number = numberOfPoint(parameterNode, diagnosed.pointId)
        Revisions.restore(parameterNode, diagnosed.pointId, diagnosed.revision, number)
    cases = nodeOf(CASES, volume, diagnosed.pointId)
    if cases is None:
        cases = newNode(CASES, volume, diagnosed.pointId)
    fillCases(cases, diagnosed.document["cases"])
    _refreshFindings(parameterNode)
    return text


def removeDiagnosis(parameterNode: Any, pointId: str) -> None:
    """Takes a nodule's segment, text, table and corrections out of the scene."""
    _removeSegment(parameterNode, pointId)
    Revisions.removeRevision(parameterNode.inputVolume, pointId)
    for kind in (DIAGNOSIS, CASES):
        removeNodes(kind, parameterNode.inputVolume, pointId)
    _refreshFindings(parameterNode)


def documentOf(parameterNode: Any, pointId: str) -> dict[str, Any] | None:
    """What the engine said of a nodule, None if it was not diagnosed."""
    node = nodeOf(DIAGNOSIS, parameterNode.inputVolume, pointId) if pointId else None
    return None if node is None else json.loads(node.GetText())


def readDiagnosed(parameterNode: Any, pointId: str) -> Diagnosed | None:
    """The diagnosis of a point as it stands in the scene, for undo."""
    document = documentOf(parameterNode, pointId)
    if document is None:
        return None
    segment = _segmentOf(parameterNode, pointId)
    mask = np.zeros((0, 0, 0), np.uint8)
    start = (0, 0, 0)
    if segment is not None:
        mask, start = maskOf(segment.GetRepresentation(LABELMAP))
    corrected = Revisions.stateOf(parameterNode, pointId)
    return Diagnosed(pointId, document, mask, start, corrected, _recordOf(parameterNode, pointId))


def putPointBack(parameterNode: Any, diagnosed: Diagnosed) -> None:
    """Moves a point to where it was when it was diagnosed."""
    index = parameterNode.points.GetNthControlPointIndexByID(diagnosed.pointId)
    if index >= 0:
        at = pointOf(diagnosed.record) if diagnosed.record else diagnosed.document["point_ras_mm"]
        parameterNode.points.SetNthControlPointPosition(index, *at)


def diagnosedPoints(parameterNode: Any) -> list[str]:
    """IDs of the control points that are diagnosed, in their order."""
    return [
        p
        for p in pointIds(parameterNode)
        if nodeOf(DIAGNOSIS, parameterNode.inputVolume, p) is not None
    ]


def stateOf(parameterNode: Any, pointId: str) -> PointState:
    """Whether a point is diagnosed, and the diagnosis still of this point in this CT."""
    document = documentOf(parameterNode, pointId)
    if document is None:
        return PointState.NEW
    record = _recordOf(parameterNode, pointId)
    # Scenes of older versions do not say what a diagnosis was made of.
    if record and not isSameCt(parameterNode.inputVolume, record):
        return PointState.CT_CHANGED
    world = pointWorld(parameterNode, pointId)
    if world is None:  # The point is gone, its diagnosis not yet.
        return PointState.MOVED
    point = pointInVolume(parameterNode.inputVolume, world)
    # The engine rounds to hundredths of a millimetre.
    isThere = np.allclose(point, document["point_ras_mm"], rtol=0, atol=0.02)
    return PointState.CURRENT if isThere else PointState.MOVED


def orphans(parameterNode: Any) -> list[str]:
    """IDs of points that are gone while their diagnosis is still there."""
    known = set(pointIds(parameterNode))
    texts = nodesOfVolume("vtkMRMLTextNode", parameterNode.inputVolume)
    ids = dict.fromkeys(node.GetAttribute(POINT_ATTRIBUTE) for node in texts)
    return [pointId for pointId in ids if pointId and pointId not in known]


def pointIds(parameterNode: Any) -> list[str]:
    """IDs of the placed control points."""
    points = parameterNode.points
    if points is None:
        return []
    return [
        points.GetNthControlPointID(n)
        for n in range(points.GetNumberOfControlPoints())
        if points.GetNthControlPointPositionStatus(n) == points.PositionDefined
    ]


def numberOfPoint(parameterNode: Any, pointId: str) -> int:
    """The number that the views show beside the point; 0 if there is none of that ID."""
    index = parameterNode.points.GetNthControlPointIndexByID(pointId)
    # Slicer numbers both IDs and labels by the points that ever were.
    return int(pointId) if index >= 0 and pointId.isdigit() else index + 1


def pointWorld(parameterNode: Any, pointId: str) -> tuple[float, float, float] | None:
    """Where a control point lies, None if it is gone."""
    points = parameterNode.points
    index = -1 if points is None else points.GetNthControlPointIndexByID(pointId)
    if index < 0:
        return None
    position = [0.0, 0.0, 0.0]
    points.GetNthControlPointPositionWorld(index, position)
    r, a, s = position
    return r, a, s


def selectVolume(parameterNode: Any) -> None:
    """Points and segments of the selected volume take the place of another volume's."""
    for name, className in (
        ("points", "vtkMRMLMarkupsFiducialNode"),
        ("segmentation", "vtkMRMLSegmentationNode"),
    ):
        node = getattr(parameterNode, name)
        volume = parameterNode.inputVolume
        if node is not None and node in nodesOfVolume(className, volume):
            continue
        setattr(parameterNode, name, next(iter(nodesOfVolume(className, volume)), None))


def ensurePoints(parameterNode: Any) -> Any:
    """The node of the nodules' points, made if the volume has none."""
    selectVolume(parameterNode)
    volume = parameterNode.inputVolume
    if parameterNode.points is None and volume is not None:
        name = _("{volume} points").format(volume=volume.GetName())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetGlyphScale(GLYPH_PERCENT)
        node.GetDisplayNode().SetTextScale(TEXT_PERCENT)
        node.SetControlPointLabelFormat("%d")
        node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
        node.SetAttribute(FRAME_ATTRIBUTE, "volume")
        placeUnder(volume, node)
        parameterNode.points = node
        keepWithVolume(parameterNode)
    return parameterNode.points


def ensureSegmentation(parameterNode: Any) -> Any:
    """The node of the nodules' segments, on the CT's grid and under its transform."""
    selectVolume(parameterNode)
    volume, node = parameterNode.inputVolume, parameterNode.segmentation
    if node is None:
        name = _("{volume} nodules").format(volume=volume.GetName())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        placeUnder(volume, node)
        parameterNode.segmentation = node
        keepWithVolume(parameterNode)
    return node


def showIfCurrent(parameterNode: Any, pointId: str, isCurrent: bool) -> None:
    """Hides the segment of a diagnosis that no longer holds, and shows it when it holds again.

    What the user hid or showed by hand stays.
    """
    segment = _segmentOf(parameterNode, pointId)
    if segment is None:
        return
    isHidden = segment.HasTag(STALE_TAG)
    if isCurrent == isHidden:
        display = parameterNode.segmentation.GetDisplayNode()
        display.SetSegmentVisibility(segmentIdOf(pointId), isCurrent)
        if isCurrent:
            segment.RemoveTag(STALE_TAG)
        else:
            segment.SetTag(STALE_TAG, "1")


def setFilled(parameterNode: Any, filled: bool) -> None:
    """Whether segments are filled in the slice views; a fill would tint a map beneath."""
    node = parameterNode.segmentation
    display = None if node is None else node.GetDisplayNode()
    if display is not None and display.GetVisibility2DFill() != filled:
        display.SetVisibility2DFill(filled)


def segmentIdOf(pointId: str) -> str:
    """ID of the segment of a control point."""
    return f"ContrastDiagnosis_{pointId}"


def _segmentOf(parameterNode: Any, pointId: str) -> Any:
    """The segment of a nodule, None if it has none."""
    node = parameterNode.segmentation
    return None if node is None else node.GetSegmentation().GetSegment(segmentIdOf(pointId))


def _recordOf(parameterNode: Any, pointId: str) -> str:
    """What the diagnosis of a nodule was made of; empty if unknown."""
    text = nodeOf(DIAGNOSIS, parameterNode.inputVolume, pointId)
    return "" if text is None else text.GetAttribute(VOXELS_ATTRIBUTE) or ""


def _refreshFindings(parameterNode: Any) -> None:
    """The table with a line for each diagnosed nodule, made when there is one."""
    volume = parameterNode.inputVolume
    points = diagnosedPoints(parameterNode)
    table = nodeOf(FINDINGS, volume, "")
    if points and table is None:
        table = newNode(FINDINGS, volume, "")
    if table is not None:
        documents = {numberOfPoint(parameterNode, p): documentOf(parameterNode, p) for p in points}
        fillFindings(table, {number: told for number, told in documents.items() if told})


def _removeSegment(parameterNode: Any, pointId: str) -> None:
    if _segmentOf(parameterNode, pointId) is not None:
        parameterNode.segmentation.GetSegmentation().RemoveSegment(segmentIdOf(pointId))


def _putSegment(parameterNode: Any, diagnosed: Diagnosed) -> None:
    """Replaces the segment; only the box around the nodule is stored, and nothing without one."""
    selectVolume(parameterNode)
    _removeSegment(parameterNode, diagnosed.pointId)
    document, volume = diagnosed.document, parameterNode.inputVolume
    if not (document["nodule"]["found"] and diagnosed.mask.any()):
        return
    held = ensureSegmentation(parameterNode).GetSegmentation()
    image = labelmapOf(diagnosed.mask, ijkToRasOf(volume), diagnosed.startKji)
    number = numberOfPoint(parameterNode, diagnosed.pointId)
    segment = slicer.vtkSegment()
    segment.SetName(_("Nodule {number}").format(number=number))
    segment.SetColor(*_colourOf(document))
    segment.SetTerminology(TERMINOLOGY)
    if isJudged(document):
        segment.SetTag("ContrastDiagnosis.probability", f"{document['probability']:.4f}")
    segment.SetTag("ContrastDiagnosis.notice", document["notice"])
    segment.AddRepresentation(LABELMAP, image)
    held.AddSegment(segment, segmentIdOf(diagnosed.pointId))


def _colourOf(document: dict[str, Any]) -> tuple[float, float, float]:
    if not isJudged(document):
        return NOT_JUDGED
    return COLOURS[document["verdict"]] if document["confident"] else DOUBTFUL


def showSurfaces(segmentation: Any) -> None:
    """Gives a surface to every segment of a node that has none; nothing if the node is gone."""
    if segmentation is not None and segmentation.GetScene() is not None:
        segmentation.CreateClosedSurfaceRepresentation()
