"""Results stay with their CT, and say so when the CT is no longer what was diagnosed."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from ContrastDiagnosisLib.Scene import NoduleScene, Revisions
from ContrastDiagnosisLib.Scene.CommonFrame import FRAME_ATTRIBUTE
from ContrastDiagnosisLib.Scene.NoduleScene import PointState
from ContrastDiagnosisLib.Scene.OwnNodes import ROLES, nodesOfVolume, roleOf
from vtk.util import numpy_support

from slicer_side.conftest import LIMIT_S, POINTS, add_ct

TURN = np.array([[0.6, -0.8, 0, 30], [0.8, 0.6, 0, -20], [0, 0, 1, 11], [0, 0, 0, 1.0]])
SHIFT = np.eye(4) + np.pad(np.array([[100.0], [-50.0], [25.0]]), ((0, 1), (3, 0)))


def transform(matrix):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def moved(matrix, point):
    return (matrix @ [*point, 1])[:3]


def centerOf(segmentation, segmentId):
    """(3,) middle of a segment's voxels in the world; Slicer's own needs all of vtkITK's types."""
    image = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation(segmentId, image)
    voxels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    first = np.array(image.GetExtent()[::2])
    k, j, i = np.nonzero(voxels.reshape(image.GetDimensions()[::-1]))
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    middle = np.add(first, (i.mean(), j.mean(), k.mean()))
    place = slicer.util.arrayFromVTKMatrix(matrix) @ [*middle, 1]
    toWorld = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        segmentation.GetParentTransformNode(), None, toWorld
    )
    return np.array(toWorld.TransformPoint(place[:3]))


def state(widget):
    node = widget.logic.getParameterNode()
    return NoduleScene.stateOf(node, node.nodule)


def rowText(widget):
    return widget.panel.result.nodules.item(0, 1).text()


@pytest.fixture
def diagnosed(widget, click):
    """A diagnosed nodule; what is asked of the engine from now on is counted."""
    click(widget)
    asked = []
    ask = widget.panel.client.ask
    widget.panel.client.ask = lambda path, *rest: asked.append(path) or ask(path, *rest)
    return widget.logic.getParameterNode(), asked


class TestTransforms:
    def test_results_follow_a_ct_that_is_put_under_a_transform(self, widget, diagnosed):
        node, asked = diagnosed
        segment = NoduleScene.segmentIdOf(node.nodule)
        before = centerOf(node.segmentation, segment)
        widget.panel.concepts.onBox(True, True)
        (box,) = Revisions.boxesOf(node, node.nodule)
        asked.clear()
        shift = transform(TURN)
        node.inputVolume.SetAndObserveTransformNodeID(shift.GetID())
        point = NoduleScene.pointWorld(node, node.nodule)
        assert point == pytest.approx(moved(TURN, POINTS[0]))
        after = centerOf(node.segmentation, segment)
        assert after == pytest.approx(moved(TURN, before), abs=1e-3)
        assert box.GetCenterWorld() == pytest.approx(moved(TURN, POINTS[0]), abs=1e-6)
        for _ in range(3):
            slicer.app.processEvents()
        assert state(widget) is PointState.CURRENT
        assert asked == []
        shift.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(SHIFT))
        point = NoduleScene.pointWorld(node, node.nodule)
        assert point == pytest.approx(moved(SHIFT, POINTS[0]))
        slicer.mrmlScene.RemoveNode(shift)
        point = NoduleScene.pointWorld(node, node.nodule)
        assert point == pytest.approx(POINTS[0])
        assert state(widget) is PointState.CURRENT
        assert asked == []

    def test_the_next_click_does_not_diagnose_the_old_point_again(
        self, widget, diagnosed, wait_until
    ):
        node, asked = diagnosed
        node.inputVolume.SetAndObserveTransformNodeID(transform(SHIFT).GetID())
        widget.logic.addNodule(tuple(moved(SHIFT, POINTS[1])))
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        assert asked.count("/diagnose") == 1
        new = NoduleScene.documentOf(node, node.nodule)
        assert new["point_ras_mm"] == pytest.approx(POINTS[1], abs=0.01)

    def test_maps_and_contours_go_along(self, widget, diagnosed, wait_until):
        node, _asked = diagnosed
        widget.panel.onCaseSelected(0)
        wait_until(lambda: roleOf(node, "queryMap") is not None, LIMIT_S)
        shift = transform(SHIFT)
        node.inputVolume.SetAndObserveTransformNodeID(shift.GetID())
        shown = [roleOf(node, role) for role in ROLES if roleOf(node, role) is not None]
        assert len(shown) >= 2
        assert {n.GetTransformNodeID() for n in shown} == {shift.GetID()}

    def test_an_answer_that_comes_after_the_ct_was_moved_is_kept(self, widget, click, wait_until):
        (pointId,) = click(widget, wait=False)
        node = widget.logic.getParameterNode()
        node.inputVolume.SetAndObserveTransformNodeID(transform(SHIFT).GetID())
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        assert NoduleScene.documentOf(node, pointId) is not None
        assert state(widget) is PointState.CURRENT

    def test_points_and_boxes_of_an_older_scene_keep_their_place_in_the_world(
        self, widget, phantom, diagnosed
    ):
        """They were not under the CT's transform."""
        node, _asked = diagnosed
        widget.panel.concepts.onBox(True, True)
        (box,) = Revisions.boxesOf(node, node.nodule)
        shift = transform(TURN)
        markups = [node.points, box]
        for one in markups:
            one.RemoveAttribute(FRAME_ATTRIBUTE)
        node.points.SetNthControlPointPosition(0, *moved(TURN, POINTS[0]))
        box.SetCenter(*moved(TURN, POINTS[0]))
        node.inputVolume.SetAndObserveTransformNodeID(shift.GetID())
        for one in markups:
            assert one.GetTransformNodeID() == shift.GetID()
        assert NoduleScene.pointWorld(node, node.nodule) == pytest.approx(moved(TURN, POINTS[0]))
        assert box.GetCenterWorld() == pytest.approx(moved(TURN, POINTS[0]), abs=1e-6)
        assert state(widget) is PointState.CURRENT

    def test_a_moved_ct_is_saved_and_loaded_with_its_results(self, widget, diagnosed, tmp_path):
        node, asked = diagnosed
        node.inputVolume.SetAndObserveTransformNodeID(transform(TURN).GetID())
        asked.clear()
        file = str(tmp_path / "scene.mrb")
        assert slicer.mrmlScene.WriteToMRB(file, None, None)
        slicer.mrmlScene.Clear(False)
        assert slicer.mrmlScene.ReadFromMRB(file, True)
        node = widget.logic.getParameterNode()
        at = NoduleScene.pointWorld(node, node.nodule)
        assert at == pytest.approx(moved(TURN, POINTS[0]), abs=1e-3)
        assert state(widget) is PointState.CURRENT
        assert asked == []


class TestChanges:
    def test_results_go_along_when_a_transform_is_hardened(self, widget, diagnosed):
        node, asked = diagnosed
        segment = NoduleScene.segmentIdOf(node.nodule)
        before = centerOf(node.segmentation, segment)
        widget.panel.concepts.onBox(True, True)
        (box,) = Revisions.boxesOf(node, node.nodule)
        asked.clear()
        node.inputVolume.SetAndObserveTransformNodeID(transform(TURN).GetID())
        node.inputVolume.HardenTransform()
        assert node.inputVolume.GetTransformNodeID() is None
        point = NoduleScene.pointWorld(node, node.nodule)
        assert point == pytest.approx(moved(TURN, POINTS[0]), abs=1e-6)
        after = centerOf(node.segmentation, segment)
        assert after == pytest.approx(moved(TURN, before), abs=0.7)
        assert box.GetCenterWorld() == pytest.approx(moved(TURN, POINTS[0]), abs=1e-6)
        assert state(widget) is PointState.CT_CHANGED
        assert "/diagnose" not in asked

    @pytest.mark.parametrize("kind", ["voxels", "hardened", "shifted"])
    def test_a_ct_that_changed_is_told_at_once_and_waits_for_the_button(
        self, widget, diagnosed, wait_until, kind
    ):
        node, asked = diagnosed
        volume = node.inputVolume
        if kind == "voxels":
            k, j, i = NoduleScene.readDiagnosed(node, node.nodule).startKji
            slicer.util.arrayFromVolume(volume)[k, j, i] += 200
            slicer.util.arrayFromVolumeModified(volume)
        elif kind == "hardened":
            volume.SetAndObserveTransformNodeID(transform(SHIFT).GetID())
            volume.HardenTransform()
        else:
            volume.SetOrigin(0, 0, 0)
        wait_until(lambda: "CT changed" in rowText(widget), LIMIT_S)
        assert not widget.ui.reportButton.enabled
        assert "Diagnose" in widget.panel.result.headline.text
        live = widget.logic.getParameterNode().live
        assert live
        at = NoduleScene.pointWorld(node, node.nodule)
        inside = np.add(at, (-20, 0, 0))
        widget.logic.addNodule(tuple(inside))
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        assert asked.count("/diagnose") <= 1
        first = NoduleScene.pointIds(node)[0]
        assert NoduleScene.stateOf(node, first) is PointState.CT_CHANGED

    def test_the_segment_of_what_no_longer_holds_is_hidden(self, widget, diagnosed, wait_until):
        node, _asked = diagnosed
        display = node.segmentation.GetDisplayNode()
        segment = NoduleScene.segmentIdOf(node.nodule)
        voxels = slicer.util.arrayFromVolume(node.inputVolume)
        for change, isShown in ((1, False), (-1, True)):
            voxels[:] += change
            slicer.util.arrayFromVolumeModified(node.inputVolume)
            slicer.app.processEvents()
            wait_until(lambda w=isShown: display.GetSegmentVisibility(segment) == w, LIMIT_S)
        display.SetSegmentVisibility(segment, False)  # by the user
        widget.panel.refresh()
        assert not display.GetSegmentVisibility(segment)

    def test_a_diagnosis_that_was_removed_by_hand_is_no_longer_told(
        self, widget, diagnosed, wait_until
    ):
        node, _asked = diagnosed
        slicer.mrmlScene.RemoveNode(NoduleScene.nodeOf("diagnosis", node.inputVolume, node.nodule))
        wait_until(lambda: rowText(widget) == "not diagnosed", LIMIT_S)
        assert not widget.ui.reportButton.enabled

    def test_voxels_elsewhere_do_not_matter(self, widget, diagnosed):
        node, _asked = diagnosed
        slicer.util.arrayFromVolume(node.inputVolume)[:2] += 5
        slicer.util.arrayFromVolumeModified(node.inputVolume)
        assert state(widget) is PointState.CURRENT

    def test_the_button_diagnoses_anew(self, widget, diagnosed, wait_until):
        node, _asked = diagnosed
        slicer.util.arrayFromVolume(node.inputVolume)[:] += 1
        slicer.util.arrayFromVolumeModified(node.inputVolume)
        assert state(widget) is PointState.CT_CHANGED
        widget.ui.applyButton.click()
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        assert state(widget) is PointState.CURRENT

    def test_a_saved_scene_is_not_stale(self, widget, click, tmp_path):
        click(widget, [np.add(POINTS[0], 1 / 3)])
        file = str(tmp_path / "scene.mrb")
        assert slicer.mrmlScene.WriteToMRB(file, None, None)
        slicer.mrmlScene.Clear(False)
        assert slicer.mrmlScene.ReadFromMRB(file, True)
        assert state(widget) is PointState.CURRENT


class TestClicks:
    def test_a_point_that_cannot_be_diagnosed_is_told_once_with_its_number(self, widget, click):
        message = widget.ui.messageLabel
        click(widget, [(5000.0, 0.0, 0.0)])
        assert "Nodule 1: The point lies outside" in message.text
        click(widget, [POINTS[0]])
        assert message.text == ""
        assert len(NoduleScene.diagnosedPoints(widget.logic.getParameterNode())) == 1

    def test_a_message_goes_with_the_volume_it_is_about(self, widget, phantom, click):
        node = widget.logic.getParameterNode()
        bad = add_ct(phantom, "MR", hu=np.abs(phantom.hu) + 100)
        click(widget, [POINTS[0]], volume=bad)
        assert "Hounsfield" in widget.ui.messageLabel.text
        node.inputVolume = add_ct(phantom, "CT")
        assert widget.ui.messageLabel.text == ""

    def test_an_undone_diagnosis_is_not_asked_for_by_the_next_click(self, widget, click):
        click(widget, [POINTS[0]])
        widget.ui.undoButton.click()
        node = widget.logic.getParameterNode()
        assert "press Diagnose" in widget.panel.result.headline.text
        first, second = NoduleScene.pointIds(node)[0], click(widget, [POINTS[1]])[0]
        assert NoduleScene.documentOf(node, first) is None
        assert NoduleScene.documentOf(node, second) is not None


def test_two_cts_of_one_name_have_a_folder_each(widget, phantom, click):
    first, second = add_ct(phantom, "CT"), add_ct(phantom, "CT")
    click(widget, [POINTS[0]], volume=first)
    click(widget, [POINTS[0]], volume=second)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folders = []
    for volume in (first, second):
        mine = [
            *nodesOfVolume("vtkMRMLSegmentationNode", volume),
            *nodesOfVolume("vtkMRMLTextNode", volume),
            *nodesOfVolume("vtkMRMLTableNode", volume),
        ]
        folders.append({hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in mine})
    assert [len(f) for f in folders] == [1, 1]
    assert folders[0] != folders[1]


def test_an_image_under_a_bent_transform_does_not_lose_its_points(widget, diagnosed):
    node, asked = diagnosed
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    bend = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.ndindex(2, 2, 2):
        at = np.array(corner) * 200.0 - 100
        source.InsertNextPoint(*at)
        target.InsertNextPoint(*(at + (10 if corner == (1, 1, 1) else 0)))
    bend.SetSourceLandmarks(source)
    bend.SetTargetLandmarks(target)
    bend.SetBasisToR()
    grid.SetAndObserveTransformToParent(bend)
    node.inputVolume.SetAndObserveTransformNodeID(grid.GetID())
    for _ in range(3):
        slicer.app.processEvents()
    assert NoduleScene.stateOf(node, node.nodule) is PointState.CURRENT
    assert "/diagnose" not in asked
