"""The module's panel: wires widgets, points and the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib import ConceptView, NoduleScene
from ContrastDiagnosisLib.CasePictures import CasePictures
from ContrastDiagnosisLib.ComparePanel import ComparePanel
from ContrastDiagnosisLib.CompareView import CompareView
from ContrastDiagnosisLib.ConceptSection import ConceptSection
from ContrastDiagnosisLib.DiagnosisSession import DiagnosisSession
from ContrastDiagnosisLib.EngineClient import EngineClient
from ContrastDiagnosisLib.EngineProcess import makeEngine
from ContrastDiagnosisLib.Installer import Installer
from ContrastDiagnosisLib.PointWatch import PointWatch
from ContrastDiagnosisLib.Reports import ReportButtons, ReportWriter
from ContrastDiagnosisLib.ResultPanel import ResultPanel
from ContrastDiagnosisLib.Settings import Settings, readSettings
from ContrastDiagnosisLib.SetupPanel import SetupPanel
from ContrastDiagnosisLib.VolumeBridge import InputError, checkVolume


class Panel:
    """What happens when something is clicked, placed, moved, or answered."""

    def __init__(
        self,
        ui: Any,
        modulePath: str,
        requirementsFile: str,
        engineFactory: Callable[[Settings, str], Any] = makeEngine,
    ) -> None:
        """Fills the collapsible buttons and connects everything.

        Args:
            ui: The widgets of ContrastDiagnosis.ui.
            modulePath: Folder of the packages.
            requirementsFile: What the engine needs.
            engineFactory: Gives the engine for settings; tests give their own.
        """
        self.ui = ui
        self._modulePath = modulePath
        self._engineFactory = engineFactory
        self._parameterNode: Any = None
        self._updating = False
        self.client = EngineClient(engineFactory(readSettings(), modulePath))
        self.session = DiagnosisSession(self.client, self.refresh, self.showError)
        self.compare = CompareView()
        self._pair = ComparePanel(ui, self.session, self.compare)
        self.concepts = ConceptSection(self.session)
        self.reports = ReportWriter(self.session, self.showError)
        self._reportButtons = ReportButtons(
            ui.reportButton, ui.allReportsButton, self.reports, ui.messageLabel.setText
        )
        self.setup = SetupPanel(
            Installer(requirementsFile),
            self.onEngineChanged,
            lambda path, onAnswer, onError: self.client.ask(path, None, onAnswer, onError),
        )
        self.result = ResultPanel(self.onNoduleSelected, self.onCaseSelected)
        self._pictures = CasePictures(self.session, self.result.showPicture)
        self._shortcuts: list[Any] = []
        self._watch = PointWatch(self._onPointPlaced, self._onPointRemoved)
        self._volumeId = ""
        ui.setupLayout.addWidget(self.setup.widget)
        ui.resultLayout.addWidget(self.result.widget)
        ui.conceptsLayout.addWidget(self.concepts.panel.widget)
        self._connect()

    def cleanup(self) -> None:
        """Leaves nothing behind: no process, no observer."""
        self.setup.cleanup()
        self.client.stop()
        self.setParameterNode(None)
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
        self._shortcuts.clear()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Shows another scene's state; None while a scene closes."""
        self._watch.follow(None)
        self._parameterNode = parameterNode
        self.session.setParameterNode(parameterNode)
        self._pair.setParameterNode(parameterNode)
        self.concepts.clear()
        self._volumeId = ""
        if parameterNode:
            self._onParametersChanged()
        else:
            self.ui.placeWidget.setCurrentNode(None)
            self.result.showNodules([], -1)
            self.result.showDiagnosis(None)
            self._checkCanApply()

    def refresh(self, *_event: Any) -> None:
        """Brings all widgets up to date with the scene and the session."""
        node = self._parameterNode
        if not node:
            return
        points = NoduleScene.pointIds(node)
        documents = [NoduleScene.documentOf(node, p) for p in points]
        moved = [
            d is not None and NoduleScene.isStale(node, p)
            for p, d in zip(points, documents, strict=True)
        ]
        row = points.index(node.nodule) if node.nodule in points else -1
        numbers = [NoduleScene.numberOfPoint(node, p) for p in points]
        self.result.showNodules(list(zip(numbers, documents, moved, strict=True)), row)
        document = documents[row] if row >= 0 and not moved[row] else None
        self._showDiagnosis(document)
        self.concepts.show(node, document)
        self._showProgress()
        self._checkCanApply()
        self.ui.undoButton.enabled = self.session.canUndo and not self.session.isRunning
        self._reportButtons.follow(node, document is not None, any(documents))

    def showError(self, message: str) -> None:
        """In the panel; no dialog that has to be clicked away, nothing in the scene."""
        self.ui.messageLabel.setText(message)
        self._showProgress()
        self._checkCanApply()

    def onApply(self, _checked: bool = False) -> None:
        """Diagnoses what is not diagnosed yet, or cancels."""
        if self.session.isRunning:
            self.session.cancel()
            self.ui.messageLabel.setText(_("cancelled"))
            self.refresh()
            return
        self.ui.messageLabel.setText("")
        node = self._parameterNode
        points = NoduleScene.pointIds(node)
        waiting = [p for p in points if NoduleScene.isStale(node, p)]
        self.session.diagnose(waiting or points)
        self.refresh()

    def onUndo(self, _checked: bool = False) -> None:
        """Takes back the last diagnosis."""
        self.session.undo()

    def onEngineChanged(self) -> None:
        """The set-up changed: the old engine ends, the next request starts the new one."""
        self.session.cancel()
        self.client.replaceEngine(self._engineFactory(readSettings(), self._modulePath))
        self._pictures.forget()
        self.concepts.onEngineChanged()
        self.refresh()

    def onNoduleSelected(self, row: int) -> None:
        """Shows another nodule and centres the views on it."""
        node = self._parameterNode
        points = NoduleScene.pointIds(node)
        if row < len(points):
            with slicer.util.NodeModify(node.parameterNode):
                node.nodule, node.caseId = points[row], ""
            position = NoduleScene.pointWorld(node, points[row])
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *position)

    def onCaseSelected(self, place: int) -> None:
        """Asks for the maps against a case and shows them."""
        node = self._parameterNode
        document = NoduleScene.documentOf(node, node.nodule)
        if document is None or place >= len(document["cases"]):
            return
        node.caseId = document["cases"][place]["case_id"]
        self._pair.request()

    def addShortcuts(self) -> None:
        """Keys that work in the whole window, where there is one."""
        window = slicer.util.mainWindow()
        if not window:
            return
        for keys, method in (
            ("Ctrl+Shift+N", self.startPlacing),
            ("Ctrl+Shift+B", self.onUndo),
        ):
            shortcut = qt.QShortcut(qt.QKeySequence(keys), window)
            shortcut.connect("activated()", method)
            self._shortcuts.append(shortcut)

    def startPlacing(self) -> None:
        """The shortcut: the next click in a slice is a point."""
        if self._parameterNode and self._parameterNode.inputVolume:
            self.ui.placeWidget.setPlaceModeEnabled(True)

    def _connect(self) -> None:
        ui = self.ui
        ui.applyButton.clicked.connect(self.onApply)
        ui.undoButton.clicked.connect(self.onUndo)
        ui.setupCollapsibleButton.contentsCollapsed.connect(self._onSetupCollapsed)

    def _onSetupCollapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self.setup.refreshPackages()

    def onParameterNodeModified(self, *_event: Any) -> None:
        """A choice changed, by the user, a script, or a loaded scene."""
        if self._parameterNode and not self._updating:
            self._onParametersChanged()

    def _onParametersChanged(self) -> None:
        node = self._parameterNode
        if self._watch.isDeleted and not node.points:
            # The scene is in the middle of it.
            self._watch.follow(None)
            self.ui.placeWidget.setCurrentNode(None)
            qt.QTimer.singleShot(0, self._afterPointsDeleted)
            return
        self._updating = True
        try:
            self._followVolume()
            points = self._pointsOfVolume()
            self._watch.follow(points)
            if self.ui.placeWidget.currentNode() is not points:
                self.ui.placeWidget.setCurrentNode(points)
            self._pair.follow()
            ConceptView.setOpacity(node)
        finally:
            self._updating = False
        self.refresh()

    def _followVolume(self) -> None:
        """Another CT: what was asked of the last one and its maps are not of this one."""
        node = self._parameterNode
        volumeId = node.inputVolume.GetID() if node.inputVolume else ""
        if self._volumeId and volumeId != self._volumeId:
            self.session.cancel()
            self._pair.forget()
            self.concepts.onVolumeChanged()
            node.caseId = ""
        self._volumeId = volumeId

    def _pointsOfVolume(self) -> Any:
        """The points of the selected CT, made where it can be diagnosed; None elsewhere."""
        try:
            checkVolume(self._parameterNode.inputVolume)
        except InputError:
            NoduleScene.selectVolume(self._parameterNode)
            return self._parameterNode.points
        return NoduleScene.ensurePoints(self._parameterNode)

    def _afterPointsDeleted(self) -> None:
        """The diagnoses go with the points they belong to."""
        node = self._parameterNode
        if node and not slicer.mrmlScene.IsBatchProcessing():
            for pointId in NoduleScene.orphans(node):
                self.session.removePoint(pointId)
            self._onParametersChanged()

    def _onPointPlaced(self) -> None:
        """Diagnoses new points and those that no longer lie where they were diagnosed."""
        node = self._parameterNode
        if not node:
            return
        self.ui.messageLabel.setText("")
        points = NoduleScene.pointIds(node)
        waiting = [p for p in points if node.live and NoduleScene.isStale(node, p)]
        if waiting:
            self.session.diagnose(waiting)
        else:
            self.refresh()

    def _onPointRemoved(self) -> None:
        node = self._parameterNode
        gone = NoduleScene.orphans(node) if node else []
        for pointId in gone:
            self.session.removePoint(pointId)
        # The preview of a point that is being placed comes and goes with the mouse.
        if gone or (node and len(NoduleScene.pointIds(node)) != self.result.nodules.rowCount):
            self.refresh()

    def _showDiagnosis(self, document: Any) -> None:
        node = self._parameterNode
        cases = [c["case_id"] for c in document["cases"]] if document else []
        place = cases.index(node.caseId) if node.caseId in cases else -1
        self.result.showDiagnosis(document, place)
        self._pictures.follow(document["cases"] if document else [])

    def _showProgress(self) -> None:
        done, total = self.session.progress
        running = self.session.isRunning
        self.ui.progressBar.visible = running
        # One nodule has no steps to tell: the bar moves to and fro.
        self.ui.progressBar.maximum = total if total > 1 else 0
        self.ui.progressBar.value = done
        self.ui.applyButton.text = _("Cancel") if running else _("Diagnose")

    def _checkCanApply(self) -> None:
        node, button = self._parameterNode, self.ui.applyButton
        try:
            checkVolume(node.inputVolume if node else None)
            reason = "" if NoduleScene.pointIds(node) else _("Place a point on a nodule.")
        except InputError as error:
            reason = str(error)
        running = self.session.isRunning
        button.enabled = running or not reason
        button.toolTip = reason or _("Diagnose the points that are not diagnosed yet.")
