"""Explanation: maps of a real diagnosis, on the volume's grid, with what cannot be shown said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.library import Case, CaseLibrary
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.explanation import (
    EvidenceMap,
    Explanation,
    SideExplanation,
    explain_pairs,
    map_on_volume,
)

from engine.conftest import NODULE

SHAPE = DEFAULT_GEOMETRY.shape
NOTHING = EvidenceMap(np.zeros(SHAPE, np.float32), 0.0)


def some(place=(10, 20, 30)):
    values = np.zeros(SHAPE, np.float32)
    values[place] = 1
    return EvidenceMap(values, 0.3)


def some_pixels(seed=0):
    intensity = np.random.default_rng(seed).random(SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[12:20, 20:40, 20:40] = True
    return CasePixels(np.round(intensity * 255) / np.float32(255), np.ones(SHAPE, bool), mask)


@pytest.fixture(scope="module")
def diagnoser(bundle):
    return Diagnoser(bundle, "cpu")


@pytest.fixture(scope="module")
def diagnosis(diagnoser, phantom):
    return diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm)


@pytest.fixture
def pictured(bundle, diagnosis, tmp_path):
    """A diagnoser that has pictures of the second and the fifth case."""
    store = PixelStore(tmp_path / "pixels")
    for n in (1, 4):
        store.write(diagnosis.cases[n].case.case_id, some_pixels(n))
    return Diagnoser(replace(bundle, pixels=store), "cpu")


def test_every_shown_case_is_explained_in_its_order(diagnoser, diagnosis):
    explanations = diagnoser.explain(diagnosis)
    assert [e.case_id for e in explanations] == [c.case.case_id for c in diagnosis.cases]
    for explanation, similar in zip(explanations, diagnosis.cases, strict=True):
        assert explanation.distance == pytest.approx(similar.distance, abs=1e-4)
        assert explanation.case is None
        for sign in ("similar", "different"):
            values = explanation.query.of_sign(sign).values
            assert values.shape == SHAPE
            assert values.min() >= 0
            assert values.max() == (0 if explanation.query.of_sign(sign).empty else 1)
    assert any(not e.query.similar.empty for e in explanations)


def test_cases_with_pictures_are_explained_on_both_sides(pictured, diagnosis):
    explanations = pictured.explain(diagnosis)
    assert [e.case is not None for e in explanations] == [n in (1, 4) for n in range(6)]
    for n in (1, 4):
        np.testing.assert_array_equal(explanations[n].pixels.mask, some_pixels(n).mask)
    without = Diagnoser(pictured.bundle, "cpu").explain(diagnosis)
    np.testing.assert_allclose(
        explanations[0].query.similar.values, without[0].query.similar.values, atol=1e-4
    )


def test_a_nodule_against_itself_has_nothing_to_explain(diagnoser, diagnosis, bundle, tmp_path):
    """The same scan clicked again: the distance is 0 and has no direction."""
    patch = diagnosis.encoding.patch
    exact = Patch(np.round(patch.intensity * 255) / np.float32(255), patch.valid, patch.ijk_to_ras)
    store = PixelStore(tmp_path)
    store.write("P0_0", CasePixels(exact.intensity, exact.valid, exact.valid))
    (explanation,) = explain_pairs(diagnoser.network, exact, ["P0_0"], bundle.library, store)
    assert explanation.distance == pytest.approx(0, abs=1e-5)
    for side in (explanation.query, explanation.case):
        assert side.similar.empty
        assert side.different.empty
    (remark,) = explanation.remarks
    assert "the network cannot tell the nodule from this case (distance 0.000)" in remark


def test_an_empty_map_is_said_and_not_divided_by():
    both = SideExplanation(NOTHING, some())
    explanation = Explanation("x", 1.0, both, both, some_pixels())
    assert explanation.remarks == (
        "no similar evidence: nothing in the nodule brings it closer to the case",
    )
    other = SideExplanation(some(), NOTHING)
    assert "no evidence of difference" in Explanation("x", 1.0, other, other, None).remarks[0]
    assert NOTHING.contour_level == 1
    assert not Explanation("x", 1.0, SideExplanation(some(), some()), both, None).remarks


def test_the_contour_holds_the_top_tenth_of_the_maps_mass():
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32) ** 4
    evidence = EvidenceMap(values / values.max(), 1.0)
    inside = evidence.values >= evidence.contour_level
    share = evidence.values[inside].sum() / evidence.values.sum()
    assert share == pytest.approx(0.1, abs=1e-3)


def test_the_slice_shown_holds_most_of_the_map():
    values = np.zeros(SHAPE, np.float32)
    values[7, :5] = 0.5
    values[20, 0, 0] = 1
    assert EvidenceMap(values, 1.0).slice_index == 7


@pytest.mark.parametrize("flip", [1, -1])
def test_a_map_comes_back_on_the_volumes_own_grid(phantom, diagnosis, flip):
    """A bright voxel of the patch is found at its own place in the volume."""
    hu = phantom.volume.hu[::flip]
    affine = phantom.volume.ijk_to_ras.copy()
    if flip < 0:
        affine[:3, 2] *= -1
        affine[:3, 3] = phantom.volume.ras_from_ijk((0, 0, len(hu) - 1))
    volume = Volume(hu, affine)
    values = np.zeros(SHAPE, np.float32)
    values[14:19, 24:30, 36:42] = 1
    patch = diagnosis.encoding.patch
    placed = map_on_volume(EvidenceMap(values, 1.0), patch, volume)
    assert placed.volume_shape == hu.shape
    found = np.argwhere(placed.full() > 0.5).mean(axis=0)
    wanted = patch.ijk_to_ras[:3, :3] @ (38.5, 26.5, 16.0) + patch.ijk_to_ras[:3, 3]
    np.testing.assert_allclose(volume.ras_from_ijk(found[::-1]), wanted, atol=1.0)


def test_nothing_of_the_diagnoser_is_changed(diagnoser, diagnosis, phantom):
    before = {name: value.clone() for name, value in diagnoser.network.state_dict().items()}
    diagnoser.explain(diagnosis)
    for name, value in diagnoser.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not diagnoser.network.training
    assert all(p.grad is None for p in diagnoser.network.parameters())
    again = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm)
    assert again.probability == diagnosis.probability


def test_a_case_that_is_not_there_is_refused(diagnoser, diagnosis):
    case = Case("elsewhere", "P", True, 5.0, {})
    stranger = replace(diagnosis.cases[0], case=case)
    with pytest.raises(InputError, match="the case library has no case elsewhere"):
        diagnoser.explain(replace(diagnosis, cases=(stranger,)))


def test_embeddings_are_found_by_id(bundle):
    library: CaseLibrary = bundle.library
    ids = [library.cases[n].case_id for n in (5, 0, 17)]
    np.testing.assert_array_equal(library.embeddings_of(ids), library.embedding[[5, 0, 17]])


def test_a_damaged_picture_is_named(pictured, diagnosis):
    case_id = diagnosis.cases[1].case.case_id
    (pictured.bundle.pixels.folder / f"{case_id}.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=f"{case_id}.safetensors is damaged"):
        pictured.explain(diagnosis)
