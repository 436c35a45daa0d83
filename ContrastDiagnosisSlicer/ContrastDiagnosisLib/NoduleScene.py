"""Diagnoses as nodes of the scene: a segment, a text and a table a nodule, saved with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib import Revisions
from ContrastDiagnosisLib.OwnNodes import (
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
from ContrastDiagnosisLib.Tables import fillCases, fillFindings
from ContrastDiagnosisLib.VolumeBridge import (
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

LABELMAP = "Binary labelmap"
"""Slicer's name of the representation."""


@dataclass(frozen=True)
class Diagnosed:
    """What is kept of a diagnosed nodule, enough to put it back.

    Attributes:
        pointId: ID of its control point.
        document: What the engine said.
        mask: (d, h, w) uint8 on a box of the volume's grid.
        startKji: Voxel of the volume where the box begins.
        revision: What the user had corrected; None leaves what is corrected now.
    """

    pointId: str
    document: dict[str, Any]
    mask: np.ndarray
    startKji: tuple[int, int, int]
    revision: Revisions.RevisionState | None = None


def diagnosedOf(pointId: str, crop: Crop, mask: np.ndarray, document: dict[str, Any]) -> Diagnosed:
    """The engine's answer about a crop, on the volume's grid."""
    k, j, i = (a + b for a, b in zip(crop.startKji, document["mask_start_kji"], strict=True))
    return Diagnosed(pointId, {**document, "mask_start_kji": [k, j, i]}, mask, (k, j, i))


def storeDiagnosis(parameterNode: Any, diagnosed: Diagnosed) -> Any:
    """Puts a diagnosis into the scene, in place of an older one of the same point.

    Returns:
        Its text node, the one that tells that the nodule is diagnosed.
    """
    volume = parameterNode.inputVolume
    segmentation = ensureSegmentation(parameterNode)
    _putSegment(segmentation, volume, diagnosed, numberOfPoint(parameterNode, diagnosed.pointId))
    text = nodeOf(DIAGNOSIS, volume, diagnosed.pointId) or newNode(
        DIAGNOSIS, volume, diagnosed.pointId
    )
    text.SetText(json.dumps(diagnosed.document))
    # It told of the diagnosis before.
    removeNodes(CONCEPTS, volume, diagnosed.pointId)
    if diagnosed.revision is not None:
        number = numberOfPoint(parameterNode, diagnosed.pointId)
        Revisions.restore(parameterNode, diagnosed.pointId, diagnosed.revision, number)
    cases = nodeOf(CASES, volume, diagnosed.pointId) or newNode(CASES, volume, diagnosed.pointId)
    fillCases(cases, diagnosed.document["cases"])
    _refreshFindings(parameterNode)
    return text


def removeDiagnosis(parameterNode: Any, pointId: str) -> None:
    """Takes a nodule's segment, text, table and corrections out of the scene."""
    held = parameterNode.segmentation.GetSegmentation() if parameterNode.segmentation else None
    if held and held.GetSegment(segmentIdOf(pointId)):
        held.RemoveSegment(segmentIdOf(pointId))
    Revisions.removeRevision(parameterNode.inputVolume, pointId)
    for kind in (DIAGNOSIS, CASES):
        removeNodes(kind, parameterNode.inputVolume, pointId)
    _refreshFindings(parameterNode)


def documentOf(parameterNode: Any, pointId: str) -> dict[str, Any] | None:
    """What the engine said of a nodule, None if it was not diagnosed."""
    node = nodeOf(DIAGNOSIS, parameterNode.inputVolume, pointId) if pointId else None
    return json.loads(node.GetText()) if node else None


def readDiagnosed(parameterNode: Any, pointId: str) -> Diagnosed | None:
    """The diagnosis of a point as it stands in the scene, for undo."""
    document = documentOf(parameterNode, pointId)
    node = parameterNode.segmentation
    segment = node.GetSegmentation().GetSegment(segmentIdOf(pointId)) if node else None
    if document is None:
        return None
    mask = np.zeros((0, 0, 0), np.uint8)
    start = (0, 0, 0)
    if segment:
        mask, start = maskOf(segment.GetRepresentation(LABELMAP))
    return Diagnosed(pointId, document, mask, start, Revisions.stateOf(parameterNode, pointId))


def diagnosedPoints(parameterNode: Any) -> list[str]:
    """IDs of the control points that are diagnosed, in their order."""
    return [p for p in pointIds(parameterNode) if nodeOf(DIAGNOSIS, parameterNode.inputVolume, p)]


def isStale(parameterNode: Any, pointId: str) -> bool:
    """Whether a point has no diagnosis, or lies elsewhere than when it was diagnosed."""
    document = documentOf(parameterNode, pointId)
    if document is None:
        return True
    point = pointInVolume(parameterNode.inputVolume, pointWorld(parameterNode, pointId))
    # The engine rounds to hundredths of a millimetre.
    return not np.allclose(point, document["point_ras_mm"], atol=0.02)


def orphans(parameterNode: Any) -> list[str]:
    """IDs of points that are gone while their diagnosis is still there."""
    known = set(pointIds(parameterNode))
    texts = nodesOfVolume("vtkMRMLTextNode", parameterNode.inputVolume)
    ids = dict.fromkeys(node.GetAttribute(POINT_ATTRIBUTE) for node in texts)
    return [pointId for pointId in ids if pointId and pointId not in known]


def pointIds(parameterNode: Any) -> list[str]:
    """IDs of the placed control points."""
    points = parameterNode.points
    if not points:
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
    index = points.GetNthControlPointIndexByID(pointId) if points else -1
    if index < 0:
        return None
    position = [0.0, 0.0, 0.0]
    points.GetNthControlPointPositionWorld(index, position)
    return tuple(position)


def selectVolume(parameterNode: Any) -> None:
    """Points and segments of the selected volume take the place of another volume's."""
    for name, className in (
        ("points", "vtkMRMLMarkupsFiducialNode"),
        ("segmentation", "vtkMRMLSegmentationNode"),
    ):
        node = getattr(parameterNode, name)
        volume = parameterNode.inputVolume
        if node and volume and node.GetNodeReferenceID(VOLUME_REFERENCE) == volume.GetID():
            continue
        setattr(parameterNode, name, next(iter(nodesOfVolume(className, volume)), None))


def ensurePoints(parameterNode: Any) -> Any:
    """The node of the nodules' points, made if the volume has none."""
    selectVolume(parameterNode)
    volume = parameterNode.inputVolume
    if not parameterNode.points and volume:
        name = _("{volume} points").format(volume=volume.GetName())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetControlPointLabelFormat("%d")
        node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
        placeUnder(volume, node)
        parameterNode.points = node
    return parameterNode.points


def ensureSegmentation(parameterNode: Any) -> Any:
    """The node of the nodules' segments, on the CT's grid and under its transform."""
    selectVolume(parameterNode)
    volume, node = parameterNode.inputVolume, parameterNode.segmentation
    if not node:
        name = _("{volume} nodules").format(volume=volume.GetName())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        placeUnder(volume, node)
        parameterNode.segmentation = node
    # The CT may have been moved since.
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    return node


def segmentIdOf(pointId: str) -> str:
    """ID of the segment of a control point."""
    return f"ContrastDiagnosis_{pointId}"


def _refreshFindings(parameterNode: Any) -> None:
    """The table with a line for each diagnosed nodule, made when there is one."""
    volume = parameterNode.inputVolume
    points = diagnosedPoints(parameterNode)
    table = nodeOf(FINDINGS, volume, "")
    if points and not table:
        table = newNode(FINDINGS, volume, "")
    if table:
        fillFindings(
            table,
            {numberOfPoint(parameterNode, p): documentOf(parameterNode, p) for p in points},
        )


def _putSegment(segmentation: Any, volume: Any, diagnosed: Diagnosed, number: int) -> None:
    """Replaces the segment; only the box around the nodule is stored."""
    held = segmentation.GetSegmentation()
    segmentId = segmentIdOf(diagnosed.pointId)
    if held.GetSegment(segmentId):
        held.RemoveSegment(segmentId)
    if not diagnosed.mask.any():
        return
    image = labelmapOf(diagnosed.mask, ijkToRasOf(volume), diagnosed.startKji)
    document = diagnosed.document
    segment = slicer.vtkSegment()
    segment.SetName(_("Nodule {number}").format(number=number))
    segment.SetColor(*(COLOURS[document["verdict"]] if document["confident"] else DOUBTFUL))
    segment.SetTerminology(TERMINOLOGY)
    segment.SetTag("ContrastDiagnosis.probability", f"{document['probability']:.4f}")
    segment.SetTag("ContrastDiagnosis.notice", document["notice"])
    segment.AddRepresentation(LABELMAP, image)
    held.AddSegment(segment, segmentId)


def showSurfaces(segmentation: Any) -> None:
    """Gives a surface to every segment of a node that has none; nothing if the node is gone."""
    if segmentation and segmentation.GetScene():
        segmentation.CreateClosedSurfaceRepresentation()
