"""ContrastDiagnosis: click a lung nodule, see the diagnosis and the cases it is voted by."""

from __future__ import annotations

import os
from typing import Any

import qt
import slicer
import vtk
from ContrastDiagnosisLib.Scene.Parameter import ContrastDiagnosisParameterNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

FILE_LOADED = "newFileLoaded(qSlicerIO::IOProperties)"


class ContrastDiagnosis(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Contrast Diagnosis")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Diagnosis")]
        self.parent.dependencies = []
        self.parent.contributors = ["ContrastDiagnosis developers"]
        self.parent.helpText = _(
            "Click a nodule on a chest CT: its segmentation, a malignancy score voted by the most"
            " similar of the known cases, how far it can be trusted, maps of what makes nodule and"
            " case alike, and the concepts that speak for it, which can be corrected. Research use"
            " only, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "Method: ContrastDiagnosis, arXiv:2403.05280. Cases: LIDC-IDRI (Armato et al.,"
            " doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """The phantom CT in the Sample Data module, and the layout that a saved scene may ask for."""
    from ContrastDiagnosisLib.SamplePhantom import registerSampleData
    from ContrastDiagnosisLib.Scene.CompareView import registerLayout

    registerLayout()
    registerSampleData(__file__)


class ContrastDiagnosisWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Life cycle; what the panel does is in ContrastDiagnosisLib/Panels/Panel.py."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.panel: Any = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: Any = None
        self._modifiedTag: Any = None

    def setup(self) -> None:
        """Builds the panel; nothing is installed, imported or started yet."""
        ScriptedLoadableModuleWidget.setup(self)
        from ContrastDiagnosisLib.Panels.Panel import Panel

        # A widget may be deleted without `cleanup`. Children go in their order: this one goes
        # while those that `cleanup` needs are still there.
        self._guard = qt.QObject(self.parent)
        self._guard.connect("destroyed()", self.cleanup)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ContrastDiagnosis.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = ContrastDiagnosisLogic()
        folder = os.path.dirname(slicer.util.modulePath(self.moduleName))
        self.panel = Panel(self.ui, folder, self.resourcePath("requirements.txt"))
        self.panel.addShortcuts()
        for event, method in (
            (slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose),
            (slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose),
            (slicer.mrmlScene.EndImportEvent, self.onSceneEndImport),
            (slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded),
        ):
            self.addObserver(slicer.mrmlScene, event, method)
        slicer.app.ioManager().connect(FILE_LOADED, self.onFileLoaded)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """The application closes, the module is reloaded, or the widget is deleted."""
        try:
            self.setParameterNode(None)
        finally:
            self.removeObservers()
            slicer.app.ioManager().disconnect(FILE_LOADED, self.onFileLoaded)
            panel, self.panel = self.panel, None
            if panel is not None:
                panel.cleanup()

    def enter(self) -> None:
        """The user opens the module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """The user opens another module; a running diagnosis goes on."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """What is on its way is dropped."""
        if self._parameterNode is not None:
            self.panel.compare.release(self._parameterNode)
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """Starts anew if the module is shown."""
        # Loading a scene closes the old one first; its nodes and EndImport are still to come.
        if self.parent.isEntered and not slicer.mrmlScene.IsBatchProcessing():
            self.initializeParameterNode()

    def onSceneEndImport(self, caller: Any, event: Any) -> None:
        """A loaded scene brings its own choices and results."""
        if self._parameterNode is not None or self.parent.isEntered:
            self.initializeParameterNode()

    def onNodeAdded(self, caller: Any, event: Any) -> None:
        """A CT that is loaded while none is selected gets selected, once it has its voxels."""
        node = self._parameterNode
        isWanted = self.parent.isEntered and node is not None and node.inputVolume is None
        if isWanted and not slicer.mrmlScene.IsBatchProcessing():
            qt.QTimer.singleShot(0, self.selectVolume)

    def onFileLoaded(self, properties: Any) -> None:
        """While a volume was loaded, the event loop ran before it had its display and window."""
        if self.parent.isEntered:
            self.selectVolume()
        node = self._parameterNode
        volume = None if node is None else node.inputVolume
        if volume is not None and volume.GetID() in properties.get("nodeIDs", ()):
            self.panel.views.onLoaded(volume)

    def initializeParameterNode(self) -> None:
        """The CT that is seen, else the first, is selected to save a click."""
        self.setParameterNode(self.logic.getParameterNode())
        self.selectVolume()

    def selectVolume(self) -> None:
        """Selects a CT where none is."""
        node = self._parameterNode
        if node is not None and node.inputVolume is None:
            node.inputVolume = self.logic.firstVolume()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Connects widgets and panel to the scene's choices."""
        if self._parameterNode is not None:
            if self._parameterNodeGuiTag is not None:
                self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
                self._parameterNodeGuiTag = None
            # VTKObservationMixin would keep every wrapper that was ever observed.
            self._parameterNode.RemoveObserver(self._modifiedTag)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self._modifiedTag = parameterNode.AddObserver(
                vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified
            )
        if self.panel is not None:
            self.panel.setParameterNode(parameterNode)

    def onParameterNodeModified(self, caller: Any = None, event: Any = None) -> None:
        """By the user or a script."""
        # References are not final while a scene comes or goes: making nodes for those that are not
        # there yet would go on for ever. EndImport starts anew.
        if not (slicer.mrmlScene.IsImporting() or slicer.mrmlScene.IsClosing()):
            self.panel.onParameterNodeModified()


class ContrastDiagnosisLogic(ScriptedLoadableModuleLogic):
    """Diagnoses without widgets, for scripts and tests."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)

    def getParameterNode(self) -> ContrastDiagnosisParameterNode:
        """The scene's choices."""
        # The wrapper gives the class its constructor.
        wrapped: Any = ContrastDiagnosisParameterNode
        return wrapped(super().getParameterNode())

    def firstVolume(self) -> Any:
        """The first CT-like volume that a view shows, else of the scene; None if there is none."""
        from ContrastDiagnosisLib.Scene.SliceViews import seenVolumes
        from ContrastDiagnosisLib.Scene.VolumeBridge import InputError, checkVolume

        for node in (*seenVolumes(), *slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")):
            try:
                checkVolume(node)
            except InputError:
                continue
            if not node.GetHideFromEditors():
                return node
        return None

    def addNodule(self, pointRas: tuple[float, float, float]) -> str:
        """Places a point at a world position and returns its ID."""
        from ContrastDiagnosisLib.Scene import NoduleScene

        points = NoduleScene.ensurePoints(self.getParameterNode())
        index = points.AddControlPointWorld(*pointRas)
        return points.GetNthControlPointID(index)


class ContrastDiagnosisTest(ScriptedLoadableModuleTest):
    """The user's story, in Slicer with its window or without."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Every part of the story."""
        for test in (
            self.test_ClickSaveReload,
            self.test_ConceptsSaveReload,
            self.test_NothingToJudge,
            self.test_CloseSceneWhileRunning,
            self.test_UnusableInput,
        ):
            self.setUp()
            test()

    def test_ClickSaveReload(self) -> None:
        """Load the phantom, click, see segment, score, cases and maps; save, close, load again."""
        from ContrastDiagnosisLib import SelfTest
        from ContrastDiagnosisLib.Scene import NoduleScene

        panel = SelfTest.panelWithPhantom()
        node, pointId = SelfTest.click()
        document = SelfTest.waitForDiagnosis(panel, node, pointId)
        self.assertTrue(document["nodule"]["found"])
        self.assertGreater(document["probability"], 0.5)
        self.assertEqual(len(document["cases"]), 6)
        self.assertIn("Research use only", document["notice"])
        segment = node.segmentation.GetSegmentation().GetSegment(NoduleScene.segmentIdOf(pointId))
        self.assertIn("Nodule", segment.GetTerminology())
        surface = SelfTest.waitFor(panel, lambda: segment.GetRepresentation("Closed surface"))
        self.assertGreater(surface.GetNumberOfPoints(), 100)
        panel.onCaseSelected(0)
        SelfTest.waitFor(panel, lambda: panel.compare.node(node, "queryMap"))
        self.assertGreater(
            panel.compare.node(node, "queryMap").GetImageData().GetScalarRange()[1], 0
        )
        SelfTest.saveAndLoad()
        node = ContrastDiagnosisLogic().getParameterNode()
        self.assertEqual(NoduleScene.documentOf(node, node.nodule), document)
        self.assertIsNotNone(
            node.segmentation.GetSegmentation().GetSegment(NoduleScene.segmentIdOf(node.nodule))
        )
        self.assertIsNotNone(panel.compare.node(node, "queryMap"))

    def test_ConceptsSaveReload(self) -> None:
        """Show a concept, reject another, draw a box, save and load; or the bundle has none."""
        from ContrastDiagnosisLib import SelfTest
        from ContrastDiagnosisLib.Scene import Revisions

        panel = SelfTest.panelWithPhantom()
        node, pointId = SelfTest.click()
        concepts = SelfTest.waitForDiagnosis(panel, node, pointId)["concepts"]
        SelfTest.waitFor(panel, lambda: not panel.session.isRunning)
        section = panel.concepts
        if concepts is None:
            self.assertIn("no concepts", section.panel.headline.text)
            return
        shown, rejected = (row["name"] for row in concepts["concepts"][:2])
        section.onConcept(shown)
        section.onReject(rejected, True)
        section.onBox(True, False)
        SelfTest.waitFor(panel, lambda: not section.isRunning)
        self.assertEqual(section.panel.message.text, "")
        prediction = Revisions.predictionOf(node, pointId) or {}
        revision = prediction["revision"]
        self.assertTrue(Revisions.isSame(revision, Revisions.revisionOf(node, pointId)))
        self.assertEqual(revision["rejected"], [rejected])
        self.assertEqual(revision["boxes"][0]["concept"], shown)
        SelfTest.saveAndLoad()
        node = ContrastDiagnosisLogic().getParameterNode()
        self.assertTrue(Revisions.isSame(revision, Revisions.revisionOf(node, pointId)))
        self.assertIsNotNone(panel.compare.node(node, "conceptMap"))
        self.assertFalse(section.isRunning)

    def test_NothingToJudge(self) -> None:
        """A nodule, then its point in the heart: no verdict, no segment, no concepts."""
        from ContrastDiagnosisLib import SelfTest
        from ContrastDiagnosisLib.Scene import NoduleScene

        panel = SelfTest.panelWithPhantom()
        node, pointId = SelfTest.click()
        self.assertIsNotNone(SelfTest.waitForDiagnosis(panel, node, pointId)["verdict"])
        SelfTest.waitFor(panel, lambda: not panel.session.isRunning)
        node.points.SetNthControlPointPositionWorld(0, *SelfTest.HEART_RAS)
        node.points.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
        SelfTest.waitFor(panel, lambda: not panel.session.isRunning)
        document = NoduleScene.documentOf(node, pointId) or {}
        self.assertEqual(document["finding"], "no nodule")
        self.assertIsNone(document["verdict"])
        self.assertEqual(node.segmentation.GetSegmentation().GetNumberOfSegments(), 0)
        self.assertEqual(panel.result.nodules.item(0, 1).text(), "no nodule")
        self.assertIn("no nodule was found at the point", panel.result.headline.text)
        self.assertIn("no concepts are read", panel.concepts.panel.headline.text)
        SelfTest.saveAndLoad()
        node = ContrastDiagnosisLogic().getParameterNode()
        self.assertEqual(NoduleScene.documentOf(node, node.nodule), document)

    def test_CloseSceneWhileRunning(self) -> None:
        """The answer finds no scene to go to, and the panel is ready for the next click."""
        from ContrastDiagnosisLib import SelfTest

        panel = SelfTest.panelWithPhantom()
        SelfTest.click()
        self.assertTrue(panel.session.isRunning)
        slicer.mrmlScene.Clear()
        self.assertFalse(panel.session.isRunning)
        panel = SelfTest.panelWithPhantom()
        SelfTest.click()
        SelfTest.waitFor(panel, lambda: not panel.session.isRunning)
        self.assertTrue(panel.ui.applyButton.enabled)

    def test_UnusableInput(self) -> None:
        """A point outside the CT: a message, an unchanged scene, a usable button."""
        from ContrastDiagnosisLib import SelfTest

        panel = SelfTest.panelWithPhantom()
        node, _pointId = SelfTest.click((5000.0, 0.0, 0.0))
        SelfTest.waitFor(panel, lambda: panel.ui.messageLabel.text)
        self.assertIn("outside", panel.ui.messageLabel.text)
        self.assertIsNone(node.segmentation)
        self.assertTrue(panel.ui.applyButton.enabled)
        self.assertFalse(panel.session.isRunning)


def load_tests(_loader: Any, _tests: Any, _pattern: Any) -> Any:
    """What `slicer.testing.runUnitTest` runs: the tests of this module alone, at least one."""
    from ContrastDiagnosisLib.SelfTest import suiteOf

    return suiteOf(ContrastDiagnosisTest)
