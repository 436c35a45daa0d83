"""Boxes in space: what they touch, what they cover, and what cannot be."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from contrastdiagnosis.concepts.boxes import CellGrid, check_boxes, importance
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch
from contrastdiagnosis.imaging.volume import Volume, apply_affine
from contrastdiagnosis.protocol.revision import ELSEWHERE, Box, Revision
from scipy.spatial.transform import Rotation

CENTER = (10.0, -20.0, 30.0)
IDENTITY = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def grid_of(affine=None, shape=(8, 8, 8), voxels=DEFAULT_GEOMETRY.shape):
    affine = DEFAULT_GEOMETRY.ijk_to_ras(CENTER) if affine is None else affine
    empty = np.zeros(voxels, np.float32)
    return CellGrid(Patch(empty, empty == 0, affine), shape)


def oblique(seed, shape=(2, 3, 5), voxels=(8, 12, 10)):
    """A patch with unequal sides, turned and sheared in space."""
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    affine[:3, :3] *= random.uniform(0.5, 2.5, 3) * random.choice([-1, 1], 3)
    if seed % 2:
        affine[:3, 0] += 0.3 * affine[:3, 1]
    affine[:3, 3] = random.uniform(-50, 50, 3)
    return grid_of(affine, shape, voxels)


def turned_box(seed, center, low=2.0, high=20.0, look=True):
    random = np.random.default_rng(seed)
    axes = Rotation.random(random_state=seed).as_matrix()
    size = random.uniform(low, high, 3)
    return Box(tuple(center), tuple(size), look, axes=tuple(map(tuple, axes)))


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_cells_lie_where_their_voxels_lie(seed):
    grid = grid_of() if seed is None else oblique(seed)
    voxels = grid.patch.intensity.shape
    k, j, i = np.indices(voxels)
    ras = apply_affine(grid.patch.ijk_to_ras, np.stack([i, j, k], axis=-1))
    d, h, w = grid.shape
    blocks = ras.reshape(d, voxels[0] // d, h, voxels[1] // h, w, voxels[2] // w, 3)
    np.testing.assert_allclose(grid.centers_ras_mm, blocks.mean(axis=(1, 3, 5)), atol=1e-9)
    for kji in [(0, 0, 0), (d - 1, h - 1, w - 1), (1, 2, 3)]:
        np.testing.assert_allclose(
            apply_affine(grid.to_ras, kji[::-1]), grid.centers_ras_mm[kji], atol=1e-9
        )


def test_the_cells_of_a_patch_have_the_size_that_the_docs_tell():
    np.testing.assert_allclose(
        np.linalg.norm(grid_of().to_ras[:3, :3], axis=0), [5.6, 5.6, 5.0], atol=1e-9
    )
    np.testing.assert_allclose(grid_of().centers_ras_mm.mean(axis=(0, 1, 2)), CENTER, atol=1e-9)


def samples(grid, count=12):
    """(d, h, w, N, 3) points that fill each cell, its corners among them."""
    steps = np.array(list(product(np.linspace(-0.5, 0.5, count), repeat=3)))
    return grid.centers_ras_mm[..., None, :] + steps @ grid.to_ras[:3, :3].T


def grown(box, by_mm):
    return Box(box.center_ras_mm, tuple(s + by_mm for s in box.size_mm), box.look, axes=box.axes)


@pytest.mark.parametrize("seed", range(24))
def test_touched_and_covered_cells_equal_those_that_sampling_finds(seed):
    """Sampling misses slivers, so the truth lies between what it finds of a box and of a larger
    one."""
    grid = oblique(seed)
    random = np.random.default_rng(100 + seed)
    points = samples(grid)
    extent = points.reshape(-1, 3)
    center = random.uniform(extent.min(axis=0), extent.max(axis=0))
    box = turned_box(seed, center, 1.0, 25.0)
    gap = np.abs(grid.to_ras[:3, :3]).sum(axis=1).max() / 11
    touched = grid.touched(box)
    surely = grown(box, -1e-3).contains(points).any(axis=-1)
    perhaps = grown(box, 2 * gap).contains(points).any(axis=-1)
    assert (touched | ~surely).all()
    assert (perhaps | ~touched).all()
    assert touched.any()
    # Cells are convex, so their corners alone tell whether all of a cell lies in the box.
    np.testing.assert_array_equal(grid.covered(box), box.contains(points).all(axis=-1))


def test_some_sampled_boxes_cover_cells_and_some_touch_few():
    """What the test above looks at is no row of trivial cases."""
    covered, touched = [], []
    for seed in range(24):
        grid = oblique(seed)
        box = turned_box(seed, grid.centers_ras_mm.mean(axis=(0, 1, 2)), 1.0, 25.0)
        covered.append(grid.covered(box).mean())
        touched.append(grid.touched(box).mean())
    assert sum(0 < c < 1 for c in covered) >= 5
    assert sum(0 < t < 1 for t in touched) >= 10


def test_touching_needs_separating_axes_that_are_edges_crossed_with_edges():
    """Two cubes, edge against crossing edge: no face of either lies between them."""
    grid = grid_of(np.eye(4), (1, 1, 1), (2, 2, 2))
    middle = grid.centers_ras_mm[0, 0, 0]
    # The cell's edge runs along z, the box's is turned against it by 45 degrees.
    toward = np.array([1, 1, 0]) / np.sqrt(2)
    edge = np.array([0, 0, 1]) / np.sqrt(2) + np.array([1, -1, 0]) / 2
    across = np.cross(edge, toward)
    axes = (edge, (toward + across) / np.sqrt(2), (across - toward) / np.sqrt(2))
    for gap_mm, met in ((-0.02, True), (0.02, False)):
        center = tuple(middle + toward * (2 * np.sqrt(2) + gap_mm))
        box = Box(center, (2.0, 2.0, 2.0), True, axes=tuple(map(tuple, axes)))
        assert bool(grid.touched(box)[0, 0, 0]) is met


def test_a_box_that_only_shares_a_face_with_a_cell_does_not_touch_it():
    grid = grid_of()
    center = grid.centers_ras_mm[3, 3, 3]
    exact = Box(tuple(center), (5.6, 5.6, 5.0), True)
    assert np.argwhere(grid.touched(exact)).tolist() == [[3, 3, 3]]
    assert np.argwhere(grid.covered(exact)).tolist() == [[3, 3, 3]]
    wider = Box(tuple(center), (5.8, 5.6, 5.0), True)
    assert grid.touched(wider).sum() == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_box_contains_its_corners_and_its_inside_but_nothing_beyond(seed):
    box = turned_box(seed, (5.0, -3.0, 8.0))
    corners = box.corners_ras_mm
    assert corners.shape == (8, 3)
    assert box.contains(corners).all()
    middle = np.array(box.center_ras_mm)
    assert box.contains(middle + 0.999 * (corners - middle)).all()
    assert not box.contains(middle + 1.001 * (corners - middle)).any()
    distances = np.linalg.norm(corners - middle, axis=1)
    np.testing.assert_allclose(distances, np.linalg.norm(box.size_mm) / 2)
    for axis, size in zip(np.array(box.axes), box.size_mm, strict=True):
        assert box.contains(middle + 0.499 * size * axis)
        assert not box.contains(middle + 0.501 * size * axis)


def test_no_boxes_weigh_nothing():
    weight, remarks = importance((), grid_of())
    assert (weight == 1).all() and remarks == ()
    assert weight.dtype == np.float32


def test_positive_boxes_weigh_one_and_the_rest_less():
    grid = grid_of()
    boxes = [Box(tuple(grid.centers_ras_mm[c]), (6, 6, 6), True) for c in ((2, 2, 2), (5, 5, 5))]
    weight, remarks = importance(boxes, grid)
    expected = grid.touched(boxes[0]) | grid.touched(boxes[1])
    assert expected.sum() == 54
    np.testing.assert_array_equal(weight, np.where(expected, 1, np.float32(ELSEWHERE)))
    assert remarks == ()
    assert importance(boxes, grid, 0.7)[0].min() == np.float32(0.7)


def test_negative_boxes_leave_the_rest_alone_and_win_over_positive_ones():
    grid = grid_of()
    center = tuple(grid.centers_ras_mm[4, 4, 4])
    no = Box(center, (5.7, 5.7, 5.1), False)
    yes = Box(center, (30, 30, 30), True)
    weight, _ = importance([no], grid)
    assert np.argwhere(weight != 1).tolist() == [[4, 4, 4]]
    assert weight[4, 4, 4] == 0
    for boxes in ([no, yes], [yes, no]):
        weight, _ = importance(boxes, grid)
        assert weight[4, 4, 4] == 0
        assert weight[4, 4, 5] == 1
        assert weight[0, 0, 0] == np.float32(ELSEWHERE)


def test_a_box_that_covers_no_cell_says_how_large_cells_are():
    weight, remarks = importance([Box(CENTER, (4, 4, 4), False)], grid_of())
    assert (weight == 1).all()
    assert remarks == (
        'an "ignore here" box covers no whole cell and changes nothing: cells are'
        " 5.6 x 5.6 x 5.0 mm, draw it larger",
    )


@pytest.mark.parametrize(("look", "kind"), [(True, "look here"), (False, "ignore here")])
def test_a_box_beside_the_patch_changes_nothing_and_says_so(look, kind):
    beside = Box((100.0, 0.0, 0.0), (10, 10, 10), look)
    weight, remarks = importance([beside, beside], grid_of())
    assert (weight == 1).all()
    told = f'a "{kind}" box lies beside the patch around the nodule and changes nothing'
    assert remarks == (told,)
    within = Box(CENTER, (10, 10, 10), True)
    weight, remarks = importance([beside, within], grid_of())
    assert remarks == (told,)
    np.testing.assert_array_equal(weight, importance([within], grid_of())[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"center_ras_mm": (0, 0)}, "a box needs 3 centre, 3 size and 9 axis numbers"),
        ({"center_ras_mm": (0, 0), "size_mm": (1, 1, 1, 1)}, "a box needs 3 centre"),
        ({"center_ras_mm": (0, 0, np.nan)}, "a box needs 3 centre"),
        ({"size_mm": (1, 1, np.inf)}, "a box needs 3 centre"),
        ({"axes": ((1, 0, 0), (0, 1, 0))}, "a box needs 3 centre"),
        ({"axes": ((1, 0, 0), (0, 1, 0), (0, 1))}, "a box needs 3 centre"),
        ({"size_mm": (1, 0, 1)}, r"must have positive sides, got \(1, 0, 1\) mm"),
        ({"size_mm": (1, 1, -2)}, "must have positive sides"),
        ({"axes": ((1, 0, 0), (0.2, 0.98, 0), (0, 0, 1))}, "right angles and axes of length 1"),
        ({"axes": ((2, 0, 0), (0, 1, 0), (0, 0, 1))}, "under a transform that shears"),
        ({"axes": ((0, 0, 0),) * 3}, "right angles and axes of length 1"),
    ],
)
def test_a_box_that_cannot_be_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Box(**{"center_ras_mm": (0, 0, 0), "size_mm": (1, 1, 1), "look": True} | change)


def test_left_handed_axes_and_small_rounding_are_no_fault():
    box = Box((0, 0, 0), (2, 4, 6), True, axes=((-1, 0, 0), (0, 1, 0.0004), (0, -0.0004, 1)))
    assert box.contains((0.9, 1.9, -2.9)) and not box.contains((1.1, 0, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elsewhere": -0.1}, "elsewhere must lie between 0 and 1, got -0.1"),
        ({"elsewhere": 1.5}, "elsewhere must lie between 0 and 1, got 1.5"),
        ({"elsewhere": float("nan")}, "elsewhere must lie between 0 and 1, got nan"),
        ({"mode": "median"}, "mode must be absent_median or zero, got median"),
    ],
)
def test_a_revision_that_cannot_be_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Revision(**change)


def test_a_refusal_quotes_little():
    with pytest.raises(InputError) as refused:
        Revision(mode="x" * 90_000)
    assert len(str(refused.value)) < 200


def test_an_empty_revision_corrects_nothing():
    assert Revision().empty
    assert Revision(mode="zero", elsewhere=0.5).empty
    assert not Revision(rejected=("x",)).empty
    assert not Revision(boxes=(Box(CENTER, (1, 1, 1), True),)).empty


def tilted_volume(shape=(20, 30, 40)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (20, -30, 10), degrees=True).as_matrix() * (1, 2, 3)
    affine[:3, 3] = (-30, 40, 100)
    return Volume(np.zeros(shape, np.int16), affine)


def test_boxes_outside_the_volume_are_refused():
    volume = tilted_volume()
    within = Box(tuple(volume.ras_from_ijk([10, 10, 10])), (5, 5, 5), True)
    across = Box(tuple(volume.ras_from_ijk([-2, 10, 10])), (9, 9, 9), False)
    check_boxes([within, across], volume)
    check_boxes([], volume)
    for ijk in (
        [-20, 10, 10],
        [70, 10, 10],
        [10, -9, 10],
        [10, 40, 10],
        [10, 10, -5],
        [10, 10, 30],
    ):
        outside = Box(tuple(volume.ras_from_ijk(ijk)), (4, 4, 4), True)
        with pytest.raises(InputError, match="lies outside the volume; it may have been drawn for"):
            check_boxes([within, outside], volume)


def test_a_refused_box_is_told_by_its_corners():
    with pytest.raises(
        InputError, match=r"the box from \[499.0, -2.0, -3.0\] to \[501.0, 2.0, 3.0\] mm RAS lies"
    ):
        check_boxes([Box((500, 0, 0), (2, 4, 6), True)], tilted_volume())


# Turns (0, 0, 1) into (1, 1, 1) by the shortest way.
CORNER_UP = Rotation.from_rotvec(np.arccos(3**-0.5) / 2**0.5 * np.array([-1, 1, 0])).as_matrix()


@pytest.mark.parametrize(("gap_mm", "met"), [(-0.02, True), (0.02, False)])
def test_touching_needs_the_faces_of_cells_and_of_boxes(gap_mm, met):
    """A corner against the middle of a face: only that face lies between them."""
    upright = grid_of(np.eye(4), (1, 1, 1), (2, 2, 2))
    height = 1 + np.sqrt(3) + gap_mm
    center = tuple(upright.centers_ras_mm[0, 0, 0] + [0, 0, height])
    box = Box(center, (2.0, 2.0, 2.0), True, axes=tuple(map(tuple, CORNER_UP)))
    assert bool(upright.touched(box)[0, 0, 0]) is met
    affine = np.eye(4)
    affine[:3, :3] = CORNER_UP.T
    turned = grid_of(affine, (1, 1, 1), (2, 2, 2))
    center = tuple(turned.centers_ras_mm[0, 0, 0] + [0, 0, height])
    assert bool(turned.touched(Box(center, (2.0, 2.0, 2.0), True))[0, 0, 0]) is met
