"""Faithfulness measures: what each must say of maps whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis_training.evaluation.maps.faithfulness import (
    CELL,
    SHARES,
    centre_gaussian,
    closeness,
    curve_area,
    energy_inside,
    local_lung_mean,
    perturbed,
    points_inside,
    rank_correlation,
    widened,
)
from scipy.stats import spearmanr

SHAPE = (16, 32, 32)


def random(seed=0):
    return np.random.default_rng(seed)


def test_the_most_important_voxels_go_first_and_come_first():
    values = random().permutation(16 * 32 * 32).reshape(SHAPE).astype(np.float32)
    image, fill = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    deleted = perturbed(image, fill, values, False, random())
    inserted = perturbed(image, fill, values, True, random())
    for share, gone, there in zip(SHARES[1:], deleted, inserted, strict=True):
        count = round(share * values.size)
        top = values >= values.size - count
        np.testing.assert_array_equal(gone == 0, top)
        np.testing.assert_array_equal(there == 1, top)
    assert image.all() and not fill.any()


def test_ties_are_broken_at_random():
    image, fill = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    first, second = (perturbed(image, fill, np.zeros(SHAPE), False, random(s)) for s in (1, 2))
    assert (first[-1] != second[-1]).any()
    assert first[-1][:8].mean() == pytest.approx(0.9, abs=0.02)


def test_closeness_runs_from_the_whole_to_the_blank_patch_and_stays_there():
    np.testing.assert_allclose(closeness(np.array([1, 2, 3, 9, 0.5]), 1, 3), [1, 0.5, 0, 0, 1])
    assert np.isnan(closeness(np.array([1.0, 2.0]), 3, 3)).all()


def test_the_area_of_a_curve_is_its_mean_height():
    assert curve_area(np.full(len(SHARES), 0.4)) == pytest.approx(0.4)
    assert curve_area(1 - np.array(SHARES) / SHARES[-1]) == pytest.approx(0.5)
    both = np.stack([np.zeros(len(SHARES)), np.ones(len(SHARES))])
    np.testing.assert_allclose(curve_area(both), [0, 1])


def test_deleted_tissue_becomes_the_lung_around_it():
    """Darker lung on the left than on the right; nodule and chest wall count for nothing."""
    intensity = np.full(SHAPE, 0.1, np.float32)
    intensity[:, :, 16:] = 0.2
    intensity[6:10, 12:20, 12:20] = 0.8
    intensity[:, :4] = 0.75
    valid = np.ones(SHAPE, bool)
    fill = local_lung_mean(intensity, valid)
    assert fill[8, 20, 2] == pytest.approx(0.1, abs=0.02)
    assert fill[8, 20, 29] == pytest.approx(0.2, abs=0.02)
    assert 0.1 < fill[8, 16, 16] < 0.2
    assert fill[:, :4].max() < 0.21


def test_without_lung_the_fill_is_typical_lung():
    fill = local_lung_mean(np.full(SHAPE, 0.8, np.float32), np.ones(SHAPE, bool))
    assert fill == pytest.approx(np.full(SHAPE, 150 / 1400), abs=1e-6)


def test_energy_and_pointing_know_inside_from_outside():
    mask = np.zeros(SHAPE, bool)
    mask[4:8, 8:16, 8:16] = True
    values = np.zeros(SHAPE)
    values[5, 10, 10], values[12, 30, 30] = 0.75, 0.25
    assert energy_inside(values, mask) == 0.75
    assert points_inside(values, mask) == 1
    assert points_inside(-values + 1, mask) < 1
    values[12, 30, 30] = 0.75
    assert points_inside(values, mask) == 0.5
    assert energy_inside(np.zeros(SHAPE), mask) == points_inside(np.zeros(SHAPE), mask) == 0


def test_a_uniform_map_has_the_masks_share_of_energy():
    mask = random().random(SHAPE) < 0.2
    assert energy_inside(np.ones(SHAPE), mask) == pytest.approx(mask.mean())


def test_a_mask_grows_by_one_cell_on_every_side():
    mask = np.zeros(SHAPE, bool)
    mask[8, 16, 16] = True
    assert [int(np.ptp(x)) for x in np.nonzero(widened(mask))] == [2 * n for n in CELL]


def test_the_centre_control_is_highest_in_the_middle():
    control = centre_gaussian((32, 64, 64))
    assert np.unravel_index(control.argmax(), control.shape) == pytest.approx((15, 31, 31), abs=1)
    np.testing.assert_allclose(control, control[::-1, ::-1, ::-1])


def test_rank_correlation_is_spearmans():
    a, b = random(1).random(SHAPE), random(2).random(SHAPE)
    b = np.where(a > 0.5, a + b / 4, 0)
    expected = spearmanr(a.ravel(), b.ravel()).statistic
    assert rank_correlation(a, b) == pytest.approx(expected, abs=1e-9)
    assert rank_correlation(a, np.zeros(SHAPE)) == 0
