"""What is measured at a point: coverage, cut ends, padding, borders."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.concepts.encoding import Encoding
from contrastdiagnosis.imaging.measure import axial_diameters
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.trust.facts import (
    FACT_NAMES,
    NEAR_MM,
    cut_share,
    facts_of_row,
    nodule_facts,
)

SHAPE, SPACING = DEFAULT_GEOMETRY.shape, DEFAULT_GEOMETRY.spacing_mm
POINT = (3.0, -4.0, 5.0)


def ct(shape=(60, 90, 90), air=-850):
    """A CT of 1 mm around `POINT`, its middle soft tissue of 12 mm."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = np.add(POINT, (44.5, 44.5, -29.5))
    place = np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2
    return Volume(np.where(np.linalg.norm(place, axis=-1) < 6, 20, air).astype(np.int16), affine)


def facts(volume, mask=None, point=POINT):
    patch = crop_patch(volume, point)
    mask = patch.intensity > 0.6 if mask is None else mask
    encoding = Encoding(patch, mask.astype(np.float32) * 0.95, np.zeros(4, np.float32))
    diameters = axial_diameters(encoding.probability, SPACING)
    return nodule_facts(encoding, mask, diameters, volume, point)


def cut(volume, k=slice(None), j=slice(None), i=slice(None)):
    affine = volume.ijk_to_ras.copy()
    affine[:3, 3] = volume.ras_from_ijk([i.start or 0, j.start or 0, k.start or 0])
    return Volume(volume.hu[k, j, i], affine)


def test_a_nodule_in_the_middle_of_a_scan_is_whole():
    told = facts(ct())
    assert told.found and told.covered_share == 1 and told.unmeasured_share == 0
    assert told.edge_mm == NEAR_MM and told.cut_share == 0 and told.beyond_patch == 0
    assert told.volume_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.2)
    assert told.quality.lung_share > 0.9 and told.quality.slice_mm == 1


@pytest.mark.parametrize("axis", ["k", "j", "i"])
def test_a_scan_cut_through_the_nodule_on_both_sides_is_told_on_every_axis(axis):
    middle = {"k": 30, "j": 45, "i": 45}[axis]
    told = facts(cut(ct(), **{axis: slice(middle - 2, middle + 2)}))
    assert told.cut_share > 0.8
    assert told.edge_mm < 1.5
    assert told.covered_share < 0.2


def test_a_scan_that_ends_on_one_side_is_not_cut_through():
    told = facts(cut(ct(), k=slice(0, 30)))
    assert told.cut_share == 0 and told.edge_mm < NEAR_MM


def test_a_file_that_ends_with_the_nodule_tapers():
    told = facts(cut(ct(), k=slice(24, 36)))
    assert told.cut_share < 0.5 and told.edge_mm < NEAR_MM


@pytest.mark.parametrize("padding", [-2000, -3024, -32768, 62512])
@pytest.mark.parametrize("where", ["in", "near", "far"])
def test_padding_is_not_measured_wherever_it_lies(padding, where):
    volume = ct()
    hu = volume.hu.astype(np.int32)
    box = {"in": np.s_[28:32, 43:47, 43:47], "near": np.s_[:, :, 52:56], "far": np.s_[:, :, 64:]}
    hu[box[where]] = padding
    padded = Volume(hu, volume.ijk_to_ras)
    air = volume.hu.copy()
    air[box[where]] = -1000
    told = facts(padded)
    assert told.covered_share < 1
    assert (told.edge_mm < NEAR_MM) == (where != "far")
    assert told.volume_mm3 == facts(Volume(air, volume.ijk_to_ras)).volume_mm3
    patch, plain = crop_patch(padded, POINT), crop_patch(Volume(air, volume.ijk_to_ras), POINT)
    np.testing.assert_allclose(patch.intensity, plain.intensity, atol=1e-6)


def test_a_mask_beyond_the_scan_is_unmeasured():
    volume = cut(ct(), k=slice(0, 28))
    mask = crop_patch(ct(), POINT).intensity > 0.6
    assert facts(volume, mask).unmeasured_share > 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_a_mask_at_the_patchs_border_reaches_beyond(axis, end):
    mask = np.zeros(SHAPE, bool)
    mask[14:18, 30:34, 30:34] = True
    assert facts(ct(), mask).beyond_patch == 0
    where = [slice(14, 18), slice(30, 34), slice(30, 34)]
    where[axis] = end
    mask[tuple(where)] = True
    assert facts(ct(), mask).beyond_patch == 1


def test_nothing_outlined_is_nothing_found():
    told = facts(ct(), np.zeros(SHAPE, bool))
    assert not told.found and told.volume_mm3 == 0 and told.edge_mm == NEAR_MM
    assert not told.cues.found


def test_air_outside_the_body_is_no_lung_and_noise_does_not_make_it_one():
    noise = np.random.default_rng(0).normal(0, 40, ct().hu.shape)
    outside = Volume(np.full(ct().hu.shape, -1000) + noise, ct().ijk_to_ras)
    assert facts(outside).quality.lung_share < 0.02
    assert facts(Volume(ct().hu + noise, ct().ijk_to_ras)).quality.lung_share > 0.9


def test_facts_survive_a_table():
    told = facts(ct())
    row = told.row
    assert len(row) == len(FACT_NAMES)
    again = facts_of_row(row)
    np.testing.assert_equal(again.row, row)
    assert again.found and again.cues.found


def test_the_patchs_own_ends_are_none_of_the_scans():
    assert cut_share(np.ones(SHAPE, bool), np.ones(SHAPE, bool)) == 0
