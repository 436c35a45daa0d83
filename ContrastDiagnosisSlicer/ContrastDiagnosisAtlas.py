"""ContrastDiagnosisAtlas: review what the concepts of a bundle look for, and prune it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class ContrastDiagnosisAtlas(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Contrast Diagnosis Atlas")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Diagnosis")]
        # Its engine and its set-up are used.
        self.parent.dependencies = ["ContrastDiagnosis"]
        self.parent.contributors = ["ContrastDiagnosis developers"]
        self.parent.helpText = _(
            "Shows the prototypes that the concepts of a bundle look for, with the case that each"
            " comes from. Prototypes that do not show their concept are removed, and the bundle is"
            " made anew without them. Research use only, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "Method: CSR, arXiv:2503.06873. Cases: LIDC-IDRI (Armato et al.,"
            " doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0)."
        )


class ContrastDiagnosisAtlasWidget(ScriptedLoadableModuleWidget):
    """Life cycle; what the panel does is in ContrastDiagnosisLib/Panels/AtlasPanel.py."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic: Any = None
        self.panel: Any = None

    def setup(self) -> None:
        """Builds the panel; nothing is installed, imported or started yet."""
        ScriptedLoadableModuleWidget.setup(self)
        from ContrastDiagnosisLib.Panels.AtlasPanel import AtlasPanel

        # A widget may be deleted without `cleanup`. Children go in their order: this one goes
        # while those that `cleanup` needs are still there.
        self._guard = qt.QObject(self.parent)
        self._guard.connect("destroyed()", self.cleanup)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ContrastDiagnosisAtlas.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = ContrastDiagnosisAtlasLogic()
        folder = os.path.dirname(slicer.util.modulePath(self.moduleName))
        self.panel = AtlasPanel(self.ui, folder)

    def enter(self) -> None:
        """The set-up may have changed in the other module."""
        self.panel.refresh()

    def cleanup(self) -> None:
        """The application closes, or the module is reloaded."""
        if self.panel is not None:
            self.panel.cleanup()
            self.panel = None


class ContrastDiagnosisAtlasLogic(ScriptedLoadableModuleLogic):
    """Pruning files without widgets, for scripts and tests."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)

    def writePruning(
        self, file: str, atlas: Mapping[str, Any], removed: Sequence[tuple[str, int]]
    ) -> None:
        """Writes a pruning file.

        Args:
            file: Where.
            atlas: As the engine's `/atlas` answers.
            removed: Concept and number of each prototype that shall go.
        """
        from ContrastDiagnosisLib.Engine.Prunings import Choice, writePruning

        choices = {key: Choice(remove=True) for key in removed}
        writePruning(Path(file), atlas["head_sha256"], choices)


class ContrastDiagnosisAtlasTest(ScriptedLoadableModuleTest):
    """The reviewer's story, in Slicer with its window or without."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Every part of the story."""
        for test in (self.test_LoadAndTick, self.test_UnusableFile):
            self.setUp()
            test()

    def test_LoadAndTick(self) -> None:
        """Load the prototypes, untick one, write it to a file and read it back."""
        panel = self._loadedPanel()
        if not panel.table.choices():
            self.assertIn("no concepts", panel.ui.messageLabel.text)
            self.assertFalse(panel.ui.rebuildButton.enabled)
            return
        from ContrastDiagnosisLib.Engine.Prunings import Choice, readPruning

        key = next(iter(panel.table.choices()))
        panel.table.setChoices({key: Choice(True, "a note")})
        panel.refresh()
        file = Path(slicer.app.temporaryPath) / "ContrastDiagnosisAtlasTest.json"
        self.assertTrue(panel._write(file))
        self.assertEqual(
            readPruning(file, panel._head, panel._prototypes), {key: Choice(True, "a note")}
        )
        file.unlink()
        panel.table.setChoices({})

    def test_UnusableFile(self) -> None:
        """A file of another bundle is refused with a sentence, and the ticks stay."""
        panel = self._loadedPanel()
        before = panel.table.choices()
        file = str(Path(slicer.app.temporaryPath) / "ContrastDiagnosisAtlasTest.json")
        ContrastDiagnosisAtlasLogic().writePruning(file, {"head_sha256": "0" * 64}, [("x", 0)])
        panel.openFile(file)
        os.remove(file)
        self.assertIn("another bundle", panel.ui.messageLabel.text)
        self.assertEqual(panel.table.choices(), before)

    def _loadedPanel(self) -> Any:
        """The module's panel with the prototypes of the bundle that is set up."""
        from ContrastDiagnosisLib import SelfTest

        SelfTest.diagnosisWidget()
        panel = slicer.util.getModuleWidget("ContrastDiagnosisAtlas").panel
        panel.onLoad()
        SelfTest.waitFor(panel, lambda: panel.ui.loadButton.enabled)
        return panel


def load_tests(_loader: Any, _tests: Any, _pattern: Any) -> Any:
    """What `slicer.testing.runUnitTest` runs: the tests of this module alone, at least one."""
    from ContrastDiagnosisLib.SelfTest import suiteOf

    return suiteOf(ContrastDiagnosisAtlasTest)
