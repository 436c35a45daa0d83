"""The panel "Set-up": what is installed, which bundle and device, on this computer or another."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Engine.Installer import Installer
from ContrastDiagnosisLib.Engine.Settings import Settings, readSettings, writeSettings
from ContrastDiagnosisLib.Engine.Tokens import inKeyring

DEVICES = ("auto", "cpu", "cuda")
LOCATIONS = ("local", "remote")

TYPING_MS = 800

FOLDERS, FILES = 1, 2
"""Of ctkPathLineEdit::Filter; with Qt 6 PythonQt does not have the names."""

PRIVACY = _(
    "A remote server gets the voxels in a box of about 50 mm around each point, for a report also"
    " three thinned slices, with their place in the scan, your corrections and the cases that you"
    " chose; nothing else: no name, no identifier, not even as a hash, no date. Nothing is sent"
    " unless this box is ticked."
)

TOKEN_KEPT = _("The token is kept in this system's keyring, not in Slicer's settings.")
TOKEN_FORGOTTEN = _(
    "The token is asked for anew each time that Slicer starts: there is no system keyring, or"
    " Slicer's Python lacks the package 'keyring'."
)


class SetupPanel:
    """Widgets for `Settings`; nothing is installed, started or sent before a button is pressed."""

    def __init__(
        self,
        installer: Installer,
        onChanged: Callable[[], None],
        ask: Callable[[str, Callable[[bytes], None], Callable[[str, bool], None]], Any],
    ) -> None:
        """Makes the widgets.

        Args:
            installer: Looks for packages.
            onChanged: Called when the engine has to be started anew.
            ask: Sends a GET request: path, what to do with the answer, and with an error.
        """
        self._installer = installer
        self._onChanged = onChanged
        self._ask = ask
        self.widget = qt.QWidget()
        form = qt.QFormLayout(self.widget)
        self.packages = qt.QLabel()
        self.packages.setWordWrap(True)
        self.installButton = qt.QPushButton(_("Install what is missing"))
        self.installButton.setToolTip(
            _("Installs PyTorch and the engine's packages into Slicer's Python, after asking.")
        )
        self.location = _combo([_("this computer"), _("a remote server")])
        self.python = ctk.ctkPathLineEdit()
        self.python.setToolTip(
            _(
                "Python program of another environment with the engine's packages; empty for"
                " Slicer's own. Slicer's packages then stay as they are."
            )
        )
        self.python.filters = FILES
        self.bundle = ctk.ctkPathLineEdit()
        self.bundle.filters = FOLDERS
        self.bundle.setToolTip(_("Folder of a bundle; empty for the one that comes along."))
        self.device = _combo([_("GPU if there is one"), _("CPU"), _("GPU (CUDA)")])
        self.url = qt.QLineEdit()
        self.url.setPlaceholderText("https://")
        self.token = qt.QLineEdit()
        self.token.setEchoMode(qt.QLineEdit.Password)
        self.allowed = qt.QCheckBox(_("I agree that voxels are sent to this server"))
        privacy = qt.QLabel(PRIVACY)
        privacy.setWordWrap(True)
        self.tokenPlace = qt.QLabel()
        self.tokenPlace.setWordWrap(True)
        self.checkButton = qt.QPushButton(_("Check"))
        self.checkButton.setToolTip(_("Starts the engine and asks what it is."))
        self.status = qt.QLabel()
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
        urlLabel, tokenLabel = qt.QLabel(_("Server address:")), qt.QLabel(_("Token:"))
        for label, field in (
            (_("Packages:"), self.packages),
            ("", self.installButton),
            (_("Engine on:"), self.location),
            (_("Python:"), self.python),
            (_("Bundle:"), self.bundle),
            (_("Device:"), self.device),
            (urlLabel, self.url),
            (tokenLabel, self.token),
            ("", self.tokenPlace),
            ("", self.allowed),
            ("", privacy),
            ("", self.checkButton),
            (_("Status:"), self.status),
        ):
            if label != "":
                form.addRow(label, field)
            else:
                form.addRow(field)
        wrapped = (self.packages, self.status, privacy, self.tokenPlace)
        for field in (*wrapped, self.python, self.bundle):
            # They wrap or scroll; the panel is no wider for them.
            field.setMinimumWidth(1)
            field.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)
        self._agreedUrl = ""
        self._localOnly = (self.python, self.bundle, self.device)
        self._remoteOnly = (
            urlLabel, self.url, tokenLabel, self.token, self.tokenPlace, self.allowed, privacy,
        )  # fmt: skip
        self._show(readSettings())
        self.installButton.clicked.connect(self.onInstall)
        self.checkButton.clicked.connect(self.onCheck)
        for signal in (
            self.location.currentIndexChanged,
            self.device.currentIndexChanged,
            self.url.editingFinished,
            self.token.editingFinished,
        ):
            signal.connect(self._onEdited)
        # A path changes with every letter that is typed: the engine waits for the last one.
        self.allowed.toggled.connect(self._onAllowed)
        self.allowed.toggled.connect(self._onEdited)
        self._typing = qt.QTimer(self.widget)
        self._typing.setSingleShot(True)
        self._typing.setInterval(TYPING_MS)
        self._typing.connect("timeout()", self._onEdited)
        for path in (self.python, self.bundle):
            path.currentPathChanged.connect(lambda *_: self._typing.start())
            # An emptied field is no path to ctkPathLineEdit: it tells only that it is not valid.
            path.validInputChanged.connect(lambda *_: self._typing.start())

    def settings(self) -> Settings:
        """As the widgets stand."""
        url = self.url.text.strip()
        return Settings(
            location=LOCATIONS[self.location.currentIndex],
            python=self.python.currentPath.strip(),
            bundle=self.bundle.currentPath.strip(),
            device=DEVICES[self.device.currentIndex],
            remoteUrl=url,
            remoteToken=self.token.text.strip(),
            remoteAllowed=url if self.allowed.checked else "",
        )

    def selectPython(self, program: str) -> None:
        """Uses another Python from now on, on this computer."""
        self.location.setCurrentIndex(LOCATIONS.index("local"))
        self.python.setCurrentPath(program)
        self._typing.stop()
        self._onEdited()

    def selectBundle(self, folder: str) -> None:
        """Uses another bundle from now on; the engine is started anew when it is next asked."""
        self.bundle.setCurrentPath(folder)
        self._typing.stop()
        self._onEdited()

    def missingPackages(self) -> list[str]:
        """What Slicer's own Python lacks."""
        return self._installer.missing()

    def refreshPackages(self) -> None:
        """Says what is missing; called when the panel is opened, not at start-up."""
        if self.python.currentPath.strip():
            self.packages.setText(_("Slicer's own packages are not used."))
            self.installButton.setEnabled(False)
            return
        missing = self._installer.missing()
        self.installButton.setEnabled(bool(missing))
        told = _("missing: {names}").format(names=", ".join(missing)) + "\n"
        self.packages.setText(
            told + self._installer.offlineInstructions() if missing else _("all installed")
        )

    def onInstall(self, _checked: bool = False) -> None:
        """Installs after asking; declining changes nothing."""
        try:
            self._installer.install()
        except Exception as error:
            # pip fails in many ways; each is shown, none may break the panel.
            logging.error("installation failed: %s", error)
            slicer.util.errorDisplay(_("The packages were not installed."), detailedText=str(error))
        self.refreshPackages()

    def onCheck(self, _checked: bool = False) -> None:
        """Asks the engine what it is."""
        self.status.setText(_("asking..."))
        self._ask("/health", self._onHealth, self._onError)

    def _onHealth(self, body: bytes) -> None:
        health = json.loads(body)
        self._ask("/bundle", lambda b: self._onBundle(health, json.loads(b)), self._onError)

    def _onError(self, message: str, _reached: bool) -> None:
        self.status.setText(message)

    def _onBundle(self, health: dict[str, Any], bundle: dict[str, Any]) -> None:
        lines = [
            _("engine {version} on {device}").format(**health),
            _("bundle {name} {version}: {cases} cases, {malignant_cases} malignant").format(
                **bundle
            ),
            _("pictures of {count} cases").format(count=bundle["cases_with_pixels"]),
        ]
        if "auc" in bundle["figures"]:
            told = _("AUC {auc:.3f} on unseen patients; the diameter alone {auc_diameter:.3f}")
            lines.append(told.format(**bundle["figures"]))
        lines.append(bundle["notice"])
        self.status.setText("\n".join(lines))

    def cleanup(self) -> None:
        """Nothing happens any more."""
        self._typing.stop()

    def _onAllowed(self, allowed: bool) -> None:
        self._agreedUrl = self.url.text.strip() if allowed else ""

    def _onEdited(self, *_values: Any) -> None:
        if self.allowed.checked and self.url.text.strip() != self._agreedUrl:
            # Consent was given to another server.
            self.allowed.setChecked(False)
            return
        settings = self.settings()
        if settings != readSettings():
            writeSettings(settings)
            self._enable(settings)
            self.status.setText("")
            self._onChanged()

    def _show(self, settings: Settings) -> None:
        known = settings.location in LOCATIONS and settings.device in DEVICES
        settings = settings if known else Settings()
        self.location.setCurrentIndex(LOCATIONS.index(settings.location))
        self.device.setCurrentIndex(DEVICES.index(settings.device))
        self.python.setCurrentPath(settings.python)
        self.bundle.setCurrentPath(settings.bundle)
        self.url.setText(settings.remoteUrl)
        self.token.setText(settings.remoteToken)
        agreed = bool(settings.remoteUrl) and settings.remoteAllowed == settings.remoteUrl
        self._agreedUrl = settings.remoteUrl if agreed else ""
        self.allowed.setChecked(agreed)
        self._enable(settings)

    def _enable(self, settings: Settings) -> None:
        remote = settings.location == "remote"
        if remote:
            self.tokenPlace.setText(TOKEN_KEPT if inKeyring() else TOKEN_FORGOTTEN)
        for widget in self._localOnly:
            widget.setEnabled(not remote)
        for widget in self._remoteOnly:
            widget.setVisible(remote)


def _combo(texts: list[str]) -> Any:
    box = qt.QComboBox()
    for text in texts:
        box.addItem(text)
    return box
