"""Views of stored nodules: poorer scans, small views, and that nothing else has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis_training.data import views
from contrastdiagnosis_training.data.augment import Augmentation, augment, marked_extent
from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST
from contrastdiagnosis_training.data.patch_store import (
    CONTINUED,
    STORE_GEOMETRY,
    STORED,
    PatchStore,
    windowed,
)
from contrastdiagnosis_training.data.views import degraded_at_random, nodule_views, paired_views
from torch.testing import assert_close

from training.conftest import TINY

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = Augmentation(probability=0.0)
"""Nothing is drawn that would be seen."""

ALL = replace(TINY.augmentation, end_cuts=0.5, far=0.35)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def store():
    """Tissue of all densities, also below and above the window; the file ends with the nodule."""
    count, shape = 3, STORE_GEOMETRY.shape
    noise = torch.randn(count, 1, 10, 20, 20, generator=generator())
    smooth = torch.nn.functional.interpolate(noise, shape, mode="trilinear")[:, 0]
    share = torch.zeros(count, *shape, dtype=torch.uint8)
    for n in range(count):
        share[n, 16 + n : 24, 34:46, 36 : 44 + n] = 255
    coverage = torch.full(share.shape, CONTINUED, dtype=torch.uint8)
    coverage[:, 12:28] = STORED
    nodules = [
        Nodule(f"n{n}", f"P{n}", Path(), Path(), 4, {}, "", None, "made", LIDC)
        for n in range(count)
    ]
    told = torch.full((count,), 4.0)
    return PatchStore(
        nodules,
        hu=(-500 + 600 * smooth).clamp(-1024, 3071).round().short(),
        share=share,
        coverage=coverage,
        diameter_mm=told,
        ratings=told[:, None],
        malignancy=told,
        suspicion=told,
        case_source=LIDC,
    )


def assert_same(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("options", [None, STILL, TINY.augmentation, ALL])
def test_without_poorer_scans_views_are_those_of_augment_bit_by_bit(store, options):
    part = torch.tensor([2, 0, 1, 2])
    wanted = augment(
        windowed(store.hu[part]), store.share[part], store.coverage[part], options, generator()
    )
    assert_same(nodule_views(store, part, options, generator()), wanted)
    known = marked_extent(store.share)
    assert_same(nodule_views(store, part, options, generator(), known), wanted)


def test_voxels_are_made_poorer_before_they_are_windowed(store, monkeypatch):
    """An offset of 300 HU shows what the window had hidden."""
    monkeypatch.setattr(views, "degrade", lambda hu, *_: hu - 300)
    part = torch.arange(3)
    seen = nodule_views(store, part, replace(STILL, degraded=1.0), generator())
    wanted = augment(windowed(store.hu - 300), store.share, store.coverage, None, generator())
    assert_close(seen.intensity, wanted.intensity, atol=2e-6, rtol=0)
    assert (store.hu > 500).float().mean() > 0.001


@pytest.mark.parametrize("seed", [0, 1])
def test_each_item_differs_where_all_views_are_of_poorer_scans(store, seed):
    part = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    before = nodule_views(store, part, STILL, generator(seed))
    after = nodule_views(store, part, replace(STILL, degraded=1.0), generator(seed))
    for n in range(len(part)):
        assert not torch.equal(before.intensity[n], after.intensity[n]), n
    # Twice the same nodule, but not twice the same scan.
    assert not torch.equal(after.intensity[0], after.intensity[3])
    assert torch.equal(before.share, after.share)
    assert torch.equal(before.valid, after.valid)


def test_a_share_of_the_views_is_of_poorer_scans_the_others_as_they_were(store, monkeypatch):
    monkeypatch.setattr(views, "degrade", lambda hu, *_: hu + 5)
    part = torch.zeros(200, dtype=torch.int64)
    tiny = replace(
        store, hu=store.hu[:, :4, :6, :6], share=store.share[:, :4, :6, :6],
        coverage=store.coverage[:, :4, :6, :6],
    )  # fmt: skip
    seen = []
    monkeypatch.setattr(views, "augment", lambda intensity, *_: seen.append(intensity))
    nodule_views(tiny, part, replace(STILL, degraded=0.25), generator())
    (intensity,) = seen
    plain = windowed(tiny.hu[:1])
    changed = (intensity != plain).flatten(1).any(dim=1)
    assert 30 < changed.sum() < 70
    assert torch.equal(intensity[~changed], plain.expand(200, -1, -1, -1)[~changed])


@pytest.mark.parametrize("seed", [0, 3])
def test_a_poorer_view_has_the_same_view_as_scanned_beside_it(store, monkeypatch, seed):
    """Turned, moved, cut and noised alike: only the scan differs."""
    monkeypatch.setattr(views, "degrade", lambda hu, *_: hu)
    part = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    seen, degraded, as_scanned = paired_views(
        store, part, replace(ALL, degraded=0.5), generator(seed)
    )
    assert 0 < degraded.sum() < 8
    assert_same(as_scanned, type(seen)(*(x[degraded] for x in seen)))
    monkeypatch.setattr(views, "degrade", lambda hu, *_: hu - 200)
    seen, degraded, as_scanned = paired_views(
        store, part, replace(ALL, degraded=0.5), generator(seed)
    )
    for n, row in enumerate(degraded.nonzero().flatten().tolist()):
        assert not torch.equal(seen.intensity[row], as_scanned.intensity[n])
        assert torch.equal(seen.share[row], as_scanned.share[n])
        assert torch.equal(seen.valid[row], as_scanned.valid[n])
    assert_same(seen, nodule_views(store, part, replace(ALL, degraded=0.5), generator(seed)))


def test_where_no_scan_is_poorer_nothing_stands_beside_it(store):
    seen, degraded, as_scanned = paired_views(store, torch.arange(3), STILL, generator())
    assert as_scanned is None and not degraded.any()
    assert_same(seen, nodule_views(store, torch.arange(3), STILL, generator()))
    unasked = paired_views(
        store, torch.arange(3), replace(STILL, degraded=1.0), generator(), paired=False
    )
    assert unasked.as_scanned is None and unasked.degraded.all()


def test_the_generator_decides_all(store):
    options = replace(ALL, degraded=0.7)
    first, again, other = (
        nodule_views(store, torch.arange(3), options, generator(seed)) for seed in (5, 5, 6)
    )
    assert_same(first, again)
    assert not torch.equal(first.intensity, other.intensity)


def test_the_store_is_left_as_it_was(store):
    before = store.hu.clone()
    nodule_views(store, torch.arange(3), replace(STILL, degraded=1.0), generator())
    assert torch.equal(store.hu, before)


@pytest.mark.parametrize("least", [1, 3, 5])
def test_operations_and_severities_are_drawn_evenly_from_the_least_on(monkeypatch, least):
    asked = []
    monkeypatch.setattr(views, "degrade", lambda hu, *rest: asked.append(rest) or hu)
    count = 900
    degraded_at_random(torch.zeros(count, 1, 2, 2), least, generator())
    ((operations, severity, spacing_mm, seeds),) = asked
    assert spacing_mm == STORE_GEOMETRY.spacing_mm
    steps = severity.tolist()
    for values, wanted in ((operations, DEGRADATIONS), (steps, range(least, WORST + 1))):
        assert set(values) == set(wanted)
        each = count / len(wanted)
        for value in wanted:
            assert abs(values.count(value) - each) <= 4 * each**0.5
    assert len(set(seeds)) > 0.99 * count


SMALL = (16, 32, 32)
MIDDLE = (..., slice(8, 24), slice(16, 48), slice(16, 48))


@pytest.mark.parametrize("options", [None, STILL, replace(ALL, noise=0.0)])
def test_a_small_view_is_the_middle_of_the_large_one(store, options):
    """Whatever is drawn: it shows less of the same, and is no smaller picture of all."""
    for seed in range(2):
        data = (windowed(store.hu), store.share, store.coverage, options)
        large = augment(*data, generator(seed))
        small = augment(*data, generator(seed), shape=SMALL)
        assert small.intensity.shape == (3, 1, *SMALL)
        for name in ("intensity", "share", "valid"):
            part = getattr(large, name)[MIDDLE]
            assert_close(getattr(small, name), part, atol=1e-4, rtol=0, msg=f"{name} {seed}")
        assert small.intensity.std() > 0.05


def test_a_small_centred_view_is_cut_out_of_the_store(store):
    small = augment(windowed(store.hu), store.share, store.coverage, None, generator(), shape=SMALL)
    shown = store.coverage[:, 12:28, 24:56, 24:56] == STORED
    wanted = windowed(store.hu[:, 12:28, 24:56, 24:56]) * shown
    assert_close(small.intensity[:, 0], wanted, atol=2e-5, rtol=0)
