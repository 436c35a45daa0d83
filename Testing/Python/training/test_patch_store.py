"""The store of resampled nodules and its cache."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.cases.case_folder import read_scan
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import UNFINISHED
from contrastdiagnosis.imaging.patch import crop_patch, window
from contrastdiagnosis_training.data import patch_store
from contrastdiagnosis_training.data.patch_store import (
    CONTINUED,
    FILL,
    STORE_GEOMETRY,
    STORED,
    load_patch_store,
    windowed,
)

from training.conftest import write_case_folder

TENSORS = ("hu", "share", "coverage", "diameter_mm")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_case_folder(tmp_path_factory.mktemp("small") / "stacks", patients=2)


@pytest.fixture
def folder(made, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(made, tmp_path / "stacks")


class Load:
    """Loads the folder through a cache and counts the nodules that had to be resampled."""

    def __init__(self, folder, cache):
        self.folder, self.cache, self.resampled = folder, cache, 0

    def __call__(self):
        self.resampled = 0
        return load_patch_store([self.folder], self.cache, on_progress=self._count)

    def _count(self, done, count):
        self.resampled = done
        assert count == 4


@pytest.fixture
def load(folder, tmp_path):
    return Load(folder, tmp_path / "cache")


def assert_same(a, b):
    for name in TENSORS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def change_image(file, change):
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    change(array)
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))


def test_the_cache_is_used_again(load):
    first = load()
    assert load.resampled == 4
    again = load()
    assert load.resampled == 0
    assert_same(first, again)


def test_memory_and_cache_give_the_same(load, folder):
    assert_same(load(), load_patch_store([folder]))


@pytest.mark.parametrize("part", ["image", "votes"])
def test_a_changed_source_makes_the_cache_anew(load, folder, part):
    before = load()

    def change(array):
        # Two voxels change places: the file keeps its size, as near as compression allows.
        array[0], array[-1] = array[-1].copy(), array[0].copy()
        array[0, :20, :20] = array.max()

    change_image(folder / part / "n0.nii.gz", change)
    after = load()
    assert load.resampled == 4
    name = "hu" if part == "image" else "share"
    assert not torch.equal(getattr(before, name)[0], getattr(after, name)[0])
    assert torch.equal(getattr(before, name)[1:], getattr(after, name)[1:])


def test_a_changed_number_of_readers_makes_the_cache_anew(load, folder):
    before = load()
    table = folder / "nodules.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    for row in rows:
        row["n_readers"] = "8"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    after = load()
    assert load.resampled == 4
    assert after.share.max() < before.share.max()


def test_changed_ratings_need_no_resampling_and_are_not_cached(load, folder):
    before = load()
    table = folder / "nodules.csv"
    table.write_text(table.read_text().replace("4 5 4 4", "5 5 5 5"))
    after = load()
    assert load.resampled == 0
    assert before.malignancy.max() == 4.25
    assert after.malignancy.max() == 5


def test_an_interrupted_write_leaves_no_cache(load, monkeypatch):
    """A half-written file must never be read."""
    whole = load_patch_store([load.folder])

    def fail_halfway(tensors, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(patch_store, "save_file", fail_halfway)
        with pytest.raises(InputError, match="No space left"):
            load()
    assert not list(load.cache.glob("*.safetensors"))
    assert_same(load(), whole)
    assert load.resampled == 4


def test_what_a_killed_run_left_is_not_read(load):
    load()
    (file,) = load.cache.glob("*.safetensors")
    (load.cache / f"{UNFINISHED}x").mkdir()
    (load.cache / f"{UNFINISHED}x" / file.name).write_bytes(file.read_bytes()[:1000])
    file.unlink()
    load()
    assert load.resampled == 4


def test_voxels_are_those_that_the_engine_samples(store):
    for n in (1, 12):
        scan = read_scan(store.nodules[n])
        patch = crop_patch(scan.volume, scan.center_ras_mm, STORE_GEOMETRY)
        stored = (store.coverage[n] == STORED).numpy()
        np.testing.assert_array_equal(stored, patch.valid)
        # The outermost half slice blends into the continued tissue.
        inner = np.flatnonzero(stored.any(axis=(1, 2)))[1:-1]
        stored, intensity = stored[inner], windowed(store.hu[n]).numpy()[inner]
        np.testing.assert_allclose(intensity[stored], patch.intensity[inner][stored], atol=1e-3)


def test_continued_voxels_lie_beyond_the_stored_slices_and_hold_no_mark(store):
    continued = store.coverage == CONTINUED
    assert continued.flatten(1).any(dim=1).all()
    assert not store.share[continued].any()
    # Solid nodules have an intensity of 0.73; what continues a file is lung.
    assert (windowed(store.hu[continued]) > 0.5).float().mean() < 1e-4
    assert (store.hu[store.coverage == FILL] == -1000).all()


def test_the_nodule_is_centred(store):
    marked = (store.share >= 128).float()
    for axis in (1, 2, 3):
        others = tuple(a for a in (1, 2, 3) if a != axis)
        along = marked.sum(dim=others)
        place = torch.arange(along.shape[1]) - (along.shape[1] - 1) / 2
        center = along @ place / along.sum(dim=1)
        assert center.abs().max() < 0.6


def test_diameters_are_those_of_the_drawn_balls(store):
    """The consensus is the ball of half of the readers: up to 0.3 mm beyond the radius."""
    for n in (0, 5, 40):
        assert store.diameter_mm[n] == pytest.approx(read_scan(store.nodules[n]).diameter_mm)
    large = store.malignancy > 3
    assert store.diameter_mm[large].min() > 9.5
    assert store.diameter_mm[~large].max() < 11


def test_ratings_and_suspicion_are_the_readers(store):
    names = [scale.name for scale in LIDC.scales]
    texture, malignancy = (names.index(name) for name in ("texture", "malignancy"))
    for n, nodule in enumerate(store.nodules):
        votes = nodule.ratings["malignancy"]
        slow = sum(1 if v > 3 else 0.5 if v == 3 else 0 for v in votes) / len(votes)
        assert store.suspicion[n] == pytest.approx(slow)
        assert store.ratings[n, malignancy] == pytest.approx(sum(votes) / len(votes))
        assert store.malignancy[n] == store.ratings[n, malignancy]
        assert store.ratings[n, texture] == pytest.approx(nodule.mean_rating("texture"))
    unknown = [i for i in range(len(names)) if i not in (texture, malignancy)]
    assert store.ratings[:, unknown].isnan().all()


def test_indices_select(store):
    chosen = store.indices(lambda n: n.patient_id == "P003")
    assert [store.nodules[n].patient_id for n in chosen.tolist()] == ["P003", "P003"]


def test_voxels_are_kept_beyond_the_window_and_windowed_as_the_engine_does():
    """A scan is made worse before it is windowed: what the window hides must still be there."""
    hu = torch.tensor([-3000, -1024, -1000, -300, 40, 400, 3071], dtype=torch.int16)
    np.testing.assert_allclose(windowed(hu).numpy(), window(hu.numpy()), atol=1e-7)
    assert windowed(hu).dtype == torch.float32
