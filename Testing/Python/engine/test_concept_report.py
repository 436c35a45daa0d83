"""The concepts' part of the report: sums that add up, the right slice, what was corrected."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.concepts.cells import CELL_VOXELS
from contrastdiagnosis.concepts.encoding import Encoding
from contrastdiagnosis.concepts.head import DIAMETER, Concept
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.report.concept_section import adding_up, concept_section, upsampled
from contrastdiagnosis.report.pictures import CellSlice, bar_image, cell_picture, cell_thumbnail
from contrastdiagnosis.report.screen import render_report

from engine.conftest import CONCEPTS, NODULE, write_tiny_bundle

SHAPE = (32, 64, 64)
CENTER = NODULE.center_ras_mm
TURNED = ((0.6, 0.8, 0.0), (-0.8, 0.6, 0.0), (0.0, 0.0, 1.0))
REVISION = Revision(
    (
        Box(CENTER, (20.0, 18.0, 12.0), True),
        Box((74.0, -6.0, 8.0), (16.0, 18.0, 12.0), False, "spiculated", TURNED),
        Box(CENTER, (2.0, 2.0, 2.0), False),
    ),
    ("calcified",),
    "absent_median",
    0.3,
)


@pytest.fixture(scope="module")
def diagnoser(bundle):
    return Diagnoser(bundle, "cpu")


@pytest.fixture(scope="module")
def diagnosis(diagnoser, phantom):
    return diagnoser.diagnose(phantom.volume, CENTER)


@pytest.fixture(scope="module")
def revised(diagnoser, diagnosis, phantom):
    return diagnoser.revise(diagnosis, phantom.volume, REVISION)


@pytest.fixture(scope="module")
def explanations(diagnoser, diagnosis):
    return diagnoser.explain(diagnosis)


@pytest.fixture(scope="module")
def html(diagnosis, phantom, bundle, explanations):
    return render_report(diagnosis, phantom.volume, bundle, explanations)


def part_of(html):
    """The section of the concepts, without pictures."""
    part = re.search(r'<section class="concepts">.*?</section>', html, re.DOTALL)[0]
    return re.sub(r"data:image/png;base64,[^\"]*", "", part)


@pytest.mark.parametrize("seed", range(20))
def test_rounded_numbers_add_up(seed):
    values = np.random.default_rng(seed).normal(0, 3, 7)
    shown, total = adding_up(values)
    assert round(sum(shown), 9) == total
    assert total == pytest.approx(values.sum(), abs=0.00501)
    np.testing.assert_allclose(shown, values, atol=0.01)
    assert all(f"{x:.2f}" == f"{x:.9f}"[:-7] for x in shown)


def test_rounding_leaves_what_is_round():
    assert adding_up([0.5, -0.25, -0.0]) == ([0.5, -0.25, 0.0], 0.25)
    assert str(adding_up([-0.001, 0.001])[0]) == str([0.0, 0.0])


def test_maps_are_upsampled_between_the_cells_centres():
    """The slow reference: linear interpolation along each axis by NumPy."""
    cells = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    fine = cells.astype(np.float64)
    for axis, size in enumerate(SHAPE):
        where = (np.arange(size) + 0.5) * 8 / size - 0.5
        fine = np.apply_along_axis(
            lambda line, where=where: np.interp(where, np.arange(8), line), axis, fine
        )
    np.testing.assert_allclose(upsampled(cells, SHAPE), fine, atol=1e-6)


def test_the_strongest_concept_comes_first_and_all_add_up(diagnosis, bundle):
    section = concept_section(diagnosis, bundle)
    strength = [abs(diagnosis.concepts.contribution[k]) for k in order_of(section)]
    assert strength == sorted(strength, reverse=True)
    total = section.baseline + sum(row.contribution for row in section.rows)
    assert round(total, 9) == section.logit == round(diagnosis.concepts.logit, 2)
    assert section.uncorrected is None and section.before == {}


def order_of(section):
    names = [concept.name for concept in CONCEPTS]
    return [names.index(row.concept.name) for row in section.rows]


def test_a_rated_concept_is_seen_by_readers_and_a_measured_one_is_likely(
    diagnosis, phantom, bundle, explanations, html
):
    lead = concept_section(diagnosis, bundle).rows[0].concept
    rated = re.search(rf"Weighs most: <b>{lead.name}</b>, which [<>0-9 &;lgt]+% of readers", html)
    concepts = tuple(
        Concept(c.name, DIAMETER, at_least=8) if c.name == lead.name else c
        for c in diagnosis.concepts.concepts
    )
    measured = replace(diagnosis, concepts=replace(diagnosis.concepts, concepts=concepts))
    again = render_report(measured, phantom.volume, bundle, explanations)
    likely = re.search(rf"Weighs most: <b>{lead.name}</b>, [<>0-9 &;lgt]+% likely, ", again)
    assert rated and likely


def test_the_slice_goes_through_the_strongest_cell(diagnosis, bundle):
    section = concept_section(diagnosis, bundle)
    patch = diagnosis.encoding.patch
    for k, row in zip(order_of(section), section.rows, strict=True):
        cells = diagnosis.concepts.maps[k]
        cell = np.unravel_index(cells.argmax(), cells.shape)
        d, h, w = CELL_VOXELS
        assert row.shown.frame == (cell[2] * w, cell[1] * h, w, h)
        np.testing.assert_array_equal(row.shown.intensity, patch.intensity[cell[0] * d + d // 2])
        i, j, width, height = row.shown.frame
        strength = row.shown.strength
        assert strength[j : j + height, i : i + width].max() > 0.6 * cells.max()
        assert row.score == pytest.approx(cells.max())
        assert row.example.prototype.number == diagnosis.concepts.shown[k]
        assert row.example.case.case_id == row.example.prototype.case_id
        assert row.example.shown is None


def test_examples_are_shown_where_pixels_are(diagnosis, phantom, bundle, explanations, tmp_path):
    store, mask = PixelStore(tmp_path / "pixels"), np.zeros(SHAPE, bool)
    mask[10:20, 20:40, 20:40] = True
    first = concept_section(diagnosis, bundle).rows[0].example.prototype
    intensity = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    store.write(first.case_id, CasePixels(intensity, np.ones(SHAPE, bool), mask))
    pictured = replace(bundle, pixels=store)
    shown = concept_section(diagnosis, pictured).rows[0].example.shown
    k, j, i = first.cell_kji
    assert shown.frame == (8 * i, 8 * j, 8, 8)
    np.testing.assert_allclose(shown.intensity, intensity[4 * k + 2], atol=0.003)
    part = part_of(render_report(diagnosis, phantom.volume, pictured, explanations))
    assert part.count("<figcaption>is like this part of a case") == 1
    assert part.count("which has no picture here") == len(CONCEPTS) - 1


def test_an_example_that_is_no_case_is_named_alone(diagnosis, phantom, bundle, explanations):
    atlas = tuple(replace(p, case_id="elsewhere_1") for p in bundle.concepts.atlas)
    other = replace(bundle, concepts=replace(bundle.concepts, atlas=atlas))
    assert {row.example.case for row in concept_section(diagnosis, other).rows} == {None}
    assert "elsewhere_1" in part_of(render_report(diagnosis, phantom.volume, other, explanations))


def test_the_report_tells_the_concepts(html, diagnosis, bundle):
    part = part_of(html)
    section = concept_section(diagnosis, bundle)
    assert section.sentence in part
    assert "share of readers who would be expected to call it present" in part
    assert "+0.7 doubles the odds" in part
    for row in section.rows:
        assert f"<b>{row.concept.name}</b>" in part
        assert f"{100 * row.presence:.0f} %" in part
        assert f"<b>{row.contribution:+.2f}</b>".replace("-", "\N{MINUS SIGN}") in part
        assert f"Similarity <b>{row.score:.2f}</b>" in part
        assert f"best match of {row.example.prototype.hits} case" in part
    assert 'fair <span class="soft">(&kappa; 0.37)' in part and "<td>0.80</td>" in part
    assert part.count("not measured") == 2 * 2
    terms = (
        re.search(r"The sum: (.*?) logits", part)[1].replace("\N{MINUS SIGN}", "-").replace(" ", "")
    )
    left, right = terms.split("=")
    assert sum(float(x) for x in re.findall(r"[+-]?[\d.]+", left)) == pytest.approx(float(right))
    assert float(right) == section.logit
    assert "Corrected by hand" not in html


def test_both_lines_of_evidence_stand_side_by_side(diagnosis, phantom, bundle, explanations):
    for probability in (0.0, 0.995):
        told = replace(diagnosis, concepts=replace(diagnosis.concepts, probability=probability))
        html = render_report(told, phantom.volume, bundle, explanations)
        assert html.count('class="gauge"') == 2
        assert ("The two disagree" in html) == (told.malignant != told.concepts.malignant)
        assert ("Here they agree" in html) == (told.malignant == told.concepts.malignant)
        assert ("&gt; 99 %" if probability else "&lt; 1 %") in html
        assert told.disagreement in html


def test_a_bundle_without_concepts_has_no_such_section(tmp_path, phantom):
    plain = load_bundle(write_tiny_bundle(tmp_path / "plain", with_concepts=False))
    diagnoser = Diagnoser(plain, "cpu")
    diagnosis = diagnoser.diagnose(phantom.volume, CENTER)
    assert concept_section(diagnosis, plain) is None
    html = render_report(diagnosis, phantom.volume, plain, diagnoser.explain(diagnosis))
    assert 'class="concepts"' not in html and 'class="lines"' not in html
    assert html.count('class="gauge"') == 1
    assert "Readers would suspect" in html


def test_a_revision_is_told_with_what_it_changed(revised, diagnosis, phantom, bundle, explanations):
    part = part_of(render_report(revised, phantom.volume, bundle, explanations))
    before, after = diagnosis.concepts, revised.concepts
    told = f"probability {100 * before.probability:.0f} % &rarr; {100 * after.probability:.0f} %"
    assert told in part
    assert "Not there, said the user: <b>calcified</b>. Their scores were set to the median" in part
    assert (
        "60.0, -10.0, 8.0" in part
        and "20.0 \N{MULTIPLICATION SIGN} 18.0 \N{MULTIPLICATION SIGN} 12.0" in part
    )
    assert "74.0, -6.0, 8.0" in part
    assert part.count("sides along") == 1
    assert "sides along (0.60, 0.80, 0.00), (-0.80, 0.60, 0.00), (0.00, 0.00, 1.00)" in part
    assert part.count("look here</td>") == 1 and part.count("ignore here</td>") == 2
    assert "similarities count 0.3 times" in part
    assert f'rejected<span class="was">was {100 * before.presence[2]:.0f} %' in part
    assert after.remarks
    for remark in after.remarks:
        assert remark in part.replace("&#34;", '"')
    section = concept_section(revised, bundle)
    assert section.uncorrected.probability == before.probability
    assert section.rows[order_of(section).index(2)].presence is None


def test_the_mode_zero_is_told(diagnoser, diagnosis, phantom, bundle, explanations):
    zero = diagnoser.revise(diagnosis, phantom.volume, Revision((), ("calcified",), "zero"))
    part = part_of(render_report(zero, phantom.volume, bundle, explanations))
    assert "Their scores were set to zero, as published." in part
    assert "Outside all boxes" not in part and "<th>Box</th>" not in part


def test_boxes_are_drawn_where_they_are_about(revised, bundle):
    """On the slices that they cut, for the concepts that they are about."""
    section = concept_section(revised, bundle)
    ijk_to_ras = revised.encoding.patch.ijk_to_ras
    for k, row in zip(order_of(section), section.rows, strict=True):
        cells = revised.concepts.maps[k]
        slice_k = int(np.unravel_index(cells.argmax(), cells.shape)[0]) * 4 + 2
        for drawn, boxes in ((row.shown.looked, REVISION.boxes[:1]), (row.shown.ignored, ())):
            if drawn is row.shown.ignored:
                boxes = REVISION.boxes[2:] + REVISION.boxes[1:2] * (k == 0)
            expected = np.zeros(SHAPE[1:], bool)
            for j in range(0, 64, 3):
                for i in range(0, 64, 3):
                    ras = ijk_to_ras @ [i, j, slice_k, 1]
                    expected[j, i] = any(box.contains(ras[:3]) for box in boxes)
            np.testing.assert_array_equal(drawn[::3, ::3], expected[::3, ::3])
    picture = cell_picture("", section.rows[order_of(section).index(0)].shown)
    assert picture.contour.startswith("M") and picture.overlay.startswith("data:")


def test_boxes_over_everything_leave_nothing_to_see(
    diagnoser, diagnosis, phantom, bundle, explanations
):
    everything = Revision((Box(CENTER, (200.0, 200.0, 200.0), False),))
    blind = diagnoser.revise(diagnosis, phantom.volume, everything)
    rows = concept_section(blind, bundle).rows
    assert all(r.example is None and r.shown.frame is None for r in rows)
    part = part_of(render_report(blind, phantom.volume, bundle, explanations))
    assert part.count("no part of the nodule is like a prototype that speaks for it") == len(
        CONCEPTS
    )
    assert 'class="seen"' not in part


def test_text_of_the_bundle_cannot_become_markup(diagnosis, phantom, bundle, explanations):
    evil = tuple(replace(c, name=f"<b>{c.name}") for c in CONCEPTS)
    atlas = tuple(replace(p, concept=f"<b>{p.concept}") for p in bundle.concepts.atlas)
    told = replace(diagnosis, concepts=replace(diagnosis.concepts, concepts=evil))
    other = replace(bundle, concepts=replace(bundle.concepts, atlas=atlas))
    html = render_report(told, phantom.volume, other, explanations)
    assert "<b>spiculated" not in html.replace("<b>&lt;b&gt;", "")
    assert "&lt;b&gt;spiculated" in html


def test_a_revision_needs_the_similarities_that_it_corrects(revised, bundle):
    encoding = revised.encoding
    lost = Encoding(encoding.patch, encoding.probability, encoding.embedding)
    with pytest.raises(ValueError, match="needs similarities"):
        concept_section(replace(revised, encoding=lost), bundle)


@pytest.mark.parametrize(
    ("kappa", "word"), [(0.1, "slight"), (0.4, "fair"), (0.5, "moderate"), (0.7, "substantial"),
                        (0.9, "almost perfect"), (None, "")],
)  # fmt: skip
def test_agreement_is_told_in_words(diagnosis, bundle, kappa, word):
    row = concept_section(diagnosis, bundle).rows[0]
    assert row._replace(concept=replace(row.concept, reader_kappa=kappa)).agreement == word


def test_thumbnails_frame_the_cell():
    shown = CellSlice(np.zeros((64, 64)), np.zeros((64, 64)), (16, 24, 8, 8))
    picture = np.asarray(cell_thumbnail(shown))
    assert picture.shape == (256, 256, 3)
    rows, columns = np.nonzero(picture.any(axis=2))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (64, 96, 96, 128)
    assert not np.asarray(cell_thumbnail(shown._replace(frame=None))).any()


def test_bars_reach_from_their_start():
    bar = np.asarray(bar_image(0.25, "#ff0000", start=0.5))
    red = np.nonzero((bar == (255, 0, 0)).all(axis=2)[6])[0]
    assert (red.min(), red.max()) == (30, 60)
