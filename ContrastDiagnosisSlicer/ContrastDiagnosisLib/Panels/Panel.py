"""The module's panel: wires widgets, points and the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.EngineClient import EngineClient
from ContrastDiagnosisLib.Engine.EngineProcess import makeEngine
from ContrastDiagnosisLib.Engine.Installer import Installer
from ContrastDiagnosisLib.Engine.Settings import Settings, readSettings
from ContrastDiagnosisLib.Panels.ComparePanel import ComparePanel
from ContrastDiagnosisLib.Panels.ConceptSection import ConceptSection
from ContrastDiagnosisLib.Panels.PointSection import PointSection
from ContrastDiagnosisLib.Panels.ResultPanel import ResultPanel
from ContrastDiagnosisLib.Panels.SetupPanel import SetupPanel
from ContrastDiagnosisLib.Panels.ViewPanel import ViewPanel
from ContrastDiagnosisLib.Panels.VolumeSection import VolumeSection
from ContrastDiagnosisLib.Scene import ConceptView, NoduleScene
from ContrastDiagnosisLib.Scene.CompareView import CompareView
from ContrastDiagnosisLib.Scene.NoduleScene import PointState
from ContrastDiagnosisLib.Scene.OwnNodes import removeLostRoles
from ContrastDiagnosisLib.Scene.VolumeBridge import InputError, checkVolume
from ContrastDiagnosisLib.Session.CasePictures import CasePictures
from ContrastDiagnosisLib.Session.DiagnosisSession import DiagnosisSession
from ContrastDiagnosisLib.Session.Reports import ReportButtons, ReportWriter


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
        self._pair = ComparePanel(ui, self.session, self.compare, self._fillSegments)
        self.concepts = ConceptSection(self.session, self._fillSegments)
        self.reports = ReportWriter(self.session, self.showError)
        self._reportButtons = ReportButtons(
            ui.reportButton, ui.allReportsButton, self.reports, self.say
        )
        self.setup = SetupPanel(
            Installer(requirementsFile),
            self.onEngineChanged,
            lambda path, onAnswer, onError: self.client.ask(path, None, onAnswer, onError),
        )
        self.result = ResultPanel(self.onNoduleSelected, self.onCaseSelected)
        self._pictures = CasePictures(self.session, self.result.showPicture)
        self._shortcuts: list[Any] = []
        self.views = ViewPanel(ui)
        self.points = PointSection(ui.placeWidget, self.session, self.say, self._onPointsChanged)
        self.volumes = VolumeSection(
            self.views, self._onAnotherVolume, self._dropMaps, self._onViewsChanged, self.refresh
        )
        for button, widget in (
            (ui.setupCollapsibleButton, self.setup.widget),
            (ui.resultCollapsibleButton, self.result.widget),
            (ui.conceptsCollapsibleButton, self.concepts.panel.widget),
        ):
            # Slicer does not give a layout of the .ui by its name while it is empty, thus false.
            button.layout().addWidget(widget)
        self._connect()

    def cleanup(self) -> None:
        """Leaves nothing behind: no process, no observer."""
        self.setup.cleanup()
        self.client.stop()
        self.setParameterNode(None)
        self.compare.cleanup()
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
        self._shortcuts.clear()

    def setParameterNode(self, parameterNode: Any) -> None:
        """Shows another scene's state; None while a scene closes."""
        self._parameterNode = parameterNode
        self.volumes.setParameterNode(parameterNode)
        self.session.setParameterNode(parameterNode)
        self.points.setParameterNode(parameterNode)
        self._pair.setParameterNode(parameterNode)
        self.concepts.clear()
        if parameterNode is not None:
            removeLostRoles(parameterNode)
            self._onParametersChanged()
        else:
            self.say("")
            self.result.showNodules([], -1)
            self.result.showDiagnosis(None)
            self._checkCanApply()

    def refresh(self, *_event: Any) -> None:
        """Brings all widgets up to date with the scene and the session."""
        node = self._parameterNode
        if node is None:
            return
        points = NoduleScene.pointIds(node)
        documents = [NoduleScene.documentOf(node, p) for p in points]
        states = [NoduleScene.stateOf(node, p) for p in points]
        for pointId, state in zip(points, states, strict=True):
            NoduleScene.showIfCurrent(node, pointId, state is PointState.CURRENT)
        row = points.index(node.nodule) if node.nodule in points else -1
        numbers = [NoduleScene.numberOfPoint(node, p) for p in points]
        self.result.showNodules(list(zip(numbers, documents, states, strict=True)), row)
        document = documents[row] if row >= 0 and states[row] is PointState.CURRENT else None
        self._showDiagnosis(document)
        self.concepts.show(node, document)
        self._showProgress()
        self._checkCanApply()
        self.views.refresh(node)
        # Not where it is not known yet: a scene that is being loaded keeps its maps.
        self._pair.refresh(row >= 0 and states[row] is PointState.MOVED)
        self._fillSegments()
        self.ui.undoButton.enabled = self.session.canUndo and not self.session.isRunning
        self._reportButtons.follow(node, document is not None, any(documents))

    def say(self, message: str) -> None:
        """In the panel; no dialog that has to be clicked away, nothing in the scene."""
        self.ui.messageLabel.setText(message)
        self.ui.messageLabel.setVisible(bool(message))
        self.ui.openSetupButton.setVisible(False)

    def showError(self, message: str, reached: bool = True) -> None:
        """Says what went wrong; an engine that was not reached leads to the set-up."""
        self.say(message)
        self.ui.openSetupButton.setVisible(not reached)
        self._showProgress()
        self._checkCanApply()

    def onApply(self, _checked: bool = False) -> None:
        """Diagnoses what is not diagnosed yet, or cancels."""
        if self.session.isRunning:
            self.session.cancel()
            self.say(_("cancelled"))
            self.refresh()
            return
        self.say("")
        node = self._parameterNode
        points = NoduleScene.pointIds(node)
        waiting = [p for p in points if NoduleScene.stateOf(node, p) is not PointState.CURRENT]
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
            self.views.onNodule(node)

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
        if window is None:
            return
        for keys, method in (
            ("Ctrl+Shift+N", self.points.startPlacing),
            ("Ctrl+Shift+B", self.onUndo),
        ):
            shortcut = qt.QShortcut(qt.QKeySequence(keys), window)
            shortcut.connect("activated()", method)
            self._shortcuts.append(shortcut)

    def _connect(self) -> None:
        ui = self.ui
        ui.applyButton.clicked.connect(self.onApply)
        ui.undoButton.clicked.connect(self.onUndo)
        ui.openSetupButton.clicked.connect(self.onOpenSetup)
        ui.setupCollapsibleButton.contentsCollapsed.connect(self._onSetupCollapsed)

    def onOpenSetup(self, _checked: bool = False) -> None:
        """Leads to what an engine that was not reached may lack."""
        self.ui.setupCollapsibleButton.collapsed = False

    def _onSetupCollapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self.setup.refreshPackages()

    def onParameterNodeModified(self, *_event: Any) -> None:
        """A choice changed, by the user, a script, or a loaded scene."""
        if self._parameterNode is not None and not self._updating:
            self._onParametersChanged()

    def _onParametersChanged(self) -> None:
        node = self._parameterNode
        if self.points.areDeleted():
            return
        self._updating = True
        try:
            self.volumes.follow()
            self.points.follow()
            self.volumes.keepResults()
            self._pair.follow()
            ConceptView.setOpacity(node)
        finally:
            self._updating = False
        self._pair.renew()
        # The session tells of an answer once it is whole: to draw it twice takes a click's 1 %.
        if not self.session.isStoring:
            self.refresh()

    def _onAnotherVolume(self) -> None:
        """What was asked of the last one is not of this one."""
        self.say("")
        self.session.cancel()
        self._parameterNode.caseId = ""

    def _dropMaps(self) -> None:
        self._pair.forget()
        self.compare.clear(self._parameterNode)
        self.concepts.onVolumeChanged()

    def _onViewsChanged(self) -> None:
        """Or a node of the scene was removed: it may have been one of ours."""
        self.compare.followLayout(self._parameterNode)
        self.refresh()

    def _onPointsChanged(self) -> None:
        if not slicer.mrmlScene.IsBatchProcessing():
            self.refresh()

    def _fillSegments(self) -> None:
        """Outlines alone while a map is shown, which a fill would tint."""
        node = self._parameterNode
        if node is not None:
            isMapped = ConceptView.shownMap(node)[0] or self.compare.isShown
            NoduleScene.setFilled(node, not isMapped)

    def _showDiagnosis(self, document: Any) -> None:
        node = self._parameterNode
        cases = [c["case_id"] for c in document["cases"]] if document else []
        place = cases.index(node.caseId) if node.caseId in cases else -1
        self.result.showDiagnosis(document, place, hasPoints=bool(NoduleScene.pointIds(node)))
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
            checkVolume(None if node is None else node.inputVolume)
            reason = "" if NoduleScene.pointIds(node) else _("Place a point on a nodule.")
        except InputError as error:
            reason = str(error)
        running = self.session.isRunning
        button.enabled = running or not reason
        button.toolTip = reason or _("Diagnose the points that are not diagnosed yet.")
