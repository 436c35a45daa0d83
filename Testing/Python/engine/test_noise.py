"""Noise in lung: white, correlated, between vessels, in slices that are alike."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.axial import axial_slices
from contrastdiagnosis.imaging.noise import lung_texture
from scipy import ndimage

SHAPE = (20, 64, 64)


def texture_of(hu, spacing_mm=(1.0, 0.7, 0.7)):
    k, j, i = spacing_mm
    return lung_texture(axial_slices(hu, np.diag([-i, -j, k, 1.0])))


def correlated(shape, spacing_mm, seed=0):
    """Noise of filtered back projection with a standard deviation of 1, by its definition."""
    f = np.hypot(
        np.fft.fftfreq(shape[1], spacing_mm[1])[:, None],
        np.fft.fftfreq(shape[2], spacing_mm[2])[None],
    )
    amplitude = np.sqrt(f * np.exp(-((f / 0.5) ** 2)))
    white = np.random.default_rng(seed).normal(size=shape)
    noise = np.fft.ifft2(np.fft.fft2(white) * amplitude).real
    return noise / noise.std()


def vessels(shape):
    """Lung with a wall, a thick and a thin vessel."""
    k, j, i = np.indices(shape)
    hu = np.full(shape, -850.0)
    hu[(j - 30) ** 2 + (i - 30) ** 2 < 64] = 40
    hu[(j - i - k) ** 2 < 6] = -100
    hu[:, :10] = 50
    return hu


@pytest.mark.parametrize("sigma", [10, 40, 120])
def test_white_noise_is_measured_between_vessels(sigma):
    noise = np.random.default_rng(0).normal(0, sigma, SHAPE)
    assert texture_of(vessels(SHAPE) + noise).noise_hu == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("sigma", [20, 50, 80, 120])
@pytest.mark.parametrize("spacing_mm", [(1.0, 0.7, 0.7), (2.5, 0.6, 0.6), (5.0, 0.9, 0.9)])
def test_noise_of_reconstruction_is_measured_between_vessels(sigma, spacing_mm):
    """The stencil alone reads 80 HU as 19 HU."""
    noise = sigma * correlated(SHAPE, spacing_mm)
    texture = texture_of(vessels(SHAPE) + noise, spacing_mm)
    assert texture.noise_hu == pytest.approx(sigma, rel=0.15)


def test_coarser_noise_is_not_missed():
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), (0, 1.7, 1.7))
    noise *= 60 / noise.std()
    texture = texture_of(vessels(SHAPE) + noise)
    # Windows hold few of its grains, so that the quietest are quieter than they should be.
    assert 36 < texture.noise_hu < 66
    assert texture.fine_noise_hu < 10


def test_noise_that_slices_share_is_not_missed():
    """Overlapping slices differ by less than their noise."""
    noise = ndimage.uniform_filter1d(correlated(SHAPE, (1.0, 0.7, 0.7)), 3, axis=0)
    noise *= 60 / noise.std()
    assert texture_of(vessels(SHAPE) + noise).noise_hu == pytest.approx(60, rel=0.15)


def test_fine_noise_is_what_the_stencil_leaves():
    """Immerkaer's formula, and the median, in plain terms."""
    hu = np.random.default_rng(3).normal(-850, 30, (3, 20, 20))
    edged = np.pad(hu, ((0, 0), (1, 1), (1, 1)), mode="edge")
    stencil = np.outer([1, -2, 1], [1, -2, 1])
    left = [(edged[k, j : j + 3, i : i + 3] * stencil).sum() for k, j, i in np.ndindex(hu.shape)]
    wanted = 1.4826 * np.median(np.abs(left)) / np.sqrt((stencil**2).sum())
    assert texture_of(hu).fine_noise_hu == pytest.approx(wanted, rel=2e-3)


def test_noise_does_not_come_from_gradients():
    k, j, i = np.mgrid[:10, :40, :40]
    texture = texture_of(-900 + 3.0 * j + 2.0 * i + k)
    assert texture.noise_hu == pytest.approx(0, abs=0.1)
    assert texture.fine_noise_hu == pytest.approx(0, abs=0.1)


def test_noise_does_not_come_from_vessels():
    assert texture_of(vessels(SHAPE)).noise_hu < 2


def test_smooth_scans_are_less_noisy():
    noise = np.random.default_rng(1).normal(0, 60, SHAPE)
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1))
    assert texture_of(smooth - 850).noise_hu == pytest.approx(smooth.std(), rel=0.2)


@pytest.mark.parametrize(
    "hu", [np.full((9, 40, 40), 40.0), np.full((2, 8, 8), -850.0), np.full((9, 40, 40), -1000.0)]
)
def test_without_lung_there_is_no_texture(hu):
    assert texture_of(hu) is None


def test_texture_is_cut_off_and_stays_within_lung():
    hu = np.random.default_rng(0).normal(-850, 30, SHAPE)
    hu[10, 30, 30] = -100
    hu[:, :10] = 50
    texture = texture_of(hu)
    assert np.abs(texture.hu).max() == pytest.approx(3 * texture.spread_hu)
    assert not texture.hu[~texture.lung].any()
    assert not texture.lung[:, :8].any()
