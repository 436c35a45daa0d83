"""`Predictions`: nodules read through the engine's door, whole and cut to their own slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis_training.runs.predictions import cut_slices, nodule_slices, predict_nodules

from training.conftest import TINY

CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return NoduleNet(TINY.network).eval()


@pytest.fixture(scope="module")
def whole(context_folder):
    """Three nodules with 15 mm and more above and below."""
    return read_case_folder(context_folder)[:3]


@pytest.fixture(scope="module")
def alone(case_folder):
    """Three nodules whose files end with them."""
    return read_case_folder(case_folder)[:3]


def test_rows_are_in_order_and_hold_what_the_table_says(network, alone):
    predictions = predict_nodules(network, alone, CPU)
    assert predictions.case_id.tolist() == [n.case_id for n in alone]
    assert predictions.patient_id.tolist() == [n.patient_id for n in alone]
    assert predictions.malignancy.tolist() == [n.mean_rating("malignancy") for n in alone]
    assert predictions.embedding.shape == (3, 6)
    backwards = predict_nodules(network, alone[::-1], CPU)
    np.testing.assert_allclose(backwards.embedding[::-1], predictions.embedding, atol=1e-6)


def test_only_files_with_surroundings_are_read_twice(network, whole, alone):
    predictions = predict_nodules(network, [*whole, *alone], CPU)
    assert np.isfinite(predictions.trimmed_dice).tolist() == [True] * 3 + [False] * 3
    assert (
        np.isfinite(predictions.trimmed_embedding).all(axis=1).tolist() == [True] * 3 + [False] * 3
    )
    assert not np.allclose(predictions.trimmed_embedding[:3], predictions.embedding[:3])


def test_the_nodules_slices_are_those_that_readers_marked(whole, alone):
    for nodule in whole:
        scan = read_scan(nodule)
        kept = nodule_slices(scan)
        marked = scan.share.any(axis=(1, 2))
        assert marked[kept].all()
        assert not marked[: kept.start].any() and not marked[kept.stop :].any()
    assert [nodule_slices(read_scan(n)) for n in alone] == [None] * 3


def test_a_cut_volume_keeps_its_place(whole):
    volume = read_scan(whole[0]).volume
    cut = cut_slices(volume, slice(12, 20))
    assert cut.hu.shape == (8, *volume.hu.shape[1:])
    np.testing.assert_array_equal(cut.hu[3], volume.hu[15])
    np.testing.assert_allclose(cut.ras_from_ijk([4, 5, 3]), volume.ras_from_ijk([4, 5, 15]))


def test_the_dice_is_that_of_the_mask_on_the_files_own_grid(network, whole):
    """A network that marks nothing overlaps with nothing; one that marks all, by the volumes."""
    for logit, mark in ((-9.0, False), (9.0, True)):
        with torch.no_grad():
            network.mask_head.weight.zero_()
            network.mask_head.bias.fill_(logit)
        predictions = predict_nodules(network, whole[:1], CPU)
        assert bool(predictions.dice[0] > 0) == mark
        assert predictions.dice[0] < 0.5
        assert 0.8 < predictions.dice_inter_reader[0] < predictions.dice_reader_consensus[0] <= 1


def test_a_changed_scan_is_what_the_network_sees(network, whole):
    """The readers' marks stay as they are, and nothing is cut."""
    asked = []

    def darker(nodule, volume):
        asked.append(nodule.case_id)
        return Volume(volume.hu - 100, volume.ijk_to_ras)

    def same(nodule, volume):
        return volume

    plain, changed, unchanged = (
        predict_nodules(network, whole[:2], CPU, change=change) for change in (None, darker, same)
    )
    assert asked == [nodule.case_id for nodule in whole[:2]]
    np.testing.assert_array_equal(unchanged.embedding, plain.embedding)
    np.testing.assert_array_equal(unchanged.facts, plain.facts)
    assert not np.allclose(changed.embedding, plain.embedding, atol=1e-4)
    for name in ("case_id", "malignancy", "diameter_mm", "dice_inter_reader"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(plain, name))
    for told in (changed, unchanged):
        assert np.isnan(told.trimmed_dice).all() and np.isnan(told.trimmed_embedding).all()
