"""The width of edges: blurred steps within slices, thick slices across them."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.axial import axial_slices
from contrastdiagnosis.imaging.sharpness import sharpness
from scipy import ndimage, special

FWHM = 2.355


def sharpness_of(hu, spacing_mm):
    k, j, i = spacing_mm
    return sharpness(axial_slices(hu, np.diag([-i, -j, k, 1.0])))


def blurred_wall(sigma_mm, spacing_mm=(1.25, 0.7, 0.7), shape=(12, 64, 64)):
    """Lung beside a slanting wall that a Gaussian has blurred, in closed form."""
    _, j, i = np.indices(shape)
    turn = np.deg2rad(20)
    away_mm = (j - 30.2) * spacing_mm[1] * np.cos(turn) + (i - 32) * spacing_mm[2] * np.sin(turn)
    return -850 + 890 * special.ndtr(away_mm / sigma_mm)


@pytest.mark.parametrize("sigma_mm", [0.7, 1.0, 1.25, 1.5])
@pytest.mark.parametrize("spacing_mm", [(1.25, 0.5, 0.5), (2.5, 0.7, 0.7), (5.0, 0.9, 0.8)])
def test_the_resolution_is_that_of_a_blurred_edge(sigma_mm, spacing_mm):
    told = sharpness_of(blurred_wall(sigma_mm, spacing_mm), spacing_mm)
    assert told.in_plane_mm == pytest.approx(FWHM * sigma_mm, rel=0.15)


@pytest.mark.parametrize("sigma_mm", [0.7, 1.0, 1.5])
def test_the_mean_edge_is_that_of_a_blurred_edge(sigma_mm):
    told = sharpness_of(blurred_wall(sigma_mm), (1.25, 0.7, 0.7))
    assert told.mean_edge_mm == pytest.approx(FWHM * sigma_mm, rel=0.25)


def test_noise_hardly_changes_the_resolution():
    noise = np.random.default_rng(0).normal(0, 30, (12, 64, 64))
    told = sharpness_of(blurred_wall(1.25) + noise, (1.25, 0.7, 0.7))
    assert told.in_plane_mm == pytest.approx(FWHM * 1.25, rel=0.2)


def floor(thickness_mm, step_mm, count):
    """Tissue below lung, its border at no voxel's middle, seen in slices of a thickness."""
    fine = 20
    at_mm = (np.arange(count * fine) + 0.5) * step_mm / fine
    hu = np.where(at_mm < count * step_mm / 2 + 0.3, 40.0, -850.0)
    wide = max(round(thickness_mm / step_mm * fine), 1)
    means = ndimage.uniform_filter1d(hu, wide, mode="nearest")[fine // 2 :: fine]
    return np.broadcast_to(means[:, None, None], (count, 48, 48)).copy()


@pytest.mark.parametrize("thickness_mm", [2.5, 3.75, 5.0, 7.5])
@pytest.mark.parametrize("step_mm", [0.6, 1.0, 1.25])
def test_the_thickness_is_that_of_overlapping_slices(thickness_mm, step_mm):
    hu = floor(thickness_mm, step_mm, round(40 / step_mm))
    told = sharpness_of(hu, (step_mm, 0.7, 0.7))
    assert told.thickness_mm == pytest.approx(thickness_mm, rel=0.1)


@pytest.mark.parametrize("thickness_mm", [3.75, 5.0, 7.5])
def test_the_thickness_is_that_of_slices_on_their_own_grid(thickness_mm):
    hu = floor(thickness_mm, thickness_mm, 8)
    told = sharpness_of(hu, (thickness_mm, 0.7, 0.7))
    assert thickness_mm <= told.thickness_mm < 2 * thickness_mm


def test_slices_interpolated_between_thick_ones_are_as_thick():
    thick = floor(5.0, 5.0, 8)
    between = np.linspace(0, 7, 29)
    hu = np.stack(
        [(1 - t % 1) * thick[int(t)] + t % 1 * thick[min(int(t) + 1, 7)] for t in between]
    )
    told = sharpness_of(hu, (1.25, 0.7, 0.7))
    assert told.thickness_mm >= 5.0
    assert np.isnan(told.in_plane_mm)


def balls(spacing_mm, shape, seed=0):
    """Lung full of balls: alike in all directions."""
    random = np.random.default_rng(seed)
    at_mm = np.indices(shape).T * spacing_mm
    hu = np.full(shape, -850.0)
    size_mm = np.array(shape) * spacing_mm
    for _ in range(60):
        away_mm = np.linalg.norm(at_mm - random.uniform(0, size_mm), axis=-1).T
        hu[away_mm < random.uniform(2, 5)] = 40
    return hu


@pytest.mark.parametrize("spacing_mm", [(1.0, 0.7, 0.7), (2.5, 0.7, 0.9)])
def test_what_is_alike_in_all_directions_changes_alike(spacing_mm):
    shape = tuple(round(42 / s) for s in spacing_mm)
    hu = ndimage.gaussian_filter(balls(spacing_mm, shape), 0.8 / np.array(spacing_mm))
    assert sharpness_of(hu, spacing_mm).change == pytest.approx(1, abs=0.15)
    thick = ndimage.uniform_filter1d(hu, round(7.5 / spacing_mm[0]), axis=0)
    assert sharpness_of(thick, spacing_mm).change < sharpness_of(hu, spacing_mm).change - 0.1


def test_without_edges_no_width_is_told():
    told = sharpness_of(np.random.default_rng(0).normal(-850, 20, (9, 40, 40)), (1.0, 0.7, 0.7))
    assert np.isnan([told.in_plane_mm, told.mean_edge_mm, told.thickness_mm]).all()


@pytest.mark.parametrize("shape", [(1, 40, 40), (2, 40, 40), (9, 2, 40), (9, 40, 1), (5, 4, 4)])
def test_small_scans_are_no_error(shape):
    sharpness_of(np.random.default_rng(0).normal(-400, 400, shape), (1.0, 0.7, 0.7))
