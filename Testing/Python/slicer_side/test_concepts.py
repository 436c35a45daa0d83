"""Concepts, boxes and rejections on real MRML, real Qt and the real server process."""

from __future__ import annotations

import html

import numpy as np
import pytest
import qt
import slicer
from contrastdiagnosis.imaging.phantom import PhantomNodule, make_phantom
from contrastdiagnosis.protocol.revision import Box
from ContrastDiagnosisLib.Engine.Settings import Settings, writeSettings
from ContrastDiagnosisLib.Panels.ConceptPanel import BAR_COLOURS, LOGITS, PROBABILITY, REJECT
from ContrastDiagnosisLib.Scene import ConceptView, NoduleScene, Revisions
from ContrastDiagnosisLib.Scene.OwnNodes import roleOf
from ContrastDiagnosisLib.Scene.VolumeBridge import InputError
from engine.conftest import CONCEPTS

from slicer_side.conftest import ENGINE_PYTHON

NODULES = [PhantomNodule((60.0, -10.0, 8.0), 14.0), PhantomNodule((-60.0, -10.0, 8.0), 10.0)]
POINTS = [n.center_ras_mm for n in NODULES]
NAMES = [c.name for c in CONCEPTS]
LIMIT_S = 60


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(NODULES, shape=(60, 150, 180), spacing_mm=(2.5, 1.9, 1.9)).volume


@pytest.fixture
def widget(load_with_concepts):
    made = load_with_concepts("ContrastDiagnosis").widget
    made.parent.enter()
    return made


class Story:
    """A panel with a diagnosed phantom, as a user works with it."""

    def __init__(self, widget, phantom, wait_until, points=(POINTS[0],)):
        self.widget, self._wait_until = widget, wait_until
        self.section = widget.panel.concepts
        self.panel = self.section.panel
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(phantom.ijk_to_ras))
        slicer.util.updateVolumeFromArray(volume, phantom.hu)
        volume.CreateDefaultDisplayNodes()
        slicer.util.setSliceViewerLayers(background=volume, fit=False)
        self.node.inputVolume = volume
        self.ids = [widget.logic.addNodule(p) for p in points]
        self.wait()

    @property
    def node(self):
        return self.widget.panel._parameterNode

    @property
    def prediction(self):
        return Revisions.predictionOf(self.node, self.node.nodule)

    @property
    def boxes(self):
        return Revisions.boxesOf(self.node, self.node.nodule)

    def wait(self):
        """Until nothing is on its way; a dragged box is told in the next turn of the loop."""
        slicer.app.processEvents()
        session = self.widget.panel.session
        self._wait_until(lambda: not (session.isRunning or self.section.isRunning), LIMIT_S)

    def choose(self, name):
        self.panel.table.selectRow(NAMES.index(name))
        self.wait()

    def add(self, look=True, everything=True):
        self.panel.about.setCurrentIndex(0 if everything else 1)
        (self.panel.lookButton if look else self.panel.ignoreButton).click()
        self.wait()
        return self.boxes[-1]

    def reject(self, name, rejected=True):
        ticked = qt.Qt.Checked if rejected else qt.Qt.Unchecked
        self.panel._cells[NAMES.index(name)][REJECT].setCheckState(ticked)
        self.wait()

    def drag(self, box, center):
        box.SetCenterWorld(*center)
        self.wait()


@pytest.fixture
def story(widget, phantom, wait_until):
    return Story(widget, phantom, wait_until)


def test_a_diagnosis_tells_its_concepts_without_another_request(story):
    concepts = NoduleScene.documentOf(story.node, story.node.nodule)["concepts"]
    panel = story.panel
    assert panel.table.rowCount == 3
    assert story.prediction is None
    for cells, row in zip(panel._cells, concepts["concepts"], strict=True):
        assert cells[PROBABILITY].text() == f"{row['presence']:.2f}"
        assert float(cells[LOGITS].text()) == pytest.approx(row["contribution"], abs=0.006)
    assert f"{concepts['probability']:.2f}" in panel.headline.text
    assert "Vote of the cases" in panel.headline.text
    assert concepts["sentence"] in html.unescape(panel.headline.toolTip)
    assert "Corrected" not in panel.remarks.text
    disagreement = NoduleScene.documentOf(story.node, story.node.nodule)["disagreement"]
    assert panel.disagreement.text == disagreement
    assert panel.disagreement.isVisibleTo(panel.widget) == bool(disagreement)
    assert not panel.resetButton.enabled


def test_a_share_is_a_drawn_bar_not_a_widget(story):
    """A widget in each cell repaints at every value; a box that is dragged sets them all."""
    table = story.panel.table
    shares = []
    for row in range(table.rowCount):
        assert all(table.cellWidget(row, column) is None for column in range(table.columnCount))
        image = table.item(row, PROBABILITY).data(qt.Qt.DecorationRole).toImage()
        colours = [image.pixelColor(x, 5).name() for x in range(image.width())]
        shares.append(colours.count(BAR_COLOURS[0]) / len(colours))
    told = [float(table.item(row, PROBABILITY).text()) for row in range(table.rowCount)]
    assert shares == pytest.approx(told, abs=0.02)


def test_disagreement_of_cases_and_concepts_is_told(story):
    document = NoduleScene.documentOf(story.node, story.node.nodule)
    story.section.show(story.node, document | {"disagreement": "they disagree"})
    assert story.panel.disagreement.text == "they disagree"
    assert story.panel.disagreement.isVisibleTo(story.panel.widget)
    assert story.panel.disagreement.font.bold()


def test_a_box_is_not_drawn_over_the_case(story, wait_until):
    compare = story.widget.panel.compare
    story.add()
    story.widget.panel.onCaseSelected(0)
    wait_until(lambda: compare.node(story.node, "queryMap") is not None, LIMIT_S)
    story.add(look=False)
    case = slicer.mrmlScene.GetSingletonNode("ContrastCase", "vtkMRMLSliceNode")
    red = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    for box in story.boxes:
        assert not box.GetDisplayNode().IsDisplayableInView(case.GetID())
        assert box.GetDisplayNode().IsDisplayableInView(red.GetID())


def test_without_a_diagnosis_or_without_concepts_there_is_a_sentence(story):
    document = NoduleScene.documentOf(story.node, story.node.nodule)
    story.section.show(story.node, document | {"concepts": None})
    assert "without a concept head" in story.panel.headline.text
    assert not story.panel.table.isVisibleTo(story.panel.widget)
    del document["concepts"]  # of an older version
    story.section.show(story.node, document)
    assert "without a concept head" in story.panel.headline.text
    story.section.show(story.node, None)
    assert "Diagnose a nodule" in story.panel.headline.text


def test_choosing_a_concept_shows_its_map_and_prototype(story, wait_until):
    story.choose("ill-defined margin")
    node, name = story.node, "ill-defined margin"
    map_ = roleOf(node, "conceptMap")
    assert ConceptView.shownMap(node) == (node.nodule, name)
    matrix = slicer.util.arrayFromVTKMatrix(_matrixOf(map_))
    assert matrix == pytest.approx(np.array(story.prediction["cells_ijk_to_ras"]))
    assert slicer.util.arrayFromVolume(map_).min() >= 0
    for view in ("Red", "Yellow"):
        composite = slicer.mrmlScene.GetSingletonNode(view, "vtkMRMLSliceCompositeNode")
        assert composite.GetForegroundVolumeID() == map_.GetID()
        assert composite.GetBackgroundVolumeID() == node.inputVolume.GetID()
        assert composite.GetForegroundOpacity() == pytest.approx(node.mapOpacity)
    node.mapOpacity = 0.9
    assert composite.GetForegroundOpacity() == pytest.approx(0.9)
    assert map_.GetDisplayNode().GetInterpolate()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(map_))
    assert hierarchy.GetItemName(folder) == "ContrastDiagnosis of CT"
    example = next(e for e in story.prediction["examples"] if e["concept"] == name)
    assert example["case_id"] in story.panel.example.text
    for told in story.prediction["examples"]:
        story.choose(told["concept"])
        has = told["has_pixels"]
        wait_until(lambda has=has: story.panel.picture.pixmap.isNull() != has, LIMIT_S)
    story.panel.table.clearSelection()
    assert roleOf(node, "conceptMap") is None
    assert composite.GetForegroundVolumeID() is None


def _matrixOf(volume):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_rejected_concept_counts_no_more_and_comes_back(story):
    before = NoduleScene.documentOf(story.node, story.node.nodule)["concepts"]
    story.reject("calcified")
    row = story.prediction["concepts"][2]
    assert row["rejected"] and row["presence"] is None
    assert story.panel._cells[2][PROBABILITY].text() == "rejected"
    assert "rejected concepts: 1" in story.panel.remarks.text
    total = story.prediction["baseline"] + sum(
        r["contribution"] for r in story.prediction["concepts"]
    )
    assert total == pytest.approx(story.prediction["logit"], abs=1e-12)
    story.reject("calcified", False)
    assert story.prediction["concepts"] == before["concepts"]


def test_boxes_are_drawn_dragged_and_reset(story):
    first = NoduleScene.documentOf(story.node, story.node.nodule)["concepts"]["logit"]
    box = story.add()
    assert box.GetCenterWorld() == pytest.approx(POINTS[0])
    assert tuple(box.GetSize()) == (15.0, 15.0, 15.0)
    assert box.GetDisplayNode().GetSelectedColor() == pytest.approx((0.2, 0.75, 0.3))
    at = story.prediction["logit"]
    assert at != first
    story.drag(box, np.add(POINTS[0], (12.0, 6.0, 4.0)))
    moved = story.prediction["logit"]
    assert moved not in (at, first)
    assert story.prediction["revision"]["boxes"][0]["center_ras_mm"] == pytest.approx((72, -4, 12))
    # Removed by hand, as in the Data module.
    slicer.mrmlScene.RemoveNode(box)
    story.wait()
    assert story.prediction["logit"] == first
    story.add(look=False)
    story.reject("spiculated")
    assert story.prediction["logit"] != first
    story.panel.resetButton.click()
    story.wait()
    assert story.boxes == []
    assert story.prediction is None
    assert story.panel._cells[0][REJECT].checkState() == qt.Qt.Unchecked


def test_a_box_is_about_the_chosen_concept_alone(story):
    before = NoduleScene.documentOf(story.node, story.node.nodule)["concepts"]["concepts"]
    story.panel.about.setCurrentIndex(1)
    story.panel.lookButton.click()
    assert "Select a concept" in story.panel.message.text
    assert story.boxes == []
    story.choose("spiculated")
    box = story.add(look=False, everything=False)
    assert "spiculated" in box.GetName()
    after = story.prediction["concepts"]
    assert after[0]["contribution"] != before[0]["contribution"]
    assert [r["contribution"] for r in after[1:]] == [r["contribution"] for r in before[1:]]


def test_while_a_box_is_dragged_one_request_is_on_its_way_and_the_last_place_wins(
    story, wait_until
):
    box = story.add()
    sent, open_ = [], []
    ask = story.section._session.client.ask

    def counted(path, *rest):
        sent.append(path)
        question = ask(path, *rest)
        open_.append(question)
        assert sum(not q.done for q in open_) == 1
        return question

    story.section._session.client.ask = counted
    pauses, clock = [], qt.QElapsedTimer()
    clock.start()
    for step in range(60):
        box.SetCenterWorld(*np.add(POINTS[0], (0.1 * step, 0, 0)))
        slicer.app.processEvents()
        pauses.append(clock.restart())
    story.wait()
    assert 1 <= len(sent) < 60
    last = story.prediction["revision"]["boxes"][0]["center_ras_mm"]
    assert last == pytest.approx(np.add(POINTS[0], (5.9, 0, 0)), abs=1e-3)
    assert max(pauses) < 500


@pytest.mark.parametrize("kind", ["flat", "sheared", "elsewhere"])
def test_a_box_that_cannot_be_used_ends_in_a_message_and_nothing_is_lost(story, kind):
    box = story.add()
    prediction = story.prediction
    if kind == "flat":
        box.SetSize(15, 0, 15)
    elif kind == "elsewhere":
        box.SetCenterWorld(900, 0, 0)
    else:
        # The point moves along with the CT.
        _putUnder(story.node.inputVolume, [[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
        box.Modified()
    story.wait()
    told = {"flat": "positive sides", "sheared": "right angles", "elsewhere": "outside the volume"}
    assert told[kind] in story.panel.message.text
    assert story.prediction == prediction
    assert story.boxes == [box]
    if kind == "flat":
        box.SetSize(15, 10, 15)
        story.wait()
        assert story.panel.message.text == ""
        assert story.prediction["revision"]["boxes"][0]["size_mm"] == pytest.approx((15, 10, 15))


def _putUnder(node, rows):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = slicer.util.vtkMatrixFromArray(np.array([*rows, [0, 0, 0, 1]], float))
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


class TestGeometry:
    """A ROI in the volume's own RAS, against the eight corners that Slicer draws."""

    def makePair(self):
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        slicer.util.updateVolumeFromArray(volume, np.zeros((4, 5, 6), np.int16))
        volume.SetSpacing(100, 100, 100)
        volume.SetOrigin(-250, -200, -150)
        roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
        roi.SetSize(10, 20, 30)
        roi.SetCenter(5, -7, 9)
        return volume, roi

    def corners(self, box):
        told = dict(box, axes=tuple(map(tuple, box["axes"])))
        return Box(**told).corners_ras_mm

    @pytest.mark.parametrize("under", ["", "roi", "volume", "both"])
    def test_rotated_and_transformed(self, scene, under):
        volume, roi = self.makePair()
        turn = [[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]
        if under in ("roi", "both"):
            _putUnder(roi, [[*turn[0], 11], [*turn[1], -3], [*turn[2], 2]])
        if under in ("volume", "both"):
            _putUnder(volume, [[1, 0, 0, 100], [0, *turn[0][:2], -50], [0, *turn[1][:2], 25]])
        box = Revisions.boxInVolume(volume, roi)
        toWorld = np.eye(4)
        if transform := volume.GetParentTransformNode():
            import vtk

            matrix = vtk.vtkMatrix4x4()
            transform.GetMatrixTransformToWorld(matrix)
            toWorld = slicer.util.arrayFromVTKMatrix(matrix)
        for corner in self.corners(box):
            world = (toWorld @ [*corner, 1])[:3]
            assert roi.IsPointInROIWorld(list(world + 0.01 * (roi.GetCenterWorld() - world)))
            assert not roi.IsPointInROIWorld(list(world - 0.01 * (roi.GetCenterWorld() - world)))
        assert sorted(box["size_mm"]) == pytest.approx([10, 20, 30])

    def test_a_volume_under_a_scale_has_its_own_millimetres(self, scene):
        volume, roi = self.makePair()
        _putUnder(volume, [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
        box = Revisions.boxInVolume(volume, roi)
        assert box["size_mm"] == pytest.approx((5, 10, 15))
        assert box["center_ras_mm"] == pytest.approx((2.5, -3.5, 4.5))

    def test_a_non_linear_transform_is_refused(self, scene):
        volume, roi = self.makePair()
        grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
        volume.SetAndObserveTransformNodeID(grid.GetID())
        if grid.IsTransformToWorldLinear():
            import vtk

            grid.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
        with pytest.raises(InputError, match="non-linear"):
            Revisions.boxInVolume(volume, roi)


def test_two_nodules_keep_their_own_revisions(widget, phantom, wait_until):
    story = Story(widget, phantom, wait_until, POINTS)
    first, second = story.ids
    node = story.node
    widget.panel.onNoduleSelected(0)
    story.add()
    story.reject("calcified")
    widget.panel.onNoduleSelected(1)
    story.wait()
    assert story.boxes == []
    assert story.panel._cells[2][REJECT].checkState() == qt.Qt.Unchecked
    story.reject("spiculated")
    widget.panel.onNoduleSelected(0)
    story.wait()
    assert story.panel._cells[2][REJECT].checkState() == qt.Qt.Checked
    assert len(story.boxes) == 1
    assert Revisions.rejectedOf(node, first) == ["calcified"]
    assert Revisions.rejectedOf(node, second) == ["spiculated"]
    node.points.RemoveNthControlPoint(0)
    assert Revisions.boxesOf(node, first) == []
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == []
    assert Revisions.rejectedOf(node, second) == ["spiculated"]


def test_undo_takes_boxes_along_and_brings_older_ones_back(story):
    box = story.add()
    story.reject("calcified")
    center = tuple(box.GetCenterWorld())
    story.node.points.SetNthControlPointPositionWorld(0, np.add(POINTS[0], (2.0, 1.0, 0.0)))
    story.node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    story.wait()
    assert len(story.boxes) == 1
    assert story.prediction["revision"]["rejected"] == ["calcified"]
    story.drag(story.boxes[0], POINTS[1])
    story.add(look=False)
    story.widget.ui.undoButton.click()
    story.wait()
    (restored,) = story.boxes
    assert tuple(restored.GetCenterWorld()) == pytest.approx(center)
    assert Revisions.isLook(restored)
    assert Revisions.rejectedOf(story.node, story.ids[0]) == ["calcified"]
    story.widget.ui.undoButton.click()
    story.wait()
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == []
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []


def test_saving_and_loading_brings_corrections_and_map_back_without_asking(story, tmp_path):
    story.choose("spiculated")
    story.drag(story.add(look=False, everything=False), np.add(POINTS[0], (3.21, 0, 0)))
    story.reject("calcified")
    prediction, headline = story.prediction, story.panel.headline.text
    values = slicer.util.arrayFromVolume(roleOf(story.node, "conceptMap")).copy()
    file = str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(file, None, None)
    slicer.mrmlScene.Clear(False)
    assert "Diagnose a nodule" in story.panel.headline.text
    assert slicer.mrmlScene.ReadFromMRB(file, True)
    assert not story.section.isRunning
    node = story.node
    assert story.prediction == prediction
    assert story.panel.headline.text == headline
    assert story.panel.table.currentRow() == 0
    assert story.panel._cells[2][REJECT].checkState() == qt.Qt.Checked
    (box,) = story.boxes
    assert not Revisions.isLook(box)
    assert box.GetCenterWorld() == pytest.approx(np.add(POINTS[0], (3.21, 0, 0)), abs=1e-3)
    assert slicer.util.arrayFromVolume(roleOf(node, "conceptMap")) == pytest.approx(values)
    story.drag(box, POINTS[0])
    center = story.prediction["revision"]["boxes"][0]["center_ras_mm"]
    assert center == pytest.approx(POINTS[0], abs=0.01)


def test_another_ct_shows_no_map_of_this_one(story, phantom):
    story.choose("calcified")
    assert roleOf(story.node, "conceptMap") is not None
    first = story.node.inputVolume
    second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "second")
    second.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(phantom.ijk_to_ras))
    slicer.util.updateVolumeFromArray(second, phantom.hu)
    story.node.inputVolume = second
    assert roleOf(story.node, "conceptMap") is None
    assert "Diagnose a nodule" in story.panel.headline.text
    story.node.inputVolume = first
    story.wait()
    assert ConceptView.shownMap(story.node) == (story.ids[0], "calcified")


def test_the_report_tells_of_the_corrections(story, tmp_path, wait_until):
    story.add()
    story.reject("calcified")
    files = []
    file = tmp_path / "report.html"
    story.widget.panel.reports.save({story.ids[0]: file}, files.extend)
    wait_until(lambda: files or story.widget.ui.messageLabel.text, LIMIT_S)
    assert "rejected" in file.read_text()
    story.boxes[0].SetSize(0, 1, 1)
    story.widget.panel.reports.save({story.ids[0]: file}, files.extend)
    assert "positive sides" in story.widget.ui.messageLabel.text


def test_an_unknown_concept_of_another_bundle_is_told_and_can_be_reset(story):
    Revisions.setRejected(story.node, story.ids[0], ["hairy"])
    story.section.show(story.node, NoduleScene.documentOf(story.node, story.ids[0]))
    story.wait()
    assert "hairy" in story.panel.message.text
    assert "The last answer is shown" in story.panel.message.text
    story.panel.resetButton.click()
    story.wait()
    assert story.panel.message.text == ""


def test_a_closed_scene_gets_no_answer(story):
    story.panel.lookButton.click()
    assert story.section.isRunning
    slicer.mrmlScene.Clear(False)
    assert not story.section.isRunning
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []


def test_the_self_test_that_slicer_runs(load_with_concepts):
    module = load_with_concepts("ContrastDiagnosis")
    module.widget.parent.enter()
    writeSettings(Settings(python=ENGINE_PYTHON))
    case = module.python.ContrastDiagnosisTest()
    case.setUp()
    case.test_ConceptsSaveReload()
