"""What is measured of a scan around a point, whatever its axes, padding and size."""

from __future__ import annotations

from dataclasses import asdict, astuple

import numpy as np
import pytest
from contrastdiagnosis.imaging.image_quality import (
    MEASURES,
    ImageQuality,
    image_quality,
    lung_share,
    quality_of,
)
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, crop_patch, window
from contrastdiagnosis.imaging.volume import Volume
from scipy import ndimage

from engine.conftest import NODULE

UPRIGHT = np.diag([-0.7, -0.7, 1.0, 1.0])
OF_LUNG = ("noise_hu", "fine_noise_hu", "alike", "fall_db", "anisotropy", "ghost")
OF_EDGES = ("in_plane_mm", "mean_edge_mm", "thickness_mm")


def lung_with_a_ball(shape=(24, 60, 60), spacing_mm=(1.0, 0.7, 0.7), seed=0):
    """Noisy lung around a ball of tissue, float32."""
    grid = np.indices(shape).T * spacing_mm
    middle = (np.array(shape) - 1) / 2 * spacing_mm
    away_mm = np.linalg.norm(grid - middle, axis=-1).T
    hu = np.where(away_mm < 8, 40.0, -850.0)
    hu = ndimage.gaussian_filter(hu, 0.6 / np.array(spacing_mm))
    return (hu + np.random.default_rng(seed).normal(0, 20, shape)).astype(np.float32)


def same(one, other, rel=1e-3):
    for name in MEASURES:
        a, b = getattr(one, name), getattr(other, name)
        assert a == pytest.approx(b, rel=rel, abs=1e-3, nan_ok=True), name


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


def test_all_is_measured_where_there_is_lung_and_an_edge():
    quality = quality_of(lung_with_a_ball(), UPRIGHT, 0.9)
    assert np.isfinite(list(asdict(quality).values())).all()
    assert quality.lung_share == 0.9
    assert quality.slice_mm == 1.0
    assert quality.noise_hu == pytest.approx(20, rel=0.15)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_axis_changes_nothing(axis):
    hu = lung_with_a_ball(shape=(23, 59, 61))
    flip = np.eye(4)
    flip[2 - axis, 2 - axis] = -1
    # Windows are laid from the first voxel on.
    same(quality_of(np.flip(hu, axis), UPRIGHT @ flip), quality_of(hu, UPRIGHT), rel=0.03)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_slices_lie_across_the_superior_axis_wherever_it_is_stored(order):
    """Sagittal and coronal reformats are stored along another axis; so the noise's direction."""
    hu = ndimage.uniform_filter1d(lung_with_a_ball(), 3, axis=0)
    turned = np.zeros((4, 4))
    turned[3, 3] = 1
    for new, old in enumerate(order):
        turned[:, 2 - new] = UPRIGHT[:, 2 - old]
    one, other = quality_of(hu.transpose(order), turned), quality_of(hu, UPRIGHT)
    # Rows and columns may have changed places, which rounds differently.
    for name in ("noise_hu", "thickness_mm", "in_plane_mm", "alike", "change"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=0.05), name


def test_an_oblique_scan_is_measured_along_its_own_axes():
    turn = np.deg2rad(20)
    oblique = np.eye(4)
    oblique[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    hu = lung_with_a_ball()
    same(quality_of(hu, oblique @ UPRIGHT), quality_of(hu, UPRIGHT))


def test_integers_are_measured_as_floats_are():
    hu = np.rint(lung_with_a_ball()).astype(np.int16)
    same(quality_of(hu, UPRIGHT), quality_of(hu.astype(np.float64), UPRIGHT))


@pytest.mark.parametrize(
    ("hu", "told"),
    [
        (np.zeros((0, 9, 9)), ()),
        (np.full((9, 40, 40), 40.0), ()),
        (np.full((2, 8, 8), -850.0), ()),
        (np.full((1, 40, 40), -850.0), ("noise_hu", "fine_noise_hu")),
    ],
)
def test_what_cannot_be_measured_is_nan(hu, told):
    quality = quality_of(hu, UPRIGHT)
    assert quality.slice_mm == 1.0
    for name in (*OF_EDGES, *OF_LUNG):
        if name in told:
            assert np.isfinite(getattr(quality, name)), name
        elif name not in ("fall_db", "anisotropy", "ghost") or not told:
            assert np.isnan(getattr(quality, name)), name


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_slices_tell_what_they_can(count):
    quality = quality_of(lung_with_a_ball()[10 : 10 + count], UPRIGHT)
    assert quality.noise_hu == pytest.approx(20, rel=0.25)
    assert np.isfinite(quality.fall_db)
    assert np.isfinite(quality.alike) == (count > 1)
    assert np.isfinite(quality.alike_far) == (count > 2)
    assert np.isfinite(quality.change) == (count > 2)


def test_padding_is_neither_an_edge_nor_noise():
    hu = lung_with_a_ball()
    plain = quality_of(hu, UPRIGHT)
    hu[:, :12] = -2000
    hu[:, :, 54:] = -3024
    padded = quality_of(hu, UPRIGHT)
    for name in ("noise_hu", "fine_noise_hu", "in_plane_mm", "thickness_mm"):
        assert getattr(padded, name) == pytest.approx(getattr(plain, name), rel=0.12), name
    hu = np.full((9, 40, 40), -850.0)
    hu[:, 20:] = -2000
    assert np.isnan(quality_of(hu, UPRIGHT).in_plane_mm)
    assert quality_of(hu, UPRIGHT).noise_hu == pytest.approx(0, abs=0.1)


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


def test_nothing_is_measured_of_a_scan_elsewhere(phantom):
    patch = crop_patch(phantom.volume, NODULE.center_ras_mm)
    quality = image_quality(patch, phantom.volume, np.array(NODULE.center_ras_mm) + 1000)
    assert quality == ImageQuality(quality.lung_share, 2.5) or np.isnan(quality.noise_hu)


@pytest.mark.parametrize(
    "spacing_mm", [(1, 20, 0.05), (20, 20, 20), (0.05, 20, 20), (20, 0.05, 0.05), (1, 0.4, 0.08)]
)
@pytest.mark.parametrize("shape", [(4, 3, 3), (12, 12, 15), (30, 30, 30)])
def test_what_cannot_be_measured_with_such_voxels_is_nan(spacing_mm, shape):
    """Pixels of 20 mm have no displacement that motion leaves: it was a server error."""
    hu = np.random.default_rng(0).normal(-800, 60, shape).astype(np.float32)
    k, j, i = spacing_mm
    volume = Volume(hu, np.diag([i, -j, k, 1.0]))
    middle = volume.ras_from_ijk((np.array(shape[::-1]) - 1) / 2)
    quality = image_quality(crop_patch(volume, middle), volume, middle)
    assert not np.isinf(astuple(quality)).any()
    if max(j, i) > 10:
        assert np.isnan(quality.ghost)
