"""Patch: resampling there and back."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.imaging.patch import (
    DEFAULT_GEOMETRY,
    PatchGeometry,
    Region,
    crop_patch,
    resample,
    values_to_volume,
    voxels_under_patch,
    window,
)
from contrastdiagnosis.imaging.volume import Volume, apply_affine
from scipy.ndimage import map_coordinates

from engine.test_volume import GEOMETRIES, affine, ct

SMALL = PatchGeometry(shape=(6, 8, 10))


def grid_points(ijk_to_ras, shape):
    """(D, H, W, 3) RAS millimetres of a grid."""
    kji = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return apply_affine(ijk_to_ras, kji[..., ::-1])


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_patch_equals_slow_trilinear_interpolation(name):
    volume = Volume(ct(shape=(40, 50, 60)), GEOMETRIES[name])
    center = volume.ras_from_ijk((31.3, 22.8, 19.4))
    patch = crop_patch(volume, center, SMALL)
    i, j, k = np.moveaxis(volume.ijk_from_ras(grid_points(patch.ijk_to_ras, SMALL.shape)), -1, 0)
    slow = map_coordinates(volume.hu.astype(float), (k, j, i), order=1, mode="nearest")
    np.testing.assert_allclose(patch.intensity, window(slow), atol=1e-4)
    assert patch.valid.all()


@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (0, 0, 1e-5), (0, 0, 1)])
@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 10, 11), (9, 2, 1)])
def test_parallel_and_turned_grids_are_interpolated_alike(turn_deg, shape):
    """Past the outermost voxel centres the nearest one counts, up to the voxels' faces."""
    array = ct(shape=shape)
    to_array = affine(turn_deg=turn_deg, spacing_ijk=(-0.7, 0.4, 0.6), origin=(9.3, -0.4, -0.3))
    values, inside = resample(array, to_array, (12, 13, 14), fill=-2000)
    points = grid_points(to_array, values.shape)
    slow = map_coordinates(
        array.astype(float), np.moveaxis(points, -1, 0)[::-1], order=1, mode="nearest"
    )
    within = ((points >= -0.5) & (points <= np.array(shape[::-1]) - 0.5)).all(axis=-1)
    np.testing.assert_array_equal(inside, within)
    np.testing.assert_allclose(values, np.where(within, slow, -2000), atol=0.05)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_linear_field_comes_back_where_it_was(name):
    """Volume to patch to volume: interpolation is exact for a field linear in RAS."""
    geometry = PatchGeometry(shape=(20, 24, 28))
    empty = Volume(np.zeros((30, 40, 50), np.int16), GEOMETRIES[name])
    direction = np.array([3.0, -2.0, 1.5])
    hu = grid_points(empty.ijk_to_ras, empty.hu.shape) @ direction
    volume = Volume((hu - hu.mean() - 300).astype(np.float32), empty.ijk_to_ras)
    center = volume.ras_from_ijk((24.2, 19.7, 15.1))
    patch = crop_patch(volume, center, geometry)
    region = values_to_volume(patch.intensity, patch.ijk_to_ras, volume)
    expected = window(volume.hu)[region.slices]
    inner = resample(
        np.ones(geometry.shape),
        np.linalg.inv(patch.ijk_to_ras) @ volume.ijk_to_ras @ shifted(region.start),
        region.values.shape,
        fill=0,
    )[1]
    inner &= (expected > 0.02) & (expected < 0.98)
    eroded = inner_part(region, patch, volume)
    assert eroded.sum() > 500
    np.testing.assert_allclose(region.values[inner & eroded], expected[inner & eroded], atol=2e-3)


def shifted(start_kji):
    matrix = np.eye(4)
    matrix[:3, 3] = start_kji[::-1]
    return matrix


def inner_part(region, patch, volume):
    """Region voxels whose patch position lies between voxel centres, so nothing is clamped."""
    points = grid_points(volume.ijk_to_ras @ shifted(region.start), region.values.shape)
    ijk = apply_affine(np.linalg.inv(patch.ijk_to_ras), points)
    size = np.array(patch.intensity.shape[::-1])
    return ((ijk >= 0) & (ijk <= size - 1)).all(axis=-1)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_mask_comes_back_on_the_volume_grid(name):
    """A ball drawn on the patch lands on the right voxels of an oblique, anisotropic volume."""
    volume = Volume(ct(shape=(40, 60, 60)), GEOMETRIES[name])
    center = volume.ras_from_ijk((30, 29, 19))
    patch = crop_patch(volume, center)
    ball = np.linalg.norm(grid_points(patch.ijk_to_ras, DEFAULT_GEOMETRY.shape) - center, axis=-1)
    region = values_to_volume((ball < 8).astype(np.float32), patch.ijk_to_ras, volume)
    drawn = region.full() >= 0.5
    wanted = np.linalg.norm(grid_points(volume.ijk_to_ras, volume.hu.shape) - center, axis=-1) < 8
    assert 2 * (drawn & wanted).sum() / (drawn.sum() + wanted.sum()) > 0.95


def test_the_patch_axes_do_not_depend_on_the_scan():
    """The same tissue scanned axially and sagittally gives the same patch."""
    first = Volume(
        ct(shape=(40, 40, 40)), affine(spacing_ijk=(1, 1, 1), flips=(-1, -1, 1), origin=(0, 0, 0))
    )
    turned = Volume(
        np.ascontiguousarray(first.hu.transpose(2, 0, 1)[::-1]),
        first.ijk_to_ras @ np.array([[0, 0, -1, 39], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]),
    )
    center = first.ras_from_ijk((18.4, 21.3, 17.9))
    np.testing.assert_allclose(turned.ras_from_ijk(turned.ijk_from_ras(center)), center, atol=1e-9)
    assert (np.sort(turned.hu, axis=None) == np.sort(first.hu, axis=None)).all()
    kji = (5, 6, 7)
    ras = first.ras_from_ijk(kji[::-1])
    ijk = np.round(turned.ijk_from_ras(ras)).astype(int)
    if first.hu[kji] == turned.hu[tuple(ijk[::-1])]:
        np.testing.assert_allclose(
            crop_patch(first, center, SMALL).intensity,
            crop_patch(turned, center, SMALL).intensity,
            atol=1e-4,
        )
    else:
        pytest.fail("the turned volume was built wrongly")


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(
    ("beside_ras_mm", "axis", "step"),
    [((-7.0, 0, 0), 2, 10), ((0, -7.0, 0), 1, 10), ((0, 0, 7.5), 0, 6)],
    ids=["left", "posterior", "superior"],
)
def test_a_patch_lies_as_radiologists_look_at_it(name, beside_ras_mm, axis, step):
    """What is to the left of the point is at higher i, posterior at higher j, superior higher k."""
    volume = Volume(np.full((80, 90, 100), -800, np.int16), GEOMETRIES[name])
    point = volume.ras_from_ijk((49, 44, 39))
    away_mm = np.linalg.norm(
        grid_points(volume.ijk_to_ras, volume.hu.shape) - point - beside_ras_mm, axis=-1
    )
    volume.hu[away_mm < 3] = 300
    dense = np.argwhere(crop_patch(volume, point).intensity > 0.7)
    middle = (np.array(DEFAULT_GEOMETRY.shape) - 1) / 2
    wanted = np.zeros(3)
    wanted[axis] = step
    np.testing.assert_allclose(dense.mean(axis=0) - middle, wanted, atol=0.6)


def test_outside_the_scan_is_air_and_marked():
    volume = Volume(np.full((10, 10, 10), 100, np.int16), np.diag([-0.7, -0.7, 1.25, 1]))
    patch = crop_patch(volume, volume.ras_from_ijk((4.5, 4.5, 4.5)))
    assert patch.valid.sum() == 1000
    assert (patch.intensity[~patch.valid] == 0).all()
    np.testing.assert_allclose(patch.intensity[patch.valid], 1100 / 1400, rtol=1e-6)


@pytest.mark.parametrize("padding", [-3024, -32768])
def test_padding_is_air_that_was_not_measured_and_the_rest_was(padding):
    volume = Volume(np.full((40, 40, 40), 100, np.int16), np.diag([-1.0, -1, 1, 1]))
    volume.hu[:, :, 25:] = padding
    patch = crop_patch(volume, volume.ras_from_ijk((25, 20, 20)), SMALL)
    i = volume.ijk_from_ras(grid_points(patch.ijk_to_ras, SMALL.shape))[..., 0]
    np.testing.assert_array_equal(patch.valid, i < 24.5)
    assert (patch.intensity[i > 25] == 0).all()
    np.testing.assert_allclose(patch.intensity[i < 24], window(np.array(100.0)), atol=1e-6)


def test_a_patch_beside_the_scan_is_empty():
    volume = Volume(ct(), np.eye(4))
    patch = crop_patch(volume, (500, 500, 500))
    assert not patch.valid.any()
    assert not patch.intensity.any()
    assert voxels_under_patch(volume, (500, 500, 500), DEFAULT_GEOMETRY).size == 0


def test_only_the_voxels_under_the_patch_are_read():
    class Counting(np.ndarray):
        touched = 0

        def __getitem__(self, item):
            part = super().__getitem__(item)
            Counting.touched = max(Counting.touched, part.size)
            return part

    hu = ct(shape=(200, 256, 256)).view(Counting)
    volume = Volume(hu, np.diag([-0.7, -0.7, 1.25, 1]))
    crop_patch(volume, volume.ras_from_ijk((128, 128, 100)))
    assert 0 < Counting.touched < 40 * 70 * 70


def test_the_window_is_linear_between_its_ends():
    np.testing.assert_allclose(window(np.array([-2000, -1000, -300, 400, 3000])), [0, 0, 0.5, 1, 1])


def test_density_reaches_the_network():
    """G4, geometry half: a shift by 200 HU is a shift of the patch, nothing is normalised away."""
    volume = Volume(np.clip(ct(shape=(40, 60, 60)), -900, 100), np.diag([-1, -1, 1, 1.0]))
    denser = Volume(volume.hu + 200, volume.ijk_to_ras)
    center = volume.ras_from_ijk((30, 30, 20))
    difference = (
        crop_patch(denser, center, SMALL).intensity - crop_patch(volume, center, SMALL).intensity
    )
    np.testing.assert_allclose(difference, 200 / 1400, atol=1e-5)


def test_a_region_is_placed_where_it_starts():
    region = Region(np.ones((1, 2, 3)), (1, 2, 3), (4, 5, 7))
    full = region.full()
    assert full.shape == (4, 5, 7)
    assert full.sum() == 6
    assert full[1, 2:4, 3:6].all()


def test_nearest_keeps_labels_whole():
    labels = (ct() % 3).astype(np.uint8)
    out, _ = resample(
        labels, affine(spacing_ijk=(0.5, 0.5, 0.5), origin=(0, 0, 0)), (9, 9, 9), 0, "nearest"
    )
    assert set(np.unique(out)) <= {0.0, 1.0, 2.0}


def test_a_single_plane_is_a_slice_of_the_whole():
    """Grids of one voxel along an axis, as pictures are cut."""
    array = ct(shape=(9, 10, 11)).astype(np.float32)
    turned = affine(turn_deg=(10, 5, 20), spacing_ijk=(0.9, 0.8, 0.7), origin=(2, 1, 1))
    whole, inside = resample(array, turned, (6, 7, 8), fill=-7)
    for axis in range(3):
        shape = tuple(1 if a == axis else n for a, n in enumerate((6, 7, 8)))
        plane, seen = resample(array, turned, shape, fill=-7)
        np.testing.assert_allclose(plane.squeeze(axis), whole.take(0, axis), atol=1e-2)
        np.testing.assert_array_equal(seen.squeeze(axis), inside.take(0, axis))
