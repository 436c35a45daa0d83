"""The phantom: reproducible, anatomically ordered, nodules where and what they were asked to be."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, PhantomNodule, make_phantom
from contrastdiagnosis.imaging.volume import check_ct

SMALL = {"shape": (60, 150, 180), "spacing_mm": (2.5, 1.9, 1.9)}
PLACE = (60.0, -10.0, 8.0)


def hu_at(phantom, ras):
    i, j, k = np.round(phantom.volume.ijk_from_ras(ras)).astype(int)
    return phantom.volume.hu[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].mean()


def test_the_seed_fixes_every_voxel(phantom):
    again = make_phantom(phantom.nodules, **SMALL)
    np.testing.assert_array_equal(again.volume.hu, phantom.volume.hu)
    other = make_phantom(phantom.nodules, seed=1, **SMALL)
    assert (other.volume.hu != phantom.volume.hu).mean() > 0.5


def test_it_passes_as_a_ct(phantom):
    check_ct(phantom.volume.hu)
    assert phantom.volume.hu.dtype == np.int16


@pytest.mark.parametrize(
    ("name", "ras", "low", "high"),
    [
        ("air", (150, 105, 0), -1024, -950),
        ("heart", (-30, 28, -28), 0, 100),
        ("aorta", (-20, -52, 0), 0, 100),
        ("spine", (0, -80, 0), 100, 500),
        ("trachea", (0, -12, 40), -1024, -850),
    ],
)
def test_tissues_have_their_density(phantom, name, ras, low, high):
    assert low <= hu_at(phantom, ras) <= high, name


def test_the_lungs_are_on_both_sides_and_mostly_air(phantom):
    for side in (1, -1):
        box = phantom.volume.hu[25:40]
        ras_r = phantom.volume.ras_from_ijk(
            np.stack([np.arange(180), np.full(180, 75), np.full(180, 30)], 1)
        )[:, 0]
        half = box[:, 60:90, (side * ras_r > 45) & (side * ras_r < 100)]
        assert (half < -750).mean() > 0.7


@pytest.mark.parametrize(
    ("nodule", "low", "high"),
    [
        (PhantomNodule(PLACE, 14.0), 0, 60),
        (PhantomNodule(PLACE, 14.0, texture="ground-glass"), -650, -480),
        (PhantomNodule(PLACE, 16.0, texture="part-solid"), -150, 60),
        (PhantomNodule(PLACE, 14.0, calcified=True), 450, 700),
    ],
)
def test_nodules_have_the_density_asked_for(nodule, low, high):
    assert low <= hu_at(make_phantom([nodule], **SMALL), PLACE) <= high


@pytest.mark.parametrize("diameter", [8.0, 14.0, 22.0])
def test_a_smooth_nodule_has_the_size_asked_for(diameter):
    phantom = make_phantom([PhantomNodule(PLACE, diameter)], **SMALL)
    volume = phantom.masks[0].values.sum() * phantom.volume.voxel_volume_mm3
    assert (6 * volume / np.pi) ** (1 / 3) == pytest.approx(diameter, rel=0.08)


def test_spiculation_and_lobulation_roughen_the_nodule():
    def roughness(nodule):
        plain = make_phantom([], **SMALL).volume.hu.astype(int)
        drawn = make_phantom([nodule], **SMALL).volume.hu.astype(int)
        changed = np.argwhere(np.abs(drawn - plain) > 150)
        distance = np.linalg.norm((changed - changed.mean(axis=0)) * SMALL["spacing_mm"], axis=1)
        return distance.max() / np.median(distance)

    smooth = roughness(PhantomNodule(PLACE, 18.0))
    assert roughness(PhantomNodule(PLACE, 18.0, spiculation=1.0)) > 1.2 * smooth


def test_the_demo_nodules_lie_in_lung():
    empty = make_phantom([], **SMALL)
    for nodule in DEMO_NODULES:
        assert hu_at(empty, nodule.center_ras_mm) < -600
