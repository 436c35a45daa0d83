"""The panel of the module ContrastDiagnosisAtlas: review the prototypes, remove some, rebuild."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.BundleRebuild import (
    BundleRebuild,
    addPixelsCommand,
    bundleFolderOf,
    newFolderIn,
)
from ContrastDiagnosisLib.Engine.Prunings import (
    Key,
    PruningError,
    bareConcepts,
    keyOf,
    readPruning,
    writePruning,
)
from ContrastDiagnosisLib.Engine.Settings import readSettings
from ContrastDiagnosisLib.Panels.AtlasTable import AtlasTable
from ContrastDiagnosisLib.Session.Dialogs import askSaveFile

NO_CONCEPTS = _("This bundle has no concepts: there are no prototypes to review.")
FILTER = "JSON (*.json)"
PRUNING_NAME = "pruning.json"


def diagnosisPanel() -> Any:
    """The panel of the module ContrastDiagnosis: both modules share its engine and its set-up."""
    return slicer.util.getModuleWidget("ContrastDiagnosis").panel


class AtlasPanel:
    """What happens when something is loaded, ticked, saved or rebuilt."""

    def __init__(self, ui: Any, modulePath: str, host: Callable[[], Any] = diagnosisPanel) -> None:
        """Fills the gallery and connects everything; nothing is started.

        Args:
            ui: The widgets of ContrastDiagnosisAtlas.ui.
            modulePath: Folder of the packages.
            host: Gives the panel that has the engine.
        """
        self.ui = ui
        self._modulePath, self._host = modulePath, host
        self._head = ""
        self._prototypes: list[dict[str, Any]] = []
        self._question: Any = None
        self._folder, self._made = Path(), Path()
        self._writing: Any = None
        self.table = AtlasTable(self.refresh)
        self.rebuild = BundleRebuild(self._onRebuilt, self._onRebuildError)
        # An empty layout is false in PythonQt, so that `ui` has none: the widget gives it.
        ui.gallery.layout().addWidget(self.table.widget)
        ui.loadButton.clicked.connect(self.onLoad)
        ui.conceptComboBox.currentIndexChanged.connect(self.onConcept)
        ui.copyButton.clicked.connect(self.onCopy)
        ui.openButton.clicked.connect(self.onOpen)
        ui.saveButton.clicked.connect(self.onSave)
        ui.rebuildButton.clicked.connect(self.onRebuild)
        ui.useButton.clicked.connect(self.onUse)
        self.refresh()

    def cleanup(self) -> None:
        """Leaves no process behind."""
        if self._question is not None:
            self._question.cancel()
        self.rebuild.stop()
        self._forgetWriting()

    def refresh(self) -> None:
        """Brings buttons and status up to date with what is ticked."""
        ui, running = self.ui, self.rebuild.isRunning
        ui.statusLabel.setText(self._statusText())
        self._showHint()
        for button in (ui.openButton, ui.saveButton):
            button.setEnabled(bool(self._prototypes))
        reason = self._whyNotRebuild()
        ui.rebuildButton.setEnabled(running or not reason)
        ui.rebuildButton.setText(_("Cancel") if running else _("Rebuild..."))
        ui.rebuildButton.setToolTip(reason or _("Makes a new bundle; the old one stays."))
        ui.progressBar.setVisible(running)
        ui.loadButton.setEnabled(self._question is None and not running)
        ui.useButton.setVisible(self._made != Path())

    def onLoad(self, _checked: bool = False) -> None:
        """Asks the engine for its prototypes."""
        self._say(_("asking the engine..."))
        # What is rebuilt is the bundle that was looked at, even if the set-up changes meanwhile.
        self._folder = bundleFolderOf(readSettings(), self._modulePath)
        self._question = self._host().client.ask("/atlas", None, self._onAtlas, self._onError)
        self.refresh()

    def onConcept(self, index: int) -> None:
        """Shows one concept alone."""
        names = self._concepts()
        self.table.showConcept(names[index - 1] if 0 < index <= len(names) else "")

    def onCopy(self, _checked: bool = False) -> None:
        """Puts the command that adds pictures on the clipboard."""
        slicer.app.clipboard().setText(self.ui.commandLineEdit.text)

    def onOpen(self, _checked: bool = False) -> None:
        """Asks for a pruning file."""
        told = _("Open pruning file")
        file = qt.QFileDialog.getOpenFileName(self.ui.openButton, told, "", FILTER)
        if file:
            self.openFile(file)

    def openFile(self, file: str) -> None:
        """Takes the choices of a pruning file; a file that does not fit changes nothing."""
        try:
            choices = readPruning(Path(file), self._head, self._prototypes)
        except PruningError as error:
            self._say(str(error))
            return
        self.table.setChoices(choices)
        self._say(_("read {file}").format(file=file))
        self.refresh()

    def onSave(self, _checked: bool = False) -> None:
        """Writes the choices; unlike rebuilding, this may leave a concept bare."""
        told = _("Save pruning file")
        file = askSaveFile(self.ui.saveButton, told, PRUNING_NAME, {"JSON": ".json"})
        if file and self._write(Path(file)):
            self._say(_("wrote {file}").format(file=file))

    def onRebuild(self, _checked: bool = False) -> None:
        """Asks for a folder and makes a new bundle in it, or cancels."""
        if self.rebuild.isRunning:
            self.rebuild.cancel()
            self._forgetWriting()
            self._say(_("cancelled"))
            self.refresh()
            return
        told = _("Folder that the new bundle goes into")
        parent = qt.QFileDialog.getExistingDirectory(self.ui.rebuildButton, told)
        if parent:
            self.startRebuild(Path(parent))

    def startRebuild(self, parent: Path) -> None:
        """Makes a new bundle in a folder of its own below `parent`."""
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            told = _("cannot write into {folder}: {reason}")
            self._say(told.format(folder=parent, reason=error.strerror or error))
            return
        self._writing = tempfile.TemporaryDirectory()
        pruning = Path(self._writing.name) / PRUNING_NAME
        if not self._write(pruning):
            return
        out = newFolderIn(parent, self._folder)
        self._say(_("making {folder}...").format(folder=out))
        self.rebuild.start(readSettings(), self._modulePath, self._folder, pruning, out)
        self.refresh()

    def onUse(self, _checked: bool = False) -> None:
        """The engine uses the new bundle from now on; its prototypes are shown."""
        folder, self._made = self._made, Path()
        self._host().setup.selectBundle(str(folder))
        self.onLoad()

    def _onAtlas(self, body: bytes) -> None:
        self._question = None
        document = json.loads(body)
        # Loading the same bundle again must not lose ticks and notes.
        choices = self.table.choices() if document["head_sha256"] == self._head else {}
        self._head, self._prototypes = document["head_sha256"], document["prototypes"]
        self.table.show(self._prototypes)
        self.table.setChoices(choices)
        box = self.ui.conceptComboBox
        box.clear()
        for name in [_("all concepts"), *self._concepts()]:
            box.addItem(name)
        self._say("" if self._prototypes else NO_CONCEPTS)
        self.refresh()
        for prototype in self._prototypes:
            if prototype["has_pixels"]:
                self._askPicture(keyOf(prototype), self._head)

    def _askPicture(self, key: Key, head: str) -> None:
        concept, number = key

        def onPicture(png: bytes) -> None:
            if head == self._head:
                self.table.showPicture(key, png)

        path = f"/atlas/{quote(concept, safe='')}/{number}/picture"
        self._host().client.ask(path, None, onPicture, lambda _message, _reached: None)

    def _onError(self, message: str, _reached: bool) -> None:
        self._question = None
        self._say(message)
        self.refresh()

    def _onRebuilt(self, folder: Path) -> None:
        self._forgetWriting()
        self._made = folder
        self._say(_("The new bundle is {folder}.").format(folder=folder))
        self.refresh()

    def _onRebuildError(self, message: str) -> None:
        self._forgetWriting()
        self._say(message)
        self.refresh()

    def _write(self, file: Path) -> bool:
        try:
            writePruning(file, self._head, self.table.choices())
        except OSError as error:
            reason = error.strerror or error
            self._say(_("cannot write {file}: {reason}").format(file=file, reason=reason))
            return False
        return True

    def _forgetWriting(self) -> None:
        if self._writing is not None:
            self._writing.cleanup()
        self._writing = None

    def _concepts(self) -> list[str]:
        return list(dict.fromkeys(p["concept"] for p in self._prototypes))

    def _statusText(self) -> str:
        if not self._prototypes:
            return ""
        kept = [p for p in self._prototypes if p["kept"]]
        gone = len(self._prototypes) - len(kept)
        told = _("{count} prototypes of {concepts} concepts, {removed} to be removed")
        told = told.format(
            count=len(kept),
            concepts=len({p["concept"] for p in kept}),
            removed=sum(choice.remove for choice in self.table.choices().values()),
        )
        return told + (_("; {count} were removed before").format(count=gone) if gone else "") + "."

    def _showHint(self) -> None:
        """Says which pictures are missing and how to get them."""
        settings = readSettings()
        there = sum(p["has_pixels"] for p in self._prototypes)
        self.ui.picturesWidget.setVisible(there < len(self._prototypes))
        parts = [_haveText(there, len(self._prototypes)), _howText(settings.location == "remote")]
        self.ui.picturesLabel.setText(" ".join(parts))
        command = addPixelsCommand(settings, self._modulePath, self._folder)
        if command != self.ui.commandLineEdit.text:
            self.ui.commandLineEdit.setText(command)
            # Else the end of a long line is shown.
            self.ui.commandLineEdit.setCursorPosition(0)
            self.ui.commandLineEdit.setToolTip(command)

    def _whyNotRebuild(self) -> str:
        """Why a bundle cannot be made; empty if it can."""
        choices = self.table.choices()
        if not self._prototypes:
            return _("Load the prototypes first.")
        if bare := bareConcepts(self._prototypes, choices):
            told = _("All prototypes of {names} are removed: keep at least one of each concept.")
            return told.format(names=", ".join(bare))
        if not any(choice.remove for choice in choices.values()):
            return _("Untick a prototype that shall be removed.")
        if readSettings().location == "remote":
            return _("The bundle is on a remote server: save the pruning file and rebuild there.")
        return ""

    def _say(self, message: str) -> None:
        self.ui.messageLabel.setText(message)


def _haveText(there: int, count: int) -> str:
    """How many prototypes have pictures."""
    if there:
        told = _("{there} of {count} prototypes have a picture of their case.")
        return told.format(there=there, count=count)
    return _("This bundle comes without the images of its cases; they stay with their archive.")


def _howText(isRemote: bool) -> str:
    """How the user gets the others; the line for the terminal follows."""
    local = _("in the Command Prompt") if os.name == "nt" else _("in a terminal")
    told = _(
        "`contrastdiagnosis cases add-pixels --from FOLDER` adds pictures from a local copy of the"
        " cases, a folder with nodules.csv, image/ and votes/ or mask/. Run it {where} as"
        " follows, with the folder's full path for FOLDER, then load the prototypes again:"
    )
    return told.format(where=_("on the server") if isRemote else local)
