"""Is a scan like those of the cases: lung, noise, slices."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.image_quality import (
    image_quality,
    lung_share,
    noise_hu,
)
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, crop_patch, window
from contrastdiagnosis.imaging.volume import Volume
from scipy import ndimage

from engine.conftest import NODULE


@pytest.mark.parametrize("sigma", [10, 40, 120])
def test_noise_is_measured_between_vessels(sigma):
    random = np.random.default_rng(0)
    k, j, i = np.mgrid[:20, :60, :60]
    hu = np.full((20, 60, 60), -850.0)
    hu[(j - 30) ** 2 + (i - 30) ** 2 < 64] = 40
    hu[(j - i - k) ** 2 < 6] = -100
    hu[:, :10] = 50
    noisy = hu + random.normal(0, sigma, hu.shape)
    assert noise_hu(noisy) == pytest.approx(sigma, rel=0.1)


def test_noise_is_what_the_stencil_leaves():
    """Immerkaer's formula, and the medians, in plain terms."""
    hu = np.random.default_rng(3).normal(-850, 30, (3, 20, 20))
    edged = np.pad(hu, ((0, 0), (1, 1), (1, 1)), mode="edge")
    stencil = np.outer([1, -2, 1], [1, -2, 1])
    left = [(edged[k, j : j + 3, i : i + 3] * stencil).sum() for k, j, i in np.ndindex(hu.shape)]
    wanted = 1.4826 * np.median(np.abs(left)) / np.sqrt((stencil**2).sum())
    assert noise_hu(hu) == pytest.approx(wanted, rel=1e-5)


def test_noise_does_not_come_from_gradients():
    k, j, i = np.mgrid[:10, :40, :40]
    assert noise_hu(-900 + 3.0 * j + 2.0 * i + k) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    "hu", [np.full((9, 40, 40), 40.0), np.full((2, 8, 8), -850.0), np.zeros((0, 9, 9))]
)
def test_without_lung_there_is_no_noise_to_tell(hu):
    assert noise_hu(hu) is None


def test_smooth_scans_are_less_noisy():
    noise = np.random.default_rng(1).normal(-850, 60, (12, 60, 60))
    smooth = ndimage.gaussian_filter(noise - noise.mean(), (0, 1, 1)) + noise.mean()
    assert noise_hu(smooth) < noise_hu(noise) / 3


def test_lung_share_counts_valid_voxels_only():
    intensity = np.full(DEFAULT_GEOMETRY.shape, 0.1, np.float32)  # -860 HU
    valid = np.zeros(DEFAULT_GEOMETRY.shape, bool)
    assert lung_share(Patch(intensity, valid, np.eye(4))) == 0
    valid[:16] = True
    intensity[:4] = 0.8
    assert lung_share(Patch(intensity, valid, np.eye(4))) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("sigma", [0, 30, 60])
def test_air_outside_the_body_is_no_lung(sigma):
    """The window cuts air's noise off at one side: voxel by voxel, half of it would look denser."""
    noise = np.random.default_rng(0).normal(0, sigma, DEFAULT_GEOMETRY.shape)
    everywhere = np.ones(DEFAULT_GEOMETRY.shape, bool)
    air, lung = (Patch(window(hu + noise), everywhere, np.eye(4)) for hu in (-1000, -850))
    assert lung_share(air) < 0.1
    assert lung_share(lung) > 0.9


def test_padding_is_no_noise():
    hu = np.random.default_rng(1).normal(-850, 20, (8, 60, 60)).astype(np.float32)
    plain = noise_hu(hu)
    hu[:, ::6, ::6] = -2000
    assert noise_hu(hu) is None or noise_hu(hu) == pytest.approx(plain, rel=0.3)
    hu = np.random.default_rng(1).normal(-850, 20, (8, 60, 60)).astype(np.float32)
    hu[:, :20] = -2000
    assert noise_hu(hu) == pytest.approx(plain, rel=0.1)


def test_the_quality_is_that_of_the_scan_around_the_point(phantom):
    patch = crop_patch(phantom.volume, NODULE.center_ras_mm)
    noise = np.random.default_rng(2).normal(0, 50, phantom.volume.hu.shape)
    noisy = Volume(phantom.volume.hu + noise, phantom.volume.ijk_to_ras)
    quality = image_quality(patch, phantom.volume, NODULE.center_ras_mm)
    worse = image_quality(crop_patch(noisy, NODULE.center_ras_mm), noisy, NODULE.center_ras_mm)
    assert quality.slice_mm == 2.5
    assert quality.lung_share > 0.8
    assert worse.noise_hu == pytest.approx(50, rel=0.15)
    assert quality.noise_hu < 15
