"""The subject hierarchy's own book-keeping, which slicer-core lacks."""

from __future__ import annotations

import slicer
import vtk

SHOWN = (
    "vtkMRMLMarkupsNode",
    "vtkMRMLModelNode",
    "vtkMRMLPlotChartNode",
    "vtkMRMLPlotSeriesNode",
    "vtkMRMLScalarVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLTableNode",
    "vtkMRMLTextNode",
    "vtkMRMLTransformNode",
)
"""Classes that Slicer's plugins put into the subject hierarchy by themselves."""


def _hierarchy(scene):
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def _add(scene, node) -> None:
    hierarchy = _hierarchy(scene)
    if node.GetHideFromEditors() or not any(node.IsA(name) for name in SHOWN):
        return
    if not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _onAdded(scene, _event, node):
    if not scene.IsImporting():
        _add(scene, node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _onRemoved(scene, _event, node):
    if scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
        return
    item = _hierarchy(scene).GetItemByDataNode(node)
    if item:
        _hierarchy(scene).RemoveItem(item, False, False)


def _onSceneDone(scene, _event):
    slicer.vtkMRMLSubjectHierarchyNode.ResolveSubjectHierarchy(scene)
    for index in range(scene.GetNumberOfNodes()):
        _add(scene, scene.GetNthNode(index))


def followSubjectHierarchy(scene) -> None:
    """An item for each shown node, made and removed with it, as Slicer's plugins do."""
    scene.AddObserver(scene.NodeAddedEvent, _onAdded)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, _onRemoved)
    scene.AddObserver(scene.EndImportEvent, _onSceneDone, 10.0)
    scene.AddObserver(scene.EndCloseEvent, _onSceneDone)
