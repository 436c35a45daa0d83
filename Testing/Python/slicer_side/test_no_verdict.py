"""Where there is nothing to judge, no part of the panel or the scene tells a verdict."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import qt
import slicer
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.imaging.volume import Volume
from ContrastDiagnosisLib.Engine.Settings import Settings, writeSettings
from ContrastDiagnosisLib.Panels.ResultPanel import FOR_WHAT_IT_IS_WORTH
from ContrastDiagnosisLib.Scene import NoduleScene, Revisions
from ContrastDiagnosisLib.Scene.NoduleScene import COLOURS, NOT_JUDGED, PointState

from slicer_side.conftest import ENGINE_PYTHON, LIMIT_S, MODULE, POINTS, add_ct

NOWHERE = {"heart": (-30.0, 28.0, -28.0), "spine": (0.0, -70.0, 0.0), "air": (0.0, 108.0, 10.0)}
HEART = NOWHERE["heart"]
SLICED = DEMO_NODULES[3].center_ras_mm

VERDICT_WORDS = ("malignant", "benign", "probability", "confident", "CONFIDENT", "logit")


@pytest.fixture(scope="module")
def slab():
    """Three slices through a nodule: something is there, but it cannot be judged."""
    trunk = make_phantom(DEMO_NODULES, shape=(112, 228, 328), spacing_mm=(1.5, 1.0, 1.0)).volume
    first = round(trunk.ijk_from_ras(SLICED)[2]) - 1
    affine = trunk.ijk_to_ras.copy()
    affine[:3, 3] = trunk.ras_from_ijk([0, 0, first])
    return Volume(trunk.hu[first : first + 3], affine)


@pytest.fixture
def nothing(widget, click):
    """The panel after a click into the heart."""
    click(widget, [HEART])
    return widget


@pytest.fixture
def unjudged(widget, click, slab):
    """The panel after a click into the slab."""
    click(widget, [SLICED], volume=add_ct(slab))
    return widget


def node_of(widget):
    return widget.logic.getParameterNode()


def document_of(widget):
    node = node_of(widget)
    return NoduleScene.documentOf(node, NoduleScene.pointIds(node)[0])


def row_of(widget, row=0):
    table = widget.panel.result.nodules
    return [table.item(row, c).text() for c in range(table.columnCount)]


def segment_of(widget):
    """The segment of the first nodule, None if it has none."""
    node = node_of(widget)
    if node.segmentation is None:
        return None
    segmentId = NoduleScene.segmentIdOf(NoduleScene.pointIds(node)[0])
    return node.segmentation.GetSegmentation().GetSegment(segmentId)


def finding_in_scene(widget):
    """The line of the table of findings that the scene keeps."""
    table = NoduleScene.nodeOf("findings", node_of(widget).inputVolume, "").GetTable()
    names = [table.GetColumnName(c) for c in range(table.GetNumberOfColumns())]
    return {name: table.GetColumnByName(name).GetValue(0) for name in names}


def seen_texts(widget):
    """What the result and the concepts say, but for the table of the cases."""
    panel = widget.panel
    texts = []
    for part in (panel.result.widget, panel.concepts.panel.widget):
        labels = part.findChildren(qt.QLabel)
        texts += [t for label in labels if label.isVisibleTo(part) for t in of_label(label)]
    for table in (panel.result.nodules, panel.concepts.panel.table):
        if table.isVisibleTo(table.parent()):
            items = (
                table.item(r, c) for r in range(table.rowCount) for c in range(table.columnCount)
            )
            texts += [item.text() for item in items]
    return texts


def of_label(label):
    return label.text, label.toolTip


def check_no_verdict(widget, finding):
    """Row, headline, reasons, concepts, segment and table of a diagnosis without a verdict."""
    panel, document = widget.panel, document_of(widget)
    assert row_of(widget)[1:4] == [finding, "-", "-"]
    told = {
        "no nodule": "No verdict: no nodule was found at the point.",
        "not judged": "No verdict: this cannot be judged.",
    }
    assert panel.result.headline.text == told[finding]
    told = panel.result.headline.text + panel.result.confidence.text
    assert [told.count(reason) for reason in document["reasons"]] == [1] * len(document["reasons"])
    assert FOR_WHAT_IT_IS_WORTH in told
    texts = seen_texts(widget)
    assert not [t for t in texts if any(word in t for word in VERDICT_WORDS)], texts
    assert not panel.concepts.panel.table.isVisibleTo(panel.concepts.panel.widget)
    assert "no concepts are read" in panel.concepts.panel.headline.text
    assert panel.concepts.panel.message.text == ""
    assert not panel.concepts.isRunning
    row = finding_in_scene(widget)
    assert [row[n] for n in ("finding", "probability", "malignant cases", "confident")] == [
        finding, "-", "-", "no",
    ]  # fmt: skip
    assert row["why not"] == "; ".join(document["reasons"])
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        held = node.GetSegmentation()
        for n in range(held.GetNumberOfSegments()):
            assert not held.GetNthSegment(n).HasTag("ContrastDiagnosis.probability")
            colour = held.GetNthSegment(n).GetColor()
            assert all(colour != pytest.approx(c) for c in COLOURS.values())
    if finding == "no nodule":
        assert segment_of(widget) is None
        assert row_of(widget)[4:] == ["-", "-"]
        assert [row[n] for n in ("long axis (mm)", "short axis (mm)", "volume (mm3)")] == 3 * ["-"]
    assert widget.ui.messageLabel.text == ""
    assert widget.ui.reportButton.enabled and widget.ui.allReportsButton.enabled


def check_nothing_coloured(widget):
    """No map, no contour and no concept of a diagnosis before is in the scene or over the CT."""
    node, compare = node_of(widget), widget.panel.compare
    for role in ("queryMap", "queryContour", "casePicture", "caseMap", "caseContour", "conceptMap"):
        assert compare.node(node, role) is None, role
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert composite.GetForegroundVolumeID() is None


def move(widget, point, wait_until):
    """Drags the point of the first nodule somewhere, and waits for what follows."""
    points = node_of(widget).points
    points.SetNthControlPointPositionWorld(0, *point)
    points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    settle(widget, wait_until)


def settle(widget, wait_until):
    slicer.app.processEvents()
    panel = widget.panel
    wait_until(lambda: not (panel.session.isRunning or panel.concepts.isRunning), LIMIT_S)


@pytest.mark.parametrize("place", NOWHERE)
def test_a_click_where_no_nodule_is_leaves_neither_verdict_nor_segment(widget, click, place):
    click(widget, [NOWHERE[place]])
    assert document_of(widget)["finding"] == "no nodule"
    check_no_verdict(widget, "no nodule")
    assert node_of(widget).segmentation is None
    assert widget.panel.result.cases.rowCount == 6


def test_what_cannot_be_judged_has_a_grey_segment_and_its_size(unjudged, wait_until):
    document = document_of(unjudged)
    assert document["finding"] == "not judged"
    check_no_verdict(unjudged, "not judged")
    segment = segment_of(unjudged)
    assert segment.GetColor() == pytest.approx(NOT_JUDGED)
    wait_until(lambda: segment.GetRepresentation("Closed surface") is not None, LIMIT_S)
    nodule, row = document["nodule"], finding_in_scene(unjudged)
    axes = f"{nodule['long_axis_mm']:.1f} x {nodule['short_axis_mm']:.1f}"
    assert row_of(unjudged)[4:] == [axes, f"{nodule['volume_mm3']:.0f}"]
    assert row["volume (mm3)"] == f"{nodule['volume_mm3']:.0f}"


@pytest.mark.parametrize("state", ["nothing", "unjudged"])
def test_its_cases_are_compared_all_the_same(state, request, wait_until):
    shown = request.getfixturevalue(state)
    node, compare = node_of(shown), shown.panel.compare
    shown.panel.result.cases.selectRow(1)
    wait_until(lambda: compare.node(node, "queryMap") is not None, LIMIT_S)
    assert node.caseId == document_of(shown)["cases"][1]["case_id"]
    assert "Distance" in shown.ui.remarksLabel.text
    shown.ui.signComboBox.setCurrentIndex(1)
    check_no_verdict(shown, row_of(shown)[1])


@pytest.mark.parametrize("state", ["nothing", "unjudged"])
@pytest.mark.parametrize("suffix", [".html", ".pdf"])
def test_its_report_says_so_whatever_was_corrected(state, suffix, request, wait_until, tmp_path):
    """A box that lies nowhere would refuse the report of a nodule that is judged."""
    shown = request.getfixturevalue(state)
    node, files, file = node_of(shown), [], tmp_path / f"report{suffix}"
    box = Revisions.addBox(node, node.nodule, True, "", HEART, 1)
    box.SetCenter(5000.0, 0.0, 0.0)
    shown.panel.reports.save({node.nodule: file}, files.extend)
    wait_until(lambda: files or shown.ui.messageLabel.text, LIMIT_S)
    assert files == [file], shown.ui.messageLabel.text
    if suffix == ".html":
        assert "No verdict" in file.read_text(encoding="utf-8")


def make_corrected(widget, wait_until):
    """A judged nodule with a map over the CT, a comparison, a box and a rejection."""
    node, panel = node_of(widget), widget.panel
    slicer.util.setSliceViewerLayers(background=node.inputVolume, fit=False)
    shown, rejected = (r["name"] for r in document_of(widget)["concepts"]["concepts"][:2])
    panel.concepts.onConcept(shown)
    panel.concepts.onBox(True, True)
    panel.concepts.onReject(rejected, True)
    settle(widget, wait_until)
    panel.onCaseSelected(0)
    wait_until(lambda: panel.compare.node(node, "queryMap") is not None, LIMIT_S)
    assert panel.compare.node(node, "conceptMap") is not None
    return Revisions.predictionOf(node, node.nodule)


@pytest.mark.parametrize("back", ["moved", "undone"])
def test_from_a_verdict_to_none_and_back(widget, click, wait_until, back):
    """Nothing of the verdict stays; what was corrected waits, and counts again."""
    (pointId,) = click(widget)
    node, panel = node_of(widget), widget.panel
    before = document_of(widget)
    assert before["verdict"] is not None
    prediction = make_corrected(widget, wait_until)
    move(widget, HEART, wait_until)
    check_no_verdict(widget, "no nodule")
    check_nothing_coloured(widget)
    assert "Boxes: 1; rejected concepts: 1" in panel.concepts.panel.headline.text
    assert Revisions.predictionOf(node, pointId) is None
    (box,) = Revisions.boxesOf(node, pointId)
    box.SetCenter(*np.add(box.GetCenter(), (0.5, 0.0, 0.0)))
    settle(widget, wait_until)
    check_no_verdict(widget, "no nodule")
    box.SetCenter(*np.subtract(box.GetCenter(), (0.5, 0.0, 0.0)))
    if back == "moved":
        move(widget, POINTS[0], wait_until)
    else:
        widget.ui.undoButton.click()
        settle(widget, wait_until)
    after = document_of(widget)
    for name in ("verdict", "probability", "nodule", "reasons"):
        assert after[name] == before[name]
    assert row_of(widget)[1:3] == [before["verdict"], f"{before['probability']:.2f}"]
    assert segment_of(widget).HasTag("ContrastDiagnosis.probability")
    assert panel.concepts.panel.table.isVisibleTo(panel.concepts.panel.widget)
    assert FOR_WHAT_IT_IS_WORTH not in panel.result.confidence.text
    asked = Revisions.predictionOf(node, pointId)
    assert Revisions.isSame(asked["revision"], prediction["revision"])
    assert asked["probability"] == prediction["probability"]
    assert panel.compare.node(node, "conceptMap") is not None


def test_a_moved_point_that_waits_shows_nothing_of_the_verdict_before(widget, click, wait_until):
    click(widget)
    make_corrected(widget, wait_until)
    node_of(widget).live = False
    move(widget, HEART, wait_until)
    assert "moved" in row_of(widget)[1]
    texts = seen_texts(widget)
    assert not [t for t in texts if any(word in t for word in VERDICT_WORDS)], texts
    assert "Select a case" in widget.ui.remarksLabel.text
    check_nothing_coloured(widget)
    segmentation = node_of(widget).segmentation
    segmentId = NoduleScene.segmentIdOf(node_of(widget).nodule)
    assert not segmentation.GetDisplayNode().GetSegmentVisibility(segmentId)
    widget.ui.applyButton.click()
    settle(widget, wait_until)
    check_no_verdict(widget, "no nodule")
    check_nothing_coloured(widget)


def test_the_segment_of_a_verdict_goes_with_it(widget, click, wait_until):
    click(widget, POINTS)
    move(widget, HEART, wait_until)
    assert segment_of(widget) is None
    assert node_of(widget).segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert row_of(widget, 0)[1] == "no nodule"
    assert row_of(widget, 1)[1] in ("malignant", "benign")


def test_undo_takes_the_first_diagnosis_back_to_none(nothing):
    nothing.ui.undoButton.click()
    assert row_of(nothing)[1] == "not diagnosed"
    assert "press Diagnose" in nothing.panel.result.headline.text
    assert nothing.panel.result.confidence.text == ""
    assert "Diagnose a nodule" in nothing.panel.concepts.panel.headline.text


def test_corrections_cannot_be_added_where_no_concepts_are(nothing):
    node = node_of(nothing)
    nothing.panel.concepts.onBox(True, True)
    assert Revisions.boxesOf(node, node.nodule) == []


@pytest.mark.parametrize("state", ["nothing", "unjudged"])
def test_saving_and_loading_keeps_it_without_a_verdict(state, request, wait_until, tmp_path):
    shown = request.getfixturevalue(state)
    finding, document = row_of(shown)[1], document_of(shown)
    node = node_of(shown)
    Revisions.addBox(node, node.nodule, True, "", document["point_ras_mm"], 1)
    texts = seen_texts(shown)
    file = str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(file, None, None)
    slicer.mrmlScene.Clear(False)
    assert slicer.mrmlScene.ReadFromMRB(file, True)
    settle(shown, wait_until)
    assert document_of(shown) == document
    check_no_verdict(shown, finding)
    node = node_of(shown)
    assert len(Revisions.boxesOf(node, node.nodule)) == 1
    assert len(texts) == len(seen_texts(shown))
    if finding == "not judged":
        assert segment_of(shown).GetColor() == pytest.approx(NOT_JUDGED, abs=1e-4)


class TestOldScenes:
    """Before there were diagnoses without a verdict, one said "benign" where no nodule was."""

    @pytest.fixture(params=[True, False], ids=["sure", "unsure"])
    def old(self, widget, click, wait_until, request):
        click(widget)
        node = node_of(widget)
        document = document_of(widget)
        del document["finding"]
        document["nodule"] = {
            "found": False, "volume_mm3": 0.0, "long_axis_mm": 0.0, "short_axis_mm": 0.0,
        }  # fmt: skip
        sure = request.param
        reasons = [] if sure else ["no nodule was found at the point"]
        document |= {"verdict": "benign", "confident": sure, "reasons": reasons}
        diagnosed = NoduleScene.readDiagnosed(node, node.nodule)
        mask = np.zeros((0, 0, 0), np.uint8)
        old = dataclasses.replace(diagnosed, document=document, mask=mask)
        NoduleScene.storeDiagnosis(node, old)
        widget.panel.refresh()
        return widget

    def test_no_part_tells_that_verdict(self, old):
        check_no_verdict(old, "no nodule")
        check_nothing_coloured(old)

    def test_nor_after_loading(self, old, wait_until, tmp_path):
        file = str(tmp_path / "scene.mrb")
        assert slicer.mrmlScene.WriteToMRB(file, None, None)
        slicer.mrmlScene.Clear(False)
        assert slicer.mrmlScene.ReadFromMRB(file, True)
        settle(old, wait_until)
        check_no_verdict(old, "no nodule")

    def test_a_concept_that_is_chosen_is_not_asked_for(self, old, wait_until):
        node_of(old).concept = "spiculated"
        settle(old, wait_until)
        check_no_verdict(old, "no nodule")
        check_nothing_coloured(old)

    def test_a_verdict_on_a_nodule_is_told_as_before(self, widget, click):
        (pointId,) = click(widget)
        node = node_of(widget)
        text = NoduleScene.nodeOf("diagnosis", node.inputVolume, pointId)
        document = json.loads(text.GetText())
        del document["finding"]
        text.SetText(json.dumps(document))
        widget.panel.refresh()
        assert row_of(widget)[1] == document["verdict"]
        assert document["verdict"] in widget.panel.result.headline.text
        assert NoduleScene.stateOf(node, pointId) is PointState.CURRENT


def test_no_word_is_cut(unjudged):
    """In the panel of a Slicer window, 420 px wide."""
    unjudged.parent.resize(420, unjudged.parent.layout().heightForWidth(420))
    unjudged.parent.show()
    slicer.app.processEvents()
    table = unjudged.panel.result.nodules
    for c in range(table.columnCount):
        wanted = table.fontMetrics().horizontalAdvance(table.item(0, c).text())
        assert table.columnWidth(c) >= wanted, table.item(0, c).text()
    unjudged.parent.hide()


def test_the_self_test_that_slicer_runs(load_module):
    writeSettings(Settings(python=ENGINE_PYTHON, device="cpu"))
    module = load_module(MODULE)
    module.widget.parent.enter()
    case = module.python.ContrastDiagnosisTest()
    case.setUp()
    case.test_NothingToJudge()
