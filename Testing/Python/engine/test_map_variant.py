"""The variant of the maps in words, and on its way from the asker to the maps and the report."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.map_variant import (
    SIGNS,
    LocalCam,
    checked_signs,
    read_map,
    variant_summary,
)
from contrastdiagnosis.protocol.tensors import pack, unpack
from contrastdiagnosis.service.answers import maps_body, print_report_html, report_html
from contrastdiagnosis.service.engine_queue import Engine
from contrastdiagnosis.service.requests import read_request, request_body

from engine.asking import one_thread  # noqa: F401
from engine.conftest import NODULE

OTHER = LocalCam(levels=(4, 3, 2, 1), window_cells=None, rectified=False)
WORDS = "levels a4, a3, a2, a1; weights averaged over the whole level; negative weights kept"
RAS = [str(x) for x in NODULE.center_ras_mm]


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu")


@pytest.fixture(scope="module")
def sent(phantom):
    """`sent(...)`: the request as the server reads it."""
    return lambda **more: read_request(request_body(phantom.volume, NODULE.center_ras_mm, **more))


def test_only_what_is_not_usual_is_told():
    assert LocalCam().words == "" and variant_summary(LocalCam()) is None
    assert OTHER.words == WORDS
    rest = LocalCam(window_cells=1, through_mask=True, outside=1)
    assert rest.words == (
        "weights cell by cell; gradient through the mask too; weight 1 outside the mask"
    )
    assert LocalCam(window_cells=5).words == "weights averaged over 5 cells a side"
    assert variant_summary(OTHER) == {**asdict(OTHER), "words": WORDS}


@pytest.mark.parametrize("cells", [0, -1, 4, 65, 10**400])
def test_windows_that_cannot_be_are_refused(cells):
    with pytest.raises(
        InputError, match=r"window_cells must be odd, 1 to 63, or None, got .{1,60}$"
    ):
        LocalCam(window_cells=cells)


def test_signs_are_asked_for_by_name():
    assert checked_signs(["different", "similar", "different"]) == SIGNS
    assert checked_signs(["different"]) == ("different",)
    for odd in ([], ["alike"]):
        with pytest.raises(InputError, match="signs must be similar, different or both, got"):
            checked_signs(odd)


def test_a_variant_travels_and_the_usual_one_is_not_mentioned(phantom, sent):
    body = request_body(phantom.volume, NODULE.center_ras_mm, variant=OTHER, signs=["similar"])
    assert read_request(body).map == OTHER and read_request(body).signs == ("similar",)
    plain = request_body(phantom.volume, NODULE.center_ras_mm)
    assert not {"map", "signs"} & set(unpack(plain)[1])
    assert (sent().map, sent().signs) == (LocalCam(), SIGNS)
    # A diagnosis is remembered by its key: variants share it.
    assert read_request(body).key == read_request(plain).key


def test_what_is_absent_of_a_variant_is_as_usual():
    assert read_map({}) == LocalCam()
    assert read_map({"window_cells": None}) == LocalCam(window_cells=None)
    assert read_map({"levels": [4], "outside": 1}) == LocalCam(levels=(4,), outside=1)
    assert read_map(json.loads(json.dumps(asdict(OTHER)))) == OTHER


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"map": 7}, "wanted a JSON object for map, got 7"),
        ({"map": {"level": [3]}}, r"the map holds unknown fields: \['level'\]"),
        ({"map": {"levels": 3}}, "levels must be a list of 4, 3, 2 and 1, got 3"),
        ({"map": {"levels": [True]}}, "levels must be a list of 4, 3, 2 and 1"),
        ({"map": {"levels": [3.0]}}, "levels must be a list of 4, 3, 2 and 1"),
        ({"map": {"levels": []}}, r"levels must be of a1...a4, deepest first, got \(\)"),
        ({"map": {"levels": [2, 3]}}, r"deepest first, got \(2, 3\)"),
        ({"map": {"levels": [3, 3]}}, r"deepest first, got \(3, 3\)"),
        ({"map": {"window_cells": "3"}}, "window_cells must be odd or null, got '3'"),
        ({"map": {"window_cells": True}}, "window_cells must be odd or null, got True"),
        ({"map": {"window_cells": 2}}, "window_cells must be odd, 1 to 63, or None, got 2"),
        ({"map": {"rectified": 1}}, "rectified must be true or false, got 1"),
        ({"map": {"through_mask": None}}, "through_mask must be true or false, got None"),
        ({"map": {"outside": "0"}}, "outside must be a number, got '0'"),
        ({"map": {"outside": 2}}, "outside must lie between 0 and 1, got 2"),
        ({"signs": "similar"}, "signs must be a list of texts, got 'similar'"),
        ({"signs": [1]}, r"signs must be a list of texts, got \[1\]"),
        ({"signs": ["both"]}, "signs must be similar, different or both, got"),
        ({"signs": []}, "signs must be similar, different or both, got"),
    ],
)
def test_odd_variants_are_refused(phantom, fields, message):
    tensors, document = unpack(request_body(phantom.volume, NODULE.center_ras_mm))
    with pytest.raises(InputError, match=message) as caught:
        read_request(pack(tensors, document | fields))
    assert len(str(caught.value)) < 300


def test_the_maps_are_of_the_variant_that_is_asked_for_whatever_came_before(engine, sent):
    usual, other = (unpack(maps_body(engine, sent(variant=v))) for v in (LocalCam(), OTHER))
    again = unpack(maps_body(engine, sent()))
    assert usual[1]["map_variant"] is None and other[1]["map_variant"]["words"] == WORDS
    name = "0.query.similar"
    np.testing.assert_array_equal(usual[0][name], again[0][name])
    assert not np.array_equal(usual[0][name], other[0][name])
    assert [p["distance"] for p in usual[1]["pairs"]] == pytest.approx(
        [p["distance"] for p in other[1]["pairs"]], abs=1e-5
    )


def test_only_the_signs_that_are_asked_for_are_sent(engine, sent):
    tensors, told = unpack(maps_body(engine, sent(signs=["different"])))
    both, _ = unpack(maps_body(engine, sent()))
    assert set(tensors) == {f"{n}.query.different" for n in range(6)}
    assert all(set(pair["query"]) == {"different"} for pair in told["pairs"])
    for name, values in tensors.items():
        np.testing.assert_array_equal(values, both[name])


@pytest.mark.parametrize("render", [report_html, print_report_html])
def test_reports_name_a_variant_that_is_not_usual(engine, sent, render):
    assert WORDS in render(engine, sent(variant=OTHER))
    assert "Not made as usual" not in render(engine, sent())


def test_the_command_line_offers_them(ct, bundle_folder, tmp_path, capsys):
    fixed = ["diagnose", str(ct), "--ras", *RAS, "--bundle", str(bundle_folder), "--device", "cpu"]
    asked = ["--map.levels", "4", "3", "2", "1", "--map.window-cells", "None"]
    asked += ["--map.no-rectified", "--signs", "different"]
    files = ["--json", str(tmp_path / "d.json"), "--report", str(tmp_path / "d.html")]
    assert main([*fixed, *asked, *files, "--maps", str(tmp_path / "maps")]) == 0
    told = json.loads((tmp_path / "d.json").read_text())
    assert told["map_variant"] == json.loads(json.dumps(variant_summary(OTHER)))
    assert WORDS in (tmp_path / "d.html").read_text()
    names = sorted(f.name for f in (tmp_path / "maps").iterdir())
    assert names == [f"case{n}_different.nrrd" for n in range(1, 7)]
    capsys.readouterr()
    revise = ["revise", *fixed[1:], *asked[:-2], "--reject", "calcified", *files]
    assert main(revise) == 0
    assert json.loads((tmp_path / "d.json").read_text())["map_variant"]["words"] == WORDS
    assert main([*fixed, "--json", str(tmp_path / "plain.json")]) == 0
    assert json.loads((tmp_path / "plain.json").read_text())["map_variant"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map.levels", "2", "3"], "levels must be of a1...a4, deepest first, got (2, 3)"),
        (["--map.window-cells", "2"], "window_cells must be odd, 1 to 63, or None, got 2"),
        (["--signs", "alike"], "alike"),
    ],
)
def test_mistakes_end_in_2_and_a_sentence(ct, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(ct), "--ras", *RAS, *arguments])
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["--map.outside", "1"], ["--signs", "similar"]])
def test_options_of_maps_that_nobody_asked_for_are_not_passed_over(ct, tmp_path, capsys, arguments):
    written = tmp_path / "d.json"
    assert main(["diagnose", str(ct), "--ras", *RAS, *arguments, "--json", str(written)]) == 2
    assert "--maps" in capsys.readouterr().err and not written.exists()


def test_no_sign_at_all_is_told(ct, capsys):
    assert main(["diagnose", str(ct), "--ras", *RAS, "--signs"]) == 2
    assert "signs must be similar, different or both" in capsys.readouterr().err


def test_the_command_line_does_not_load_torch_for_its_help():
    code = "import sys, contrastdiagnosis.commands.main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_parts_reach_maps_and_summary(engine, sent, bundle):
    """With statistics of the cases at hand; without, they are null."""
    statistics = np.random.default_rng(0).normal(size=(len(bundle.library), 19))
    library = replace(bundle.library, statistics=statistics.astype(np.float32))
    knowing = Engine(replace(bundle, library=library), "cpu")
    for pair in unpack(maps_body(knowing, sent()))[1]["pairs"]:
        parts = pair["parts"]
        assert parts["statistics"] + parts["features"] == pytest.approx(pair["distance"])
        assert "size, density and outline" in parts["sentence"]
        for render in (report_html, print_report_html):
            assert parts["sentence"] in render(knowing, sent())
    assert all(p["parts"] is None for p in unpack(maps_body(engine, sent()))[1]["pairs"])
