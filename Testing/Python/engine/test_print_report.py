"""The report for paper: plain enough for Qt's text document, and complete."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.diagnoser import Diagnoser
from contrastdiagnosis.pixels import CasePixels, PixelStore
from contrastdiagnosis.print_report import render_print_report
from PIL import Image

from engine.conftest import NODULE

SHAPE = (32, 64, 64)


@pytest.fixture(scope="module")
def diagnosis(bundle, phantom):
    return Diagnoser(bundle, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)


def rendered(diagnosis, phantom, bundle):
    explanations = Diagnoser(bundle, "cpu").explain(diagnosis)
    return render_print_report(diagnosis, phantom.volume, bundle, explanations)


@pytest.fixture(scope="module")
def html(diagnosis, phantom, bundle):
    return rendered(diagnosis, phantom, bundle)


def pictures(html):
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in found]


def test_it_holds_nothing_that_qt_leaves_out(html):
    for tag in ("<style", "<svg", "<script", "<input", "class=", "http://", "https://"):
        assert tag not in html


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
    drawn = pictures(html)
    assert len(drawn) == 1 + 2 * 6
    assert all(p.shape == (256, 256, 3) for p in drawn)
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
    assert len(pictures(html)) == 1 + 2 * 7


def test_text_from_files_cannot_become_markup(diagnosis, phantom, bundle):
    evil = replace(bundle, info=replace(bundle.info, name="<b>x</b>", metrics={}))
    html = rendered(diagnosis, phantom, evil)
    assert "&lt;b&gt;x" in html
    assert "Measured" not in html
