"""Plausible tissue above and below a nodule whose file ends with it."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.cases.case_folder import NoduleScan
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis_training.data.context import extend_along_slices, remove_nodule

AFFINE = np.array([[-0.7, 0, 0, 50], [0, -0.7, 0, -20], [0, 0, 2.5, 100], [0, 0, 0, 1.0]])


def scan(slices=6, seed=0):
    """A nodule of 6 mm that touches the first and the last slice; lung with noise around it."""
    random = np.random.default_rng(seed)
    hu = random.normal(-860, 25, (slices, 60, 60)).astype(np.float32)
    j, i = np.mgrid[:60, :60]
    nodule = np.hypot(j - 30, i - 28) * 0.7 < 6
    hu[:, nodule] = 40
    share = np.repeat(nodule[None], slices, axis=0).astype(np.float32)
    return NoduleScan(Volume(hu, AFFINE), share)


def extended(reach_mm=25.0, seed=0, **kwargs):
    return extend_along_slices(scan(**kwargs), reach_mm, np.random.default_rng(seed))


def test_the_stored_slices_stay_and_keep_their_place():
    before = scan()
    after, kept = extended()
    np.testing.assert_array_equal(after.volume.hu[kept], before.volume.hu)
    np.testing.assert_array_equal(after.share[kept], before.share)
    for k in (0, 5):
        np.testing.assert_allclose(
            after.volume.ras_from_ijk([7, 8, kept.start + k]), before.volume.ras_from_ijk([7, 8, k])
        )
    np.testing.assert_allclose(after.center_ras_mm, before.center_ras_mm)


@pytest.mark.parametrize("reach_mm", [0.0, 10.0, 25.0])
def test_both_sides_reach_as_far_as_asked(reach_mm):
    after, _ = extended(reach_mm)
    center_k = after.volume.ijk_from_ras(scan().center_ras_mm)[2]
    assert center_k * 2.5 >= reach_mm
    assert (len(after.volume.hu) - 1 - center_k) * 2.5 >= reach_mm
    assert len(after.volume.hu) <= max(6, 2 * reach_mm / 2.5 + 3)


def test_a_file_that_shows_enough_is_left_alone():
    after, kept = extended(reach_mm=5.0)
    assert kept == slice(0, 6)
    np.testing.assert_array_equal(after.volume.hu, scan().volume.hu)


def test_the_added_slices_hold_lung_and_no_nodule():
    after, kept = extended()
    added = np.delete(after.volume.hu, np.r_[kept], axis=0)
    assert added.max() < -600
    assert added.mean() == pytest.approx(-860, abs=15)
    assert not np.delete(after.share, np.r_[kept], axis=0).any()


def test_the_added_slices_differ_from_each_other_as_noise_does():
    after, kept = extended()
    last, first, second = after.volume.hu[kept.stop - 1 : kept.stop + 2]
    assert np.abs(first - second).mean() > 5
    assert np.corrcoef(last.ravel(), first.ravel())[0, 1] < 0.9


def test_the_random_source_fixes_them():
    first, again, other = (extended(seed=s)[0].volume.hu for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_removed_nodule_leaves_its_surroundings():
    hu = scan().volume.hu[0]
    marked = scan().share[0] > 0
    cleared = remove_nodule(hu, marked)
    assert cleared[marked].max() < -700
    far = np.hypot(*(np.mgrid[:60, :60] - np.array([30, 28])[:, None, None])) * 0.7 > 8
    np.testing.assert_array_equal(cleared[far], hu[far])
    assert hu[marked].min() == 40, "the stored slice itself must stay"


def test_nothing_is_removed_where_nothing_is_marked():
    hu = scan().volume.hu[0]
    np.testing.assert_array_equal(remove_nodule(hu, np.zeros_like(hu, bool)), hu)


def test_a_slice_that_is_all_nodule_becomes_its_lightest_tissue():
    hu = scan().volume.hu[0]
    np.testing.assert_array_equal(
        remove_nodule(hu, np.ones_like(hu, bool)), np.full_like(hu, hu.min())
    )
