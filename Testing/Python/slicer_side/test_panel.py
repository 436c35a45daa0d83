"""The user's story on real MRML, real Qt and the real server process."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess

import numpy as np
import pytest
import qt
import slicer
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.pixels import CasePixels
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from ContrastDiagnosisLib.Engine.Settings import Settings, writeSettings
from ContrastDiagnosisLib.Scene import NoduleScene
from ContrastDiagnosisLib.Scene.NoduleScene import PointState
from ContrastDiagnosisLib.Session import Reports
from engine.conftest import write_tiny_bundle

from slicer_side.conftest import (
    ENGINE_PYTHON,
    LIMIT_S,
    MODULE,
    POINTS,
    KeptEngine,
    add_ct,
    offscreen,
    users_shell,
)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def own_widget(load_module, bundle_folder):
    """The module's widget with an engine of its own, set up as a user would."""
    writeSettings(Settings(python=ENGINE_PYTHON, bundle=str(bundle_folder), device="cpu"))
    made = load_module(MODULE).widget
    made.parent.enter()
    return made


def node_count():
    return slicer.mrmlScene.GetNumberOfNodes()


def message(widget):
    return widget.ui.messageLabel.text


def test_nothing_is_started_before_a_point_is_placed(widget, engine):
    assert widget.panel.client.engine.processId == engine.processId
    assert not widget.ui.applyButton.enabled
    assert "Select a CT volume" in widget.ui.applyButton.toolTip
    assert "Research use only" in widget.ui.noticeLabel.text


def test_a_click_brings_segment_score_and_cases_into_the_scene(widget, click, phantom, wait_until):
    (pointId,) = click(widget)
    node = widget.logic.getParameterNode()
    document = NoduleScene.documentOf(node, pointId)
    assert document["verdict"] in ("malignant", "benign")
    assert len(document["cases"]) == 6
    segment = node.segmentation.GetSegmentation().GetSegment(NoduleScene.segmentIdOf(pointId))
    assert segment.GetTerminology() == NoduleScene.TERMINOLOGY
    wait_until(lambda: segment.GetRepresentation("Closed surface") is not None, LIMIT_S)
    assert segment.GetRepresentation("Closed surface").GetNumberOfPoints() > 0
    array = slicer.util.arrayFromSegmentBinaryLabelmap(
        node.segmentation, NoduleScene.segmentIdOf(pointId), node.inputVolume
    )
    mm3 = array.sum() * phantom.voxel_volume_mm3
    assert mm3 == pytest.approx(document["nodule"]["volume_mm3"], rel=1e-3)
    table = NoduleScene.nodeOf("cases", node.inputVolume, pointId).GetTable()
    assert table.GetNumberOfRows() == 6
    panel = widget.panel.result
    assert document["verdict"] in panel.headline.text
    assert panel.cases.rowCount == 6
    assert "Readers' ratings" in html.unescape(panel.cases.item(0, 1).toolTip())
    assert panel.nodules.rowCount == 1
    assert widget.ui.applyButton.text == "Diagnose"
    assert message(widget) == ""


def test_results_lie_under_the_ct_in_the_subject_hierarchy(widget, click):
    (pointId,) = click(widget)
    node = widget.logic.getParameterNode()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node.segmentation))
    assert hierarchy.GetItemName(folder) == "ContrastDiagnosis of CT"
    for mine in (node.points, NoduleScene.nodeOf("diagnosis", node.inputVolume, pointId)):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(mine)) == folder
        assert mine.GetNodeReference(NoduleScene.VOLUME_REFERENCE) is node.inputVolume


def test_a_moved_point_is_diagnosed_anew_and_undo_brings_the_old_answer(widget, click, wait_until):
    (pointId,) = click(widget)
    node = widget.logic.getParameterNode()
    before = NoduleScene.documentOf(node, pointId)
    moved = np.add(POINTS[0], (2.0, 1.0, 0.0))
    node.points.SetNthControlPointPositionWorld(0, moved)
    node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    assert widget.panel.session.isRunning
    wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
    after = NoduleScene.documentOf(node, pointId)
    assert after["point_ras_mm"] == pytest.approx(moved, abs=0.01)
    widget.ui.undoButton.click()
    assert NoduleScene.documentOf(node, pointId) == before
    assert NoduleScene.pointWorld(node, pointId) == pytest.approx(POINTS[0], abs=1e-9)
    assert NoduleScene.stateOf(node, pointId) is PointState.CURRENT
    widget.ui.undoButton.click()
    assert NoduleScene.documentOf(node, pointId) is None
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert not widget.ui.undoButton.enabled


def test_live_off_waits_for_the_button(widget, click, wait_until):
    node = widget.logic.getParameterNode()
    node.live = False
    ids = click(widget, POINTS)
    assert not any(NoduleScene.documentOf(node, p) for p in ids)
    widget.ui.applyButton.click()
    assert widget.ui.applyButton.text == "Cancel"
    wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
    assert all(NoduleScene.documentOf(node, p) for p in ids)
    assert widget.panel.result.nodules.rowCount == 2
    findings = NoduleScene.nodeOf("findings", node.inputVolume, "")
    assert findings.GetTable().GetNumberOfRows() == 2


def test_cancel_leaves_the_scene_as_it_was(widget, click):
    node = widget.logic.getParameterNode()
    node.live = False
    click(widget, POINTS)
    count = node_count()
    widget.ui.applyButton.click()
    widget.ui.applyButton.click()
    assert not widget.panel.session.isRunning
    assert node_count() == count
    assert widget.ui.applyButton.enabled
    assert message(widget) == "cancelled"


def test_a_removed_point_takes_its_diagnosis_along(widget, click):
    first, second = click(widget, POINTS)
    node = widget.logic.getParameterNode()
    node.points.RemoveNthControlPoint(0)
    assert NoduleScene.documentOf(node, first) is None
    assert NoduleScene.documentOf(node, second) is not None
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert widget.panel.result.nodules.rowCount == 1


def test_a_transformed_ct_gets_its_segment_under_the_same_transform(widget, click, phantom):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = 100, -50, 25
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    volume = add_ct(phantom)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    (pointId,) = click(widget, [np.add(POINTS[0], (100, -50, 25))], volume=volume)
    node = widget.logic.getParameterNode()
    assert NoduleScene.documentOf(node, pointId)["point_ras_mm"] == pytest.approx(POINTS[0])
    assert node.segmentation.GetTransformNodeID() == transform.GetID()


def test_two_cts_keep_their_own_nodules(widget, click, phantom):
    first, second = add_ct(phantom, "first"), add_ct(phantom, "second")
    click(widget, POINTS, volume=first)
    node = widget.logic.getParameterNode()
    segmentation = node.segmentation
    node.inputVolume = second
    assert widget.panel.result.nodules.rowCount == 0
    click(widget, [POINTS[1]])
    assert node.segmentation is not segmentation
    assert widget.panel.result.nodules.rowCount == 1
    node.inputVolume = first
    assert node.segmentation is segmentation
    assert widget.panel.result.nodules.rowCount == 2


def test_choosing_a_case_shows_its_maps(widget, click, wait_until):
    click(widget)
    node, compare = widget.logic.getParameterNode(), widget.panel.compare
    widget.panel.result.cases.selectRow(2)
    wait_until(lambda: compare.node(node, "queryMap") is not None, LIMIT_S)
    assert node.caseId == NoduleScene.documentOf(node, node.nodule)["cases"][2]["case_id"]
    values = slicer.util.arrayFromVolume(compare.node(node, "queryMap"))
    assert values.shape == (32, 64, 64)
    assert 0 < values.max() <= 1.001
    assert "Distance" in widget.ui.remarksLabel.text
    similar = values.copy()
    widget.ui.signComboBox.setCurrentIndex(1)
    assert node.sign.value == "different"
    different = slicer.util.arrayFromVolume(compare.node(node, "queryMap"))
    assert not np.array_equal(similar, different)
    composite = slicer.mrmlScene.GetSingletonNode("ContrastQuery", "vtkMRMLSliceCompositeNode")
    assert composite.GetBackgroundVolumeID() == node.inputVolume.GetID()
    assert composite.GetForegroundVolumeID() == compare.node(node, "queryMap").GetID()
    widget.ui.opacitySlider.value = 0.8
    assert composite.GetForegroundOpacity() == pytest.approx(0.8)


def test_other_views_keep_their_volumes(widget, click, wait_until):
    red = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceCompositeNode")
    click(widget)
    before = red.GetBackgroundVolumeID()
    widget.panel.result.cases.selectRow(0)
    node = widget.logic.getParameterNode()
    wait_until(lambda: widget.panel.compare.node(node, "queryMap") is not None, LIMIT_S)
    assert red.GetBackgroundVolumeID() == before
    assert red.GetForegroundVolumeID() is None


def test_a_closed_scene_gets_no_answer_and_the_next_click_works(widget, click, wait_until):
    click(widget, wait=False)
    assert widget.panel.session.isRunning
    slicer.mrmlScene.Clear(False)
    assert not widget.panel.session.isRunning
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []
    (pointId,) = click(widget)
    assert NoduleScene.documentOf(widget.logic.getParameterNode(), pointId) is not None


def test_an_answer_about_voxels_that_changed_is_dropped(widget, click, wait_until):
    click(widget, wait=False)
    node = widget.logic.getParameterNode()
    slicer.util.arrayFromVolume(node.inputVolume)[:5] = 0
    slicer.util.arrayFromVolumeModified(node.inputVolume)
    wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
    assert node.segmentation is None
    assert NoduleScene.diagnosedPoints(node) == []


def test_leaving_the_module_does_not_stop_a_diagnosis(widget, click, wait_until):
    (pointId,) = click(widget, wait=False)
    widget.parent.exit()
    widget.parent.enter()
    wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
    assert NoduleScene.documentOf(widget.logic.getParameterNode(), pointId) is not None


BAD = {
    "8-bit": (lambda hu: np.clip(hu // 8 + 128, 0, 255).astype(np.uint8), "8-bit picture"),
    "constant": (lambda hu: np.full_like(hu, -800), "constant"),
    "no air": (lambda hu: np.abs(hu) + 100, "Hounsfield"),
    "not finite": (lambda hu: np.where(hu > 0, np.nan, hu).astype(np.float32), "NaN"),
    "two slices": (lambda hu: hu[25:27], "at least 3 slices"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_voxels_end_in_a_message_and_an_unchanged_scene(widget, click, phantom, name):
    change, text = BAD[name]
    hu = change(phantom.hu)
    volume = add_ct(phantom, hu=hu)
    node = widget.logic.getParameterNode()
    node.live = False
    middle = phantom.ras_from_ijk([90, 75, min(30, len(hu) - 1)])
    click(widget, [middle], volume=volume)
    count = node_count()
    widget.ui.applyButton.click()
    click(widget, [])
    assert text in message(widget)
    assert "Traceback" not in message(widget)
    assert node_count() == count
    assert widget.ui.applyButton.enabled
    assert widget.ui.applyButton.text == "Diagnose"


def test_a_point_in_soft_tissue_of_a_ct_is_answered_but_not_trusted(widget, click, phantom):
    hu = phantom.hu.copy()
    hu[:, :, 80:] = 40
    volume = add_ct(phantom, hu=hu)
    (key,) = click(widget, [phantom.ras_from_ijk([140, 75, 30])], volume=volume)
    document = NoduleScene.documentOf(widget.logic.getParameterNode(), key)
    assert not document["confident"]
    assert any("lung" in reason for reason in document["reasons"])


def test_one_bad_point_does_not_stop_the_others(widget, click):
    outside, inside = click(widget, [(5000.0, 0.0, 0.0), POINTS[0]])
    node = widget.logic.getParameterNode()
    assert NoduleScene.documentOf(node, outside) is None
    assert NoduleScene.documentOf(node, inside) is not None


def test_a_report_is_saved_whole_or_not_at_all(widget, click, wait_until, tmp_path):
    (pointId,) = click(widget)
    files = []
    file = tmp_path / "report.html"
    widget.panel.reports.save({pointId: file}, files.extend)
    wait_until(lambda: files or message(widget), LIMIT_S)
    assert "</html>" in file.read_text()
    assert "Research use only" in file.read_text()
    widget.panel.reports.save({pointId: tmp_path / "absent" / "report.html"}, files.extend)
    wait_until(lambda: message(widget), LIMIT_S)
    assert "cannot write" in message(widget)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["report.html"]


def test_the_buttons_ask_where_and_say_what_was_written(
    widget, click, wait_until, tmp_path, monkeypatch
):
    click(widget, POINTS)
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    widget.ui.allReportsButton.click()
    wait_until(lambda: message(widget), LIMIT_S)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["nodule1.html", "nodule2.html"]
    assert "wrote" in message(widget)
    widget.ui.messageLabel.setText("")
    one = str(tmp_path / "one.html")
    monkeypatch.setattr(Reports, "askSaveFile", lambda *_: one)
    widget.ui.reportButton.click()
    wait_until(lambda: message(widget), LIMIT_S)
    assert "</html>" in (tmp_path / "one.html").read_text()
    monkeypatch.setattr(Reports, "askSaveFile", lambda *_: "")
    widget.ui.messageLabel.setText("")
    widget.ui.reportButton.click()
    assert message(widget) == ""


def test_a_pdf_is_made_by_qt(widget, click, wait_until, tmp_path):
    (pointId,) = click(widget)
    files = []
    widget.panel.reports.save({pointId: tmp_path / "report.pdf"}, files.extend)
    wait_until(lambda: files or message(widget), LIMIT_S)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_killed_engine_is_started_again_and_asked_again(own_widget, click, wait_until):
    click(own_widget, [POINTS[0]])
    engine = own_widget.panel.client.engine
    first = engine.processId
    os.kill(first, signal.SIGSTOP)  # so that the request is surely in the middle
    (pointId,) = click(own_widget, [POINTS[1]], wait=False)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not own_widget.panel.session.isRunning, LIMIT_S)
    node = own_widget.logic.getParameterNode()
    assert NoduleScene.documentOf(node, pointId) is not None, message(own_widget)
    assert engine.processId not in (0, first)


def test_an_engine_that_hangs_is_replaced_once_then_reported(own_widget, click, wait_until):
    click(own_widget, [POINTS[0]])
    client = own_widget.panel.client
    client._limitMs = 300
    os.kill(client.engine.processId, signal.SIGSTOP)
    stopped = []

    def stop_the_next():
        process = client.engine.processId
        if process and client.engine._url and process not in stopped:
            stopped.append(process)
            os.kill(process, signal.SIGSTOP)
        return not own_widget.panel.session.isRunning

    click(own_widget, [POINTS[1]], wait=False)
    wait_until(stop_the_next, LIMIT_S)
    assert "does not answer" in message(own_widget)
    assert own_widget.ui.applyButton.enabled


def test_a_broken_bundle_is_reported_with_the_engines_own_words(
    load_module, tmp_path, click, wait_until
):
    folder = write_tiny_bundle(tmp_path / "tiny")
    document = json.loads((folder / "bundle.json").read_text())
    document["schema"] = 99
    (folder / "bundle.json").write_text(json.dumps(document))
    writeSettings(Settings(python=ENGINE_PYTHON, bundle=str(folder), device="cpu"))
    widget = load_module(MODULE).widget
    widget.parent.enter()
    click(widget)
    assert "schema 99" in message(widget)
    assert widget.ui.applyButton.enabled
    assert widget.logic.getParameterNode().segmentation is None


def test_another_engine_is_set_up_without_waiting_for_the_old_one(own_widget, click, wait_until):
    click(own_widget, [POINTS[0]])
    old = own_widget.panel.client.engine
    process = old._process
    own_widget.panel.setup.device.setCurrentIndex(1)  # cpu, as before
    own_widget.panel.setup.device.setCurrentIndex(0)
    new = own_widget.panel.client.engine
    assert new is not old
    assert new.options.device == "auto"
    assert process.state() == qt.QProcess.Running
    (pointId,) = click(own_widget, [POINTS[1]])
    assert NoduleScene.documentOf(own_widget.logic.getParameterNode(), pointId) is not None
    wait_until(lambda: process.state() == qt.QProcess.NotRunning, LIMIT_S)


def test_a_program_that_is_not_there_is_named(load_module, click):
    writeSettings(Settings(python="/nowhere/python"))
    widget = load_module(MODULE).widget
    widget.parent.enter()
    click(widget)
    assert "/nowhere/python cannot be started" in message(widget)
    assert widget.ui.applyButton.enabled


def test_an_engine_without_its_packages_leads_to_the_set_up(load_module, click, tmp_path):
    python = tmp_path / "bare" / "bin" / "python"
    command = [ENGINE_PYTHON, "-m", "venv", "--without-pip", str(tmp_path / "bare")]
    subprocess.run(command, check=True, env=users_shell())
    writeSettings(Settings(python=str(python)))
    widget = load_module(MODULE).widget
    widget.parent.enter()
    click(widget)
    assert "is missing" in message(widget) and str(python) in message(widget)
    assert "Traceback" not in message(widget)
    assert widget.ui.openSetupButton.isVisibleTo(widget.parent)
    assert widget.ui.setupCollapsibleButton.collapsed
    widget.ui.openSetupButton.click()
    assert not widget.ui.setupCollapsibleButton.collapsed
    assert widget.ui.applyButton.enabled


def test_other_messages_do_not_lead_to_the_set_up(widget, click):
    click(widget, [(5000.0, 0.0, 0.0)])
    assert message(widget)
    assert not widget.ui.openSetupButton.isVisibleTo(widget.parent)


class TestSize:
    """The panel of a Slicer window, 420 px wide, on a screen 1,080 px high."""

    @pytest.fixture
    def shown(self, widget, click, wait_until):
        click(widget)
        panel = widget.panel
        panel.onCaseSelected(0)
        panel.concepts.onConcept("spiculated")
        wait_until(lambda: not panel.concepts.isRunning and panel.compare.isShown, LIMIT_S)
        widget.parent.resize(420, widget.parent.layout().heightForWidth(420))
        widget.parent.show()
        slicer.app.processEvents()
        yield widget
        widget.parent.hide()

    def test_everything_fits_the_width(self, shown):
        assert shown.parent.minimumSizeHint.width() <= 420

    @offscreen
    def test_everything_fits_the_height(self, shown):
        """In Slicer's style 31 pixels more, which scroll."""
        assert shown.parent.layout().heightForWidth(420) <= 1080

    def test_no_column_is_cut(self, shown):
        result, concepts = shown.panel.result, shown.panel.concepts.panel
        for table in (result.nodules, result.cases, concepts.table):
            header = table.horizontalHeader()
            columns = [c for c in range(table.columnCount) if not table.isColumnHidden(c)]
            assert sum(table.columnWidth(c) for c in columns) <= table.viewport().width
            for c in columns:
                wanted = header.fontMetrics().horizontalAdvance(
                    table.horizontalHeaderItem(c).text()
                )
                assert table.columnWidth(c) >= wanted, table.horizontalHeaderItem(c).text()
                for r in range(table.rowCount):
                    text = table.item(r, c).text()
                    wanted = table.fontMetrics().horizontalAdvance(text)
                    assert table.columnWidth(c) >= wanted, text

    def test_tables_are_as_high_as_their_rows(self, shown):
        result, concepts = shown.panel.result, shown.panel.concepts.panel
        for table in (result.nodules, result.cases, concepts.table):
            rows = sum(table.rowHeight(r) for r in range(table.rowCount))
            assert table.viewport().height == pytest.approx(rows, abs=2)
            assert table.verticalScrollBar().maximum == 0

    def test_a_long_message_is_read_whole(self, shown):
        shown.panel.showError("The engine's packages are not installed. " * 6, reached=False)
        for _ in range(5):
            slicer.app.processEvents()
        label, button = shown.ui.messageLabel, shown.ui.openSetupButton
        assert label.height >= label.heightForWidth(label.width)
        assert button.isVisibleTo(shown.parent)

    def test_the_set_up_fits(self, shown):
        shown.panel.onOpenSetup()
        for location in (0, 1):
            shown.panel.setup.location.setCurrentIndex(location)
            slicer.app.processEvents()
            assert shown.parent.minimumSizeHint.width() <= 420

    def test_the_advanced_choices_fit_and_are_hidden_before(self, shown):
        options = shown.panel._pair.options.widget
        assert not options.isVisible()
        shown.ui.mapOptionsCollapsibleButton.collapsed = False
        slicer.app.processEvents()
        assert options.isVisible()
        assert shown.parent.minimumSizeHint.width() <= 420

    def test_many_nodules_scroll(self, shown, click):
        node = shown.logic.getParameterNode()
        node.live = False
        click(shown, [tuple(np.add(POINTS[0], (n, 0, 0))) for n in range(1, 10)])
        slicer.app.processEvents()
        assert shown.panel.result.nodules.rowCount == 10
        assert shown.panel.result.nodules.height < 160

    def test_a_stale_row_is_read_whole(self, shown):
        node = shown.logic.getParameterNode()
        node.live = False
        node.points.SetNthControlPointPositionWorld(0, np.add(POINTS[0], (3, 0, 0)))
        node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
        table = shown.panel.result.nodules
        told = table.item(0, 1).text()
        assert "moved" in told
        width = sum(table.columnWidth(c) for c in range(1, 1 + table.columnSpan(0, 1)))
        assert width >= table.fontMetrics().horizontalAdvance(told)


def test_a_second_widget_that_is_deleted_leaves_nothing_behind(
    load_module, engine, monkeypatch, click, no_error_in_slots
):
    import ContrastDiagnosisLib.Panels.Panel as panel

    monkeypatch.setattr(panel.Panel.__init__, "__defaults__", (lambda *_: KeptEngine(engine),))
    module = load_module(MODULE)
    module.widget.parent.enter()
    click(module.widget)
    second = module.parent.createNewWidgetRepresentation()
    other = second.self()
    assert other.panel is not None
    second.delete()
    assert other.panel is None
    node = module.widget.logic.getParameterNode()
    node.mapOpacity = 0.7
    node.inputVolume.Modified()
    slicer.app.processEvents()
    slicer.mrmlScene.Clear(False)
    slicer.app.processEvents()
    assert not no_error_in_slots
    (pointId,) = click(module.widget)
    assert NoduleScene.documentOf(module.widget.logic.getParameterNode(), pointId) is not None


def test_nothing_is_sent_to_a_server_without_consent(load_module, click):
    writeSettings(
        Settings(location="remote", remoteUrl="https://example.org", remoteToken="t" * 32)
    )
    widget = load_module(MODULE).widget
    widget.parent.enter()
    click(widget)
    assert "Nothing was sent" in message(widget)


@pytest.mark.parametrize("url", ["http://example.org", "example.org", ""])
def test_a_remote_server_needs_tls(load_module, click, url):
    writeSettings(
        Settings(location="remote", remoteUrl=url, remoteToken="t" * 32, remoteAllowed=url)
    )
    widget = load_module(MODULE).widget
    widget.parent.enter()
    click(widget)
    assert "https://" in message(widget)


def test_a_wrong_token_is_told(widget, engine, click, monkeypatch):
    class Forgetful(KeptEngine):
        def whenReady(self, onReady, onFailed):
            engine.whenReady(lambda url, token: onReady(url, "wrong"), onFailed)

    widget.panel.client.engine = Forgetful(engine)
    click(widget)
    assert "token" in message(widget)
    assert widget.logic.getParameterNode().segmentation is None


def test_saving_and_loading_brings_the_panel_back(widget, click, wait_until, tmp_path):
    (pointId,) = click(widget)
    node = widget.logic.getParameterNode()
    widget.panel.result.cases.selectRow(1)
    wait_until(lambda: widget.panel.compare.node(node, "queryMap") is not None, LIMIT_S)
    document, caseId = NoduleScene.documentOf(node, pointId), node.caseId
    headline = widget.panel.result.headline.text
    file = str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(file, None, None)
    slicer.mrmlScene.Clear(False)
    assert "Place a point" in widget.panel.result.headline.text
    assert slicer.mrmlScene.ReadFromMRB(file, True)
    node = widget.logic.getParameterNode()
    assert NoduleScene.documentOf(node, node.nodule) == document
    assert node.caseId == caseId
    segment = NoduleScene.segmentIdOf(node.nodule)
    assert node.segmentation.GetSegmentation().GetSegment(segment) is not None
    assert widget.panel.compare.node(node, "queryMap") is not None
    assert widget.panel.result.headline.text == headline
    assert widget.panel.result.cases.currentRow() == 1


@pytest.mark.parametrize("clear", [True, False])
def test_a_scene_is_loaded_while_the_module_is_open(
    load_module, engine, monkeypatch, click, phantom, tmp_path, clear
):
    """The parameter node comes after the CT in the file, and the points after both."""
    import ContrastDiagnosisLib.Panels.Panel as panel

    monkeypatch.setattr(panel.Panel.__init__, "__defaults__", (lambda *_: KeptEngine(engine),))
    add_ct(phantom)
    widget = load_module(MODULE).widget
    widget.parent.enter()
    (pointId,) = click(widget)
    document = NoduleScene.documentOf(widget.logic.getParameterNode(), pointId)
    file = str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(file, None, None)
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(file, clear)
    node = widget.logic.getParameterNode()
    assert NoduleScene.documentOf(node, node.nodule) == document
    assert NoduleScene.pointIds(node) == [pointId]
    assert len(slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")) == 1
    assert widget.panel.result.nodules.rowCount == 1


def test_deleted_points_take_their_diagnoses_along(widget, click, wait_until):
    click(widget, POINTS)
    node = widget.logic.getParameterNode()
    slicer.mrmlScene.RemoveNode(node.points)
    wait_until(lambda: widget.panel.result.nodules.rowCount == 0, 10)
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []
    node.live = False
    (pointId,) = click(widget, [POINTS[1]])
    assert NoduleScene.documentOf(node, pointId) is None


def test_undo_returns_to_the_ct_it_is_about(widget, click, phantom):
    first, second = add_ct(phantom, "first"), add_ct(phantom, "second")
    click(widget, [POINTS[0]], volume=first)
    node = widget.logic.getParameterNode()
    node.inputVolume = second
    node.live = False
    widget.ui.undoButton.click()
    assert node.inputVolume is first
    assert NoduleScene.diagnosedPoints(node) == []


def test_a_moved_point_does_not_keep_its_diagnosis(widget, click):
    click(widget)
    node = widget.logic.getParameterNode()
    node.live = False
    node.points.SetNthControlPointPositionWorld(0, np.add(POINTS[0], (3, 0, 0)))
    node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    assert "moved" in widget.panel.result.nodules.item(0, 1).text()
    assert not widget.ui.reportButton.enabled
    assert "press Diagnose" in widget.panel.result.headline.text


def test_numbers_are_those_that_the_views_show(widget, click):
    click(widget, POINTS)
    node = widget.logic.getParameterNode()
    node.points.RemoveNthControlPoint(0)
    (left,) = NoduleScene.pointIds(node)
    shown = node.points.GetNthControlPointLabel(0)
    assert widget.panel.result.nodules.item(0, 0).text() == shown == "2"
    segment = node.segmentation.GetSegmentation().GetSegment(NoduleScene.segmentIdOf(left))
    assert segment.GetName() == f"Nodule {shown}"


def test_an_unset_point_takes_its_diagnosis_along(widget, click):
    click(widget)
    node = widget.logic.getParameterNode()
    node.points.UnsetNthControlPointPosition(0)
    assert widget.panel.result.nodules.rowCount == 0
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []


def test_our_own_pictures_are_no_ct(widget, click, wait_until):
    click(widget)
    node = widget.logic.getParameterNode()
    widget.panel.result.cases.selectRow(0)
    wait_until(lambda: widget.panel.compare.node(node, "queryMap") is not None, LIMIT_S)
    count = node_count()
    node.inputVolume = widget.panel.compare.node(node, "queryMap")
    assert not widget.ui.applyButton.enabled
    assert "not a CT" in widget.ui.applyButton.toolTip
    assert node_count() == count


@offscreen
def test_the_event_loop_is_never_held_up_by_the_engine(widget, click, wait_until):
    """The longest pause is compared with the engine's own time, not with the clock."""
    click(widget)
    pauses, clock = [], qt.QElapsedTimer()
    timer = qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", lambda: pauses.append(clock.restart()))
    clock.start()
    timer.start()
    total = qt.QElapsedTimer()
    total.start()
    click(widget, [POINTS[1]])
    timer.stop()
    assert len(pauses) > 5
    assert max(pauses) < 0.8 * total.elapsed()


@pytest.mark.parametrize(
    "name", ["test_ClickSaveReload", "test_CloseSceneWhileRunning", "test_UnusableInput"]
)
def test_the_self_tests_that_slicer_runs(load_module, name):
    """The same class that `make slicer-test` runs in the application."""
    writeSettings(Settings(python=ENGINE_PYTHON, device="cpu"))
    module = load_module(MODULE)
    module.widget.parent.enter()
    case = module.python.ContrastDiagnosisTest()
    case.setUp()
    getattr(case, name)()


def test_a_case_with_pixels_stands_beside_the_nodule(load_module, tmp_path, click, wait_until):
    folder = write_tiny_bundle(tmp_path / "tiny")
    store = load_bundle(folder).pixels
    shape = DEFAULT_GEOMETRY.shape
    mask = np.zeros(shape, bool)
    mask[10:20, 20:40, 20:40] = True
    for n in range(40):
        intensity = np.random.default_rng(n).random(shape).astype(np.float32)
        store.write(f"P{n // 2}_{n % 2}", CasePixels(intensity, np.ones(shape, bool), mask))
    writeSettings(Settings(python=ENGINE_PYTHON, bundle=str(folder), device="cpu"))
    widget = load_module(MODULE).widget
    widget.parent.enter()
    click(widget)
    node, compare, gallery = (
        widget.logic.getParameterNode(), widget.panel.compare, widget.panel.result.cases,
    )  # fmt: skip
    wait_until(lambda: not gallery.item(0, 0).icon().isNull(), LIMIT_S)
    assert not gallery.isColumnHidden(0)
    gallery.selectRow(0)
    wait_until(lambda: compare.node(node, "casePicture") is not None, LIMIT_S)
    hu = slicer.util.arrayFromVolume(compare.node(node, "casePicture"))
    assert -1000 <= hu.min() < -900
    assert 300 < hu.max() <= 400
    picture, caseMap = compare.node(node, "casePicture"), compare.node(node, "caseMap")
    composite = slicer.mrmlScene.GetSingletonNode("ContrastCase", "vtkMRMLSliceCompositeNode")
    assert composite.GetBackgroundVolumeID() == picture.GetID()
    assert composite.GetForegroundVolumeID() == caseMap.GetID()
    # Both sides of a pair share one scale: the stronger one reaches 1.
    highest = [
        slicer.util.arrayFromVolume(compare.node(node, role)).max()
        for role in ("queryMap", "caseMap")
    ]
    assert max(highest) == pytest.approx(1, abs=0.01)
    # The contours show each in its own view, the nodule's own outline not over the case.
    caseView = slicer.mrmlScene.GetSingletonNode("ContrastCase", "vtkMRMLSliceNode")
    for role, shown in (("queryContour", False), ("caseContour", True)):
        display = compare.node(node, role).GetDisplayNode()
        assert display.IsDisplayableInView(caseView.GetID()) == shown
    assert not node.points.GetDisplayNode().IsDisplayableInView(caseView.GetID())
