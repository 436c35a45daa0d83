"""The panel "Set-up": what it stores, says, installs and asks."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import qt
import slicer
import slicer.packaging
from ContrastDiagnosisLib.Engine import Tokens
from ContrastDiagnosisLib.Engine.EngineProcess import (
    EngineOptions,
    LocalEngine,
    RemoteEngine,
    makeEngine,
    sentenceOf,
)
from ContrastDiagnosisLib.Engine.Installer import Installer
from ContrastDiagnosisLib.Engine.Settings import Settings, readSettings, writeSettings
from ContrastDiagnosisLib.Panels.SetupPanel import SetupPanel

from slicer_side.conftest import ENGINE_PYTHON, MODULES, of_stand_ins, own_packages

REQUIREMENTS = MODULES / "Resources" / "requirements.txt"


class Asked:
    """Keeps what the panel asks."""

    def __init__(self):
        self.paths, self.answers = [], {}

    def __call__(self, path, onAnswer, onError):
        self.paths.append(path)
        answer = self.answers.get(path, "the engine is gone")
        if isinstance(answer, str):
            onError(answer, False)
        else:
            onAnswer(json.dumps(answer).encode())


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def panel(scene, asked, changes):
    made = SetupPanel(Installer(str(REQUIREMENTS)), lambda: changes.append(1), asked)
    yield made
    made.widget.deleteLater()


def test_settings_survive_a_restart(scene):
    settings = Settings("remote", "/p", "/b", "cuda", "https://x", "t" * 20, "https://x")
    writeSettings(settings)
    assert readSettings() == settings


REMOTE = Settings("remote", remoteUrl="https://x", remoteToken="t" * 20)


def stored_text():
    store = qt.QSettings()
    store.sync()
    return Path(store.fileName()).read_text()


def test_a_token_lies_in_the_keyring_and_not_in_the_settings(scene, keyring_in_memory):
    writeSettings(REMOTE)
    assert list(keyring_in_memory.kept.values()) == ["t" * 20]
    assert "https://x" in stored_text() and "t" * 20 not in stored_text()
    Tokens._known.clear()  # As after a restart.
    assert readSettings() == REMOTE
    writeSettings(replace(REMOTE, remoteToken=""))
    assert keyring_in_memory.kept == {}


@pytest.mark.parametrize("lack", ["package", "priority", "lock"])
def test_without_a_keyring_a_token_lasts_until_slicer_ends(
    scene, asked, keyring_in_memory, monkeypatch, lack, caplog
):
    def locked(*_):
        raise RuntimeError(f"locked: {'t' * 20}")

    if lack == "package":
        monkeypatch.setitem(sys.modules, "keyring", None)
    elif lack == "priority":
        keyring_in_memory.priority = 0.5
    else:
        monkeypatch.setattr(keyring_in_memory, "set_password", locked)
        monkeypatch.setattr(keyring_in_memory, "get_password", locked)
    writeSettings(REMOTE)
    assert readSettings() == REMOTE
    panel = SetupPanel(Installer(str(REQUIREMENTS)), lambda: None, asked)
    kept = "asked for anew" if lack != "lock" else "keyring"
    assert kept in panel.tokenPlace.text
    Tokens._known.clear()
    assert readSettings().remoteToken == ""
    assert keyring_in_memory.kept == {} and "t" * 20 not in stored_text() + caplog.text


def test_a_token_of_an_earlier_version_moves_to_the_keyring(scene, keyring_in_memory):
    writeSettings(replace(REMOTE, remoteToken=""))
    qt.QSettings().setValue("ContrastDiagnosis/remoteToken", "t" * 20)
    assert readSettings() == REMOTE
    assert list(keyring_in_memory.kept.values()) == ["t" * 20]
    assert "t" * 20 not in stored_text()


def test_going_back_to_this_computer_keeps_the_token(panel, changes, keyring_in_memory):
    for location in (1, 0, 1):
        panel.location.setCurrentIndex(location)
        if location and not panel.url.text:
            panel.url.setText("https://x")
            panel.token.setText("t" * 20)
            panel.token.editingFinished.emit()
    assert readSettings().remoteToken == "t" * 20
    told = len(changes)
    panel.token.editingFinished.emit()
    assert len(changes) == told


def test_without_settings_there_are_defaults(scene):
    assert readSettings() == Settings()


def test_an_edit_is_stored_and_told_once(panel, changes, wait_until):
    panel.device.setCurrentIndex(1)
    assert readSettings().device == "cpu"
    assert len(changes) == 1
    for typed in ("/some/py", "/some/pyth", "/some/python"):
        panel.python.setCurrentPath(typed)
    assert readSettings().python == ""
    wait_until(lambda: readSettings().python == "/some/python", 5)
    assert len(changes) == 2


@pytest.mark.parametrize("field", ["python", "bundle"])
def test_an_emptied_field_is_stored(panel, changes, wait_until, field):
    """ctkPathLineEdit does not tell of it by `currentPathChanged`."""
    path = getattr(panel, field)
    path.setCurrentPath("/some/where")
    wait_until(lambda: getattr(readSettings(), field) == "/some/where", 5)
    path.setCurrentPath("")
    wait_until(lambda: getattr(readSettings(), field) == "", 5)
    assert len(changes) == 2


def test_what_is_stored_is_shown(scene, asked, changes):
    writeSettings(Settings(location="remote", remoteUrl="https://x", remoteAllowed="https://x"))
    panel = SetupPanel(Installer(str(REQUIREMENTS)), lambda: None, asked)
    assert panel.location.currentIndex == 1
    assert panel.url.text == "https://x"
    assert panel.allowed.checked
    assert not panel.python.enabled


def test_consent_is_for_one_address(panel):
    panel.location.setCurrentIndex(1)
    panel.url.setText("https://one")
    panel.allowed.setChecked(True)
    assert readSettings().remoteAllowed == "https://one"
    panel.url.setText("https://two")
    panel.url.editingFinished.emit()
    assert not panel.allowed.checked
    assert readSettings().remoteAllowed == ""
    engine = makeEngine(readSettings(), "/modules")
    failures = []
    engine.token = "t" * 20
    engine.whenReady(lambda *_: failures.append("sent"), failures.append)
    assert "Nothing was sent" in failures[0]


@pytest.mark.parametrize("python", [pytest.param("", marks=own_packages), ENGINE_PYTHON])
def test_nothing_that_lies_about_runs_with_the_engine(tmp_path, monkeypatch, wait_until, python):
    """Slicer may stand in a folder that others write to, and PYTHONPATH may name it as empty."""
    for name in ("tyro.py", "contrastdiagnosis.py", "sitecustomize.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "also/here"]))
    engine, told = LocalEngine(EngineOptions(python, device="cpu"), str(MODULES)), []
    engine.whenReady(lambda url, token: told.append(url), told.append)
    wait_until(lambda: told, 60)
    engine.stop()
    assert told[0].startswith("http://127.0.0.1:")
    assert not (tmp_path / "ran").exists()


def test_the_engine_follows_the_settings():
    local = makeEngine(Settings(python="/p", bundle="/b", device="cpu"), "/modules")
    assert isinstance(local, LocalEngine)
    assert (local.options.python, local.options.bundle, local.options.device) == ("/p", "/b", "cpu")
    remote = makeEngine(Settings(location="remote", remoteUrl="https://x/"), "/modules")
    assert isinstance(remote, RemoteEngine)
    assert remote.url == "https://x"


def test_the_remote_fields_show_only_for_a_remote_server(panel):
    panel.widget.show()
    assert not panel.url.visible
    panel.location.setCurrentIndex(1)
    assert panel.url.visible
    assert not panel.bundle.enabled
    panel.widget.hide()


def test_missing_packages_are_named_with_offline_instructions(panel, monkeypatch):
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda r: "monai" not in str(r))
    panel.refreshPackages()
    assert "missing: monai" in panel.packages.text
    assert "pip install --no-index" in panel.packages.text
    assert panel.installButton.enabled
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda r: True)
    panel.refreshPackages()
    assert panel.packages.text == "all installed"
    assert not panel.installButton.enabled


def test_with_another_python_slicers_packages_do_not_matter(panel):
    panel.python.setCurrentPath("/some/python")
    panel.refreshPackages()
    assert "not used" in panel.packages.text
    assert not panel.installButton.enabled


def test_declining_the_installation_is_told_and_changes_nothing(panel, monkeypatch):
    def declined(*_arguments, **_options):
        raise RuntimeError("User declined package installation")

    told = []
    monkeypatch.setattr(slicer.packaging, "pip_ensure", declined)
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda r: "monai" not in str(r))
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: told.append(text))
    panel.onInstall()
    assert told == ["The packages were not installed."]
    assert panel.installButton.enabled


@of_stand_ins
def test_torch_comes_first_and_by_its_extension(panel, monkeypatch):
    import sys
    import types

    order = []

    class Logic:
        def installTorch(self, askConfirmation, torchVersionRequirement):
            order.append(f"torch{torchVersionRequirement}")
            return object()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda r: False)
    monkeypatch.setattr(
        slicer.packaging, "pip_ensure", lambda wanted, **_: order.append(len(wanted))
    )
    slicer.app.setTestingEnabled(False)
    Installer(str(REQUIREMENTS)).install()
    assert order[0] == "torch>=2.4"
    assert len(order) == 2
    assert order[1] >= 10


def test_check_says_what_answers(panel, asked):
    asked.answers = {
        "/health": {"version": "0.1", "device": "cuda"},
        "/bundle": {
            "name": "lidc", "version": "3", "cases": 758, "malignant_cases": 297,
            "cases_with_pixels": 5, "figures": {"auc": 0.92, "auc_diameter": 0.899},
            "notice": "Research use only",
        },
    }  # fmt: skip
    panel.onCheck()
    assert asked.paths == ["/health", "/bundle"]
    for text in ("0.1 on cuda", "lidc 3: 758 cases", "0.920", "diameter alone 0.899", "Research"):
        assert text in panel.status.text


def test_check_says_why_nothing_answers(panel):
    panel.onCheck()
    assert panel.status.text == "the engine is gone"


def test_a_token_is_not_shown(panel):
    assert panel.token.echoMode == qt.QLineEdit.Password


TRACEBACK = """Traceback (most recent call last):
  File "/x/contrastdiagnosis/__main__.py", line 3, in <module>
    from contrastdiagnosis.commands.main import main
  File "/x/contrastdiagnosis/commands/main.py", line 9, in <module>
    import {name}
{error}"""


@pytest.mark.parametrize(
    "said",
    [
        TRACEBACK.format(name="tyro", error="ModuleNotFoundError: No module named 'tyro'"),
        "/usr/bin/python3: No module named tyro",
        "Error while finding module specification for 'contrastdiagnosis.__main__'"
        " (ModuleNotFoundError: No module named 'tyro')",
    ],
)
def test_packages_that_are_missing_are_a_sentence_not_a_traceback(said):
    told = sentenceOf(said.splitlines(), "/some/python")
    assert "/some/python" in told and "tyro is missing" in told and "set-up" in told
    assert "Traceback" not in told and "Error" not in told
    assert "Slicer's own Python" in sentenceOf(said.splitlines(), "")


def test_of_any_other_traceback_the_last_line_is_told():
    lines = TRACEBACK.format(name="x", error="OSError: libcudart.so: not found").splitlines()
    assert sentenceOf(lines, "") == "OSError: libcudart.so: not found"
    assert sentenceOf(lines[1:], "") == "OSError: libcudart.so: not found"


def test_the_engines_own_words_stay():
    assert sentenceOf(["contrastdiagnosis: no bundle in /x", ""], "") == "no bundle in /x"
    assert sentenceOf([], "") == ""
