"""The reviewer's story: real Qt, the real server, the real `bundle prune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import qt
import slicer
from contrastdiagnosis.answers import atlas_document
from contrastdiagnosis.bundle import load_bundle
from ContrastDiagnosisLib.AtlasTable import CONCEPT, HITS, KEEP, NOTE, PICTURE
from ContrastDiagnosisLib.BundleRebuild import bundleFolderOf, newFolderIn
from ContrastDiagnosisLib.Prunings import Choice, PruningError, bareConcepts, keyOf, readPruning
from ContrastDiagnosisLib.Settings import Settings, readSettings, writeSettings
from engine.conftest import CONCEPTS, PROTOTYPES

FOLDER = Path(__file__).parents[3] / "ContrastDiagnosisSlicer"
NAMES = [c.name for c in CONCEPTS]
LIMIT_S = 60


@pytest.fixture
def modules(load_with_concepts, concept_bundle):
    """Both modules, set up as a user would."""
    writeSettings(Settings(python=sys.executable, bundle=str(concept_bundle), device="cpu"))
    return load_with_concepts("ContrastDiagnosis"), load_with_concepts("ContrastDiagnosisAtlas")


@pytest.fixture
def widget(modules, wait_until):
    """The module's widget with the prototypes loaded."""
    made = modules[1].widget
    made.parent.enter()
    made.ui.loadButton.click()
    wait_until(lambda: made.ui.loadButton.enabled, LIMIT_S)
    return made


def tick(widget, concept, number, keep, note=""):
    items = widget.panel.table._items[rowOf(widget, concept, number)]
    items[NOTE].setText(note)
    items[KEEP].setCheckState(qt.Qt.Checked if keep else qt.Qt.Unchecked)


def rowOf(widget, concept, number):
    keys = [keyOf(prototype) for prototype in widget.panel.table._prototypes]
    return keys.index((concept, number))


def message(widget):
    return widget.ui.messageLabel.text


def test_nothing_is_started_before_it_is_asked_for(modules):
    widget = modules[1].widget
    widget.parent.enter()
    assert "Research use only" in widget.ui.noticeLabel.text
    assert "Research use only" in modules[1].parent.helpText
    assert modules[1].parent.categories == modules[0].parent.categories
    assert not widget.ui.rebuildButton.enabled
    assert "Load the prototypes" in widget.ui.rebuildButton.toolTip
    assert not widget.ui.saveButton.enabled


def test_the_gallery_shows_all_prototypes_with_their_pictures(widget, wait_until):
    table = widget.panel.table
    assert table.widget.rowCount == 3 * PROTOTYPES
    row = rowOf(widget, "spiculated", 0)
    told = [table._items[row][c].text() for c in range(1, 6)]
    assert told == ["spiculated", "0", "P0_0", "0.90", "0"]
    pictured = [r for r, p in enumerate(table._prototypes) if p["has_pixels"]]
    assert 0 < len(pictured) < 12
    wait_until(lambda: not table._items[pictured[-1]][PICTURE].icon().isNull(), LIMIT_S)
    assert not table.widget.isColumnHidden(PICTURE)
    widget.ui.conceptComboBox.setCurrentIndex(2)
    shown = [r for r in range(12) if not table.widget.isRowHidden(r)]
    assert shown == [4, 5, 6, 7]
    widget.ui.conceptComboBox.setCurrentIndex(0)
    assert not any(table.widget.isRowHidden(r) for r in range(12))
    assert "12 prototypes of 3 concepts, 0 to be removed" in widget.ui.statusLabel.text


def test_prototypes_that_fire_most_come_first_in_their_concept(widget):
    table = widget.panel.table
    shown = [
        (table._items[r][CONCEPT].text(), int(table._items[r][HITS].text()))
        for r in range(table.widget.rowCount)
    ]
    assert [name for name, _ in shown] == [name for name in NAMES for _ in range(PROTOTYPES)]
    for name in NAMES:
        hits = [count for concept, count in shown if concept == name]
        assert hits == sorted(hits, reverse=True)
    assert len({count for _, count in shown}) > 1


def test_choices_are_saved_and_read_back(widget, tmp_path, monkeypatch):
    file = tmp_path / "pruning.json"
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(file))
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(file), ""))
    tick(widget, "ill-defined margin", 3, False, "a vessel")
    assert "1 to be removed" in widget.ui.statusLabel.text
    widget.ui.saveButton.click()
    document = json.loads(file.read_text())
    assert document["head_sha256"] == widget.panel._head
    assert document["prototypes"] == [
        {"concept": "ill-defined margin", "prototype": 3, "remove": True, "note": "a vessel"}
    ]
    tick(widget, "ill-defined margin", 3, True)
    tick(widget, "calcified", 0, False)
    widget.ui.openButton.click()
    removed = {k: c for k, c in widget.panel.table.choices().items() if c != Choice()}
    assert removed == {("ill-defined margin", 3): Choice(True, "a vessel")}
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *_: str(tmp_path / "no" / "x"))
    widget.ui.saveButton.click()
    assert "cannot write" in message(widget)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["pruning.json"]


def test_loading_again_keeps_what_was_ticked(widget, wait_until):
    tick(widget, "calcified", 1, False, "a vessel")
    before = widget.panel.table.choices()
    widget.ui.loadButton.click()
    wait_until(lambda: widget.ui.loadButton.enabled, LIMIT_S)
    assert widget.panel.table.choices() == before


BAD = {
    "another bundle": {"head_sha256": "0" * 64, "prototypes": []},
    "has not": {
        "head_sha256": "",
        "prototypes": [{"concept": "x", "prototype": 0, "remove": True}],
    },
    "no pruning file": {"prototypes": "x"},
}  # fmt: skip


@pytest.mark.parametrize("told", list(BAD))
def test_a_file_that_does_not_fit_changes_nothing(widget, tmp_path, monkeypatch, told):
    document = dict(BAD[told])
    if document.get("head_sha256") == "":
        document["head_sha256"] = widget.panel._head
    file = tmp_path / "pruning.json"
    file.write_text(json.dumps(document))
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: str(file))
    tick(widget, "calcified", 1, False, "mine")
    before = widget.panel.table.choices()
    widget.ui.openButton.click()
    assert told in message(widget)
    assert widget.panel.table.choices() == before


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\x00")
    for file in (tmp_path / "x.json", tmp_path / "absent.json"):
        with pytest.raises(PruningError, match="no pruning file"):
            readPruning(file, "", [])


def test_a_concept_that_would_be_left_bare_is_named_before_anything_runs(widget):
    for number in range(PROTOTYPES):
        tick(widget, "calcified", number, False)
    assert bareConcepts(widget.panel._prototypes, widget.panel.table.choices()) == ["calcified"]
    assert not widget.ui.rebuildButton.enabled
    assert "calcified" in widget.ui.rebuildButton.toolTip
    tick(widget, "calcified", 0, True)
    assert widget.ui.rebuildButton.enabled


def test_a_new_bundle_is_made_and_used(widget, modules, tmp_path, monkeypatch, wait_until):
    tick(widget, "spiculated", 2, False, "a vessel")
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    widget.ui.rebuildButton.click()
    assert widget.ui.rebuildButton.text == "Cancel"
    assert widget.ui.progressBar.isVisibleTo(widget.ui.progressBar.parent())
    assert not widget.ui.useButton.isVisibleTo(widget.ui.useButton.parent())
    wait_until(lambda: not widget.panel.rebuild.isRunning, LIMIT_S)
    made = tmp_path / "tiny-pruned"
    assert str(made) in message(widget), message(widget)
    atlas = load_bundle(made).concepts.atlas
    assert [(p.concept, p.number) for p in atlas if not p.kept] == [("spiculated", 2)]
    assert [f.name for f in tmp_path.iterdir()] == ["tiny-pruned"]
    panel = modules[0].widget.panel
    started = []
    monkeypatch.setattr(panel, "_engineFactory", lambda told, _path: started.append(told.bundle))
    monkeypatch.setattr(panel.client, "replaceEngine", lambda _engine: None)
    monkeypatch.setattr(panel.client, "ask", lambda path, *_: started.append(path))
    widget.ui.useButton.click()
    assert started == [str(made), "/atlas"]
    assert readSettings().bundle == panel.setup.bundle.currentPath == str(made)
    widget.panel._onAtlas(json.dumps(atlas_document(load_bundle(made))).encode())
    row = rowOf(widget, "spiculated", 2)
    assert widget.panel.table._items[row][KEEP].text() == "removed before"
    assert not any(c.remove for c in widget.panel.table.choices().values())


def test_the_engines_own_sentence_is_shown(widget, tmp_path, wait_until):
    tick(widget, "spiculated", 2, False)
    widget.panel._head = "0" * 64  # the bundle was replaced since
    widget.panel.startRebuild(tmp_path)
    wait_until(lambda: not widget.panel.rebuild.isRunning, LIMIT_S)
    assert "made for another bundle" in message(widget)
    assert list(tmp_path.iterdir()) == []
    assert widget.ui.rebuildButton.text == "Rebuild..."


def test_cancelling_leaves_nothing(widget, tmp_path, wait_until):
    tick(widget, "spiculated", 2, False)
    widget.panel.startRebuild(tmp_path)
    process = widget.panel.rebuild._process
    widget.ui.rebuildButton.click()
    assert message(widget) == "cancelled"
    assert widget.ui.rebuildButton.enabled
    wait_until(lambda: process.state() == qt.QProcess.NotRunning, LIMIT_S)
    assert list(tmp_path.iterdir()) == []
    assert message(widget) == "cancelled"


def test_a_folder_that_cannot_be_written_is_named(widget, tmp_path):
    tick(widget, "spiculated", 2, False)
    (tmp_path / "file").touch()
    widget.panel.startRebuild(tmp_path / "file")
    assert "cannot write into" in message(widget)
    assert not widget.panel.rebuild.isRunning


def test_a_program_that_is_not_there_is_named(widget, tmp_path, wait_until):
    tick(widget, "spiculated", 2, False)
    writeSettings(Settings(python="/nowhere/python"))
    widget.panel.startRebuild(tmp_path)
    wait_until(lambda: not widget.panel.rebuild.isRunning, LIMIT_S)
    assert "/nowhere/python cannot be started" in message(widget)


def test_a_remote_bundle_is_not_rebuilt_here(widget):
    tick(widget, "spiculated", 2, False)
    writeSettings(Settings(location="remote", remoteUrl="https://example.org"))
    widget.panel.refresh()
    assert not widget.ui.rebuildButton.enabled
    assert "remote server" in widget.ui.rebuildButton.toolTip


def test_a_bundle_without_concepts_is_told(widget):
    widget.panel._onAtlas(json.dumps({"head_sha256": "", "prototypes": []}).encode())
    assert "no concepts" in message(widget)
    assert widget.panel.table.widget.rowCount == 0
    assert not widget.ui.saveButton.enabled


def test_the_default_bundle_is_found_and_new_folders_are_new(tmp_path):
    found = bundleFolderOf(Settings(), str(FOLDER))
    assert (found / "bundle.json").is_file()
    assert bundleFolderOf(Settings(bundle="/x"), str(FOLDER)) == Path("/x")
    (tmp_path / "lidc-pruned").mkdir()
    assert newFolderIn(tmp_path, found) == tmp_path / "lidc-pruned-2"


@pytest.mark.parametrize("name", ["test_LoadAndTick", "test_UnusableFile"])
def test_the_self_tests_that_slicer_runs(modules, name):
    """The same class that `make slicer-test` runs in the application."""
    modules[1].widget.parent.enter()
    case = modules[1].python.ContrastDiagnosisAtlasTest()
    case.setUp()
    getattr(case, name)()
    assert slicer.util.getNodesByClass("vtkMRMLTextNode") == []
