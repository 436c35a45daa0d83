"""Healthy tissue: cut as the lesions' files are, nothing marked in it, kept in a cache."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.cases.case_folder import NoduleScan, read_case_folder, read_scan
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis_training.data import healthy_patches
from contrastdiagnosis_training.data.healthy_patches import (
    BESIDE_MM,
    LUNG_SHARE,
    MARGIN_MM,
    HealthySources,
    beside_nodule,
    cut_like_a_stack,
    load_healthy_patches,
)
from contrastdiagnosis_training.data.healthy_points import HealthyCt
from contrastdiagnosis_training.data.patch_store import (
    CONTINUED,
    STORE_GEOMETRY,
    STORED,
    resample_nodule,
)
from scipy import ndimage

from training.conftest import write_case_folder

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = healthy_patches.KINDS


@pytest.fixture(scope="module", autouse=True)
def two_kinds():
    """Hila and walls are looked for in ten times the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(healthy_patches, "KINDS", ("vessel", "parenchyma"))
        yield


def test_healthy_tissue_lies_in_lung_or_where_lung_begins():
    assert set(KINDS) == {"vessel", "hilum", "pleura", "fissure", "parenchyma"}


def turned(angles, spacing_mm, corner=(11.0, -7.0, 23.0)):
    """An affine with turned axes; spacing along (k, j, i)."""
    affine = np.eye(4)
    for axis, angle in enumerate(angles):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.eye(4)
        a, b = [n for n in range(3) if n != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = cos, -sin, sin, cos
        affine = turn @ affine
    affine[:3, :3] = affine[:3, :3] @ np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0]])
    affine[:3, 3] = corner
    return affine


@pytest.fixture(scope="module")
def oblique():
    """Three unequal sides and spacings, every voxel another number."""
    shape = (31, 96, 70)
    hu = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Volume(hu, turned((0.2, -0.3, 0.4), (2.4, 0.8, 1.1)))


def within(volume, cut):
    """Index (k, j, i) in a volume of the first voxel that was cut from it."""
    i, j, k = np.rint(volume.ijk_from_ras(cut.ras_from_ijk(np.zeros(3)))).astype(int)
    return k, j, i


@pytest.mark.parametrize("extent_mm", [0.0, 2.0, 8.75, 10.0, 21.0, 33.3])
@pytest.mark.parametrize("ijk", [(35.2, 47.8, 15.4), (34.0, 48.0, 14.0)])
def test_a_cut_has_the_wanted_extent_and_the_point_in_its_middle(oblique, ijk, extent_mm):
    point = oblique.ras_from_ijk(np.array(ijk))
    scan = cut_like_a_stack(oblique, point, extent_mm)
    hu = scan.volume.hu
    start = within(oblique, scan.volume)
    ends = [s + n for s, n in zip(start, hu.shape, strict=True)]
    np.testing.assert_array_equal(
        hu, oblique.hu[tuple(slice(a, b) for a, b in zip(start, ends, strict=True))]
    )
    np.testing.assert_allclose(scan.volume.ijk_to_ras[:3, :3], oblique.ijk_to_ras[:3, :3])
    np.testing.assert_allclose(
        scan.volume.ras_from_ijk(np.zeros(3)), oblique.ras_from_ijk(np.array(start[::-1]))
    )
    # What the file shows along the slices: as many as come nearest, and one at least.
    shown_mm = len(hu) * oblique.spacing_mm[0]
    assert abs(shown_mm - max(extent_mm, 2.4)) <= 1.2 + 1e-9
    # The mark is the voxel at the point, in the middle of the file.
    (marked,) = np.argwhere(scan.share)
    assert scan.share.max() == 1
    np.testing.assert_allclose(marked + start, np.rint(ijk)[::-1])
    np.testing.assert_array_less(abs(marked - (np.array(hu.shape) - 1) / 2), 0.51)


def test_the_extent_is_right_on_the_average(oblique):
    """Healthy tissue that is a slice longer than lesions would be told by that alone."""
    point = oblique.ras_from_ijk(np.array([35.0, 48.0, 15.0]))
    wanted = np.linspace(6, 40, 341)
    got = [len(cut_like_a_stack(oblique, point, e).share) * 2.4 for e in wanted]
    assert abs(np.mean(got - wanted)) < 0.05


def test_a_cut_ends_where_the_ct_does(oblique):
    corner = cut_like_a_stack(oblique, oblique.ras_from_ijk(np.array([2.0, 1.0, 1.0])), 30.0)
    assert within(oblique, corner.volume) == (0, 0, 0)
    assert np.argwhere(corner.share).tolist() == [[1, 1, 2]]
    assert len(corner.share) < 30 / 2.4


def test_a_cut_is_resampled_around_its_point_and_continued_as_a_lesion_is():
    hu = np.random.default_rng(0).normal(-800, 60, (40, 100, 96)).astype(np.int16)
    affine = np.diag([-0.9, -0.8, 1.5, 1.0])
    affine[:3, 3] = (40, 40, -30)
    ct = Volume(hu, affine)
    point = ct.ras_from_ijk(np.array([48.0, 50.0, 20.0]))
    made = resample_nodule(cut_like_a_stack(ct, point, 13.5), np.random.default_rng(0))
    # Nine slices of 1.5 mm: twelve of the store's 1.25 mm have their middle within 13.5 mm / 2.
    slices = (made["coverage"] == STORED).any(axis=(1, 2))
    assert 10 <= slices.sum() <= 11 and slices[15:25].all()
    # The store is full in plane: where a file ends must not tell what it shows.
    assert (made["coverage"][slices] == STORED).all()
    assert (made["coverage"] >= CONTINUED).all()
    i, j, k = ct.ijk_from_ras(point + np.array([0.35, 0.35, 0.625]))
    near = ndimage.map_coordinates(hu.astype(float), [[k], [j], [i]], order=1)[0]
    assert made["hu"][20, 39, 39] == pytest.approx(near, abs=1)


class Turns:
    """In place of a generator: chooses the first, the second, the third ..."""

    def __init__(self):
        self.choice, self.count = 0, None

    def integers(self, count):
        self.count = count
        return self.choice


def every_square(scan):
    """What `beside_nodule` gives for each of its choices."""
    turns, found = Turns(), []
    while turns.count is None or turns.choice < turns.count:
        found.append(beside_nodule(scan, turns))
        assert found[-1] is not None
        turns.choice += 1
    return found


@pytest.fixture(scope="module")
def stack():
    """Lung, strands and a wall; every column of voxels has its own number. Marks of any reader."""
    random = np.random.default_rng(3)
    shape = (5, 90, 104)
    k, j, i = np.indices(shape)
    code = j * shape[2] + i
    tissue = (random.random(shape[1:]) < 0.1) | (np.arange(shape[1]) > 78)[:, None]
    share = np.zeros(shape, np.float32)
    for place, value in (((2, 44, 52), 1.0), ((0, 47, 58), 0.25), ((4, 40, 46), 0.25)):
        gap = np.hypot((j - place[1]) * 0.8, (i - place[2]) * 0.65)
        share[(gap < 3.1) & (k == place[0])] = value
    hu = np.where(tissue[None], 100 + code / 128, -800 - code / 128)
    return NoduleScan(Volume(hu, turned((0.1, 0.2, 0.3), (2.0, 0.8, 0.65))), share)


def square_of(made):
    """(j, i) of the stack for the pixels of the square in the middle: (2, h, w)."""
    hu = made.volume.hu[0]
    size = round(BESIDE_MM / 0.8), round(BESIDE_MM / 0.65)
    start = [(n - s) // 2 for n, s in zip(hu.shape, size, strict=True)]
    square = hu[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    code = np.rint(128 * np.where(square > 0, square - 100, -800 - square)).astype(int)
    return np.stack(np.divmod(code, 104)), start


def test_no_square_holds_anything_that_a_reader_marked(stack):
    """Brute force: in any slice, by a single reader, however far along the slices."""
    marks = np.argwhere(stack.share.max(axis=0) > 0) * (0.8, 0.65)
    nearest = []
    for made in every_square(stack):
        (j, i), _ = square_of(made)
        gaps = np.linalg.norm(
            marks[:, None] - np.stack([j * 0.8, i * 0.65], -1).reshape(1, -1, 2), axis=2
        )
        nearest.append(gaps.min())
    assert len(nearest) > 10
    assert min(nearest) > MARGIN_MM
    # And no more is left out than has to be: some come near the margin.
    assert min(nearest) < MARGIN_MM + 4 * 0.8


def test_every_square_shows_lung_and_something_in_it(stack):
    lung = (stack.volume.hu < -500).mean(axis=0)
    for made in every_square(stack):
        (j, i), _ = square_of(made)
        assert LUNG_SHARE[0] < lung[j, i].mean() < LUNG_SHARE[1]


def test_a_square_is_where_it_was_and_mirrored_beyond_itself(stack):
    """Each pixel against a loop that folds its index back."""
    for made in every_square(stack)[::7]:
        (j, i), start = square_of(made)
        size = j.shape
        # Whole: neighbouring pixels are those of the stack.
        np.testing.assert_array_equal(j, j[0, 0] + np.arange(size[0])[:, None] + 0 * i)
        np.testing.assert_array_equal(i, i[0, 0] + np.arange(size[1])[None] + 0 * j)
        assert len(made.volume.hu) == len(stack.volume.hu)

        def folded(place, first, length):
            place = (place - first) % (2 * length)
            return place if place < length else 2 * length - 1 - place

        rows = [folded(n, start[0], size[0]) + j[0, 0] for n in range(made.volume.hu.shape[1])]
        columns = [folded(n, start[1], size[1]) + i[0, 0] for n in range(made.volume.hu.shape[2])]
        np.testing.assert_array_equal(made.volume.hu, stack.volume.hu[:, rows][:, :, columns])
        for corner in product((0, 4), (0, size[0] - 1), (0, size[1] - 1)):
            there = made.volume.ras_from_ijk(
                np.array([corner[2] + start[1], corner[1] + start[0], corner[0]])
            )
            here = stack.volume.ras_from_ijk(
                np.array([i[0, corner[2]], j[corner[1], 0], corner[0]])
            )
            np.testing.assert_allclose(there, here)


def test_the_middle_of_the_square_is_the_middle_of_the_patch(stack):
    made = beside_nodule(stack, np.random.default_rng(0))
    (marked,) = np.argwhere(made.share)
    (j, _), start = square_of(made)
    middle = np.array([2, start[0] + (j.shape[0] - 1) / 2, start[1] + (j.shape[1] - 1) / 2])
    np.testing.assert_array_less(abs(marked - middle), 1.01)
    # As wide as the store: a whole view shows nothing but this.
    wide = np.array(made.volume.hu.shape[1:]) * (0.8, 0.65)
    np.testing.assert_allclose(wide, STORE_GEOMETRY.shape[2] * 0.7, atol=0.4)


def test_squares_are_drawn_by_the_generator(stack):
    drawn = [beside_nodule(stack, np.random.default_rng(n)).volume.hu for n in (1, 1, 2, 3, 4)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len({d.tobytes() for d in drawn}) > 1


@pytest.mark.parametrize(
    "case", ["marked all over", "no lung", "nothing but lung", "too small", "outside air"]
)
def test_a_stack_without_such_a_square_gives_nothing(stack, case):
    hu, share = stack.volume.hu.copy(), stack.share.copy()
    if case == "marked all over":
        share[1, 10::20, 10::20] = 0.25
    elif case == "too small":
        hu, share = hu[:, :27], share[:, :27]
        share[0, 0, 0] = 1
    elif case == "outside air":  # Half tissue, half the air beside the patient, with its noise.
        hu[:] = 40
        air = hu[:, :, hu.shape[2] // 2 :]
        air[:] = np.random.default_rng(0).normal(-1000, 15, air.shape)
    else:
        hu[:] = 40 if case == "no lung" else -860
    scan = NoduleScan(Volume(hu, stack.volume.ijk_to_ras), share)
    assert beside_nodule(scan, np.random.default_rng(0)) is None


def made_ct(seed=0, name="made"):
    """A block of lung with upright vessels within tissue; no lesion is known."""
    random = np.random.default_rng(seed)
    k, j, i = np.indices((24, 72, 80)) * np.array([2.5, 1.25, 1.25])[:, None, None, None]
    lungs = (np.abs(k - 30) < 26) & (np.abs(j - 45) < 36) & (np.abs(i - 50) < 40)
    hu = np.where(lungs, -870.0, 40.0)
    for row, column in random.uniform((18, 20), (72, 80), (12, 2)):
        hu[lungs & (np.hypot(j - row - 0.2 * k, i - column) < 2.0)] = 40
    hu = ndimage.gaussian_filter(hu, 0.5) + random.normal(0, 12, hu.shape)
    affine = np.diag([-1.25, -1.25, 2.5, 1.0])
    affine[:3, 3] = (60, 40, -20)
    return HealthyCt(name, Volume(hu.astype(np.int16), affine), lungs, f"{name} patient")


def paint_wall(folder, rows=52):
    """Chest wall at one side of every file, so that there is something beside the lung."""
    for file in sorted((folder / "image").iterdir()):
        image = sitk.ReadImage(str(file))
        hu = sitk.GetArrayFromImage(image)
        hu[:, rows:] = 40
        painted = sitk.GetImageFromArray(hu)
        painted.CopyInformation(image)
        sitk.WriteImage(painted, str(file))
    return folder


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside") / "stacks"
    return read_case_folder(
        paint_wall(write_case_folder(folder, patients=2, radii_mm=(1.5, 3, 4.5)))
    )


@pytest.fixture(scope="module")
def sources(stacks):
    return HealthySources([made_ct(), made_ct(1, "other")], stacks, per_kind=2, phantom=False)


EXTENTS = np.array([8.75, 20.0])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("healthy")


@pytest.fixture(scope="module")
def patches(sources, cache):
    return load_healthy_patches(sources, EXTENTS, cache)


def assert_same(a, b):
    for name in ("hu", "coverage", "poor"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("patient_id", "source", "series_uid"):
        assert getattr(a, name) == getattr(b, name), name


def test_patches_keep_patient_source_and_series(patches, stacks):
    count = patches.source.count("ct")
    assert count == 8 and patches.source == ["ct"] * count + ["stack"] * (len(patches) - count)
    assert set(patches.patient_id[:count]) == {"made patient", "other patient"}
    assert patches.patient_id[:count] == sorted(patches.patient_id[:count])
    assert set(patches.series_uid[:count]) == {""}
    told = list(zip(patches.patient_id[count:], patches.series_uid[count:], strict=True))
    beside = [n for n in stacks if beside_nodule(read_scan(n), Turns()) is not None]
    assert told == [(n.patient_id, n.series_uid) for n in beside]
    assert 0 < len(beside) < len(stacks)
    assert patches.hu.shape == (len(patches), *STORE_GEOMETRY.shape) == patches.coverage.shape
    assert patches.hu.dtype == torch.int16 and patches.poor.dtype == torch.bool


def test_patches_show_as_many_slices_as_the_extents(patches):
    shown = (patches.coverage == STORED).any(dim=3).any(dim=2).sum(dim=1)
    ct = shown[: patches.source.count("ct")]
    # 4 slices of 2.5 mm are as near to 8.75 mm as 3; 8 are 20 mm. At the CT's end fewer.
    assert ct.max() == 16 and (ct <= 16).all()
    assert ((ct == 8) | (ct == 16)).float().mean() > 0.5
    assert len(set(ct.tolist())) > 1


def test_the_scans_are_poor_where_they_are(sources, patches):
    assert not patches.poor[: patches.source.count("ct")].any()
    first = sources.cts[0]
    noise = np.random.default_rng(0).normal(0, 130, first.volume.hu.shape).astype(np.int16)
    noisy = replace(first, volume=replace(first.volume, hu=first.volume.hu + noise))
    thick = replace(first.volume, ijk_to_ras=first.volume.ijk_to_ras @ np.diag([1, 1, 1.2, 1]))
    for ct in (noisy, replace(first, volume=thick)):
        found = load_healthy_patches(HealthySources([ct], [], 1, phantom=False), EXTENTS)
        assert found.poor.all(), found.poor


def test_the_cache_gives_the_same_again(sources, cache, patches, monkeypatch):
    monkeypatch.setattr(healthy_patches, "_all", lambda *_: iter(()))
    assert_same(load_healthy_patches(sources, EXTENTS, cache), patches)


def test_memory_and_cache_give_the_same(sources, patches):
    told = []
    assert_same(load_healthy_patches(sources, EXTENTS, on_progress=told.append), patches)
    assert told == list(range(1, len(patches) + 1))


def test_the_seed_draws_other_places(sources, patches):
    few = sources._replace(cts=sources.cts[:1], stacks=[], per_kind=1)
    first, again, other = (load_healthy_patches(few, EXTENTS, seed=s) for s in (0, 0, 1))
    assert_same(first, again)
    assert not torch.equal(first.hu[: len(other)], other.hu[: len(first)])


CHANGES = {
    "seed": lambda s: (s, EXTENTS, 1),
    "extents": lambda s: (s, EXTENTS + 1.25, 0),
    "points": lambda s: (s._replace(per_kind=3), EXTENTS, 0),
    "phantom": lambda s: (s._replace(phantom=True), EXTENTS, 0),
    "a stack less": lambda s: (s._replace(stacks=s.stacks[1:]), EXTENTS, 0),
    "a ct less": lambda s: (s._replace(cts=s.cts[1:]), EXTENTS, 0),
}


def changed_ct(name):
    def change(sources):
        ct = sources.cts[0]
        volume, lungs = ct.volume, ct.lungs.copy()
        hu, affine = volume.hu.copy(), volume.ijk_to_ras.copy()
        hu[0, 0, 0] += 1
        lungs[0, 0, 0] = True
        affine[0, 3] += 0.5
        other = {
            "hu": {"volume": replace(volume, hu=hu)},
            "lungs": {"lungs": lungs},
            "place": {"volume": replace(volume, ijk_to_ras=affine)},
            "patient": {"patient_id": "somebody else"},
            "lesion": {"lesions_ras_mm": (np.array([[0.0, 0, 0], [9.0, 9, 9]]),)},
            "right": {"right_lung_only": True},
        }[name]
        return sources._replace(cts=[replace(ct, **other), *sources.cts[1:]]), EXTENTS, 0

    return change


CHANGES |= {
    f"ct: {name}": changed_ct(name)
    for name in ("hu", "lungs", "place", "patient", "lesion", "right")
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_cache_is_made_anew_when_something_changes(sources, cache, patches, monkeypatch, what):
    """Nothing is found in place of what would be: the old cache must not be taken."""
    monkeypatch.setattr(healthy_patches, "_all", lambda *_: iter(()))
    changed, extents, seed = CHANGES[what](sources)
    with pytest.raises(InputError, match="there is nothing to tell lesions from"):
        load_healthy_patches(changed, extents, cache, seed)


@pytest.mark.parametrize("part", ["image", "votes"])
def test_the_cache_is_made_anew_when_a_file_of_a_stack_changes(
    sources, cache, patches, monkeypatch, part
):
    monkeypatch.setattr(healthy_patches, "_all", lambda *_: iter(()))
    nodule = sources.stacks[0]
    file = nodule.image_path if part == "image" else nodule.mask_path
    before = file.read_bytes()
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    array[0, 3, 3] += 1
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))
    try:
        with pytest.raises(InputError, match="there is nothing to tell lesions from"):
            load_healthy_patches(sources, EXTENTS, cache)
    finally:
        file.write_bytes(before)
    assert_same(load_healthy_patches(sources, EXTENTS, cache), patches)


def test_sources_without_lung_are_told_in_a_sentence(tmp_path):
    ct = made_ct()
    hu = np.full_like(ct.volume.hu, 40)
    solid = replace(ct, volume=replace(ct.volume, hu=hu), lungs=np.zeros_like(ct.lungs))
    stacks = read_case_folder(paint_wall(write_case_folder(tmp_path / "s", patients=1), 0))
    for cts in ([], [solid]):
        with pytest.raises(
            InputError, match=r"^wanted CTs with healthy lung, or [^\n]*tell lesions from$"
        ):
            load_healthy_patches(HealthySources(cts, stacks, 2, phantom=False), EXTENTS, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_without_lesions_there_is_nothing_to_cut_it_like(sources):
    with pytest.raises(InputError, match="wanted lesions, to cut healthy tissue as their files"):
        load_healthy_patches(sources, np.array([]))
