"""Measurements against shapes of known size."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.measure import axial_diameters, contours, nodule_at
from contrastdiagnosis.patch import DEFAULT_GEOMETRY

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
