"""Nodes of ours in the scene: which volume, which nodule and which purpose each is for."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

POINT_ATTRIBUTE = "ContrastDiagnosis.pointId"
KIND_ATTRIBUTE = "ContrastDiagnosis.kind"
FOLDER_ATTRIBUTE = "ContrastDiagnosis.folder"
ROLE_ATTRIBUTE = "ContrastDiagnosis.role"
VOLUME_REFERENCE = "ContrastDiagnosis.volume"

FINDINGS = "findings"
CASES = "cases"
DIAGNOSIS = "diagnosis"
CONCEPTS = "concepts"
BOX = "box"

CLASSES = {
    FINDINGS: "vtkMRMLTableNode",
    CASES: "vtkMRMLTableNode",
    DIAGNOSIS: "vtkMRMLTextNode",
    CONCEPTS: "vtkMRMLTextNode",
    BOX: "vtkMRMLMarkupsROINode",
}
"""What a node of each kind is."""

RESULT_CLASSES = (
    "vtkMRMLMarkupsFiducialNode",
    "vtkMRMLMarkupsROINode",
    "vtkMRMLSegmentationNode",
)
"""Of what is seen of a volume's nodules in the views."""

ROLES = ("queryMap", "queryContour", "casePicture", "caseMap", "caseContour", "conceptMap")
"""What the panel shows at present, one node each."""


def nodesOf(kind: str, volume: Any, pointId: str) -> list[Any]:
    """All nodes of a kind that belong to a nodule of a volume."""
    return [
        node
        for node in nodesOfVolume(CLASSES[kind], volume)
        # Reading an empty attribute back may give None.
        if node.GetAttribute(KIND_ATTRIBUTE) == kind
        and (node.GetAttribute(POINT_ATTRIBUTE) or "") == pointId
    ]


def nodeOf(kind: str, volume: Any, pointId: str) -> Any:
    """The text or table of a nodule of a volume, None if there is none."""
    return next(iter(nodesOf(kind, volume, pointId)), None)


def nodesOfVolume(className: str, volume: Any) -> list[Any]:
    """Nodes of ours that belong to a volume."""
    if volume is None:
        return []
    return [
        node
        for node in slicer.util.getNodesByClass(className)
        if node.GetNodeReferenceID(VOLUME_REFERENCE) == volume.GetID()
    ]


def newNode(kind: str, volume: Any, pointId: str, name: str = "") -> Any:
    """A node that belongs to a nodule of a volume.

    Args:
        kind: What it is for.
        volume: The CT.
        pointId: ID of the nodule's control point; empty for all of them.
        name: Of the node; made of the volume and the kind if empty.
    """
    if not name:
        name = _("{volume} {kind}").format(volume=volume.GetName(), kind=kind)
        name = slicer.mrmlScene.GenerateUniqueName(name)
    node = slicer.mrmlScene.AddNewNodeByClass(CLASSES[kind], name)
    node.SetAttribute(KIND_ATTRIBUTE, kind)
    node.SetAttribute(POINT_ATTRIBUTE, pointId)
    node.SetNodeReferenceID(VOLUME_REFERENCE, volume.GetID())
    placeUnder(volume, node)
    return node


def removeNodes(kind: str, volume: Any, pointId: str) -> None:
    """Takes all nodes of a kind that belong to a nodule out of the scene."""
    for node in nodesOf(kind, volume, pointId):
        slicer.mrmlScene.RemoveNode(node)


def placeUnder(volume: Any, node: Any) -> None:
    """Puts a node beside the volume in the subject hierarchy, into a folder of our own."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    folder = _folderOf(hierarchy, volume)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(folder, node)
    hierarchy.SetItemParent(item, folder)


def _folderOf(hierarchy: Any, volume: Any) -> int:
    """The folder of a volume's results, made if there is none; volumes may share a name.

    It is found by what lies in it: IDs in attributes do not survive the import of a scene.
    """
    name = _("ContrastDiagnosis of {volume}").format(volume=volume.GetName())
    for className in dict.fromkeys((*CLASSES.values(), *RESULT_CLASSES)):
        for node in nodesOfVolume(className, volume):
            item = hierarchy.GetItemByDataNode(node)
            parent = hierarchy.GetItemParent(item) if item else 0
            # Scenes of older versions know their folder by its name alone.
            if parent and (
                hierarchy.GetItemAttribute(parent, FOLDER_ATTRIBUTE)
                or hierarchy.GetItemName(parent) == name
            ):
                return parent
    scene = hierarchy.GetSceneItemID()
    volumeItem = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(scene, volume)
    folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(volumeItem) or scene, name)
    hierarchy.SetItemAttribute(folder, FOLDER_ATTRIBUTE, "1")
    return folder


def roleOf(parameterNode: Any, role: str) -> Any:
    """The node that plays a role for the panel, None if there is none."""
    return parameterNode.parameterNode.GetNodeReference(f"ContrastDiagnosis.{role}")


def keepRole(parameterNode: Any, role: str, node: Any) -> None:
    """Gives a role to a node; the scene keeps it."""
    parameterNode.parameterNode.SetNodeReferenceID(f"ContrastDiagnosis.{role}", node.GetID())
    node.SetAttribute(ROLE_ATTRIBUTE, role)
    placeUnder(parameterNode.inputVolume, node)


def isOurs(node: Any) -> bool:
    """Whether a node is a map or a picture that the panel shows."""
    return node is not None and bool(node.GetAttribute(ROLE_ATTRIBUTE))


def removeLostRoles(parameterNode: Any) -> None:
    """Takes maps and pictures out of the scene that no longer play a role.

    A scene that is added to an open one brings a parameter node that replaces the one before.
    """
    for className in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"):
        for node in slicer.util.getNodesByClass(className):
            role = node.GetAttribute(ROLE_ATTRIBUTE)
            if role and roleOf(parameterNode, role) is not node:
                slicer.mrmlScene.RemoveNode(node)


def removeRole(parameterNode: Any, role: str) -> None:
    """Takes the node that plays a role out of the scene."""
    node = roleOf(parameterNode, role)
    if node is not None:
        slicer.mrmlScene.RemoveNode(node)
