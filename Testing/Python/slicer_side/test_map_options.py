"""How the maps of a comparison are made: chosen in the panel, kept in the scene, asked for anew."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from contrastdiagnosis.protocol.map_variant import LocalCam, read_map
from contrastdiagnosis.protocol.tensors import unpack
from ContrastDiagnosisLib.Scene.OwnNodes import roleOf
from ContrastDiagnosisLib.Scene.Parameter import MapWindow
from ContrastDiagnosisLib.Session.MapOptions import CELLS, LEVELS, WINDOWS, mapOptionsOf

from slicer_side.conftest import LIMIT_S


def mapOf(node):
    return slicer.util.arrayFromVolume(roleOf(node, "queryMap")).copy()


@pytest.fixture
def compared(widget, click, wait_until):
    """A nodule beside its nearest case."""
    click(widget)
    node = widget.logic.getParameterNode()
    widget.panel.result.cases.selectRow(0)
    wait_until(lambda: roleOf(node, "queryMap") is not None, LIMIT_S)
    return node


@pytest.fixture
def options(widget):
    return widget.panel._pair.options


@pytest.fixture
def asked(widget, monkeypatch):
    """The requests of the panel: path, and the field `map` of its body."""
    sent, ask = [], widget.panel.client.ask

    def asking(path, body, *callbacks):
        if body is not None:
            sent.append((path.partition("?")[0], unpack(body)[1].get("map")))
        return ask(path, body, *callbacks)

    monkeypatch.setattr(widget.panel.client, "ask", asking)
    return sent


def answered(widget, wait_until):
    wait_until(lambda: not widget.panel.session.isAskingMaps, LIMIT_S)


def test_the_panels_defaults_are_the_engines(widget):
    node = widget.logic.getParameterNode()
    assert mapOptionsOf(node) == {}
    levels = tuple(level for level in LEVELS if getattr(node, f"mapLevel{level}"))
    shown = LocalCam(levels, CELLS[node.mapWindow], node.mapRectified)
    assert shown == LocalCam()


@pytest.mark.parametrize("window", MapWindow)
def test_every_choice_is_one_that_the_engine_takes(widget, window):
    node = widget.logic.getParameterNode()
    node.mapWindow, node.mapRectified, node.mapLevel4 = window, False, True
    made = read_map(mapOptionsOf(node))
    assert made == LocalCam((4, 3, 2), CELLS[window], False)


def test_the_group_is_collapsed_and_explained(widget, options):
    button = widget.ui.mapOptionsCollapsibleButton
    assert button.collapsed
    for shown in (*options.levels.values(), options.window, options.rectified, options.usualButton):
        assert shown.toolTip
    assert not options.usualButton.enabled


def test_a_choice_asks_for_the_shown_maps_anew(widget, compared, options, asked, wait_until):
    usual, told = mapOf(compared), widget.ui.remarksLabel.text
    assert "Not made as usual" not in told
    options.levels[4].click()
    assert "asking" in widget.ui.remarksLabel.text
    answered(widget, wait_until)
    assert asked == [("/maps", {"levels": [4, 3, 2]})]
    assert not np.array_equal(mapOf(compared), usual)
    assert "Not made as usual: levels a4, a3, a2." in widget.ui.remarksLabel.text
    coarse = mapOf(compared)
    options.window.setCurrentIndex(list(WINDOWS).index(MapWindow.LEVEL))
    options.rectified.click()
    answered(widget, wait_until)
    assert asked[-1] == (
        "/maps", {"levels": [4, 3, 2], "window_cells": None, "rectified": False}
    )  # fmt: skip
    assert not np.array_equal(mapOf(compared), coarse)
    count = len(asked)
    options.usualButton.click()
    answered(widget, wait_until)
    assert asked[count:] == [("/maps", None)]
    assert widget.ui.remarksLabel.text == told
    np.testing.assert_array_equal(mapOf(compared), usual)


def test_the_sign_shows_the_same_variant_without_asking(
    widget, compared, options, asked, wait_until
):
    options.levels[3].click()
    answered(widget, wait_until)
    count, similar = len(asked), mapOf(compared)
    widget.ui.signComboBox.setCurrentIndex(1)
    assert len(asked) == count
    assert "levels a2" in widget.ui.remarksLabel.text
    assert not np.array_equal(mapOf(compared), similar)


def test_the_answer_for_an_earlier_choice_is_not_shown(widget, compared, options, wait_until):
    """Two choices in a row: the first request is dropped."""
    usual = mapOf(compared)
    options.levels[4].click()
    options.usualButton.click()
    answered(widget, wait_until)
    for _ in range(5):
        slicer.app.processEvents()
    np.testing.assert_array_equal(mapOf(compared), usual)
    assert "Not made as usual" not in widget.ui.remarksLabel.text


def test_maps_of_another_variant_do_not_stay_where_none_come(
    widget, compared, options, monkeypatch
):
    def whenReady(_onReady, onError):
        onError("the engine says no")

    monkeypatch.setattr(widget.panel.client.engine, "whenReady", whenReady, raising=False)
    options.levels[4].click()
    assert widget.ui.messageLabel.text == "the engine says no"
    assert compared.caseId == "" and roleOf(compared, "queryMap") is None
    assert "Select a case" in widget.ui.remarksLabel.text
    assert not widget.panel.session.isAskingMaps


def test_without_a_comparison_nothing_is_asked(widget, click, options, asked, wait_until):
    click(widget)
    asked.clear()
    options.levels[1].click()
    assert asked == []
    widget.panel.result.cases.selectRow(1)
    answered(widget, wait_until)
    assert asked == [("/maps", {"levels": [3, 2, 1]})]


def test_the_last_level_cannot_be_taken_away(widget, options):
    node = widget.logic.getParameterNode()
    options.levels[3].click()
    assert not options.levels[2].enabled
    options.levels[2].click()
    assert node.mapLevel2 and mapOptionsOf(node) == {"levels": [2]}
    options.levels[1].click()
    assert options.levels[2].enabled


def test_a_script_that_takes_all_levels_is_told(widget, compared, wait_until):
    with slicer.util.NodeModify(compared.parameterNode):
        compared.mapLevel2 = compared.mapLevel3 = False
    wait_until(lambda: widget.ui.messageLabel.text, LIMIT_S)
    assert "levels must be of a1...a4" in widget.ui.messageLabel.text
    assert roleOf(compared, "queryMap") is None


def test_choices_come_back_with_the_scene_and_their_maps_stay(
    widget, compared, options, asked, wait_until, tmp_path
):
    options.levels[4].click()
    options.window.setCurrentIndex(list(WINDOWS).index(MapWindow.CELL))
    answered(widget, wait_until)
    values, file = mapOf(compared), str(tmp_path / "scene.mrb")
    assert slicer.mrmlScene.WriteToMRB(file, None, None)
    slicer.mrmlScene.Clear(False)
    assert not options.levels[4].checked
    asked.clear()
    assert slicer.mrmlScene.ReadFromMRB(file, True)
    node = widget.logic.getParameterNode()
    assert options.levels[4].checked and node.mapWindow is MapWindow.CELL
    assert asked == []
    np.testing.assert_allclose(mapOf(node), values, atol=1e-6)
    options.levels[4].click()
    answered(widget, wait_until)
    assert asked == [("/maps", {"window_cells": 1})]
    assert not np.array_equal(mapOf(node), values)


def test_a_report_follows_the_choices(widget, compared, options, asked, wait_until, tmp_path):
    options.rectified.click()
    answered(widget, wait_until)
    file = tmp_path / "report.html"
    written = []
    widget.panel.reports.save({compared.nodule: file}, written.append)
    wait_until(lambda: written, LIMIT_S)
    assert asked[-1] == ("/report", {"rectified": False})
    assert "Not made as usual: negative weights kept" in file.read_text()


def test_the_comparison_tells_whose_evidence_the_distance_is(widget, compared):
    told = widget.ui.remarksLabel.text
    assert "Of the pair: " in told and "size, density and outline" in told


def test_the_remarks_of_a_pair_are_sentences(widget, compared):
    """The engine's own are clauses, such as that the case has no picture."""
    told = widget.ui.remarksLabel.text
    assert "no picture" in told
    assert told.endswith(".") and all(s[0].isupper() for s in told.split(". "))
