"""Is a scan like those of the cases: lung, noise, slices."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.image_quality import (
    ImageQuality,
    QualityLimits,
    image_quality,
    lung_share,
    noise_hu,
)
from contrastdiagnosis.patch import DEFAULT_GEOMETRY, Patch, crop_patch
from contrastdiagnosis.volume import Volume
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
    intensity = np.zeros(DEFAULT_GEOMETRY.shape, np.float32)
    valid = np.zeros(DEFAULT_GEOMETRY.shape, bool)
    assert lung_share(Patch(intensity, valid, np.eye(4))) == 0
    valid[:16] = True
    intensity[:4] = 0.8
    assert lung_share(Patch(intensity, valid, np.eye(4))) == pytest.approx(0.75)


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


def test_every_limit_has_its_own_sentence():
    limits = QualityLimits(0.3, 100.0, 2.5)
    assert limits.doubts(ImageQuality(0.3, 100.0, 2.5)) == []
    assert limits.doubts(ImageQuality(0.8, None, 1.0)) == []
    lung, noise, slices = limits.doubts(ImageQuality(0.1, 140.0, 7.0))
    assert "does not seem to lie in lung: 10% of the tissue" in lung
    assert "noisier than those of the cases: 140 HU" in noise and "at most 100 HU" in noise
    assert "slices are too far apart: 7.0 mm" in slices and "at most 2.5 mm" in slices


def test_limits_that_are_not_known_are_not_enforced():
    assert QualityLimits().doubts(ImageQuality(0.0, 500.0, 20.0)) == []
