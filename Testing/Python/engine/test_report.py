"""The HTML report: complete, self-contained, safe."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.explanation import NO_PICTURE, EvidenceMap
from contrastdiagnosis.report.pictures import overview_picture, plane_pictures
from contrastdiagnosis.report.screen import case_map, render_report, sign_pictures
from contrastdiagnosis.report.summary import summarise
from PIL import Image

from engine.conftest import CONCEPTS, NODULE

SHAPE = (32, 64, 64)
VOID = {"meta", "input", "br", "image"}


@pytest.fixture(scope="module")
def diagnosis(bundle, phantom):
    return Diagnoser(bundle, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)


@pytest.fixture(scope="module")
def explanations(bundle, diagnosis):
    return Diagnoser(bundle, "cpu").explain(diagnosis)


@pytest.fixture(scope="module")
def html(diagnosis, phantom, bundle, explanations):
    return render_report(diagnosis, phantom.volume, bundle, explanations)


@pytest.fixture
def pictured(bundle, diagnosis, tmp_path):
    """The bundle with pictures of the first two cases."""
    store = PixelStore(tmp_path / "pixels")
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 20:40, 20:40] = True
    for n, similar in enumerate(diagnosis.cases[:2]):
        intensity = np.random.default_rng(n).random(SHAPE).astype(np.float32)
        store.write(similar.case.case_id, CasePixels(intensity, np.ones(SHAPE, bool), mask))
    return replace(bundle, pixels=store)


class Tags(HTMLParser):
    """Checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_well_formed_and_self_contained(html):
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "link", "iframe", "img"}
    sources = [a["href"] for _, a in tags.seen if "href" in a]
    maps = html.count('class="evidence"') + html.count('class="seen"')
    assert len(sources) == 4 + html.count('class="view') + maps
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    bare = re.sub(r"data:image/png;base64,[^\"]*|http-equiv", "", html)
    assert "http" not in bare


def test_the_report_says_everything(html, diagnosis, bundle):
    assert html.count("Research use only") >= 2
    assert RESEARCH_USE_NOTICE.split(".")[0] in html
    for similar in diagnosis.cases:
        assert similar.case.case_id in html
        assert similar.case.series_uid in html
        assert f"{similar.distance:.3f}" in html
    assert f"{diagnosis.malignant_voters} of {diagnosis.voters}" in html
    assert f"{100 * diagnosis.probability:.0f} %" in html
    assert f"Where the nodule lies among the {len(bundle.library)} cases" in html
    for reason in diagnosis.confidence.reasons:
        assert reason in html.replace("&#39;", "'")
    assert html.count('class="nopicture"') == 2 * 6


def test_cards_show_pictures_where_pixels_are(diagnosis, phantom, pictured):
    explanations = Diagnoser(pictured, "cpu").explain(diagnosis)
    html = render_report(diagnosis, phantom.volume, pictured, explanations)
    assert html.count('class="nopicture"') == 2 * 4
    assert html.count("<figcaption>the case<") == 2 * 2
    assert html.count("<figcaption>this nodule<") == 2 * 6 + len(CONCEPTS)


def test_both_signs_are_there_and_one_is_chosen(html, diagnosis, explanations):
    assert html.count('class="view similar"') == html.count('class="view different"') == 6
    assert re.findall(r'type="radio" name="sign" id="sign-(\w+)"( checked)?', html) == [
        ("similar", " checked"), ("different", ""), ("none", ""),
    ]  # fmt: skip
    maps = [e.query.of_sign(s) for e in explanations for s in ("similar", "different")]
    assert html.count('class="evidence"') == sum(not m.empty for m in maps) > 6


def test_both_sides_of_a_pair_share_one_scale_of_colour(diagnosis, pictured):
    explanation = Diagnoser(pictured, "cpu").explain(diagnosis)[0]
    strongest = []
    for view, sign in zip(
        sign_pictures(explanation, diagnosis), ("similar", "different"), strict=True
    ):
        for picture, side in ((view.query, explanation.query), (view.case, explanation.case)):
            if picture.overlay:
                alpha = np.asarray(png_of(picture.overlay))[..., 3].max()
                strongest.append((side.of_sign(sign).highest, sign, alpha))
    for sign in ("similar", "different"):
        ordered = [alpha for _, s, alpha in sorted(strongest) if s == sign]
        assert ordered == sorted(ordered)
        assert 170 < ordered[-1] <= 204


def test_remarks_reach_the_reader(diagnosis, phantom, bundle, explanations):
    nothing = EvidenceMap(np.zeros(SHAPE, np.float32), 0.0)
    unlike = replace(explanations[0].query, similar=nothing)
    told = [replace(e, query=unlike) for e in explanations]
    html = render_report(diagnosis, phantom.volume, bundle, told)
    assert html.count("no similar evidence: nothing in the nodule brings it closer") == 6
    assert html.count("so only the nodule's side is explained") == 2 * 6


def test_text_from_files_cannot_become_markup(diagnosis, phantom, bundle, explanations):
    evil = replace(bundle.info, name="<script>alert(1)</script>", training_data="<b>x</b>")
    html = render_report(diagnosis, phantom.volume, replace(bundle, info=evil), explanations)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_bundle_that_was_not_measured_has_a_report_too(diagnosis, phantom, bundle, explanations):
    unmeasured = replace(bundle, info=replace(bundle.info, metrics={}))
    html = render_report(diagnosis, phantom.volume, unmeasured, explanations)
    assert "Measured" not in html
    assert html.count('class="chart"') == 1


def test_a_measured_bundle_shows_what_its_answers_were_worth(
    diagnosis, phantom, bundle, explanations
):
    curves = {
        "reliability": [(0.1, 0.05, 10), (0.9, 0.95, 10)],
        "roc": [(0, 0), (0.2, 0.9), (1, 1)],
        "roc_diameter": [(0, 0), (0.4, 0.8), (1, 1)],
        "risk_coverage": [(0.1, 0.0), (1.0, 0.2)],
    }
    rule = bundle.info.metrics["exclude3"] | {"curves": curves}
    measured = replace(
        bundle, info=replace(bundle.info, metrics={"exclude3": rule, "protocol": "P."})
    )
    html = render_report(diagnosis, phantom.volume, measured, explanations)
    assert html.count('class="chart"') == 4
    for text in ("How near the cases are", "diameter alone", "surest first", "unseen nodules"):
        assert text in html


def test_planes_are_cut_through_the_nodule(bundle):
    intensity = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    probability = np.zeros(SHAPE, np.float32)
    probability[20:24, 10:14, 40:50] = 1
    axial, coronal, sagittal = plane_pictures(intensity, probability, bundle.info.geometry, None)
    assert [p.title for p in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert all(p.outline.startswith("M") for p in (axial, coronal, sagittal))
    assert coronal.aspect == pytest.approx(1.25 / 0.7)
    xs = [float(x) for x in re.findall(r"[ML](\d+\.\d+) ", axial.outline)]
    assert min(xs) == pytest.approx(40, abs=0.1)
    assert max(xs) == pytest.approx(50, abs=0.1)
    # The head is on top: slice 20 of 32 lies in the picture's upper half.
    ys = [float(y) for y in re.findall(r" (\d+\.\d+)", coronal.outline)]
    assert max(ys) == pytest.approx(12, abs=0.1)


def png_of(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def pixels_of(picture):
    return np.asarray(png_of(picture.source)).astype(int)


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_the_overview_shows_the_patients_right_on_the_left(diagnosis, phantom, flips):
    """Whatever the order of the voxels, the cross hair and the picture are the same."""
    hu = phantom.volume.hu[:, :: flips[0], :: flips[1]]
    flip = np.eye(4)
    for axis, f in ((0, flips[1]), (1, flips[0])):
        if f < 0:
            flip[axis, axis], flip[axis, 3] = -1, hu.shape[2 - axis] - 1
    picture = overview_picture(diagnosis, Volume(hu, phantom.volume.ijk_to_ras @ flip))
    expected = overview_picture(diagnosis, phantom.volume)
    assert np.abs(pixels_of(picture) - pixels_of(expected)).max() <= 2
    assert picture.outline == expected.outline
    x = float(re.match(r"M(\d+\.\d+)", expected.outline)[1])
    assert x < expected.width / 2 + 20


def test_the_overview_is_axial_also_for_sagittal_scans(diagnosis, phantom):
    """The same CT stored as sagittal slices gives the same picture."""
    swap = np.eye(4)[[2, 1, 0, 3]]
    hu = np.ascontiguousarray(phantom.volume.hu.transpose(2, 1, 0))
    sagittal = Volume(hu, phantom.volume.ijk_to_ras @ swap)
    picture, expected = (overview_picture(diagnosis, v) for v in (sagittal, phantom.volume))
    assert (picture.width, picture.height) == (expected.width, expected.height)
    assert picture.outline == expected.outline
    assert np.abs(pixels_of(picture) - pixels_of(expected)).max() <= 2


def test_pictures_name_the_sides_and_show_a_scale(diagnosis, phantom, bundle, explanations):
    volume = replace(phantom.volume, name="thorax.nrrd")
    html = render_report(diagnosis, volume, bundle, explanations)
    assert re.findall(r"<text [^>]*>([RLAPSI])</text>", html)[:16] == list("RLAPRLAPRLSIAPSI")
    assert html.count(">10 mm<") == 3 + 2 * 6 + len(CONCEPTS) and html.count(">50 mm<") == 1
    assert "thorax.nrrd" in html


def test_the_map_holds_every_case_and_the_query(diagnosis, bundle):
    points, (x, y) = case_map(bundle, diagnosis)
    assert len(points) == len(bundle.library)
    assert sum(p.nearest for p in points) == 6
    assert all(0 <= p.x <= 1 and 0 <= p.y <= 1 for p in points)
    assert 0 <= x <= 1 and 0 <= y <= 1


def test_the_summary_tells_what_the_maps_came_to(diagnosis, phantom, bundle, explanations):
    summary = summarise(diagnosis, phantom.volume, bundle.info, explanations)
    told = json.loads(json.dumps(summary))["cases"][2]["maps"]
    assert told["distance"] == explanations[2].distance
    assert told["highest"]["query"]["similar"] == explanations[2].query.similar.highest
    assert told["highest"]["case"] is None
    assert told["remarks"] == [*explanations[2].remarks, NO_PICTURE]


def test_the_vote_is_told_as_the_bundle_votes(diagnosis, phantom, bundle, explanations):
    """Of a weighted vote the weighted share, of a majority the share; neither as the other."""
    weighted = summarise(diagnosis, phantom.volume, bundle.info)["vote"]
    assert weighted["form"] == "distance-weighted" and "share" not in weighted
    assert weighted["weighted_share"] == round(diagnosis.score, 4)
    html = render_report(diagnosis, phantom.volume, bundle, explanations)
    assert f"weighted by closeness {100 * diagnosis.score:.0f} %." in html

    rule = replace(bundle.info.vote, form="majority")
    by_majority = replace(bundle, info=replace(bundle.info, vote=rule))
    told = Diagnoser(by_majority, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)
    assert told.score == told.malignant_voters / rule.k != diagnosis.score
    vote = summarise(told, phantom.volume, by_majority.info)["vote"]
    assert vote["form"] == "majority" and "weighted_share" not in vote
    assert vote["share"] == vote["malignant"] / vote["cases"]
    html = render_report(told, phantom.volume, by_majority, explanations)
    assert f"each counts alike: {100 * told.score:.0f} %." in html
    assert "weighted" not in html


def test_the_summary_is_json_and_complete(diagnosis, phantom, bundle):
    summary = json.loads(json.dumps(summarise(diagnosis, phantom.volume, bundle.info)))
    assert "maps" not in summary["cases"][0]
    assert summary["notice"] == RESEARCH_USE_NOTICE
    assert summary["verdict"] in ("benign", "malignant")
    assert summary["confident"] is (not summary["reasons"])
    assert len(summary["cases"]) == 6
    assert {"case_id", "label", "distance", "similarity", "ratings", "series_uid"} <= set(
        summary["cases"][0]
    )
    assert summary["nodule"]["found"] is bool(diagnosis.nodule.any())
