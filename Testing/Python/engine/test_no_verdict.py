"""Where there is nothing to judge there is no verdict: in JSON, reports, server and terminal."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.commands.main import main
from contrastdiagnosis.diagnosis.diagnoser import NO_FINDING, Diagnoser, may_be_nodule
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.protocol.tensors import unpack
from contrastdiagnosis.report.summary import summarise, summary_text
from contrastdiagnosis.service.answers import (
    concepts_body,
    diagnosis_body,
    maps_body,
    print_report_html,
    report_html,
)
from contrastdiagnosis.service.engine_queue import Engine
from contrastdiagnosis.service.requests import crop_around, read_request, request_body
from contrastdiagnosis.trust.confidence import Confidence
from contrastdiagnosis.trust.confidence_rule import CaseLimits, NoduleGate
from contrastdiagnosis.trust.poor_image import (
    MEASURES_OF,
    PoorImage,
    PoorVerdicts,
    QualityDetector,
)

from engine.asking import refuse
from engine.conftest import NODULE, SOUND_FACTS

LIMITS = {
    "no nodule": CaseLimits(gate=NoduleGate((0.0,) * 5, 0.0, 1.0, (0.0,) * 5)),
    "not judged": CaseLimits(max_diameter_mm=1.0),
}
REVISION = Revision((Box(NODULE.center_ras_mm, (30, 30, 30), False),), ("calcified",))


@pytest.fixture(params=LIMITS)
def finding(request):
    return request.param


@pytest.fixture
def strict_bundle(bundle, finding):
    return replace(bundle, info=replace(bundle.info, limits=LIMITS[finding]))


@pytest.fixture
def engine(strict_bundle):
    return Engine(strict_bundle, "cpu")


@pytest.fixture
def asked(phantom):
    return read_request(request_body(phantom.volume, NODULE.center_ras_mm))


def test_the_diagnosis_has_none(strict_bundle, phantom, finding):
    d = Diagnoser(strict_bundle, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)
    assert d.finding == finding and d.verdict is None and not d.judged
    assert not d.confidence.confident and d.concepts is None and not d.disagreement
    assert d.found == (finding == "not judged") == bool(d.mask.values.any())
    assert (d.volume_mm3 > 0) == (d.diameters.long_mm > 0) == d.found
    assert len(d.cases) == 6
    with pytest.raises(InputError, match="there is nothing to revise: what was found"):
        Diagnoser(strict_bundle, "cpu").revise(d, phantom.volume, REVISION)


def test_the_json_has_none(engine, asked, finding):
    tensors, told = unpack(diagnosis_body(engine, asked))
    json.loads(json.dumps(told), parse_constant=refuse)
    assert told["finding"] == finding
    for name in ("verdict", "probability", "vote", "concepts"):
        assert told[name] is None
    assert told["confident"] is False and told["reasons"] and told["disagreement"] == ""
    assert told["nodule"]["found"] == (finding == "not judged") == bool(tensors["mask"].any())
    assert len(told["cases"]) == 6


def test_a_verdict_is_told_as_the_finding_too(bundle, phantom):
    d = Diagnoser(bundle, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)
    told = summarise(d, phantom.volume, bundle.info)
    assert told["finding"] == told["verdict"] in ("malignant", "benign")


@pytest.mark.parametrize("render", [report_html, print_report_html])
@pytest.mark.parametrize("revised", [False, True])
def test_reports_show_no_verdict_no_percentage_and_no_concepts(
    engine, asked, render, revised, finding
):
    html = render(engine, replace(asked, revision=REVISION) if revised else asked)
    top = html[: html.index("nearest cases")]
    body = top[top.index("<body") :]
    assert "No verdict" in body and "what was found" in body
    title = "no nodule was found at the point" if finding == "no nodule" else "cannot be judged"
    assert title in body
    for word in ("gauge", "verdict malignant", "verdict benign", "badge", "votes", "probability"):
        assert word not in body.replace("No verdict", "")
    assert "spiculated" not in html[html.index("<body") :]
    assert "this nodule: " not in html and "Where the nodule lies" not in html
    assert "for what they are worth" in html or render is print_report_html
    assert "Research use only" in html


@pytest.mark.parametrize("sure", [False, True])
def test_only_a_confident_verdict_has_the_colour_of_its_class(bundle, asked, sure):
    """A vessel in thick slices may get a verdict; red or blue it never is."""
    limits = CaseLimits() if sure else CaseLimits(max_slice_mm=0.01)
    indicator = replace(bundle.indicator, matched=np.array([1e6], np.float32))
    info = replace(bundle.info, limits=limits, split_vote=(0.5, 0.5))
    engine = Engine(replace(bundle, info=info, indicator=indicator), "cpu")
    assert engine.diagnose(asked).confidence.confident == sure
    html = report_html(engine, asked)
    colours = ["verdict malignant", "verdict benign"]
    assert sum(html.count(f'class="{c}"') for c in colours) == (2 if sure else 0)
    assert html.count('class="verdict unsure"') == (0 if sure else 2)


def test_what_is_poor_about_the_image_is_said_all_the_same(strict_bundle, asked):
    """In a poor image a nodule may have been missed, or not be judged for it."""
    limits = replace(strict_bundle.info.limits, max_slice_mm=0.01)
    engine = Engine(replace(strict_bundle, info=replace(strict_bundle.info, limits=limits)), "cpu")
    diagnosis = engine.diagnose(asked)
    assert not diagnosis.judged
    assert [n for n in diagnosis.notices if n.startswith("the slices or pixels are too far apart")]
    assert "the slices or pixels are too far apart" in report_html(engine, asked)


def test_how_many_nodules_are_missed_is_said_where_none_is_told_of(strict_bundle, asked, finding):
    """Not where one is, but cannot be judged."""
    count = len(MEASURES_OF["motion"])
    motion = PoorImage("motion", (0.0,) * count, 9.0, 0.0, (1.0,) * count)
    limits = replace(
        strict_bundle.info.limits, detector=QualityDetector((motion,)),
        poor_verdicts=(PoorVerdicts("motion", 0.0, 1.0, missed=0.12),),
    )  # fmt: skip
    engine = Engine(replace(strict_bundle, info=replace(strict_bundle.info, limits=limits)), "cpu")
    told = [n for n in engine.diagnose(asked).notices if n.startswith("the image is smeared")]
    missed = " (in such images 12% of the nodules that were pointed at were missed)"
    smeared = "the image is smeared or doubled, as by motion"
    assert told == [smeared + (missed if finding == "no nodule" else "")]


def test_the_terminal_says_so(engine, asked, finding):
    d = engine.diagnose(asked)
    text = summary_text(summarise(d, asked.volume, engine.bundle.info))
    assert text.startswith(f"no verdict, {finding}: what was found")
    assert "probability" not in text and "concepts" not in text and "Research use only" in text


def test_concepts_are_refused_with_the_reason_and_maps_are_not(engine, asked):
    for request in (asked, replace(asked, revision=REVISION)):
        with pytest.raises(InputError, match="no concepts are read: what was found"):
            concepts_body(engine, request)
        _, told = unpack(maps_body(engine, request))
        assert len(told["pairs"]) == 6


def test_the_command_writes_it_and_ends_well(tmp_path, capsys, bundle_folder, ct):
    """In the air beside the trunk the tiny bundle outlines nothing."""
    files = {name: tmp_path / f"d.{name}" for name in ("json", "html", "nrrd")}
    arguments = ["diagnose", str(ct), "--ijk", "3", "3", "30", "--bundle", str(bundle_folder)]
    written = ["--json", files["json"], "--report", files["html"], "--mask", files["nrrd"]]
    assert main([*arguments, *map(str, written)]) == 0
    assert capsys.readouterr().out.startswith("no verdict, no nodule: no nodule was found")
    told = json.loads(files["json"].read_text())
    assert told["verdict"] is None and told["nodule"]["found"] is False
    assert main(["revise", *arguments[1:], "--reject", "calcified"]) == 2
    assert "there is nothing to revise: no nodule was found" in capsys.readouterr().err


# --- The bundle that is shipped --------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return Diagnoser(load_bundle(default_bundle_folder()), "cpu")


@pytest.fixture(scope="module")
def trunk():
    return make_phantom(DEMO_NODULES, shape=(112, 228, 328), spacing_mm=(1.5, 1.0, 1.0)).volume


EMPTY_LUNG = (-72.0, 22.0, 40.0)

NOWHERE = {
    "heart": (-30.0, 28.0, -28.0),
    "spine": (0.0, -70.0, 0.0),
    "air in front": (0.0, 108.0, 10.0),
    "air at the side": (160.0, 60.0, 10.0),
    "table": (0.0, -112.0, 0.0),
}


def test_the_shipped_bundle_has_all_limits(shipped):
    limits = shipped.bundle.info.limits
    assert limits.gate is not None
    told = {n: v for n, v in vars(limits).items() if n not in ("detector", "poor_verdicts")}
    assert all(told.values())


@pytest.mark.parametrize("place", NOWHERE)
def test_the_shipped_bundle_has_no_verdict_where_no_lung_is(shipped, trunk, place):
    if not trunk.contains(NOWHERE[place]):
        pytest.skip("outside the phantom")
    d = shipped.diagnose(trunk, NOWHERE[place])
    assert d.verdict is None, d.facts


@pytest.mark.parametrize("n", range(len(DEMO_NODULES)))
def test_the_shipped_bundle_keeps_its_verdict_on_whole_nodules(shipped, trunk, n):
    d = shipped.diagnose(trunk, DEMO_NODULES[n].center_ras_mm)
    assert d.judged, d.confidence


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_of_three_slices_has_no_verdict(shipped, trunk, axis):
    """Also as a server gets it, and whichever way the scan was cut."""
    center = trunk.ijk_from_ras(DEMO_NODULES[0].center_ras_mm)[::-1]
    start = round(center[axis]) - 1
    where = [slice(None)] * 3
    where[axis] = slice(start, start + 3)
    shift = np.zeros(3)
    shift[2 - axis] = start
    affine = trunk.ijk_to_ras.copy()
    affine[:3, 3] = trunk.ras_from_ijk(shift)
    slab = Volume(trunk.hu[tuple(where)], affine)
    for volume in (slab, crop_around(slab, DEMO_NODULES[0].center_ras_mm)):
        d = shipped.diagnose(volume, DEMO_NODULES[0].center_ras_mm)
        assert d.finding == "not judged" and not d.confidence.confident, d.facts
        assert "slab" in d.confidence.reasons[0] or "only" in d.confidence.reasons[0]


def test_a_slab_in_which_nothing_was_outlined_has_no_size(shipped, trunk):
    """Neither a nodule nor that there is none: not one of 0 mm either."""
    first = round(trunk.ijk_from_ras(EMPTY_LUNG)[2]) - 1
    affine = trunk.ijk_to_ras.copy()
    affine[:3, 3] = trunk.ras_from_ijk([0, 0, first])
    slab = Volume(trunk.hu[first : first + 3], affine)
    # Whether anything is outlined there of itself hangs on the processor's last digits.
    blind = Diagnoser(shipped.bundle, "cpu")
    with torch.no_grad():
        blind.network.mask_head.bias -= 20
    d = blind.diagnose(slab, EMPTY_LUNG)
    assert not d.facts.found and d.finding == "not judged"
    assert not d.mask.values.any() and d.volume_mm3 == d.diameters.long_mm == 0
    told = summarise(d, slab, shipped.bundle.info)
    assert told["nodule"]["found"] is False and told["verdict"] is None
    assert " mm3" not in summary_text(told) and "0.0 x 0.0" not in summary_text(told)


@pytest.mark.parametrize(
    ("confidence", "volume_mm3", "told"),
    [
        (Confidence(), 5.0, True),
        (Confidence(not_judgeable=("a slab",)), 5.0, False),
        (Confidence(not_judgeable=("a slab",)), 50.0, True),
        (Confidence(nothing_there=("a vessel",)), 50.0, False),
    ],
)
def test_the_size_of_a_speck_in_a_slab_is_not_told(confidence, volume_mm3, told):
    """A carcinoma of which 1 mm3 was outlined in three slices is not one of 1 mm3."""
    assert may_be_nodule(confidence, replace(SOUND_FACTS, volume_mm3=volume_mm3)) == told


def test_that_no_nodule_is_told_of_is_no_finding(shipped, trunk):
    """Who is told of none is told that one can be missed; who is told of one is not."""
    nothing = shipped.diagnose(trunk, NOWHERE["heart"])
    assert nothing.finding == "no nodule" and NO_FINDING in nothing.notices
    assert NO_FINDING not in shipped.diagnose(trunk, DEMO_NODULES[0].center_ras_mm).notices


@pytest.mark.parametrize("padding", [-2000, -3024, -32768, 62512])
def test_padding_through_the_nodule_takes_the_confidence(shipped, trunk, padding):
    center = DEMO_NODULES[0].center_ras_mm
    assert shipped.diagnose(trunk, center).confidence.confident
    hu = trunk.hu.astype(np.int32)
    i = round(trunk.ijk_from_ras(center)[0])
    hu[:, :, i + 2 :] = padding
    padded = Volume(hu, trunk.ijk_to_ras)
    d = shipped.diagnose(padded, center)
    assert not d.confidence.confident
    assert any("measured nothing" in reason for reason in d.confidence.reasons)
    crop = read_request(request_body(padded, center)).volume
    assert shipped.diagnose(crop, center).confidence == d.confidence
