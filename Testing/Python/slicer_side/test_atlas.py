"""The reviewer's story: real Qt, the real server, the real `bundle prune`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import qt
import slicer
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.imaging.phantom import make_phantom
from contrastdiagnosis.service.answers import atlas_document
from ContrastDiagnosisLib.Engine.BundleRebuild import addPixelsCommand, bundleFolderOf, newFolderIn
from ContrastDiagnosisLib.Engine.Prunings import (
    Choice,
    PruningError,
    bareConcepts,
    keyOf,
    readPruning,
)
from ContrastDiagnosisLib.Engine.Settings import Settings, readSettings, writeSettings
from ContrastDiagnosisLib.Panels import AtlasPanel
from ContrastDiagnosisLib.Panels.AtlasTable import (
    CASE,
    COLUMNS,
    DIAMETER,
    HITS,
    KEEP,
    LABEL,
    NOTE,
    NUMBER,
    PICTURE,
    PICTURE_PIXELS,
    SIMILARITY,
)
from engine.conftest import CONCEPTS, NODULE, PROTOTYPES, write_tiny_bundle
from engine.test_cli import write_case_folder
from engine.test_pruning import WRONG_ROWS

from slicer_side.conftest import ENGINE_PYTHON, users_shell

FOLDER = Path(__file__).parents[3] / "ContrastDiagnosisSlicer"
NAMES = [c.name for c in CONCEPTS]
LIMIT_S = 60


@pytest.fixture
def modules(load_with_concepts, concept_bundle):
    """Both modules, set up as a user would."""
    writeSettings(Settings(python=ENGINE_PYTHON, bundle=str(concept_bundle), device="cpu"))
    return load_with_concepts("ContrastDiagnosis"), load_with_concepts("ContrastDiagnosisAtlas")


@pytest.fixture
def widget(modules, wait_until):
    """The module's widget with the prototypes loaded."""
    made = modules[1].widget
    made.parent.enter()
    made.ui.loadButton.click()
    wait_until(lambda: made.ui.loadButton.enabled, LIMIT_S)
    return made


@pytest.fixture
def shipped():
    """What the engine tells of the bundle that comes along, which has no pictures."""
    return atlas_document(load_bundle(bundleFolderOf(Settings(), str(FOLDER)))).model_dump()


@pytest.fixture
def unasked(modules, monkeypatch):
    """The module's widget without an engine: `show(widget, document)` gives it its answer."""
    monkeypatch.setattr(modules[0].widget.panel.client, "ask", lambda *_: None)
    made = modules[1].widget
    made.parent.enter()
    return made


def show(widget, document):
    widget.panel._onAtlas(json.dumps(document).encode())


def tick(widget, concept, number, keep, note=""):
    row = rowOf(widget, concept, number)
    item(widget, row, NOTE).setText(note)
    item(widget, row, KEEP).setCheckState(qt.Qt.Checked if keep else qt.Qt.Unchecked)


def rowOf(widget, concept, number):
    return widget.panel.table.rowOf((concept, number))


def item(widget, row, column):
    return widget.panel.table.widget.item(row, column)


def textsOf(widget, row):
    table = widget.panel.table.widget
    columns = [c for c in range(PICTURE + 1, KEEP) if not table.isColumnHidden(c)]
    return [item(widget, row, c).text() for c in columns]


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


def test_an_engine_that_is_set_up_anew_does_not_leave_the_panel_waiting(modules):
    widget = modules[1].widget
    widget.parent.enter()
    widget.ui.loadButton.click()
    assert not widget.ui.loadButton.enabled
    modules[0].widget.panel.onEngineChanged()
    assert widget.ui.loadButton.enabled
    assert "ask again" in message(widget)


def test_the_gallery_shows_all_prototypes_with_their_pictures(widget, wait_until):
    table = widget.panel.table.widget
    assert table.rowCount == 3 * (1 + PROTOTYPES)
    told = textsOf(widget, rowOf(widget, "spiculated", 0))
    assert told == ["0", "P0_0\nmalignant\n4.0 mm", "0.90", "0"]
    rows = {rowOf(widget, *keyOf(p)): p["has_pixels"] for p in widget.panel._prototypes}
    assert set(rows.values()) == {True, False}
    pictured = [r for r, there in rows.items() if there]
    wait_until(lambda: not item(widget, pictured[-1], PICTURE).icon().isNull(), LIMIT_S)
    assert not table.isColumnHidden(PICTURE)
    for row, there in rows.items():
        assert (table.rowHeight(row) == PICTURE_PIXELS + 4) == there
    assert widget.ui.statusLabel.text == "12 prototypes of 3 concepts, 0 to be removed."


def test_one_concept_is_shown_alone_below_its_title(widget):
    table = widget.panel.table.widget
    rows = range(3 * (1 + PROTOTYPES))
    titles = [r for r in rows if table.columnSpan(r, 0) == len(COLUMNS)]
    assert titles == [0, 5, 10]
    assert [item(widget, r, 0).text() for r in titles] == [f"{name} (4)" for name in NAMES]
    widget.ui.conceptComboBox.setCurrentIndex(2)
    assert [r for r in rows if not table.isRowHidden(r)] == [5, 6, 7, 8, 9]
    widget.ui.conceptComboBox.setCurrentIndex(0)
    assert not any(table.isRowHidden(r) for r in rows)


def test_the_shipped_bundle_says_how_to_get_pictures_and_what_is_known(unasked, shipped):
    assert not isShown(unasked.ui.picturesWidget)
    show(unasked, shipped)
    ui, table = unasked.ui, unasked.panel.table.widget
    assert isShown(ui.picturesWidget)
    assert "comes without the images" in ui.picturesLabel.text
    assert "contrastdiagnosis cases add-pixels --from FOLDER" in ui.picturesLabel.text
    assert "nodules.csv" in ui.picturesLabel.text
    layout = ui.prototypesCollapsibleButton.layout()
    assert layout.indexOf(ui.picturesWidget) < layout.indexOf(ui.gallery)
    ui.copyButton.click()
    copied = slicer.app.clipboard().text()
    assert copied == ui.commandLineEdit.text == commandOf(unasked)
    assert table.isColumnHidden(PICTURE)
    row = rowOf(unasked, "15 mm or more", 6)
    assert textsOf(unasked, row) == ["6", "0061_5", "malignant", "32.5", "0.78", "92"]
    assert table.rowHeight(row) <= 24
    tip = item(unasked, row, CASE).toolTip()
    assert "LIDC-IDRI-0061_5\nmalignant as the readers suspected\n32.5 mm" in tip
    assert "\nspiculation " in tip
    for column in range(NOTE + 1):
        assert len(table.horizontalHeaderItem(column).toolTip()) > len(list(COLUMNS)[column])


def isShown(widget):
    return widget.isVisibleTo(widget.parent())


def commandOf(widget):
    return addPixelsCommand(readSettings(), str(FOLDER), widget.panel._folder)


def test_some_pictures_are_counted_and_all_need_no_word(unasked, shipped):
    for count in (1, 90):
        for prototype in shipped["prototypes"][:count]:
            prototype["has_pixels"] = True
        show(unasked, shipped)
        assert isShown(unasked.ui.picturesWidget) == (count < 90)
        assert f"{count} of 90 prototypes have a picture" in unasked.ui.picturesLabel.text


def test_pictures_of_a_remote_bundle_are_added_there(unasked, shipped):
    writeSettings(Settings(location="remote", remoteUrl="https://example.org"))
    show(unasked, shipped)
    assert "Run it on the server" in unasked.ui.picturesLabel.text
    told = unasked.ui.commandLineEdit.text
    assert told == "contrastdiagnosis cases add-pixels --from FOLDER"


def test_the_command_adds_pictures_as_it_stands(tmp_path, monkeypatch):
    bundle = write_tiny_bundle(tmp_path / "a bundle" / "tiny")
    phantom = make_phantom([NODULE], shape=(60, 150, 180), spacing_mm=(2.5, 1.9, 1.9))
    write_case_folder(tmp_path / "cases", phantom)
    command = addPixelsCommand(Settings(python=ENGINE_PYTHON), str(FOLDER), bundle)
    assert "contrastdiagnosis cases add-pixels" in command
    command = command.replace("FOLDER", str(tmp_path / "cases"))
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=LIMIT_S, env=users_shell()
    )
    assert done.returncode == 0, done.stderr
    assert load_bundle(bundle).pixels.has("P3_1")


def test_the_command_of_windows_changes_the_drive_too(monkeypatch):
    settings = Settings(python="C:/a b/PythonSlicer.exe")
    with monkeypatch.context() as patched:
        patched.setattr("os.name", "nt")
        told = addPixelsCommand(settings, "D:/modules", "D:/a bundle")
    assert told == (
        'cd /d "D:/modules" && "C:/a b/PythonSlicer.exe" -m contrastdiagnosis cases add-pixels'
        ' --bundle "D:/a bundle" --from FOLDER'
    )


def test_an_older_engine_tells_less_and_is_shown_all_the_same(unasked, shipped):
    for prototype in shipped["prototypes"]:
        for name in ("label", "diameter_mm", "ratings"):
            del prototype[name]
    show(unasked, shipped)
    table = unasked.panel.table.widget
    assert table.isColumnHidden(LABEL) and table.isColumnHidden(DIAMETER)
    row = rowOf(unasked, "15 mm or more", 6)
    assert item(unasked, row, CASE).toolTip() == "LIDC-IDRI-0061_5"
    assert textsOf(unasked, row) == ["6", "0061_5", "0.78", "92"]
    for prototype in shipped["prototypes"]:
        prototype.update(has_pixels=True, label=None, diameter_mm=None, ratings=None)
    show(unasked, shipped)
    assert textsOf(unasked, rowOf(unasked, "15 mm or more", 6))[1] == "0061_5"


@pytest.mark.parametrize("pictured", [False, True])
def test_the_gallery_fits_a_narrow_panel_and_uses_its_height(unasked, shipped, pictured):
    for prototype in shipped["prototypes"]:
        prototype["has_pixels"] = pictured
        prototype["kept"] = prototype["number"] != 1  # its word needs more room than a tick
    show(unasked, shipped)
    table, panel = unasked.panel.table.widget, unasked.parent
    item(unasked, 1, NOTE).setText("a vessel that runs along the fissure, not a spicule at all")
    heights = []
    for height in (800, 1100):
        panel.resize(420, height)
        panel.show()
        slicer.app.processEvents()
        heights.append(table.height)
        assert panel.width == 420
        assert table.horizontalScrollBar().maximum == 0
        header = table.horizontalHeader()
        for column in (c for c in COLUMN_NUMBERS if not table.isColumnHidden(c)):
            assert header.sectionSize(column) >= header.sectionSizeHint(column)
    panel.hide()
    assert heights[0] > 400
    assert heights[1] - heights[0] == 300


COLUMN_NUMBERS = (PICTURE, NUMBER, CASE, LABEL, DIAMETER, SIMILARITY, HITS, KEEP, NOTE)


def test_prototypes_that_were_removed_before_are_told_apart(unasked, shipped):
    gone = [p for p in shipped["prototypes"] if p["concept"] == "calcified" or p["number"] == 1]
    for prototype in gone:
        prototype["kept"] = False
    show(unasked, shipped)
    told = unasked.ui.statusLabel.text
    assert told == "72 prototypes of 8 concepts, 0 to be removed; 18 were removed before."
    tick(unasked, "spiculated", 2, False)
    assert "72 prototypes of 8 concepts, 1 to be removed; 18" in unasked.ui.statusLabel.text


def test_no_object_of_qt_is_asked_whether_it_is_true(unasked, shipped, monkeypatch, tmp_path):
    """In PythonQt an object that is empty or not valid is false."""
    for cls in (qt.QProcess, qt.QVBoxLayout, qt.QTableWidget, qt.QTableWidgetItem):
        monkeypatch.setattr(cls, "__bool__", refuseTruth, raising=False)
    show(unasked, shipped)
    tick(unasked, "spiculated", 2, False)
    unasked.panel.startRebuild(tmp_path)
    assert unasked.panel.rebuild.isRunning
    unasked.ui.rebuildButton.click()
    unasked.panel.cleanup()


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (["LIDC-IDRI-0001_0", "LIDC-IDRI-0011_2"], ["0001_0", "0011_2"]),
        (["LIDC-IDRI-0001_0"] * 2, ["0001_0"] * 2),
        (["A-1", "B-1"], ["A-1", "B-1"]),
        (["A-1", "A-1-2"], ["1", "1-2"]),
        (["P0_0", "P0_1"], ["P0_0", "P0_1"]),
    ],
)
def test_what_all_cases_are_called_is_told_in_the_tip_alone(unasked, shipped, ids, shown):
    shipped["prototypes"] = shipped["prototypes"][:2]
    for prototype, caseId in zip(shipped["prototypes"], ids, strict=True):
        prototype["case_id"] = caseId
    show(unasked, shipped)
    for prototype, caseId, text in zip(shipped["prototypes"], ids, shown, strict=True):
        row = rowOf(unasked, *keyOf(prototype))
        assert item(unasked, row, CASE).text() == text
        assert item(unasked, row, CASE).toolTip().startswith(caseId)


def refuseTruth(asked):
    raise AssertionError(f"{asked} was asked whether it is true")


def test_prototypes_that_fire_most_come_first_in_their_concept(widget):
    for place, name in enumerate(NAMES):
        rows = sorted(rowOf(widget, name, number) for number in range(PROTOTYPES))
        first = place * (1 + PROTOTYPES) + 1
        assert rows == list(range(first, first + PROTOTYPES))
        hits = [int(item(widget, row, HITS).text()) for row in rows]
        assert hits == sorted(hits, reverse=True)
        assert len(set(hits)) > 1


def test_choices_are_saved_and_read_back(widget, tmp_path, monkeypatch):
    file = tmp_path / "pruning.json"
    asked = []
    monkeypatch.setattr(AtlasPanel, "askSaveFile", lambda *told: asked.append(told) or str(file))
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: str(file))
    tick(widget, "ill-defined margin", 3, False, "a vessel")
    assert "1 to be removed" in widget.ui.statusLabel.text
    widget.ui.saveButton.click()
    assert asked == [(widget.ui.saveButton, "Save pruning file", "pruning.json", {"JSON": ".json"})]
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
    monkeypatch.setattr(AtlasPanel, "askSaveFile", lambda *_: str(tmp_path / "no" / "x"))
    widget.ui.saveButton.click()
    assert "cannot write" in message(widget)
    before = message(widget)
    monkeypatch.setattr(AtlasPanel, "askSaveFile", lambda *_: "")
    widget.ui.saveButton.click()
    assert message(widget) == before
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


@pytest.mark.parametrize("wrong", WRONG_ROWS)
def test_a_row_says_exactly_what_it_means(tmp_path, wrong):
    """As the engine does, which removes what the file says."""
    row = {"concept": "calcified", "prototype": 1, "remove": False, "note": ""} | WRONG_ROWS[wrong]
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"head_sha256": "", "prototypes": [row]}))
    (name,) = WRONG_ROWS[wrong]
    with pytest.raises(PruningError, match=f"{name} must be"):
        readPruning(file, "", [{"concept": "calcified", "number": 1}])


def test_two_rows_on_one_prototype_are_refused(tmp_path):
    row = {"concept": "calcified", "prototype": 1, "note": ""}
    rows = [row | {"remove": True}, row | {"remove": False}]
    (tmp_path / "p.json").write_text(json.dumps({"head_sha256": "", "prototypes": rows}))
    with pytest.raises(PruningError, match="stands there twice"):
        readPruning(tmp_path / "p.json", "", [{"concept": "calcified", "number": 1}])


def test_a_byte_order_mark_is_no_fault_and_endless_nesting_is(tmp_path):
    row = {"concept": "calcified", "prototype": 1, "remove": True}
    (tmp_path / "p.json").write_text(
        json.dumps({"head_sha256": "", "prototypes": [row]}), encoding="utf-8-sig"
    )
    prototypes = [{"concept": "calcified", "number": 1}]
    assert readPruning(tmp_path / "p.json", "", prototypes) == {("calcified", 1): Choice(True)}
    (tmp_path / "p.json").write_text("[" * 60_000)
    with pytest.raises(PruningError, match="no pruning file"):
        readPruning(tmp_path / "p.json", "", prototypes)


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
    widget.panel._onAtlas(atlas_document(load_bundle(made)).model_dump_json().encode())
    row = rowOf(widget, "spiculated", 2)
    assert item(widget, row, KEEP).text() == "gone"
    assert "1 were removed before" in widget.ui.statusLabel.text
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
