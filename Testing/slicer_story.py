"""The user's story in a real Slicer: `make slicer-story SLICER=/path/to/Slicer`.

Real widgets, real views and the real engine are driven as a user would; each chapter leaves a
picture in `out/story`. The run fails on a wrong result, on any Python error, and on any warning of
Qt or VTK that `OF_SLICER` does not name. With `--no-main-window` the chapters about views are left
out.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import slicer.util
import vtk

# Slicer runs the file as text: it has no folder of its own.
sys.path.append(str(Path(slicer.modules.contrastdiagnosis.path).parents[1] / "Testing"))
from loop_watch import LoopWatch

OUT_VARIABLE = "CONTRASTDIAGNOSIS_STORY"
CT_VARIABLE = "CONTRASTDIAGNOSIS_STORY_CT"
"""`file:R,A,S`: a CT of one's own and a nodule in it, for the times and a picture."""

LIMIT_S = 180
WARM_CLICKS = 5
PANEL_PIXELS = 420
WINDOW_PIXELS = (1440, 900)

OF_SLICER = (
    "propagateSizeHints",
    "XDG_RUNTIME_DIR",
    "QStandardPaths",
    "libEGL",
    "MESA",
)
"""Parts of warnings that Slicer gives without this extension."""


class Failures:
    """What went wrong, whoever said it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._hook = sys.excepthook
        sys.excepthook = self._onException
        self._log = slicer.app.errorLogModel()
        self._from = self._log.logEntryCount()

    def _onException(self, *error: Any) -> None:
        self.told.append("".join(traceback.format_exception(*error)))
        self._hook(*error)

    def fromLog(self) -> list[str]:
        """Warnings and errors of Slicer's log since the start that are not Slicer's own."""
        found = []
        for row in range(self._from, self._log.logEntryCount()):
            # Columns: time, thread, level, origin, description.
            level = str(self._log.index(row, 2).data())
            text = self._log.logEntryDescription(row)
            if level.lower() not in ("warning", "error", "critical", "fatal"):
                continue
            if not any(known in text for known in OF_SLICER):
                found.append(f"{level}: {text}")
        return found


class Story:
    """The chapters, and what they share."""

    def __init__(self, out: Path) -> None:
        from ContrastDiagnosisLib import SelfTest
        from ContrastDiagnosisLib.SamplePhantom import NODULE_CENTERS_RAS
        from ContrastDiagnosisLib.Scene import NoduleScene

        self.scene, self.selfTest = NoduleScene, SelfTest
        self.points = NODULE_CENTERS_RAS
        self.out = out
        self.figures: dict[str, Any] = {}
        self.window = slicer.util.mainWindow()
        if self.window is not None:
            self._arrangeWindow()
        self.widget = SelfTest.diagnosisWidget()
        self.panel = self.widget.panel

    @property
    def node(self) -> Any:
        """The scene's choices."""
        return self.widget.logic.getParameterNode()

    def _arrangeWindow(self) -> None:
        self.window.resize(*WINDOW_PIXELS)
        slicer.util.selectModule("ContrastDiagnosis")
        dock = slicer.util.findChild(self.window, "PanelDockWidget")
        self.window.resizeDocks([dock], [PANEL_PIXELS], qt.Qt.Horizontal)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until something holds."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            slicer.app.processEvents()
            if found := condition():
                return found
            time.sleep(0.002)
        raise AssertionError(f"nothing came; the panel says: {self.panel.ui.messageLabel.text!r}")

    def settle(self) -> None:
        """Until nothing is on its way and all is drawn."""
        self.wait(lambda: not self.panel.session.isRunning and not self.panel.concepts.isRunning)
        for _ in range(5):
            slicer.app.processEvents()
            time.sleep(0.02)

    def picture(self, name: str) -> None:
        """The window as it stands; nothing where there is none."""
        if self.window is None:
            return
        self.settle()
        slicer.util.forceRenderAllViews()
        slicer.app.processEvents()
        place = self.window.geometry
        shot = self.window.screen().grabWindow(
            0, place.x(), place.y(), place.width(), place.height()
        )
        shot.save(str(self.out / f"{name}.png"))

    def panelPicture(self, name: str, widget: Any) -> None:
        """A part of the panel, scrolled into view or not; nothing without a window."""
        if self.window is None:
            return
        self.settle()
        widget.grab().save(str(self.out / f"{name}.png"))

    def place(self, pointRas: Any, view: str = "Red") -> str:
        """A point by the mouse where there are views, by the logic elsewhere; gives its ID."""
        before = set(self.scene.pointIds(self.node))
        if self.window is None:
            return self.widget.logic.addNodule(pointRas)
        self.panel.ui.placeWidget.setPlaceModeEnabled(True)
        self.click(pointRas, view)
        self.wait(lambda: set(self.scene.pointIds(self.node)) - before)
        return (set(self.scene.pointIds(self.node)) - before).pop()

    def click(self, pointRas: Any, view: str) -> None:
        """Moves the mouse to a place in a slice view and clicks."""
        widget = slicer.app.layoutManager().sliceWidget(view)
        node = widget.mrmlSliceNode()
        node.JumpSliceByCentering(*pointRas)
        slicer.app.processEvents()
        toXy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(node.GetXYToRAS(), toXy)
        x, y = (round(v) for v in toXy.MultiplyPoint([*pointRas, 1.0])[:2])
        slicer.util.clickAndDrag(widget, button="None", start=(x - 3, y), end=(x, y), steps=3)
        slicer.util.clickAndDrag(widget, start=(x, y), end=(x, y), steps=0)

    def timed(self, name: str, points: Sequence[Any], before: Callable[[], None]) -> None:
        """Notes the median time from a click to the scene, and the longest block meanwhile."""
        times, blocks = [], []
        for point in points:
            before()
            self.settle()
            watch, began = LoopWatch(), time.perf_counter()
            pointId = self.place(point)
            self.wait(lambda pointId=pointId: self.scene.documentOf(self.node, pointId))
            slicer.app.processEvents()
            times.append(time.perf_counter() - began)
            blocks.append(watch.stop())
        self.settle()
        self.figures[f"warm click to scene, {name}, median (s)"] = statistics.median(times)
        self.figures[f"longest block, {name}, median (s)"] = statistics.median(blocks)

    def diagnosed(self, pointId: str) -> dict[str, Any]:
        """What the engine says of a point."""
        document = self.wait(lambda: self.scene.documentOf(self.node, pointId))
        self.settle()
        return document

    def row(self, number: int, column: int = 1) -> str:
        """A text of the list of nodules."""
        return self.panel.result.nodules.item(number, column).text()


def open_module(story: Story) -> None:
    """Both modules open; nothing is started yet."""
    assert not story.panel.ui.applyButton.enabled
    for section in ("setup", "nodules", "result", "concepts", "compare", "report"):
        button = getattr(story.panel.ui, f"{section}CollapsibleButton")
        assert button.layout().count() > 0, f"the section {section} is empty"
    story.picture("01_open")
    setup = story.panel.ui.setupCollapsibleButton
    closed, setup.collapsed = setup.collapsed, False
    story.panelPicture("01_setup_panel", setup)
    setup.collapsed = closed


def load_phantom(story: Story) -> None:
    """The CT is selected by itself and comes up in the lung window."""
    from ContrastDiagnosisLib.SamplePhantom import loadPhantom
    from ContrastDiagnosisLib.Scene.CtWindow import CtWindow, windowOf

    volume = loadPhantom()
    if story.window is None:
        story.node.inputVolume = volume
    story.wait(lambda: story.node.inputVolume is volume)
    assert windowOf(volume) is CtWindow.LUNG
    story.picture("02_phantom")


def click_nodule(story: Story) -> None:
    """A click brings segment, score and cases."""
    began = time.perf_counter()
    pointId = story.place(story.points[0])
    document = story.diagnosed(pointId)
    story.figures["first click, engine's start included (s)"] = time.perf_counter() - began
    assert document["nodule"]["found"] and document["probability"] > 0.5
    assert "Research use only" in story.panel.ui.noticeLabel.text
    assert np.allclose(document["point_ras_mm"], story.points[0], atol=1.0)
    segment = story.node.segmentation.GetSegmentation().GetNthSegment(0)
    story.wait(lambda: segment.GetRepresentation("Closed surface") is not None)
    story.panel.onNoduleSelected(0)
    if story.window is not None:
        fits(story)
    story.picture("03_diagnosed")


def fits(story: Story) -> None:
    """No column of the panel is cut, no row is wasted."""
    result, concepts = story.panel.result, story.panel.concepts.panel
    for table in (result.nodules, result.cases, concepts.table):
        width = sum(table.columnWidth(c) for c in range(table.columnCount))
        assert width <= table.viewport().width + 1, "columns are cut"
        header = table.horizontalHeader()
        for c in range(table.columnCount):
            text = table.horizontalHeaderItem(c).text()
            wanted = header.fontMetrics().horizontalAdvance(text)
            assert table.isColumnHidden(c) or table.columnWidth(c) >= wanted, f"{text} is cut"
        rows = sum(table.rowHeight(r) for r in range(table.rowCount))
        assert abs(table.viewport().height - rows) <= 3, "rows are wasted or hidden"
    story.figures["panel height (px)"] = story.widget.parent.sizeHint.height()


def windows_and_zoom(story: Story) -> None:
    """Mediastinum and back; near and back."""
    ui = story.panel.ui
    ui.mediastinumButton.click()
    story.picture("04_mediastinum")
    ui.lungButton.click()
    before = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetFieldOfView()
    ui.zoomButton.click()
    story.picture("05_zoomed")
    ui.zoomButton.click()
    after = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetFieldOfView()
    assert np.allclose(before, after)


def compare(story: Story) -> None:
    """The first comparison looks at the nodule, and says what is known of the case."""
    story.panel.result.cases.selectRow(0)
    story.wait(lambda: story.panel.compare.node(story.node, "queryMap") is not None)
    story.settle()
    story.settle()
    manager = slicer.app.layoutManager()
    node = manager.sliceWidget("ContrastQuery").mrmlSliceNode()
    where = node.GetSliceOffset(), node.GetFieldOfView()
    assert abs(where[0] - story.points[0][2]) < 10, where
    assert abs(node.GetFieldOfView()[0] - 48) < 1
    story.figures["legend (px wide, px high)"] = legend_pixels("ContrastQuery")
    width, height = story.figures["legend (px wide, px high)"]
    view = manager.sliceWidget("ContrastQuery").sliceView()
    assert 0 < width <= 0.15 * view.width and 0 < height <= 0.5 * view.height
    story.picture("06_compare")
    options = story.panel.ui.mapOptionsCollapsibleButton
    options.collapsed = False
    story.panelPicture("06_compare_panel", story.panel.ui.compareCollapsibleButton)
    options.collapsed = True


def legend_pixels(view: str) -> tuple[int, int]:
    """Size of what a slice view draws of its colour legends, measured on the picture."""
    widget = slicer.app.layoutManager().sliceWidget(view)
    window = widget.sliceView().renderWindow()
    renderers = window.GetRenderers()
    legends = []
    for n in range(renderers.GetNumberOfItems()):
        props = renderers.GetItemAsObject(n).GetViewProps()
        for p in range(props.GetNumberOfItems()):
            if props.GetItemAsObject(p).IsA("vtkScalarBarActor"):
                legends.append(props.GetItemAsObject(p))
    assert legends, "no legend is drawn"
    shown = _pixels(window)
    for legend in legends:
        legend.SetVisibility(False)
    bare = _pixels(window)
    for legend in legends:
        legend.SetVisibility(True)
    rows, columns = np.nonzero((shown != bare).any(axis=2))
    assert len(rows), "the legend draws nothing"
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def _pixels(window: Any) -> np.ndarray:
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    values = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    width, height, _depth = image.GetDimensions()
    return values.reshape(height, width, -1).copy()


def concepts(story: Story) -> None:
    """Where a concept is seen; boxes and rejections correct it, and are taken back."""
    from ContrastDiagnosisLib.Scene import Revisions

    if story.window is not None:
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        story.panel.onNoduleSelected(0)
        story.panel.ui.zoomButton.click()
    section = story.panel.concepts
    section.panel.table.selectRow(0)
    story.wait(lambda: story.panel.compare.node(story.node, "conceptMap") is not None)
    assert not story.node.segmentation.GetDisplayNode().GetVisibility2DFill()
    story.picture("07_concept")
    section.panel.about.setCurrentIndex(0)
    section.panel.lookButton.click()
    story.settle()
    section.panel.ignoreButton.click()
    story.settle()
    look, ignore = Revisions.boxesOf(story.node, story.node.nodule)
    for step in range(5):
        ignore.SetCenterWorld(*np.add(story.points[0], (2.0 * step, 2.0 * step, 0.0)))
        slicer.app.processEvents()
    story.settle()
    section.panel._cells[1][4].setCheckState(qt.Qt.Checked)
    story.settle()
    prediction = Revisions.predictionOf(story.node, story.node.nodule)
    assert (
        len(prediction["revision"]["boxes"]) == 2 and len(prediction["revision"]["rejected"]) == 1
    )
    assert look.GetName() != ignore.GetName()
    story.picture("08_boxes")
    story.panelPicture("08_boxes_panel", story.panel.ui.conceptsCollapsibleButton)
    section.panel.resetButton.click()
    story.settle()
    section.panel.table.clearSelection()
    story.settle()
    assert Revisions.boxesOf(story.node, story.node.nodule) == []


def move_and_undo(story: Story) -> None:
    """A moved point is diagnosed anew; undo brings result and place back."""
    node = story.node
    before = story.scene.documentOf(node, node.nodule)
    place = np.array(story.scene.pointWorld(node, node.nodule))
    node.points.SetNthControlPointPositionWorld(0, *np.add(place, (3, 0, 0)))
    node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    story.settle()
    assert story.scene.documentOf(node, node.nodule) != before
    story.panel.ui.undoButton.click()
    story.settle()
    assert story.scene.documentOf(node, node.nodule) == before
    assert np.allclose(story.scene.pointWorld(node, node.nodule), place)


def nothing_there(story: Story) -> None:
    """A nodule's point is dragged into the heart: no verdict, nothing coloured; undo brings all."""
    node, panel, roles = story.node, story.panel, ("queryMap", "caseMap", "conceptMap")
    before = story.scene.documentOf(node, node.nodule)
    panel.concepts.panel.table.selectRow(0)
    story.wait(lambda: panel.compare.node(node, "conceptMap") is not None)
    panel.concepts.onBox(True, True)
    story.settle()
    panel.result.cases.selectRow(0)
    story.wait(lambda: panel.compare.node(node, "queryMap") is not None)
    story.settle()
    node.points.SetNthControlPointPositionWorld(0, *story.selfTest.HEART_RAS)
    node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    story.settle()
    has_no_verdict(story, 0, "no nodule")
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert [role for role in roles if panel.compare.node(node, role) is not None] == []
    assert "Boxes: 1" in panel.concepts.panel.headline.text
    story.picture("09_nothing_there")
    story.panelPicture("09_nothing_panel", story.widget.parent)
    panel.result.cases.selectRow(1)
    story.wait(lambda: panel.compare.node(node, "queryMap") is not None)
    story.settle()
    story.picture("09_nothing_compared")
    panel.ui.undoButton.click()
    story.settle()
    assert story.scene.documentOf(node, node.nodule) == before
    assert story.row(0) == before["verdict"]
    assert panel.compare.node(node, "queryMap") is None
    panel.concepts.panel.table.clearSelection()
    panel.concepts.onReset()
    story.settle()
    if story.window is not None:
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    # A point of its own, by the mouse.
    count = node.segmentation.GetSegmentation().GetNumberOfSegments()
    story.diagnosed(story.place(story.selfTest.HEART_RAS))
    has_no_verdict(story, 1, "no nodule")
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == count
    panel.onNoduleSelected(1)
    story.picture("10_heart")
    node.points.RemoveNthControlPoint(1)
    story.settle()
    panel.onNoduleSelected(0)
    story.settle()


def cut_scan(story: Story) -> None:
    """Three slices through a nodule: it is outlined and measured, but not judged."""
    whole, point = story.node.inputVolume, story.points[3]
    toIjk = np.linalg.inv(slicer.util.arrayFromVTKMatrix(_ijkToRas(whole)))
    first = round((toIjk @ [*point, 1])[2]) - 1
    affine = slicer.util.arrayFromVTKMatrix(_ijkToRas(whole))
    affine[:3, 3] += first * affine[:3, 2]
    voxels = slicer.util.arrayFromVolume(whole)[first : first + 3].copy()
    cut = slicer.util.addVolumeFromArray(voxels, affine, "cut scan")
    story.node.inputVolume = cut
    story.settle()
    # One view shows one CT; the points of the other stay with it.
    pointId = story.widget.logic.addNodule(point)
    story.diagnosed(pointId)
    has_no_verdict(story, 0, "not judged")
    segment = story.node.segmentation.GetSegmentation().GetNthSegment(0)
    assert np.allclose(segment.GetColor(), story.scene.NOT_JUDGED)
    assert not segment.HasTag("ContrastDiagnosis.probability")
    story.panel.onNoduleSelected(0)
    story.settle()
    story.picture("11_not_judged")
    story.node.inputVolume = whole
    story.settle()
    slicer.mrmlScene.RemoveNode(cut)
    story.settle()
    story.node.inputVolume = whole
    story.settle()
    story.panel.onNoduleSelected(0)
    story.settle()


def _ijkToRas(volume: Any) -> Any:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def has_no_verdict(story: Story, row: int, finding: str) -> None:
    """Row, headline and concepts of the shown nodule."""
    result, concepts = story.panel.result, story.panel.concepts.panel
    told = [story.row(row, column) for column in range(1, 4)]
    assert told == [finding, "-", "-"], told
    shown = " ".join((result.headline.text, result.confidence.text, concepts.headline.text))
    assert "no concepts are read" in shown, shown
    for word in ("malignant", "benign", "probability", "onfident", "CONFIDENT"):
        assert word not in shown, shown
    assert not concepts.table.isVisibleTo(concepts.widget)


def several_points(story: Story) -> None:
    """More nodules, one of them nothing, one removed; warm clicks are timed."""
    story.timed("phantom", story.points[1:4], lambda: None)
    rows = story.panel.result.nodules.rowCount
    assert rows == 4
    air = story.place((-72.0, 22.0, 84.0))
    document = story.diagnosed(air)
    if not document["nodule"]["found"]:
        assert story.row(rows) == "no nodule" and story.row(rows, 2) == "-"
        assert "benign" not in story.panel.result.headline.text
    story.picture("12_several")
    story.node.points.RemoveNthControlPoint(rows)
    story.settle()
    assert story.panel.result.nodules.rowCount == rows


def report(story: Story) -> None:
    """HTML and PDF."""
    written: list[Path] = []
    files = [story.out / "report.html", story.out / "report.pdf"]
    story.panel.onNoduleSelected(0)
    for file in files:
        story.panel.reports.save({story.node.nodule: file}, written.extend)
        story.wait(lambda file=file: file in written or story.panel.ui.messageLabel.text)
        assert file in written, story.panel.ui.messageLabel.text
    assert "Research use only" in files[0].read_text(encoding="utf-8")
    assert files[1].read_bytes().startswith(b"%PDF")


def save_and_load(story: Story) -> None:
    """All comes back, without asking the engine."""
    story.panel.onNoduleSelected(0)
    story.panel.result.cases.selectRow(1)
    if story.window is not None:
        story.wait(lambda: story.panel.compare.isShown)
    story.wait(lambda: "Distance" in story.panel.ui.remarksLabel.text)
    story.settle()
    node = story.node
    documents = [story.scene.documentOf(node, p) for p in story.scene.pointIds(node)]
    story.selfTest.saveAndLoad()
    if story.window is None:
        # Without a window no module is entered.
        story.widget.initializeParameterNode()
    story.settle()
    node = story.node
    assert [story.scene.documentOf(node, p) for p in story.scene.pointIds(node)] == documents
    assert all(
        story.scene.stateOf(node, p) is story.scene.PointState.CURRENT
        for p in story.scene.pointIds(node)
    )
    assert story.panel.compare.node(node, "queryMap") is not None
    if story.window is not None:
        assert story.panel.compare.isShown
        view = slicer.app.layoutManager().sliceWidget("ContrastQuery").mrmlSliceNode()
        assert abs(view.GetSliceOffset() - story.points[0][2]) < 10
        legend_pixels("ContrastQuery")
    story.picture("13_reloaded")


def two_cts(story: Story) -> None:
    """A click belongs to the CT that is seen."""
    from ContrastDiagnosisLib.SamplePhantom import loadPhantom

    if story.window is not None:
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    first = story.node.inputVolume
    second = loadPhantom()
    story.settle()
    if story.window is None:
        story.node.inputVolume = second
    else:
        # Slicer shows what it loads in every view: then that is the selected CT.
        assert story.node.inputVolume is second
        yellow = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceCompositeNode()
        yellow.SetBackgroundVolumeID(first.GetID())
        story.settle()
        story.node.inputVolume = first
        story.settle()
        story.panel.ui.placeWidget.setPlaceModeEnabled(True)
        story.click(story.points[1], "Red")
        story.wait(lambda: story.node.inputVolume is second)
        story.settle()
        assert len(story.scene.diagnosedPoints(story.node)) == 1
    story.picture("14_two_cts")
    story.node.inputVolume = first
    story.settle()
    assert len(story.scene.diagnosedPoints(story.node)) == 4
    story.node.inputVolume = second
    story.settle()
    slicer.mrmlScene.RemoveNode(second)
    story.settle()
    story.node.inputVolume = first
    story.settle()


def transform(story: Story) -> None:
    """Results go where their CT goes; a CT that was edited is told of."""
    node = story.node
    story.panel.onNoduleSelected(0)
    place = np.array(story.scene.pointWorld(node, node.nodule))
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = np.eye(4)
    matrix[:3, 3] = 20, 10, 5
    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.inputVolume.SetAndObserveTransformNodeID(moved.GetID())
    story.settle()
    assert np.allclose(story.scene.pointWorld(node, node.nodule), np.add(place, (20, 10, 5)))
    assert story.row(0) in ("malignant", "benign")
    story.picture("15_transformed")
    slicer.mrmlScene.RemoveNode(moved)
    story.settle()
    slicer.util.arrayFromVolume(node.inputVolume)[:] += 1
    slicer.util.arrayFromVolumeModified(node.inputVolume)
    story.wait(lambda: "CT changed" in story.row(0))
    slicer.util.arrayFromVolume(node.inputVolume)[:] -= 1
    slicer.util.arrayFromVolumeModified(node.inputVolume)
    story.wait(lambda: "CT changed" not in story.row(0))


def atlas(story: Story) -> None:
    """The prototypes, and what to do for their pictures."""
    if story.window is not None:
        slicer.util.selectModule("ContrastDiagnosisAtlas")
    panel = slicer.util.getModuleWidget("ContrastDiagnosisAtlas").panel
    panel.ui.loadButton.click()
    story.wait(lambda: panel.ui.loadButton.enabled)
    assert panel.table.choices()
    story.picture("16_atlas")
    if story.window is not None:
        slicer.util.selectModule("ContrastDiagnosis")


def second_widget(story: Story) -> None:
    """A second panel that is deleted without a word leaves nothing behind."""
    second = slicer.modules.contrastdiagnosis.createNewWidgetRepresentation()
    second.setMRMLScene(slicer.mrmlScene)
    slicer.app.processEvents()
    second.delete()
    slicer.mrmlScene.Clear()
    story.settle()
    story.picture("17_closed")


def own_ct(story: Story) -> None:
    """A CT that the environment names, for its times and a picture."""
    file, _colon, place = os.environ[CT_VARIABLE].rpartition(":")
    point = tuple(float(v) for v in place.split(","))
    volume = slicer.util.loadVolume(file)
    if story.window is None:
        story.widget.initializeParameterNode()
    story.wait(lambda: story.node.inputVolume is volume)
    story.diagnosed(story.place(point))
    story.timed("own CT", WARM_CLICKS * [point], lambda: story.node.points.RemoveAllControlPoints())
    story.panel.onNoduleSelected(0)
    story.picture("18_own_ct")
    story.panel.concepts.panel.table.selectRow(0)
    story.wait(lambda: story.panel.compare.node(story.node, "conceptMap") is not None)
    if story.window is not None:
        story.panel.ui.zoomButton.click()
        story.picture("19_own_concept")
        story.panel.result.cases.selectRow(0)
        story.wait(lambda: story.panel.compare.node(story.node, "queryMap") is not None)
        story.picture("20_own_compare")


CHAPTERS = (
    open_module, load_phantom, click_nodule, windows_and_zoom, compare, concepts, move_and_undo,
    nothing_there, cut_scan, several_points, report, save_and_load, two_cts, transform, atlas,
    second_widget,
)  # fmt: skip
OF_VIEWS = (windows_and_zoom, compare)


def main() -> int:
    """Tells the story; 0 if all went well."""
    out = Path(os.environ.get(OUT_VARIABLE) or "out/story").resolve()
    out.mkdir(parents=True, exist_ok=True)
    failures = Failures()
    story = None
    chapters = CHAPTERS + ((own_ct,) if os.environ.get(CT_VARIABLE) else ())
    for chapter in chapters:
        try:
            story = story or Story(out)
            if story.window is None and chapter in OF_VIEWS:
                continue
            began = time.perf_counter()
            chapter(story)
            print(f"  {chapter.__name__}: {time.perf_counter() - began:.1f} s", flush=True)
        except Exception:
            failures.told.append(f"in {chapter.__name__}:\n{traceback.format_exc()}")
            break
    told = [*failures.told, *failures.fromLog()]
    figures = story.figures if story else {}
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for name, value in figures.items():
        print(f"  {name}: {value}")
    for failure in told:
        print(f"FAILED {failure}", file=sys.stderr)
    version = f"{slicer.app.applicationVersion}, Qt {qt.qVersion()}"
    print(f"Slicer {version}: {len(told)} failures; pictures in {out}", flush=True)
    return 1 if told else 0


slicer.util.exit(main())
