"""Cues of nodules against those of tubes, on shapes drawn here."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, window
from contrastdiagnosis.trust.cues import NO_CUES, SOFT_TISSUE_HU, NoduleCues, nodule_cues

SHAPE, SPACING = DEFAULT_GEOMETRY.shape, np.array(DEFAULT_GEOMETRY.spacing_mm)
MIDDLE = (np.array(SHAPE) - 1) / 2
PLACES = (np.stack(np.indices(SHAPE), axis=-1) - MIDDLE) * SPACING
TILTED = np.array([0.5, 0.6, 0.62]) / np.linalg.norm([0.5, 0.6, 0.62])
AXES = {"z": np.array([1.0, 0, 0]), "y": np.array([0, 1.0, 0]), "tilted": TILTED}


def ball(radius_mm, center_mm=(0, 0, 0)):
    return np.linalg.norm(PLACES - center_mm, axis=-1) < radius_mm


def tube(radius_mm, axis, half_mm=100.0):
    along = PLACES @ axis
    across = np.linalg.norm(PLACES - along[..., None] * axis, axis=-1)
    return (across < radius_mm) & (np.abs(along) < half_mm)


def cues(tissue, mask, hu=30, valid=None, haze=0.0):
    patch = Patch(
        window(np.where(tissue, hu, -850).astype(np.float32)),
        np.ones(SHAPE, bool) if valid is None else valid, np.eye(4),
    )  # fmt: skip
    probability = np.where(mask, 0.95, haze).astype(np.float32)
    return nodule_cues(patch, probability, mask)


@pytest.mark.parametrize("axis", AXES)
def test_a_vessel_goes_on_through_its_mask_and_a_nodule_ends(axis):
    vessel = tube(2.5, AXES[axis])
    through = cues(vessel, vessel & ball(5)).through
    assert through > 0.9
    assert cues(ball(5), ball(5)).through < 0.1


@pytest.mark.parametrize("radius_mm", [2, 4, 8, 12])
def test_a_nodule_on_one_vessel_or_on_the_wall_does_not_go_through(radius_mm):
    nodule = ball(radius_mm)
    feeding = tube(1.2, AXES["y"]) & (PLACES[..., 1] > 0)
    assert cues(nodule | feeding, nodule).through < 0.5
    wall = PLACES[..., 1] > radius_mm * 0.8
    assert cues(nodule | wall, nodule & ~wall).through < 0.5


def test_a_slightly_bent_vessel_still_goes_through():
    bend = np.array([0.0, np.cos(0.4), np.sin(0.4)])
    vessel = (tube(2.5, AXES["y"]) & (PLACES[..., 1] <= 0)) | (
        tube(2.5, bend) & (PLACES @ bend >= 0)
    )
    assert cues(vessel, vessel & ball(4)).through > 0.8


def test_nothing_is_said_to_go_on_where_the_scan_measured_nothing():
    vessel = tube(2.5, AXES["z"])
    valid = np.abs(PLACES[..., 0]) < 6
    assert cues(vessel & valid, vessel & ball(5), valid=valid).through < 0.1


def test_elongation_is_that_of_the_shape():
    assert cues(ball(6), ball(6)).elongation == pytest.approx(0, abs=0.05)
    rod = tube(3, AXES["tilted"], 9)
    # Variance of a cylinder: h^2 / 3 along its half length h, r^2 / 4 across.
    assert np.exp(cues(rod, rod).elongation) == pytest.approx(9 / 3**0.5 / 1.5, rel=0.08)


def test_what_is_flat_is_not_elongated():
    """Of three unequal extents the largest two count: a disc on a fissure is no vessel."""
    flat = np.linalg.norm(PLACES / np.array([3.0, 6.0, 9.0]), axis=-1) < 1
    assert np.exp(cues(flat, flat).elongation) == pytest.approx(9 / 6, rel=0.05)


def test_certainty_and_alone_are_log_odds_of_the_masks_share():
    mask, other = ball(5), ball(5, (0, 14, 0))
    told = cues(mask | other, mask)
    assert told.certainty == pytest.approx(np.log(0.95 / 0.05), abs=1e-3)
    probability = np.where(mask | other, 0.95, 0).astype(np.float32)
    patch = Patch(window(np.where(mask, 30, -850).astype(np.float32)), mask | True, np.eye(4))
    share = mask.sum() / (mask | other).sum()
    assert nodule_cues(patch, probability, mask).alone == pytest.approx(
        np.log(share / (1 - share)), abs=1e-3
    )


def test_calcium_counts_no_more_than_soft_tissue():
    assert cues(ball(5), ball(5), hu=350).density_hu == SOFT_TISSUE_HU
    assert cues(ball(5), ball(5), hu=-400).density_hu == pytest.approx(-400, abs=1)


def test_nothing_outlined_has_no_cues():
    told = cues(ball(5), np.zeros(SHAPE, bool))
    assert told is NO_CUES and not told.found


@pytest.mark.parametrize("voxels", [1, 2, 3])
def test_a_mask_of_few_voxels_has_finite_cues(voxels):
    mask = np.zeros(SHAPE, bool)
    mask[16, 32, 32 : 32 + voxels] = True
    told = cues(mask, mask)
    assert np.isfinite([getattr(told, n) for n in NoduleCues.__dataclass_fields__]).all()


def test_a_mask_at_the_patchs_corner_is_measured_too():
    mask = np.zeros(SHAPE, bool)
    mask[:4, :6, :6] = True
    assert cues(mask, mask).found


def test_a_ring_is_followed_from_its_thickest_place():
    ring = ball(9) & ~ball(6) & (np.abs(PLACES[..., 0]) < 2)
    assert np.isfinite(cues(ring, ring).through)
