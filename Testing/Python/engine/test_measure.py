"""Measurements against shapes of known size."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.measure import axial_diameters, bounding_box, contours, nodule_at
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from scipy import ndimage
from scipy.spatial.distance import cdist

SPACING = DEFAULT_GEOMETRY.spacing_mm


def distances(shape=(32, 64, 64), center_mm=(0, 0, 0), stretch=(1, 1, 1)):
    axes = [
        ((np.arange(n) - (n - 1) / 2) * s - c) / q
        for n, s, c, q in zip(shape, SPACING, center_mm, stretch, strict=True)
    ]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(k**2 + j**2 + i**2)


def soft_ball(radius_mm, **kwargs):
    """Probability that crosses one half at the radius."""
    return 1 / (1 + np.exp((distances(**kwargs) - radius_mm) / 0.3))


@pytest.mark.parametrize("radius", [2.0, 5.0, 11.0])
def test_a_ball_has_its_diameter_along_and_across(radius):
    long, short, k = axial_diameters(soft_ball(radius), SPACING)
    assert long == pytest.approx(2 * radius, abs=0.25)
    assert short == pytest.approx(2 * radius, abs=0.35)
    assert k in (15, 16)


def test_an_ellipse_has_two_diameters():
    long, short, _ = axial_diameters(soft_ball(5, stretch=(1, 2, 1)), SPACING)
    assert long == pytest.approx(20, abs=0.4)
    assert short == pytest.approx(10, abs=0.4)


def slow_diameters(probability, spacing_mm):
    """Every pair of outline points of every slice."""
    best = (0.0, 0.0, 0)
    for k, image in enumerate(probability):
        points = [tuple(p * spacing_mm[:0:-1]) for line in contours(image) for p in line]
        for x, y in points:
            for u, v in points:
                long = np.hypot(x - u, y - v)
                if long > best[0] + 1e-9:
                    across = [((p - x) * (v - y) - (q - y) * (u - x)) / long for p, q in points]
                    best = (long, max(across) - min(across), k)
    return best


def test_no_slice_that_is_longest_is_passed_over():
    """Of coarse and flat voxels too, where an outline reaches far beyond its mask."""
    random = np.random.default_rng(0)
    for _ in range(300):
        spacing = tuple(random.uniform(0.3, 3, 3))
        noise = ndimage.gaussian_filter(random.random((6, 9, 9)), random.uniform(0.3, 1.5))
        probability = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
        outlines = [np.concatenate(contours(p) or [[(0, 0)]]) for p in probability]
        lengths = [cdist(o * spacing[:0:-1], o * spacing[:0:-1]).max() for o in outlines]
        long, _, k = axial_diameters(probability, spacing)
        assert (long, k) == (pytest.approx(max(lengths)), int(np.argmax(lengths)))


def test_an_outline_may_run_almost_a_voxel_beyond_its_mask():
    """The slice with the smaller mask is the longer one."""
    probability = np.zeros((2, 9, 12), np.float32)
    probability[0, 4, 3:9] = 0.56
    probability[1, 4, 3:8], probability[1, 4, [2, 8]] = 1, 0.499
    long, _, k = axial_diameters(probability, (1, 1, 1))
    assert k == 1 and long == pytest.approx(6, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_diameters_equal_the_search_through_all_pairs(seed):
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=(5, 20, 24)), 2)
    probability = (0.5 + 4 * (noise - np.quantile(noise, 0.9))).clip(0, 1).astype(np.float32)
    spacing = (1.25, 0.6, 0.8)
    slow = slow_diameters(probability, spacing)
    assert slow[0] > 3
    np.testing.assert_allclose(axial_diameters(probability, spacing), slow, rtol=1e-9)


def test_a_mask_at_the_face_of_the_patch_can_be_measured():
    bar = np.zeros((4, 9, 9), np.float32)
    bar[3, 8, :] = 1
    assert axial_diameters(bar, (1, 1, 1)) == pytest.approx((9, 1, 3))


def test_exactly_one_half_has_no_outline():
    half = np.zeros((3, 8, 8), np.float32)
    half[1, 3:5, 3:5] = 0.5
    assert axial_diameters(half, SPACING)[:2] == (0, 0)


def test_the_box_is_the_smallest_and_ends_at_the_faces():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 6] = mask[3, 4, 5] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 5), slice(5, 7))
    assert mask[bounding_box(mask, margin=2)].shape == (5, 6, 4)


def test_nothing_measures_zero():
    assert axial_diameters(np.zeros((32, 64, 64), np.float32), SPACING)[:2] == (0, 0)


def test_a_single_voxel_can_be_measured():
    one = np.zeros((32, 64, 64), np.float32)
    one[10, 20, 30] = 1
    long, _, k = axial_diameters(one, SPACING)
    assert 0.5 < long < 1.0
    assert k == 10


def test_contours_run_through_one_half():
    image = np.tile(np.linspace(0, 1, 11), (5, 1))
    points = np.concatenate(contours(image))
    inner = points[(points[:, 1] > 0) & (points[:, 1] < 4) & (points[:, 0] < 9)]
    np.testing.assert_allclose(inner[:, 0], 5)


def test_the_part_at_the_click_is_taken():
    near = distances(center_mm=(0, 2, 0)) < 4
    far = distances(center_mm=(0, -14, 0)) < 5
    np.testing.assert_array_equal(nodule_at(near | far, SPACING), near)


def test_a_click_beside_the_nodule_still_means_it():
    beside = distances(center_mm=(0, 9, 0)) < 3
    assert nodule_at(beside, SPACING).any()


def test_a_nodule_far_from_the_click_is_not_taken():
    far = distances(center_mm=(0, 15, 0)) < 3
    assert not nodule_at(far, SPACING).any()
    assert not nodule_at(np.zeros((32, 64, 64), bool), SPACING).any()
