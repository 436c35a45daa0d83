"""Whose evidence a concept's similarity is: on the shipped network, its head and the phantom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.concepts.cells import cell_channels
from contrastdiagnosis.concepts.head import ConceptHead
from contrastdiagnosis.concepts.score_parts import score_parts
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.report.concept_section import concept_section
from contrastdiagnosis.report.screen import render_report


@pytest.fixture(scope="module")
def shipped():
    return load_bundle(default_bundle_folder())


@pytest.fixture(scope="module")
def phantom():
    return make_phantom()


@pytest.fixture(scope="module")
def diagnoser(shipped):
    return Diagnoser(shipped, "cpu")


@pytest.fixture(scope="module")
def diagnosis(diagnoser, phantom):
    return diagnoser.diagnose(phantom.volume, DEMO_NODULES[0].center_ras_mm)


@pytest.fixture(scope="module")
def own(shipped):
    return cell_channels(shipped.info.network, whole=False)


def strongest(similarity):
    return tuple(int(n) for n in np.unravel_index(similarity.argmax(), similarity.shape))


def test_the_parts_add_up_to_the_similarity(shipped, diagnosis, own):
    similarity = diagnosis.encoding.similarity
    for k, m in np.ndindex(similarity.shape[:2]):
        for cell in (strongest(similarity[k, m]), (0, 0, 0), (3, 2, 7)):
            parts = score_parts(shipped.head, diagnosis.encoding.cells, own, k, m, cell)
            assert sum(parts) == pytest.approx(float(similarity[k, m][cell]), abs=1e-5)


def test_a_head_that_sees_no_whole_tells_none_of_it(shipped, diagnosis, own):
    config = replace(shipped.head.config, channels=own, whole=False, rectified=True)
    torch.manual_seed(0)
    local = ConceptHead(config).eval()
    cells = np.ascontiguousarray(diagnosis.encoding.cells[:, :own])
    for m in range(3):
        parts = score_parts(local, cells, own, 0, m, (4, 4, 4))
        assert parts.whole == pytest.approx(0, abs=1e-7)


def test_what_a_cell_does_not_differ_in_tells_nothing(shipped, diagnosis, own):
    """A part that is as in an average cell is worth 0, whichever of the two it is."""
    for part, name in ((slice(own, None), "whole"), (slice(None, own), "place")):
        cells = diagnosis.encoding.cells.copy()
        cells[:, part] = 0
        parts = score_parts(shipped.head, cells, own, 1, 2, (4, 4, 4))
        assert getattr(parts, name) == pytest.approx(0, abs=1e-6)
        assert abs(parts.place + parts.whole) > 0.01


def test_the_report_tells_whose_evidence_it_is(shipped, phantom, diagnoser, diagnosis):
    section = concept_section(diagnosis, shipped)
    told = [row for row in section.rows if row.parts]
    assert len(told) > 4
    for row in told:
        assert sum(row.parts) == pytest.approx(row.score, abs=1e-5)
    # The shipped head's shape concepts are of the whole nodule to a good part.
    assert max(row.parts.whole for row in told) > 0.1
    html = render_report(diagnosis, phantom.volume, shipped, diagnoser.explain(diagnosis))
    assert html.count("of it, the nodule as a whole") == len(told)
