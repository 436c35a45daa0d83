"""Batched augmentation: aligned, bounded, seeded, none at inference (docs/methods.md 7.7: G6)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.case_folder import read_scan
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, crop_patch
from contrastdiagnosis_training.data.augment import Augmentation, augment, marked_extent
from contrastdiagnosis_training.data.patch_store import (
    CONTINUED,
    FILL,
    STORE_GEOMETRY,
    STORED,
    windowed,
)
from torch.testing import assert_close

STILL = Augmentation(probability=1, rotation_deg=0, scale=0, shift_mm=0, gamma=(1, 1), noise=0)
"""Quarter turns and flips alone; each test adds what it is about."""

CENTRED = (slice(None), slice(4, 36), slice(8, 72), slice(8, 72))
"""The patch in the middle of the stored voxels."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nodule(radii_mm=(9, 6, 4), center_mm=(2.0, -3.0, 1.5), batch=12):
    """A lopsided ellipsoid: intensity, share and coverage of `batch` equal nodules."""
    axes = [
        (torch.arange(n) - (n - 1) / 2) * s - c
        for n, s, c in zip(STORE_GEOMETRY.shape, STORE_GEOMETRY.spacing_mm, center_mm, strict=True)
    ]
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    radius = ((k / radii_mm[0]) ** 2 + (j / radii_mm[1]) ** 2 + (i / radii_mm[2]) ** 2).sqrt()
    inside = (radius < 1).expand(batch, *STORE_GEOMETRY.shape)
    coverage = torch.full(inside.shape, STORED, dtype=torch.uint8)
    return inside.half() * 0.8 + 0.1, inside.to(torch.uint8) * 255, coverage


def dice(a, b):
    return 2 * (a & b).flatten(1).sum(1) / (a.flatten(1).sum(1) + b.flatten(1).sum(1))


def centroid_mm(share):
    """(B, 3) centroid along (k, j, i), from the patch's middle."""
    weight = share[:, 0] / share.sum(dim=(1, 2, 3, 4))[:, None, None, None]
    parts = []
    for axis in (1, 2, 3):
        others = tuple(a for a in (1, 2, 3) if a != axis)
        along = weight.sum(dim=others)
        place = torch.arange(along.shape[1]) - (along.shape[1] - 1) / 2
        parts.append(along @ place * DEFAULT_GEOMETRY.spacing_mm[axis - 1])
    return torch.stack(parts, 1)


def test_the_extent_is_that_of_the_marked_voxels():
    share = torch.zeros(2, 6, 7, 8, dtype=torch.uint8)
    share[0, 1:4, 2:3, 5:8] = 60
    share[1, 0, 6, 0] = share[1, 5, 1, 3] = 255
    assert marked_extent(share).tolist() == [[[1, 3], [2, 2], [5, 7]], [[0, 5], [1, 6], [0, 3]]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("context", [False, True])
def test_g6_mask_and_image_stay_aligned(seed, context):
    """Dice of the warped mask and the mask of the warped image."""
    options = Augmentation(probability=1, gamma=(1, 1), noise=0, flip_slices=True, context=context)
    views = augment(*nodule(), options, generator(seed))
    seen = views.valid > 0
    overlap = dice((views.intensity > 0.5) & seen, (views.share > 0.5) & seen)
    assert overlap.min() > 0.95
    assert (views.share > 0.5).flatten(1).sum(1).min() > 500


def test_g6_the_stored_nodules_stay_aligned(store):
    """Solid nodules in air: what is dense after the warp is what was marked before it."""
    solid = store.indices(lambda n: n.mean_rating("texture") > 4)
    options = Augmentation(probability=1, gamma=(1, 1), noise=0)
    data = (windowed(store.hu[solid]), store.share[solid], store.coverage[solid])
    views = augment(*data, options, generator())
    dense = (views.intensity > 0.45) & (views.valid > 0)
    assert dice(dense, (views.share >= 0.5) & (views.valid > 0)).mean() > 0.9
    unmoved = augment(*data, None, generator())
    mismatched = dice(dense, (unmoved.share >= 0.5) & (views.valid > 0))
    assert mismatched.mean() < dice(dense, views.share >= 0.5).mean() - 0.05


def test_without_augmentation_it_is_the_centred_patch():
    intensity, share, coverage = nodule()
    coverage[:, :10] = CONTINUED
    coverage[:, :3] = FILL
    views = augment(intensity, share, coverage, None, generator())
    valid = (coverage == STORED)[CENTRED].float()
    assert_close(views.intensity[:, 0], intensity[CENTRED].float() * valid)
    assert_close(views.share[:, 0], share[CENTRED].float() / 255 * valid)
    assert_close(views.valid[:, 0], valid)


def test_without_augmentation_it_is_what_the_engine_samples(store):
    """Training and inference see the same patch, with the same fill where the file ends.

    But for the outermost half slice: the engine repeats the last slice, the store blends into the
    continued one.
    """
    for n in (0, 7, 31):
        data = (windowed(store.hu[n : n + 1]), store.share[n : n + 1], store.coverage[n : n + 1])
        view = augment(*data, None, generator())
        scan = read_scan(store.nodules[n])
        patch = crop_patch(scan.volume, scan.center_ras_mm)
        assert_close(view.valid[0, 0], torch.from_numpy(patch.valid).float())
        k = np.flatnonzero(patch.valid.any(axis=(1, 2)))[1:-1]
        assert len(k) > 2
        assert_close(
            view.intensity[0, 0, k], torch.from_numpy(patch.intensity[k]), atol=1e-3, rtol=0
        )


def test_operations_with_probability_zero_do_nothing():
    data = nodule()
    views, plain = (augment(*data, o, generator()) for o in (Augmentation(probability=0), None))
    for a, b in zip(views, plain, strict=True):
        assert_close(a, b, atol=1e-5, rtol=0)


def test_the_generator_fixes_every_draw():
    options = Augmentation(flip_slices=True, context=True)
    first, again, other = (augment(*nodule(), options, generator(s)) for s in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_by_default_each_operation_is_drawn_by_itself_and_as_ever():
    """The draws of a seed decide what the weights become: where four nodules lay in views of before
    there was a choice, in mm."""
    views = augment(*nodule(batch=4), Augmentation(), generator())
    before = [
        [6.067, -0.753, -5.041], [1.951, -1.166, -4.159],
        [3.657, -0.702, -1.059], [1.705, 2.692, -4.727],
    ]  # fmt: skip
    assert_close(centroid_mm(views.share), torch.tensor(before), atol=2e-3, rtol=0)


def untouched(views, data):
    """(B,) bool: the view is the centred patch, but for rounding."""
    plain = augment(*data, None, generator())
    return ((views.intensity - plain.intensity).abs() < 1e-4).flatten(1).all(1)


def test_a_chain_leaves_a_fifth_of_the_views_untouched():
    data = nodule(batch=60)
    chain = Augmentation(whole_chain=True)
    still = untouched(augment(*data, chain, generator()), data)
    assert 0.1 < still.float().mean() < 0.3
    data = nodule(batch=8)
    # Each by itself, next to nothing is left alone: 0.2 to the power of 12.
    assert not untouched(augment(*data, Augmentation(), generator()), data).any()
    for probability, share in ((0, 1.0), (1, 0.0)):
        views = augment(*data, replace(chain, probability=probability), generator())
        assert untouched(views, data).float().mean() == share


def test_in_a_chain_every_operation_is_on_or_none_is():
    """Each alone, with one seed: they touch the same views, and nearly each of them."""
    data = nodule(batch=60)
    chain = replace(STILL, whole_chain=True, probability=0.8)
    default = Augmentation()
    touched = []
    for name in ("rotation_deg", "scale", "shift_mm", "gamma", "noise"):
        options = replace(chain, **{name: getattr(default, name)})
        views, base = (augment(*data, o, generator()) for o in (options, chain))
        moved = (views.intensity - base.intensity).abs().flatten(1).amax(1) > 1e-4
        touched.append(moved)
    on = ~untouched(augment(*data, Augmentation(whole_chain=True), generator()), data)
    assert 0 < on.sum() < 60
    for moved in touched:
        assert not moved[~on].any()
        assert moved[on].float().mean() > 0.9


def ways_to_lie(views, plain):
    """Which of the eight axial turns and flips of the nodule (1, D, H, W) are among the views."""
    eight = [torch.rot90(p, turns, (1, 2)) for p in (plain, plain.flip(2)) for turns in range(4)]
    return {
        next(n for n, wanted in enumerate(eight) if torch.allclose(view[0], wanted, atol=1e-4))
        for view in views.intensity
    }


def test_in_a_chain_the_operations_have_draws_of_their_own():
    """All eight ways to lie in plane, shifts in every direction, each nodule its own."""
    intensity, share, coverage = nodule(batch=120)
    chain = replace(STILL, whole_chain=True)
    views = augment(intensity, share, coverage, chain, generator())
    assert ways_to_lie(views, intensity[CENTRED].float()[0]) == set(range(8))
    moved = centroid_mm(
        augment(
            *nodule(center_mm=(0, 0, 0), batch=60), replace(chain, shift_mm=4), generator()
        ).share
    )
    assert torch.corrcoef(moved.T).fill_diagonal_(0).abs().max() < 0.4
    assert (moved > 1).any(dim=0).all() and (moved < -1).any(dim=0).all()


def test_the_nodules_of_a_batch_are_drawn_apart():
    views = augment(*nodule(), Augmentation(), generator())
    assert len({tuple(c) for c in centroid_mm(views.share).round(decimals=2).tolist()}) > 6


def test_quarter_turns_and_flips_are_exact_and_axial():
    intensity, share, coverage = nodule(batch=80)
    options = replace(STILL, probability=0.5)
    views = augment(intensity, share, coverage, options, generator())
    assert ways_to_lie(views, intensity[CENTRED].float()[0]) == set(range(8))


@pytest.mark.parametrize("flip_slices", [False, True])
def test_head_and_foot_change_places_only_if_asked(flip_slices):
    options = replace(STILL, probability=0, flip_slices=flip_slices)
    height_mm = centroid_mm(augment(*nodule(batch=16), options, generator()).share)[:, 0]
    assert_close(height_mm.abs(), torch.full((16,), 2.0), atol=0.1, rtol=0)
    assert bool((height_mm < 0).any()) == flip_slices


def test_shifts_are_millimetres_and_stay_within_the_limit():
    options = replace(STILL, shift_mm=4)
    moved = centroid_mm(augment(*nodule(center_mm=(0, 0, 0), batch=30), options, generator()).share)
    assert moved.abs().max() < 4.05
    assert (moved.abs().max(dim=0).values > 3).all()


def test_sizes_change_within_the_limit():
    options = replace(STILL, scale=0.1)
    data = nodule(radii_mm=(8, 8, 8), center_mm=(0, 0, 0), batch=30)
    volume = augment(*data, options, generator()).share.sum(dim=(1, 2, 3, 4))
    relative = volume / augment(*data, None, generator()).share.sum(dim=(1, 2, 3, 4))
    # Axial scale counts twice, the one along the slices once.
    assert 1.1**-3 - 0.01 < relative.min() < 0.9
    assert 1.2 < relative.max() < 0.9**-3 + 0.01


def test_intensity_operations_leave_mask_and_geometry_alone():
    data = nodule()
    options = replace(STILL, gamma=(0.8, 1.25), noise=0.02)
    still, changed = (augment(*data, o, generator(3)) for o in (STILL, options))
    assert torch.equal(still.share, changed.share)
    assert torch.equal(still.valid, changed.valid)
    assert not torch.equal(still.intensity, changed.intensity)
    assert changed.intensity.min() >= 0 and changed.intensity.max() <= 1
    # 0.9 of the window to the power of 0.8 to 1.25, and its noise averaged out.
    inside = still.share > 0.99
    means = torch.stack([c[i].mean() for c, i in zip(changed.intensity, inside, strict=True)])
    assert means.min() > 0.9**1.25 - 0.01 and means.max() < 0.9**0.8 + 0.01


def covered():
    """Stored slices 14 to 25, continued 4 to 35, nothing beyond."""
    intensity, share, coverage = nodule(radii_mm=(6, 6, 6), center_mm=(0, 0, 0), batch=30)
    coverage[:, :14] = coverage[:, 26:] = CONTINUED
    coverage[:, :4] = coverage[:, 36:] = FILL
    return intensity, share, coverage


def test_without_context_only_stored_slices_are_seen():
    views = augment(*covered(), STILL, generator())
    slices = views.valid[:, 0].mean(dim=(2, 3))
    assert_close(
        slices, ((torch.arange(32) >= 10) & (torch.arange(32) < 22)).float().expand(30, 32)
    )


def test_with_context_continued_slices_are_seen_in_some_views_and_fill_in_none():
    intensity, share, coverage = covered()
    intensity[coverage == FILL] = 1
    coverage[:, :10] = FILL
    intensity[:, :10] = 1
    views = augment(intensity, share, coverage, replace(STILL, context=True), generator())
    extent = (views.valid[:, 0].amax(dim=(2, 3)) > 0).sum(dim=1)
    assert extent.max() > 16
    assert extent.min() <= 12
    assert not views.valid[:, 0, :6].any()
    assert not views.intensity[:, 0, :6].any()


def test_the_extent_seen_does_not_tell_the_nodules_extent():
    """Random windows: the same nodule ends at many different distances from the last slice."""
    options = replace(STILL, context=True, probability=0)
    extent = (augment(*covered(), options, generator()).valid[:, 0].amax(dim=(2, 3)) > 0).sum(1)
    assert len(set(extent.tolist())) > 6


def test_random_windows_keep_the_nodule():
    """In plane all of it; along the slices at most 1.5 mm of an end are lost."""
    options = replace(STILL, context=True, probability=0)
    views = augment(*covered(), options, generator())
    whole = augment(*covered(), None, generator()).share > 0.5
    lost = whole & (views.valid == 0)
    assert not views.share[lost].any()
    of_slices = whole[:, 0].any(dim=3).any(dim=2)
    lost_slices = lost[:, 0].any(dim=3).any(dim=2)
    assert lost_slices.any()
    assert (lost_slices.sum(dim=1) <= 4).all()
    middle = of_slices.float().argmax(dim=1) + of_slices.sum(dim=1) // 2
    assert not lost[torch.arange(30), 0, middle].any()


def test_what_is_not_seen_is_air_and_no_nodule():
    views = augment(*covered(), Augmentation(context=True), generator())
    hidden = views.valid == 0
    assert hidden.any()
    assert not views.intensity[hidden].any()
    assert not views.share[hidden].any()
    assert set(np.unique(views.valid.numpy())) == {0.0, 1.0}


def test_end_cuts_end_views_at_the_nodules_end():
    """Half of the views are cut on a side; with end cuts these are cut within 3 mm of its end."""
    cut = replace(STILL, context=True, probability=0)
    shown = []
    for options in (cut, replace(cut, end_cuts=1.0)):
        views = augment(*nodule(radii_mm=(6, 6, 6), center_mm=(0, 0, 0), batch=80), options,
                        generator())  # fmt: skip
        valid = views.valid[:, 0].amax(dim=(2, 3)) > 0
        first, last = valid.float().argmax(1), 31 - valid.flip(1).float().argmax(1)
        # The nodule reaches from slice 11 to 20.
        near = ((first >= 8) & (first <= 14)) | ((last >= 17) & (last <= 23))
        shown.append(int(near.sum()))
    assert shown[1] > 2 * shown[0] > 0


def test_some_views_lie_far_beside_the_nodule():
    options = replace(STILL, far=0.5, far_mm=11.2)
    views = augment(
        *nodule(radii_mm=(4, 4, 4), center_mm=(0, 0, 0), batch=200), options, generator()
    )
    beside = centroid_mm(views.share)[:, 1:].abs()
    assert beside.max() < 11.2 + 0.5
    assert beside.max() > 10
    far = (beside > 0.5).any(dim=1).float().mean()
    assert 0.4 < far < 0.6
    assert centroid_mm(views.share)[:, 0].abs().max() < 0.5


def test_a_far_view_is_filled_with_tissue_and_not_with_air():
    """Air at one side would tell where the nodule lies."""
    views = augment(*nodule(), replace(STILL, far=1.0), generator())
    assert views.valid.all()
    assert views.intensity.min() > 0.05


def ramps():
    """Intensity (D, H, W) that grows from 0.2 to 0.8 along j, and one that does along i."""
    d, h, w = STORE_GEOMETRY.shape
    j = torch.linspace(0.2, 0.8, h)[None, :, None].expand(d, h, w)
    i = torch.linspace(0.2, 0.8, w)[None, None, :].expand(d, h, w)
    return j, i


def test_turns_and_changes_of_size_keep_right_angles():
    """A view is the nodule turned, mirrored and scaled, never sheared."""
    batch = 40
    _, share, coverage = nodule(batch=batch)
    options = replace(STILL, rotation_deg=15, scale=0.1)
    seen = []
    for ramp in ramps():
        view = augment(ramp.expand(batch, *ramp.shape), share, coverage, options, generator())
        middle = view.intensity[:, 0, 12:20, 26:38, 26:38]
        along_j = middle.diff(dim=2).mean(dim=(1, 2, 3))
        along_i = middle.diff(dim=3).mean(dim=(1, 2, 3))
        seen.append(torch.stack([along_j, along_i], 1))
    turned = torch.stack(seen, 2) * (STORE_GEOMETRY.shape[1] - 1) / 0.6
    gram = turned @ turned.transpose(1, 2)
    square = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    assert_close(gram / square[:, None, None], torch.eye(2).expand(batch, 2, 2), atol=0.01, rtol=0)
    assert square.min() > 0.88**2 and square.max() < 1.12**2
    assert square.min() < 0.95**2 and square.max() > 1.05**2
    angle = torch.atan2(turned[:, 0, 1], turned[:, 0, 0]).rad2deg()
    off = (angle - 90 * (angle / 90).round()).abs()
    assert 10 < off.max() < 15.5


@pytest.mark.parametrize("by_default", [False, True])
def test_contrast_and_noise_are_each_drawn(by_default):
    """A flat picture: contrast moves all of it, noise each voxel."""
    _, share, coverage = nodule(batch=60)
    flat = torch.full(share.shape, 0.5)
    default = Augmentation()
    gamma = replace(STILL, gamma=default.gamma)
    noise = replace(STILL, noise=default.noise)
    if by_default:
        gamma, noise = replace(default, noise=0), replace(default, gamma=(1, 1))
    inside = (slice(None), 0, slice(12, 20), slice(26, 38), slice(26, 38))
    contrast = augment(flat, share, coverage, gamma, generator()).intensity[inside].flatten(1)
    assert contrast.std(dim=1).max() < 1e-3
    assert 0.5**1.25 - 1e-3 < contrast.min() < 0.45 and 0.55 < contrast.max() < 0.5**0.8 + 1e-3
    noisy = augment(flat, share, coverage, noise, generator()).intensity[inside].flatten(1)
    assert 0.015 < noisy.std(dim=1).max() < 0.022
    assert (noisy.mean(dim=1) - 0.5).abs().max() < 0.005
