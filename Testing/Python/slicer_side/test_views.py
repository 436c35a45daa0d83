"""What the views show: which CT, in which window, how near, with which maps and legends."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from ContrastDiagnosisLib.Scene import ConceptView, NoduleScene
from ContrastDiagnosisLib.Scene.CtWindow import CtWindow, windowOf
from ContrastDiagnosisLib.Scene.MapVolumes import LEGEND_SIZE
from ContrastDiagnosisLib.Scene.OwnNodes import roleOf
from ContrastDiagnosisLib.Scene.SliceViews import (
    CASE_VIEW,
    QUERY_VIEW,
    ZOOM_MM,
    compositeOf,
    sliceNodeOf,
)

from slicer_side.conftest import LIMIT_S, POINTS, add_ct

RED, GREEN = "Red", "Green"


@pytest.fixture
def two_cts(widget, phantom, click):
    """Two CTs, the first selected; the second is seen in the green view."""
    first, second = add_ct(phantom, "first"), add_ct(phantom, "second")
    node = widget.logic.getParameterNode()
    node.inputVolume = first
    compositeOf(GREEN).SetBackgroundVolumeID(second.GetID())
    return node, first, second


def clickIn(view, points, position):
    """A point at a world position, placed by a mouse that is in a view."""
    sliceNode = sliceNodeOf(view)
    sliceNode.JumpSliceByCentering(*position)
    toXyz = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(sliceNode.GetXYToRAS(), toXyz)
    xyz = toXyz.MultiplyPoint([*position, 1.0])[:3]
    cursor = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if cursor is None:
        cursor = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
    cursor.SetCursorPositionXYZ(xyz, sliceNode)
    points.AddControlPointWorld(*position)


def shown(view):
    return compositeOf(view).GetBackgroundVolumeID()


class TestWhichCt:
    def test_selecting_a_ct_shows_it(self, two_cts):
        node, first, second = two_cts
        compositeOf(GREEN).SetBackgroundVolumeID(first.GetID())
        node.inputVolume = second
        assert {shown(RED), shown(GREEN)} == {second.GetID()}
        node.inputVolume = first
        assert {shown(RED), shown(GREEN)} == {first.GetID()}

    def test_cts_side_by_side_stay_so(self, widget, two_cts, wait_until):
        node, first, second = two_cts
        compositeOf(RED).SetBackgroundVolumeID(first.GetID())
        clickIn(GREEN, node.points, POINTS[1])
        wait_until(lambda: node.inputVolume is second, LIMIT_S)
        slicer.app.processEvents()
        assert (shown(RED), shown(GREEN)) == (first.GetID(), second.GetID())

    def test_the_only_ct_that_is_seen_is_the_selected_one(self, widget, two_cts, click, wait_until):
        """A second CT is loaded: Slicer shows it in every view."""
        node, first, second = two_cts
        click(widget, [POINTS[0]])
        segmentation = node.segmentation
        slicer.util.setSliceViewerLayers(background=second, fit=False)
        wait_until(lambda: node.inputVolume is second, LIMIT_S)
        assert not segmentation.GetDisplayNode().GetVisibility()
        slicer.util.setSliceViewerLayers(background=first, fit=False)
        wait_until(lambda: node.inputVolume is first, LIMIT_S)
        assert segmentation.GetDisplayNode().GetVisibility()

    def test_results_of_another_ct_are_not_drawn_over_this_one(self, widget, two_cts, click):
        node, first, second = two_cts
        click(widget, [POINTS[0]])
        widget.panel.concepts.onBox(True, True)
        (box,) = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
        mine = [node.points, node.segmentation, box]
        node.inputVolume = second
        assert not any(n.GetDisplayNode().GetVisibility() for n in mine)
        node.inputVolume = first
        assert all(n.GetDisplayNode().GetVisibility() for n in mine)

    def test_a_click_belongs_to_the_ct_that_is_seen(self, widget, two_cts, wait_until):
        node, first, second = two_cts
        clickIn(GREEN, node.points, POINTS[1])
        wait_until(lambda: node.inputVolume is second, LIMIT_S)
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        (pointId,) = NoduleScene.diagnosedPoints(node)
        assert NoduleScene.pointWorld(node, pointId) == pytest.approx(POINTS[1])
        node.inputVolume = first
        assert NoduleScene.pointIds(node) == []

    def test_a_click_in_a_view_of_the_selected_ct_stays(self, widget, two_cts, wait_until):
        node, first, _second = two_cts
        compositeOf(RED).SetBackgroundVolumeID(first.GetID())
        clickIn(RED, node.points, POINTS[0])
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        assert node.inputVolume is first
        assert len(NoduleScene.diagnosedPoints(node)) == 1

    def test_a_script_places_points_in_the_selected_ct(self, widget, two_cts, click):
        """The cursor rests in a view of the other CT."""
        node, first, _second = two_cts
        clickIn(GREEN, node.points, POINTS[1])
        slicer.app.processEvents()
        node.inputVolume = first
        (pointId,) = click(widget, [POINTS[0]])
        assert node.inputVolume is first
        assert NoduleScene.documentOf(node, pointId) is not None

    def test_a_click_on_a_cases_picture_is_refused(self, widget, two_cts, wait_until):
        node, first, second = two_cts
        second.SetAttribute("ContrastDiagnosis.role", "casePicture")
        clickIn(GREEN, node.points, POINTS[1])
        wait_until(lambda: widget.ui.messageLabel.text, LIMIT_S)
        assert "not a CT" in widget.ui.messageLabel.text
        assert NoduleScene.pointIds(node) == []
        assert node.inputVolume is first
        assert not widget.panel.session.isRunning

    def test_a_map_of_ours_over_the_ct_is_not_what_is_seen(self, widget, two_cts, wait_until):
        node, first, second = two_cts
        second.SetAttribute("ContrastDiagnosis.role", "conceptMap")
        red = compositeOf(RED)
        red.SetBackgroundVolumeID(first.GetID())
        red.SetForegroundVolumeID(second.GetID())
        red.SetForegroundOpacity(0.9)
        clickIn(RED, node.points, POINTS[0])
        wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        assert len(NoduleScene.diagnosedPoints(node)) == 1

    def test_a_ct_that_is_loaded_while_none_is_selected_gets_selected(
        self, widget, phantom, wait_until
    ):
        node = widget.logic.getParameterNode()
        assert node.inputVolume is None
        volume = add_ct(phantom)
        wait_until(lambda: node.inputVolume is volume, LIMIT_S)
        other = add_ct(phantom, "other")
        slicer.app.processEvents()
        assert node.inputVolume is volume is not other

    def test_the_ct_that_is_seen_is_selected_at_first(self, load_module, phantom, scene):
        from slicer_side.conftest import MODULE

        add_ct(phantom, "first")
        seen = add_ct(phantom, "seen")
        slicer.util.setSliceViewerLayers(background=seen, fit=False)
        widget = load_module(MODULE).widget
        widget.parent.enter()
        assert widget.logic.getParameterNode().inputVolume is seen


class TestWindow:
    def test_a_ct_comes_up_in_the_lung_window(self, widget, phantom):
        volume = add_ct(phantom)
        assert volume.GetDisplayNode().GetAutoWindowLevel()
        widget.logic.getParameterNode().inputVolume = volume
        assert windowOf(volume) is CtWindow.LUNG
        assert widget.ui.lungButton.checked

    def test_a_ct_that_is_selected_while_it_is_loaded_comes_up_in_it_too(
        self, widget, phantom, wait_until
    ):
        """Slicer runs its event loop before a large volume has a display."""
        volume = add_ct(phantom)
        volume.RemoveAllDisplayNodeIDs()
        widget.logic.getParameterNode().inputVolume = volume
        volume.CreateDefaultDisplayNodes()
        wait_until(lambda: windowOf(volume) is CtWindow.LUNG, LIMIT_S)

    def test_a_ct_from_a_file_comes_up_in_it(self, widget, phantom, wait_until, tmp_path):
        """Slicer sets its own window at the end of loading, when the CT is selected already."""
        file = str(tmp_path / "ct.nrrd")
        assert slicer.util.saveNode(add_ct(phantom), file)
        slicer.mrmlScene.Clear(False)
        volume = slicer.util.loadVolume(file)
        node = widget.logic.getParameterNode()
        wait_until(lambda: node.inputVolume is volume, LIMIT_S)
        slicer.app.processEvents()
        assert windowOf(volume) is CtWindow.LUNG
        volume.GetDisplayNode().SetAutoWindowLevel(True)
        slicer.util.loadVolume(file, {"show": False})
        slicer.app.processEvents()
        assert node.inputVolume is volume
        assert volume.GetDisplayNode().GetAutoWindowLevel()
        other = slicer.util.loadVolume(file)
        wait_until(lambda: node.inputVolume is other, LIMIT_S)  # No view shows the first any more.
        slicer.app.processEvents()
        assert windowOf(other) is CtWindow.LUNG
        assert volume.GetDisplayNode().GetAutoWindowLevel()

    def test_the_switch_goes_to_the_mediastinum_and_back(self, widget, phantom):
        volume = add_ct(phantom)
        widget.logic.getParameterNode().inputVolume = volume
        widget.ui.mediastinumButton.click()
        assert windowOf(volume) is CtWindow.MEDIASTINUM
        assert widget.ui.mediastinumButton.checked and not widget.ui.lungButton.checked
        widget.ui.lungButton.click()
        assert windowOf(volume) is CtWindow.LUNG

    def test_what_the_user_set_stays(self, widget, phantom):
        volume, other = add_ct(phantom), add_ct(phantom, "other")
        display = volume.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(900, 100)
        node = widget.logic.getParameterNode()
        node.inputVolume = volume
        assert (display.GetWindow(), display.GetLevel()) == (900, 100)
        node.inputVolume = other
        other.GetDisplayNode().SetWindowLevel(700, 50)
        node.inputVolume = volume
        node.inputVolume = other
        assert other.GetDisplayNode().GetWindow() == 700

    def test_a_window_of_the_file_is_no_choice_of_the_user(self, widget, phantom):
        volume = add_ct(phantom)
        display = volume.GetDisplayNode()
        display.AddWindowLevelPreset(350, 40)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelFromPreset(0)
        widget.logic.getParameterNode().inputVolume = volume
        assert windowOf(volume) is CtWindow.LUNG

    def test_a_label_map_has_no_window(self, widget, phantom):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
        slicer.util.updateVolumeFromArray(volume, (phantom.hu > 0).astype(np.uint8))
        volume.CreateDefaultDisplayNodes()
        widget.logic.getParameterNode().inputVolume = volume
        assert "LabelMap" in widget.ui.applyButton.toolTip
        assert windowOf(volume) is None

    def test_what_holds_no_air_keeps_its_window(self, widget, phantom):
        volume = add_ct(phantom, "MR", hu=np.abs(phantom.hu) + 100)
        widget.logic.getParameterNode().inputVolume = volume
        assert volume.GetDisplayNode().GetAutoWindowLevel()


class TestNearness:
    def test_views_zoom_to_the_nodule_and_back(self, widget, click):
        click(widget)
        before = [sliceNodeOf(v).GetFieldOfView() for v in (RED, GREEN)]
        widget.ui.zoomButton.click()
        for view in (RED, GREEN):
            node = sliceNodeOf(view)
            assert node.GetFieldOfView()[0] == pytest.approx(ZOOM_MM)
            toRas = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
            assert toRas[:3, 3] == pytest.approx(POINTS[0], abs=1e-6)
        widget.ui.zoomButton.click()
        assert not widget.ui.zoomButton.checked
        after = [sliceNodeOf(v).GetFieldOfView() for v in (RED, GREEN)]
        assert np.array(after) == pytest.approx(np.array(before))

    def test_zoomed_views_follow_the_selected_nodule(self, widget, click):
        click(widget, POINTS)
        widget.panel.onNoduleSelected(0)
        widget.ui.zoomButton.click()
        widget.panel.onNoduleSelected(1)
        toRas = slicer.util.arrayFromVTKMatrix(sliceNodeOf(RED).GetSliceToRAS())
        assert toRas[:3, 3] == pytest.approx(POINTS[1], abs=1e-6)

    def test_the_camera_turns_around_the_nodule(self, widget, click, phantom):
        widget.logic.getParameterNode().inputVolume = add_ct(phantom)
        camera = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode")
        click(widget, POINTS)
        slicer.app.processEvents()
        assert camera.GetFocalPoint() == pytest.approx(POINTS[1])
        assert camera.GetPosition() != pytest.approx(POINTS[1])
        widget.panel.onNoduleSelected(0)
        assert camera.GetFocalPoint() == pytest.approx(POINTS[0])
        camera.SetFocalPoint(1, 2, 3)
        widget.panel.refresh()
        assert camera.GetFocalPoint() == (1, 2, 3)

    def test_zooming_back_keeps_pixels_square_in_a_view_that_was_resized(self, widget, click):
        click(widget)
        widget.ui.zoomButton.click()
        node = sliceNodeOf(RED)
        width, height, depth = node.GetFieldOfView()
        node.SetFieldOfView(width, 0.4 * height, depth)  # as Slicer does with a lower view
        widget.ui.zoomButton.click()
        after = node.GetFieldOfView()
        assert after[1] / after[0] == pytest.approx(0.4 * height / width)

    def test_zoom_stays_while_another_module_is_visited(self, widget, click):
        click(widget)
        before = sliceNodeOf(RED).GetFieldOfView()[0]
        widget.ui.zoomButton.click()
        widget.parent.exit()
        widget.parent.enter()
        assert widget.ui.zoomButton.checked
        widget.ui.zoomButton.click()
        assert sliceNodeOf(RED).GetFieldOfView()[0] == pytest.approx(before)

    def test_another_ct_is_not_zoomed(self, widget, click, phantom):
        click(widget)
        before = sliceNodeOf(RED).GetFieldOfView()[0]
        widget.ui.zoomButton.click()
        widget.logic.getParameterNode().inputVolume = add_ct(phantom, "second")
        assert not widget.ui.zoomButton.checked
        assert sliceNodeOf(RED).GetFieldOfView()[0] == pytest.approx(before, rel=0.5)

    def test_slices_do_not_move_under_the_mouse(self, widget, click):
        """The answer comes while the user is at the next nodule."""
        click(widget, [POINTS[0]], wait=False)
        looks = []
        for view in (RED, GREEN):
            sliceNodeOf(view).JumpSliceByCentering(*POINTS[1])
            looks.append(sliceNodeOf(view).GetSliceOffset())
        click(widget, [])
        slicer.app.processEvents()
        assert [sliceNodeOf(view).GetSliceOffset() for view in (RED, GREEN)] == looks

    def test_zooming_waits_for_a_nodule(self, widget, phantom):
        widget.logic.getParameterNode().inputVolume = add_ct(phantom)
        assert not widget.ui.zoomButton.enabled
        assert "Select a nodule" in widget.ui.zoomButton.toolTip


class TestMaps:
    @pytest.fixture
    def compared(self, widget, click, wait_until):
        """A nodule beside its nearest case."""
        click(widget)
        node = widget.logic.getParameterNode()
        widget.panel.result.cases.selectRow(0)
        wait_until(lambda: roleOf(node, "queryMap") is not None, LIMIT_S)
        return node

    def test_the_first_comparison_looks_at_the_nodule_though_slicer_still_makes_its_views(
        self, widget, compared, wait_until
    ):
        sliceNode = sliceNodeOf(QUERY_VIEW)
        assert sliceNode.GetSliceOffset() == pytest.approx(POINTS[0][2], abs=15)
        for _ in range(5):
            slicer.app.processEvents()
        assert sliceNode.GetSliceOffset() == pytest.approx(POINTS[0][2], abs=15)
        assert sliceNode.GetFieldOfView()[0] == pytest.approx(48.0)

    @pytest.mark.parametrize("whose", ["Slicer's", "the user's"])
    def test_a_view_that_is_moved_late_is_aimed_again_unless_the_user_moved_it(
        self, widget, compared, wait_until, whose
    ):
        """A busy Slicer may set a new view back long after the comparison was shown."""
        sliceNode = sliceNodeOf(QUERY_VIEW)
        wait_until(lambda: sliceNode.GetFieldOfView()[0] == pytest.approx(48.0), LIMIT_S)
        aimed = sliceNode.GetSliceOffset()
        moved = 0.0 if whose == "Slicer's" else aimed + 3.0
        sliceNode.SetSliceOffset(moved)
        if whose == "Slicer's":
            wait_until(lambda: sliceNode.GetSliceOffset() == pytest.approx(aimed), LIMIT_S)
        else:
            timer = widget.panel.compare._timer
            wait_until(lambda: not timer.active, LIMIT_S)
            assert sliceNode.GetSliceOffset() == pytest.approx(moved)

    def test_a_view_that_was_at_its_slice_already_may_be_zoomed_at_once(
        self, widget, compared, wait_until
    ):
        """The next case is shown, and the user looks closer before all is settled."""
        timer, sliceNode = widget.panel.compare._timer, sliceNodeOf(QUERY_VIEW)
        wait_until(lambda: not timer.active, LIMIT_S)
        aimed = sliceNode.GetSliceOffset()
        widget.panel.compare._aimAll()
        widget.panel.compare._waits = [0, 0, 0]
        sliceNode.SetFieldOfView(20.0, 20.0, 1.0)
        for _ in range(3):
            widget.panel.compare._aimAgain()
        assert sliceNode.GetSliceOffset() == pytest.approx(aimed)
        assert sliceNode.GetFieldOfView()[0] == pytest.approx(20.0)

    def test_a_legend_is_made_once_its_map_is_in_a_view(self, widget, click, wait_until):
        """Slicer decides then whether to draw it."""
        isInView = []

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def onAdded(_scene, _event, added):
            if added.IsA("vtkMRMLColorLegendDisplayNode"):
                node = widget.logic.getParameterNode()
                maps = {
                    roleOf(node, r).GetID()
                    for r in ("queryMap", "conceptMap")
                    if roleOf(node, r) is not None
                }
                composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
                shownMaps = {c.GetForegroundVolumeID() for c in composites}
                isInView.append(bool(maps & shownMaps))

        slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, onAdded)
        click(widget)
        node = widget.logic.getParameterNode()
        widget.panel.result.cases.selectRow(0)
        wait_until(lambda: roleOf(node, "queryMap") is not None, LIMIT_S)
        widget.panel.concepts.onConcept("spiculated")
        wait_until(lambda: roleOf(node, "conceptMap") is not None, LIMIT_S)
        assert isInView == [True, True]

    def test_a_legend_is_narrow_and_small(self, compared):
        logic = slicer.modules.colors.logic()
        legend = logic.GetColorLegendDisplayNode(roleOf(compared, "queryMap"))
        width, height = legend.GetSize()
        assert width <= 0.06 and height <= 0.4
        assert (width, height) == LEGEND_SIZE
        assert legend.GetPosition()[0] > 0.95
        assert legend.GetTitleText() == ""

    def test_a_case_without_a_picture_is_told_of_in_its_view(self, widget, compared):
        document = NoduleScene.documentOf(compared, compared.nodule)
        told = noteIn(CASE_VIEW)
        case = document["cases"][0]
        assert case["case_id"] in told and case["label"] in told
        assert f"{case['diameter_mm']:.1f} mm" in told
        assert "spiculation" in told
        assert "No picture" in told and "add-pixels" in told

    def test_what_is_told_of_a_case_comes_back_with_the_scene(self, widget, compared, tmp_path):
        told = noteIn(CASE_VIEW)
        file = str(tmp_path / "scene.mrb")
        assert slicer.mrmlScene.WriteToMRB(file, None, None)
        slicer.mrmlScene.Clear(False)
        assert slicer.mrmlScene.ReadFromMRB(file, True)
        slicer.app.layoutManager().setLayout(20403)
        assert noteIn(CASE_VIEW) == told

    @pytest.mark.parametrize("how", ["moved", "other nodule", "removed", "undone"])
    def test_a_comparison_goes_with_what_it_is_about(self, widget, compared, click, how):
        panel = widget.panel
        if how == "moved":
            compared.points.SetNthControlPointPositionWorld(0, np.add(POINTS[0], (2, 0, 0)))
            compared.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
            click(widget, [])
        elif how == "other nodule":
            click(widget, [POINTS[1]])
        elif how == "removed":
            compared.points.RemoveNthControlPoint(0)
        else:
            widget.ui.undoButton.click()
        assert compared.caseId == ""
        assert roleOf(compared, "queryMap") is None and roleOf(compared, "queryContour") is None
        assert "Select a case" in widget.ui.remarksLabel.text
        assert noteIn(CASE_VIEW) == ""
        assert panel.compare.isShown

    def test_a_closed_scene_shows_nothing_of_the_comparison(self, widget, compared):
        slicer.mrmlScene.Clear(False)
        assert noteIn(CASE_VIEW) == ""
        assert "Select a case" in widget.ui.remarksLabel.text

    def test_maps_that_do_not_come_can_be_asked_for_again(self, widget, click, wait_until):
        click(widget)
        node = widget.logic.getParameterNode()
        widget.panel.result.cases.selectRow(0)
        assert "asking" in widget.ui.remarksLabel.text
        widget.panel.onEngineChanged()
        assert "Select a case" in widget.ui.remarksLabel.text and node.caseId == ""
        widget.panel.result.cases.selectRow(0)
        wait_until(lambda: roleOf(node, "queryMap") is not None, LIMIT_S)

    def test_a_removed_ct_takes_its_maps_along_and_none_of_them_is_the_next_ct(
        self, widget, compared, phantom, wait_until
    ):
        widget.panel.concepts.onConcept("spiculated")
        wait_until(lambda: roleOf(compared, "conceptMap") is not None, LIMIT_S)
        slicer.mrmlScene.RemoveNode(compared.inputVolume)
        wait_until(lambda: compared.inputVolume is None, LIMIT_S)
        assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
        volume = add_ct(phantom, "next")
        wait_until(lambda: compared.inputVolume is volume, LIMIT_S)

    def test_another_ct_shows_nothing_of_the_comparison(self, widget, compared, phantom):
        second = add_ct(phantom, "second")
        compared.inputVolume = second
        assert roleOf(compared, "queryMap") is None
        assert compositeOf(QUERY_VIEW).GetBackgroundVolumeID() == second.GetID()
        assert compositeOf(CASE_VIEW).GetBackgroundVolumeID() is None
        assert noteIn(CASE_VIEW) == ""

    def test_views_that_are_made_later_show_the_nodule(self, widget, compared, wait_until):
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.app.processEvents()
        view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLViewNode")
        for node in (compared.points, compared.segmentation):
            assert node.GetDisplayNode().IsDisplayableInView(view.GetID())

    def test_the_fill_follows_the_layout(self, widget, compared, wait_until):
        display = compared.segmentation.GetDisplayNode()
        assert not display.GetVisibility2DFill()
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        wait_until(lambda: display.GetVisibility2DFill(), LIMIT_S)

    def test_what_the_user_blends_comes_back_after_a_concept_map(
        self, widget, click, phantom, wait_until
    ):
        click(widget)
        node = widget.logic.getParameterNode()
        pet, red = add_ct(phantom, "PET"), compositeOf(RED)
        red.SetForegroundVolumeID(pet.GetID())
        red.SetForegroundOpacity(0.3)
        for concept in ("spiculated", "lobulated"):
            widget.panel.concepts.onConcept(concept)
            wait_until(lambda c=concept: ConceptView.shownMap(node)[1] == c, LIMIT_S)
            assert red.GetForegroundVolumeID() == roleOf(node, "conceptMap").GetID()
        widget.panel.concepts.onConcept("")
        assert red.GetForegroundVolumeID() == pet.GetID()
        assert red.GetForegroundOpacity() == pytest.approx(0.3)

    def test_a_concept_map_does_not_take_the_place_of_the_comparison(
        self, widget, compared, wait_until
    ):
        for view in (QUERY_VIEW, CASE_VIEW):
            # As Slicer does with every view when a volume is loaded.
            compositeOf(view).SetBackgroundVolumeID(compared.inputVolume.GetID())
        before = compositeOf(QUERY_VIEW).GetForegroundVolumeID()
        widget.panel.concepts.onConcept("spiculated")
        wait_until(lambda: roleOf(compared, "conceptMap") is not None, LIMIT_S)
        shownMap = roleOf(compared, "conceptMap").GetID()
        assert compositeOf(RED).GetForegroundVolumeID() == shownMap
        assert compositeOf(QUERY_VIEW).GetForegroundVolumeID() == before != shownMap
        assert compositeOf(CASE_VIEW).GetForegroundVolumeID() != shownMap

    def test_segmentations_are_silent_while_the_scene_closes(self, widget, compared):
        """Slicer's subject hierarchy, empty by then, would complain of displays that lose views."""
        nodes = (compared.segmentation, roleOf(compared, "queryContour"))
        displays = [node.GetDisplayNode() for node in nodes]
        told = []
        tag = slicer.mrmlScene.AddObserver(
            slicer.vtkMRMLScene.StartCloseEvent,
            lambda *_: told.extend(d.GetDisableModifiedEvent() for d in displays),
            -1.0,
        )
        slicer.mrmlScene.Clear(False)
        slicer.mrmlScene.RemoveObserver(tag)
        assert told == [1, 1]

    def test_segments_are_outlines_while_a_map_is_shown(self, widget, click, wait_until):
        click(widget)
        node = widget.logic.getParameterNode()
        display = node.segmentation.GetDisplayNode()
        assert display.GetVisibility2DFill()
        widget.panel.concepts.onConcept("spiculated")
        wait_until(lambda: roleOf(node, "conceptMap") is not None, LIMIT_S)
        assert not display.GetVisibility2DFill() and display.GetVisibility2DOutline()
        widget.panel.concepts.onConcept("")
        wait_until(lambda: display.GetVisibility2DFill(), LIMIT_S)

    def test_a_concept_map_leaves_the_margin_to_be_seen(self, widget, click, wait_until):
        click(widget)
        node = widget.logic.getParameterNode()
        widget.panel.concepts.onConcept("spiculated")
        wait_until(lambda: roleOf(node, "conceptMap") is not None, LIMIT_S)
        display = roleOf(node, "conceptMap").GetDisplayNode()
        highest = slicer.util.arrayFromVolume(roleOf(node, "conceptMap")).max()
        assert display.GetApplyThreshold()
        assert display.GetLowerThreshold() == pytest.approx(max(0.1, highest / 2), rel=1e-6)

    def test_points_and_boxes_are_small_and_told_apart_by_more_than_colour(self, widget, click):
        click(widget)
        node = widget.logic.getParameterNode()
        assert node.points.GetDisplayNode().GetGlyphScale() < 2
        section = widget.panel.concepts
        section.onBox(True, True)
        section.onBox(False, True)
        look, ignore = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
        assert look.GetName()[0] == "+" and ignore.GetName()[0] == "\N{MINUS SIGN}"
        assert (
            look.GetDisplayNode().GetFillOpacity() < 0.01 < ignore.GetDisplayNode().GetFillOpacity()
        )
        for box in (look, ignore):
            assert box.GetDisplayNode().GetInteractionHandleScale() < 2
            assert box.GetDisplayNode().GetPropertiesLabelVisibility()


def noteIn(view):
    """What stands in the upper left corner of a slice view; Slicer's own text there is empty."""
    widget = slicer.app.layoutManager().sliceWidget(view)
    renderer = widget.sliceView().renderWindow().GetRenderers().GetFirstRenderer()
    held = renderer.GetViewProps()
    props = [held.GetItemAsObject(n) for n in range(held.GetNumberOfItems())]
    corners = [prop for prop in props if prop.IsA("vtkCornerAnnotation")]
    return "".join(corner.GetText(2) or "" for corner in corners)
