"""What the spectrum of lung tells, on noise whose spectrum and likeness are known."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.axial import axial_slices
from contrastdiagnosis.imaging.noise import lung_texture
from contrastdiagnosis.imaging.spectrum import spectral_measures
from scipy import ndimage

SHAPE = (24, 64, 64)


def measures_of(noise, spacing_mm=(1.25, 0.7, 0.7)):
    k, j, i = spacing_mm
    hu = -850 + 30 * noise / noise.std()
    return spectral_measures(lung_texture(axial_slices(hu, np.diag([-i, -j, k, 1.0]))))


def white(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_spectrum_of_white_noise_does_not_fall():
    told = measures_of(white())
    assert told.fall_db == pytest.approx(0, abs=1)
    assert told.fall_fine_db == pytest.approx(0, abs=1)
    # The mean of the window that is taken away is a part of the coarsest waves.
    assert told.fall_coarse_db == pytest.approx(0, abs=5)


@pytest.mark.parametrize("spacing_mm", [(1.25, 0.5, 0.5), (2.5, 0.7, 0.8)])
def test_the_spectrum_falls_as_the_blur_says(spacing_mm):
    """Power at f falls by exp(-(2 pi sigma f)^2)."""
    sigma_mm = 0.6
    blurred = ndimage.gaussian_filter(white(), (0, *(sigma_mm / s for s in spacing_mm[1:])))
    told = measures_of(blurred, spacing_mm)
    power = [
        np.average(np.exp(-((2 * np.pi * sigma_mm * f) ** 2)), weights=f)
        for f in (
            np.linspace(0.12, 0.2, 50),
            np.linspace(0.3, 0.4, 50),
            np.linspace(0.45, 0.55, 50),
        )
    ]
    falls = 10 * np.log10([power[0] / power[1], power[1] / power[2]])
    assert told.fall_db == pytest.approx(falls[0], abs=1)
    assert told.fall_fine_db == pytest.approx(falls[1], abs=1)


@pytest.mark.parametrize(("step_mm", "near", "far"), [(0.625, 2, 4), (1.25, 1, 2), (2.5, 1, 1)])
def test_slices_are_alike_as_their_overlap_says(step_mm, near, far):
    """Means over n slices are alike by 1 - m / n, m slices apart."""
    told = measures_of(ndimage.uniform_filter1d(white(), 5, axis=0), (step_mm, 0.7, 0.7))
    assert told.alike == pytest.approx(1 - near / 5, abs=0.08)
    assert told.alike_fine == pytest.approx(1 - near / 5, abs=0.08)
    assert told.alike_far == pytest.approx(1 - far / 5, abs=0.08)
    assert told.alike_far_fine == pytest.approx(1 - far / 5, abs=0.08)


def test_independent_slices_are_not_alike():
    told = measures_of(white())
    assert told.alike == pytest.approx(0, abs=0.06)
    assert told.alike_far_fine == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("way_mm", [(0, 0, 4.2), (0, 3.5, -2.1), (2.5, 0, 2.1), (1.25, -3.5, 0)])
def test_a_ghost_is_as_strong_as_its_copies(way_mm):
    """Of the mean of two copies: 0.6 * 0.4 / (0.6^2 + 0.4^2) of the whole."""
    noise = ndimage.gaussian_filter(white(), (0, 0.5, 0.5))
    off = np.rint(np.array(way_mm) / (1.25, 0.7, 0.7)).astype(int)
    doubled = 0.6 * noise + 0.4 * np.roll(noise, off, (0, 1, 2))
    assert measures_of(noise).ghost < 0.12
    assert measures_of(doubled).ghost == pytest.approx(0.46, abs=0.12)


def test_smearing_has_a_direction():
    smeared = ndimage.uniform_filter1d(white(), 4, axis=2)
    assert measures_of(white()).anisotropy < 0.1
    assert measures_of(smeared).anisotropy > 0.4


@pytest.mark.parametrize(
    ("pixel_mm", "missing"),
    [(0.7, ()), (1.0, ("fall_fine_db",)), (1.37, ("fall_db", "alike_fine"))],
)
def test_bands_beyond_the_pixels_are_not_told(pixel_mm, missing):
    told = measures_of(white(), (2.0, pixel_mm, pixel_mm))
    for name in ("fall_db", "fall_fine_db", "alike_fine"):
        if name in missing:
            assert np.isnan(getattr(told, name)), name
    assert np.isfinite([told.alike, told.ghost, told.anisotropy, told.fall_coarse_db]).all()


def test_one_slice_tells_nothing_of_others():
    told = measures_of(white((1, 64, 64)))
    assert np.isnan([told.alike, told.alike_fine, told.alike_far, told.alike_far_fine]).all()
    assert np.isfinite([told.fall_db, told.ghost, told.anisotropy]).all()
