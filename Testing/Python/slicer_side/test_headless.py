"""The stand-ins of Testing/headless behave as Slicer does, and are not kinder."""

from __future__ import annotations

import enum
import logging
import sys
from typing import Annotated

import ctk
import numpy as np
import pytest
import qt
import slicer
import vtk
from slicer.parameterNodeWrapper import Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic


def add_volume(name="CT", shape=(4, 5, 6)):
    return slicer.util.addVolumeFromArray(np.zeros(shape, np.int16), name=name)


class TestQt:
    def test_a_property_is_an_attribute_beside_its_setter(self):
        button = qt.QPushButton("Apply")
        button.enabled = False
        assert (button.enabled, button.isEnabled(), button.text) == (False, False, "Apply")
        button.setText("Cancel")
        assert button.text == "Cancel"
        with pytest.raises(TypeError, match="not callable"):
            button.text()

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal")
    def test_there_are_references_of_none_to_lose(self):
        """PySide6 6.12 takes one with every call that returns nothing; below 0 Python aborts."""
        item, before = qt.QTableWidgetItem(), sys.getrefcount(None)
        for _ in range(1000):
            item.setText("x")
        assert sys.getrefcount(None) > 1_000_000
        assert before - sys.getrefcount(None) < 2000

    def test_a_misspelt_attribute_is_refused(self):
        with pytest.raises(AttributeError, match="'enabeld' does not exist on QPushButton"):
            qt.QPushButton().enabeld = False
        with pytest.raises(AttributeError, match="colapsed"):
            ctk.ctkCollapsibleButton().colapsed = True
        with pytest.raises(AttributeError):
            qt.QLabel("x").width = 3

    def test_a_python_subclass_has_attributes_and_overrides(self):
        class Panel(qt.QWidget):
            def __init__(self):
                super().__init__()
                self.rows = []

            def sizeHint(self):
                return qt.QSize(70, 60)

        panel = Panel()
        panel.adjustSize()
        assert (panel.rows, panel.size) == ([], qt.QSize(70, 60))

    def test_a_slot_gets_what_the_signature_names(self):
        button, got = qt.QPushButton(), []
        button.connect("clicked(bool)", got.append)
        button.connect("clicked()", lambda *values: got.append(values))
        button.connect("clicked(bool)", lambda: got.append("no parameter"))
        button.clicked.connect(lambda checked=None: got.append(checked))
        button.click()
        assert got == [False, (), "no parameter", False]

    def test_disconnect_and_unknown_signals(self):
        button, got = qt.QPushButton(), []
        button.connect("clicked()", got.clear)
        assert button.disconnect("clicked()", got.clear)
        assert not button.disconnect("clicked()", got.clear)
        with pytest.raises(ValueError, match="no signal klicked"):
            button.connect("klicked()", got.clear)

    def test_an_error_in_a_slot_is_seen(self, no_error_in_slots):
        button = qt.QPushButton()
        button.connect("clicked()", lambda: 1 / 0)
        button.click()
        assert "ZeroDivisionError" in no_error_in_slots.pop()

    def test_dynamic_properties_are_attributes(self):
        widget = qt.QWidget()
        widget.setProperty("SlicerParameterName", "volume")
        assert widget.SlicerParameterName == "volume"
        assert (widget.name, widget.className()) == ("", "QWidget")

    def test_a_plain_tool_tip_comes_back_wrapped(self):
        widget = qt.QWidget()
        widget.toolTip = "a < b"
        assert widget.toolTip == "<p>a &lt; b</p>"

    def test_settings_stay_out_of_the_home(self, scene):
        qt.QSettings().setValue("Contrast/Url", "http://x")
        assert qt.QSettings().fileName().startswith(str(qt.SETTINGS_FOLDER))
        assert slicer.util.settingsValue("Contrast/Url", "") == "http://x"

    def test_a_process_talks(self, wait_until):
        process, ended = qt.QProcess(), []
        process.connect("finished(int,QProcess::ExitStatus)", lambda *how: ended.append(how))
        program = "import sys; print(sys.stdin.read() == '')"
        process.start(sys.executable, ["-c", program])
        process.closeWriteChannel()
        wait_until(lambda: ended)
        assert ended == [(0, qt.QProcess.NormalExit)]
        assert process.readAllStandardOutput().data().strip() == b"True"

    def test_a_request_is_answered(self, wait_until, tmp_path):
        (tmp_path / "body").write_bytes(b"\x00\xff")
        manager, done = qt.QNetworkAccessManager(), []
        request = qt.QNetworkRequest(qt.QUrl.fromLocalFile(str(tmp_path / "body")))
        request.setHeader(qt.QNetworkRequest.ContentTypeHeader, "application/octet-stream")
        request.setRawHeader(qt.QByteArray(b"Authorization"), qt.QByteArray(b"Bearer x"))
        reply = manager.get(request)
        reply.connect("finished()", lambda: done.append(True))
        wait_until(lambda: done)
        assert reply.readAll().data() == b"\x00\xff"
        assert reply.attribute(qt.QNetworkRequest.HttpStatusCodeAttribute) == 200

    def test_a_document_is_printed(self, tmp_path):
        document = qt.QTextDocument()
        document.setHtml("<p>x</p>")
        document.print(qt.QPdfWriter(str(tmp_path / "x.pdf")))
        assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")

    def test_timers(self, wait_until):
        fired = []
        timer = qt.QTimer()
        timer.interval = 1
        timer.setSingleShot(True)
        timer.connect("timeout()", lambda: fired.append("timer"))
        timer.start()
        qt.QTimer.singleShot(0, lambda: fired.append("shot"))
        wait_until(lambda: len(fired) == 2)
        with pytest.raises(TimeoutError, match="did not hold within 0.01 s"):
            wait_until(lambda: False, 0.01)


class TestWidgets:
    def test_a_collapsed_button_hides_its_children(self):
        box, told = ctk.ctkCollapsibleButton("Inputs"), []
        child = qt.QLabel("x", box)
        box.connect("contentsCollapsed(bool)", told.append)
        box.collapsed = True
        assert (box.collapsed, child.isVisibleTo(box), told) == (True, False, [True])
        box.show()
        assert not box.grab().isNull()

    def test_a_slider_keeps_its_range(self):
        slider, told = ctk.ctkSliderWidget(), []
        slider.minimum, slider.maximum, slider.decimals = -1, 1, 2
        slider.connect("valueChanged(double)", told.append)
        slider.value = 0.25
        slider.value = 7
        assert (slider.value, told) == (1.0, [0.25, 1.0])

    def test_a_node_selector_follows_the_scene(self, scene):
        box, told = slicer.qMRMLNodeComboBox(), []
        box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        box.addEnabled = box.removeEnabled = False
        assert not box.enabled
        box.setMRMLScene(scene)
        box.connect("currentNodeChanged(vtkMRMLNode*)", told.append)
        valid = []
        box.connect("currentNodeChanged(bool)", valid.append)
        first, second = add_volume("1"), add_volume("2")
        assert box.enabled and box.currentNode() is first and told == [first] and valid == [True]
        box.setCurrentNode(second)
        assert (box.currentNodeID, box.nodeCount()) == (second.GetID(), 2)
        scene.RemoveNode(second)
        assert box.currentNode() is first
        scene.Clear(False)
        assert box.currentNode() is None and box.nodeCount() == 0

    def test_a_node_selector_filters(self, scene):
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes, box.noneEnabled = ["vtkMRMLScalarVolumeNode"], True
        box.setMRMLScene(scene)
        add_volume()
        scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode").HideFromEditorsOn()
        scene.AddNewNodeByClass("vtkMRMLTextNode")
        assert box.currentNode() is None
        box.showChildNodeTypes = False
        assert box.nodeCount() == 1
        with pytest.raises(AttributeError):
            box.setNodeTypes([])

    def test_placing_a_point(self, scene):
        place, told = slicer.qSlicerMarkupsPlaceWidget(), []
        place.setMRMLScene(scene)
        assert not place.placeButton().enabled
        node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        place.setCurrentNode(node)
        place.connect("activeMarkupsPlaceModeChanged(bool)", told.append)
        place.setPlaceModeEnabled(True)
        assert place.placeModeEnabled and place.placeButton().checked and told == [True]
        node.AddControlPoint(1, 2, 3)
        place.deleteButton().click()
        assert node.GetNumberOfControlPoints() == 0
        place.placeButton().click()
        assert told == [True, False]


class TestScene:
    def test_segments_and_surface(self, scene):
        volume = add_volume()
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segment = node.GetSegmentation().AddEmptySegment("nodule")
        mask = np.zeros((4, 5, 6), np.uint8)
        mask[1:3, 1:4, 2:5] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
        found = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume)
        np.testing.assert_array_equal(found, mask)
        button = slicer.qMRMLSegmentationShow3DButton()
        button.setSegmentationNode(node)
        assert button.enabled and not button.checked
        button.click()
        assert node.GetClosedSurfaceInternalRepresentation(segment).GetNumberOfPoints() > 0

    def test_nodes_get_items_of_the_subject_hierarchy(self, scene):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        volume = add_volume()
        item = hierarchy.GetItemByDataNode(volume)
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Contrast")
        hierarchy.SetItemParent(item, folder)
        scene.RemoveNode(volume)
        assert item and not hierarchy.GetNumberOfItemChildren(folder)

    def test_a_layout_makes_its_views(self, scene):
        manager = slicer.app.layoutManager()
        layout = manager.layoutLogic().GetLayoutNode()
        description = (
            '<layout type="horizontal"><item><view class="vtkMRMLSliceNode"'
            ' singletontag="Headless"><property name="orientation"'
            ' action="default">Sagittal</property></view></item></layout>'
        )
        layout.AddLayoutDescription(5001, description)
        manager.setLayout(5001)
        view = manager.sliceWidget("Headless")
        assert view.mrmlSliceNode().GetOrientation() == "Sagittal"
        volume = add_volume()
        view.mrmlSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        red = manager.sliceWidget("Red").mrmlSliceCompositeNode()
        assert red.GetBackgroundVolumeID() is None
        assert manager.sliceWidget("Blue") is None

    def test_logics_and_colors(self, scene):
        assert slicer.modules.markups.logic().GetMRMLScene() is scene
        assert scene.GetNodeByID("vtkMRMLColorTableNodeFileColdToHotRainbow.txt")
        legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(add_volume())
        assert legend.IsA("vtkMRMLColorLegendDisplayNode")
        assert slicer.util.mainWindow() is None
        with pytest.raises(AttributeError):
            slicer.modules.nosuchmodule  # noqa: B018

    def test_messages_are_logged_and_confirmed(self, scene, caplog):
        caplog.set_level(logging.INFO)
        slicer.util.errorDisplay("it broke")
        assert slicer.util.confirmYesNoDisplay("sure?") is False  # True is not QMessageBox.Yes
        assert "it broke" in caplog.text
        slicer.app.setTestingEnabled(False)
        ctk.ctkMessageBox.answer = qt.QMessageBox.Yes
        assert slicer.util.confirmYesNoDisplay("really?")
        assert ctk.ctkMessageBox.shown == ["really?"]

    def test_nothing_is_installed(self, scene):
        import slicer.packaging as packaging

        packaging.pip_ensure("no-such-package>=3 numpy", requester="Contrast")
        assert not packaging.installed
        slicer.app.setTestingEnabled(False)
        ctk.ctkMessageBox.answer = qt.QMessageBox.Cancel
        with pytest.raises(RuntimeError, match="declined"):
            packaging.pip_ensure("no-such-package>=3 numpy")
        ctk.ctkMessageBox.answer = qt.QMessageBox.Ok
        packaging.pip_ensure("no-such-package>=3 numpy")
        assert packaging.installed == ["no-such-package>=3"]


class Evidence(enum.Enum):
    CASES = "cases"
    CONCEPTS = "concepts"


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    count: Annotated[int, WithinRange(1, 9), Default(6)]
    live: bool
    url: str = "http://127.0.0.1"
    device: Annotated[str, Default("cpu")]
    evidence: Evidence = Evidence.CONCEPTS
    rejected: list[str]
    boxes: dict[str, str]


class ContrastLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return Parameters(super().getParameterNode())


class TestParameterNode:
    def test_values_lie_in_the_node_as_slicer_writes_them(self, scene):
        parameters, volume = ContrastLogic().getParameterNode(), add_volume()
        parameters.volume, parameters.live = volume, True
        parameters.rejected = ["round", "soft"]
        parameters.rejected.append("calcified")
        parameters.rejected.remove("round")
        parameters.boxes["a"] = "1,2"
        node = parameters.parameterNode
        texts = {name: node.GetParameter(name) for name in node.GetParameterNames()}
        assert texts == {
            "volume": "",
            "opacity": "0.5",
            "count": "6",
            "live": "True",
            "url": "http://127.0.0.1",
            "device": "cpu",
            "evidence": "CONCEPTS",
            "rejected.len": "2",
            "rejected.0": "soft",
            "rejected.1": "calcified",
            "boxes.len": "1",
            "boxes.0.0": "a",
            "boxes.0.1": "1,2",
        }
        assert node.GetNodeReference("volume") is volume

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("opacity", 1.5, ValueError),
            ("opacity", None, ValueError),
            ("count", 2.0, TypeError),
            ("live", 1, TypeError),
            ("url", None, ValueError),
            ("device", 0, TypeError),
            ("evidence", "CASES", TypeError),
            ("rejected", ["a", 1], TypeError),
        ],
    )
    def test_a_wrong_value_is_refused_and_nothing_changes(self, scene, name, value, error):
        parameters = ContrastLogic().getParameterNode()
        parameters.rejected = ["a", "b", "c"]
        before = parameters.getValue(name)
        with pytest.raises(error):
            setattr(parameters, name, value)
        assert parameters.getValue(name) == before

    def test_a_wrong_node_or_type_is_refused(self, scene):
        parameters = ContrastLogic().getParameterNode()
        with pytest.raises(TypeError):
            parameters.volume = scene.AddNewNodeByClass("vtkMRMLTextNode")
        with pytest.raises(Exception, match="Unable to create serializer"):
            parameterNodeWrapper(type("P", (), {"__annotations__": {"x": set}}))
        with pytest.raises(ValueError, match="reserved name"):
            parameterNodeWrapper(type("P", (), {"Modified": 1}))

    def test_a_removed_node_is_none(self, scene):
        parameters = ContrastLogic().getParameterNode()
        parameters.volume = add_volume()
        scene.RemoveNode(parameters.volume)
        assert parameters.volume is None

    def test_a_saved_scene_comes_back(self, scene, tmp_path):
        parameters = ContrastLogic().getParameterNode()
        parameters.volume, parameters.rejected = add_volume("nodule CT"), ["soft"]
        assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
        scene.Clear(False)
        assert parameters.volume is None and parameters.rejected == []
        slicer.util.loadScene(str(tmp_path / "scene.mrb"))
        assert parameters.rejected == ["soft"]
        # The reference is resolved without a ModifiedEvent, so that the old wrapper's cache is
        # stale, as in Slicer: a module makes a new wrapper after an import.
        assert parameters.volume is None
        volume = ContrastLogic().getParameterNode().volume
        assert volume.GetName() == "nodule CT" and slicer.util.arrayFromVolume(volume).any() == 0
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        assert hierarchy.GetItemByDataNode(volume)

    def test_widgets_and_parameters_follow_each_other(self, scene):
        widgets = {
            "volume": slicer.qMRMLNodeComboBox(),
            "opacity": ctk.ctkSliderWidget(),
            "count": qt.QSpinBox(),
            "live": qt.QCheckBox(),
            "url": qt.QLineEdit(),
            "evidence": qt.QComboBox(),
        }
        for name, widget in widgets.items():
            widget.setProperty("SlicerParameterName", name)
        ui = type("", (), {})()
        ui.__dict__.update(widgets)
        parameters, volume = ContrastLogic().getParameterNode(), add_volume()
        tag = parameters.connectGui(ui)
        ui.volume.setMRMLScene(scene)
        ui.volume.setCurrentNode(volume)
        ui.opacity.value, ui.count.value, ui.live.checked = 0.75, 3, True
        ui.url.text, ui.evidence.currentText = "x", "CASES"
        assert parameters.volume is volume and parameters.live and parameters.url == "x"
        assert (parameters.opacity, parameters.count) == (0.75, 3)
        assert parameters.evidence is Evidence.CASES
        parameters.volume, parameters.opacity, parameters.evidence = None, 0.0, Evidence.CONCEPTS
        assert ui.volume.currentNode() is None
        assert (ui.opacity.value, ui.evidence.currentIndex) == (0.0, 1)
        parameters.disconnectGui(tag)
        ui.url.text = "y"
        parameters.live = False
        assert parameters.url == "x" and ui.live.checked

    def test_widgets_that_slicer_cannot_connect(self, scene):
        parameters = ContrastLogic().getParameterNode()
        with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
            parameters.connectParametersToGui({"rejected": qt.QLineEdit()})
        with pytest.raises(ValueError, match="Cannot find a param"):
            parameters.connectParametersToGui({"nothing": qt.QLineEdit()})


MODULE = """
import slicer, vtk
from slicer.i18n import tr as _, translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

@parameterNodeWrapper
class TinyParameterNode:
    volume: slicer.vtkMRMLScalarVolumeNode

class Tiny(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("Tiny {x}").format(x=1)
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]

class TinyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def setup(self):
        super().setup()
        VTKObservationMixin.__init__(self)
        form = slicer.util.loadUI(self.resourcePath("UI/Tiny.ui"))
        self.layout.addWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        form.setMRMLScene(slicer.mrmlScene)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onClose)
        self.closed = self.entered = 0
        self.parameters = TinyParameterNode(TinyLogic().getParameterNode())
        self.tag = self.parameters.connectGui(self.ui)
    def onClose(self, caller, event):
        self.closed += 1
    def enter(self):
        self.entered += 1
    def cleanup(self):
        self.removeObservers()
        self.parameters.disconnectGui(self.tag)
        CLEANED.append(self.parent.isEntered)

CLEANED = []
class TinyLogic(ScriptedLoadableModuleLogic):
    pass

class TinyTest(ScriptedLoadableModuleTest):
    def test_it(self):
        CLEANED.append("tested")
"""
UI = """<ui version="4.0"><class>Tiny</class>
<widget class="qMRMLWidget" name="Tiny"><layout class="QVBoxLayout" name="rows">
 <item><widget class="ctkCollapsibleButton" name="inputs">
  <property name="text"><string>Inputs</string></property>
  <layout class="QFormLayout" name="form"><item row="0" column="0">
   <widget class="qMRMLNodeComboBox" name="volumeSelector">
    <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist>
    </property>
    <property name="noneEnabled"><bool>true</bool></property>
    <property name="SlicerParameterName" stdset="0"><string>volume</string></property>
   </widget></item></layout></widget></item></layout></widget>
<customwidgets><customwidget><class>qMRMLWidget</class><extends>QWidget</extends>
 <header>qMRMLWidget.h</header><container>1</container></customwidget></customwidgets>
<connections><connection><sender>Tiny</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
</connections></ui>"""


class TestModule:
    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "Resources/UI").mkdir(parents=True)
        (tmp_path / "Resources/UI/Tiny.ui").write_text(UI)
        (tmp_path / "Tiny.py").write_text(MODULE)
        return tmp_path / "Tiny.py"

    def test_a_module_lives_as_in_slicer(self, path, load_module, scene):
        module = load_module(path)
        assert module.parent.title == "Tiny 1" and slicer.util.modulePath("Tiny") == str(path)
        assert not hasattr(slicer.modules, "TinyWidget")
        widget = module.widget
        assert slicer.util.getModuleWidget("Tiny") is slicer.modules.TinyWidget is widget
        volume = add_volume()
        widget.ui.volumeSelector.setCurrentNode(volume)
        assert widget.parameters.volume is volume and widget.ui.inputs.text == "Inputs"
        assert not widget.parent.isEntered
        widget.parent.enter()
        assert widget.parent.isEntered and widget.entered == 1
        scene.Clear(False)
        assert widget.closed == 1 and widget.parameters.volume is None
        module.instance.runTest(msec=1)
        cleaned = module.python.CLEANED
        module.unload()
        assert cleaned == ["tested", False]
        scene.Clear(False)
        assert widget.closed == 1 and not hasattr(slicer.modules, "tiny")

    def test_a_failing_unit_test_is_an_exception(self, path, load_module, capsys):
        from slicer.testing import runUnitTest

        load_module(path)
        runUnitTest([], "Tiny")
        with pytest.raises(Exception):  # noqa: B017, PT011
            runUnitTest([], "NoSuchModule")

    def test_an_unknown_widget_class_is_refused(self, tmp_path):
        (tmp_path / "x.ui").write_text(UI.replace("qMRMLNodeComboBox", "qMRMLNodeCombobox"))
        with pytest.raises(RuntimeError, match="qMRMLNodeCombobox"):
            slicer.util.loadUI(str(tmp_path / "x.ui"))
        with pytest.raises(RuntimeError, match="not found"):
            slicer.util.loadUI(str(tmp_path / "y.ui"))


def test_a_parameter_node_is_a_singleton(scene):
    logic = ScriptedLoadableModuleLogic()
    logic.moduleName = "Contrast"
    node = logic.getParameterNode()
    scene.Clear(False)
    assert logic.getParameterNode() is node and logic.getAllParameterNodes() == [node]
    assert isinstance(node, vtk.vtkObject) and node.GetAttribute("ModuleName") == "Contrast"
