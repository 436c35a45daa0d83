"""The report for paper: plain enough for Qt's text document, and complete."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.report.concept_section import concept_section
from contrastdiagnosis.report.paper import render_print_report
from contrastdiagnosis.report.summary import evidence_sentence
from PIL import Image

from engine.conftest import CONCEPTS, NODULE, write_tiny_bundle

SHAPE = (32, 64, 64)


@pytest.fixture(scope="module")
def diagnosis(bundle, phantom):
    return Diagnoser(bundle, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)


def rendered(diagnosis, phantom, bundle):
    explanations = Diagnoser(bundle, "cpu").explain(diagnosis)
    html = render_print_report(diagnosis, phantom.volume, bundle, explanations)
    return html.replace("&nbsp;", " ")


@pytest.fixture(scope="module")
def html(diagnosis, phantom, bundle):
    return rendered(diagnosis, phantom, bundle)


def pictures(html):
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in found]


def test_it_holds_nothing_that_qt_leaves_out(html):
    for tag in ("<style", "<svg", "<script", "<input", "class=", "http://", "https://"):
        assert tag not in html


def test_columns_have_widths_and_pictures_sizes(html):
    """Without them Qt gives the pictures all of the page."""
    assert html.count("<table") == html.count('width="100%"')
    for row in re.findall(r"<tr>(?:(?!<tr>|<table).)*?<img.*?</tr>", html, re.DOTALL):
        columns = [int(n) for n in re.findall(r'<td width="(\d+)%"', row)]
        assert sum(columns) in (0, 100)
    assert len(re.findall(r"<img ", html)) == len(re.findall(r'width="\d+" height="\d+">', html))


def test_a_heading_stands_in_a_table_with_what_follows(html):
    """Who prints keeps outer tables whole: none ends a page alone."""
    depth = 0
    for tag in re.findall(r"<table|</table>|<h3>", html):
        depth += {"<table": 1, "</table>": -1, "<h3>": 0}[tag]
        assert tag != "<h3>" or depth
    assert len(re.findall(r"<h3>(?:(?!</td>).)*(?:<p>|<table)", html, re.DOTALL)) == 3


def test_it_says_what_the_report_says(html, diagnosis):
    assert html.count("Research use only") == 2
    assert f"probability {diagnosis.probability:.2f}" in html
    assert f"{diagnosis.malignant_voters} of {diagnosis.voters} nearest cases" in html
    for reason in diagnosis.confidence.reasons:
        assert reason in html.replace("&#39;", "'")
    for similar in diagnosis.cases:
        assert similar.case.case_id in html
        assert f"distance {similar.distance:.3f}" in html
    assert html.count("so only the nodule&#39;s side is explained") == 6
    assert "the diameter alone" in html


def test_the_pictures_are_pictures(html):
    drawn = [p for p in pictures(html) if p.shape == (256, 256, 3)]
    bars = [p for p in pictures(html) if p.shape == (12, 120, 3)]
    assert len(drawn) == 1 + 2 * 6 + len(CONCEPTS)
    assert len(bars) == 2 * len(CONCEPTS)
    assert len(drawn) + len(bars) == len(pictures(html))
    # Maps are in colour; the same slice without one is grey but for its outline.
    assert any((np.ptp(p.astype(int), axis=2) > 40).mean() > 0.001 for p in drawn[1:])


def test_cases_with_pixels_stand_beside_the_nodule(diagnosis, phantom, bundle, tmp_path):
    store = PixelStore(tmp_path / "pixels")
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 20:40, 20:40] = True
    intensity = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    store.write(diagnosis.cases[0].case.case_id, CasePixels(intensity, np.ones(SHAPE, bool), mask))
    html = rendered(diagnosis, phantom, replace(bundle, pixels=store))
    assert html.count("case, similar") == html.count("case, different") == 1
    assert len(pictures(html)) == 1 + 2 * 7 + 3 * len(CONCEPTS)


def test_both_lines_of_evidence_are_told(html, diagnosis, phantom, bundle):
    prediction = diagnosis.concepts
    assert f"The most similar cases say: {'malignant' if diagnosis.malignant else 'benign'}" in html
    assert f"probability {prediction.probability:.2f}" in html
    assert (diagnosis.disagreement or "The two agree") in html
    assert evidence_sentence(prediction) in html
    for row in concept_section(diagnosis, bundle).rows:
        assert f"{row.concept.name} ({row.concept.criterion})</td>" in html
        assert f"{row.presence:.2f}</td>" in html
        assert f"{row.contribution:+.2f}".replace("-", "\N{MINUS SIGN}") in html
        assert row.example.prototype.case_id in html


def test_a_revision_is_told(diagnosis, phantom, bundle):
    turned = ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0), (0.0, 0.0, 1.0))
    boxes = (
        Box(NODULE.center_ras_mm, (20.0, 18.0, 12.0), True),
        Box(NODULE.center_ras_mm, (2.0, 2.0, 2.0), False, "spiculated", turned),
    )
    revision = Revision(boxes, ("calcified",), "zero", 0.3)
    revised = Diagnoser(bundle, "cpu").revise(diagnosis, phantom.volume, revision)
    html = rendered(revised, phantom, bundle)
    before, after = diagnosis.concepts, revised.concepts
    assert f"probability {before.probability:.2f} to {after.probability:.2f}" in html
    assert "Not there, said the user: calcified; scores set to zero" in html
    assert "look here (all concepts): centre (R, A, S) 60.0, -10.0, 8.0 mm" in html
    assert "ignore here (spiculated)" in html
    assert "sides along (0.60, 0.80, 0.00), (-0.80, 0.60, 0.00)" in html
    assert "similarities count 0.3 times" in html
    assert f"rejected (was {before.presence[2]:.2f})" in html
    for remark in after.remarks:
        assert remark in html.replace("&#34;", '"')


def test_a_bundle_without_concepts_has_none(tmp_path, phantom):
    plain = load_bundle(write_tiny_bundle(tmp_path / "plain", with_concepts=False))
    html = rendered(
        Diagnoser(plain, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm), phantom, plain
    )
    assert "Readers would suspect: " in html
    assert "oncept" not in html


def test_text_from_files_cannot_become_markup(diagnosis, phantom, bundle):
    evil = replace(bundle, info=replace(bundle.info, name="<b>x</b>", metrics={}))
    html = rendered(diagnosis, phantom, evil)
    assert "&lt;b&gt;x" in html
    assert "Measured" not in html
