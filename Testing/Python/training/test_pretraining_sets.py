"""The four sets: which patches are in which, how they are made poor, whose they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training.data.acquisition import Acquisition
from contrastdiagnosis_training.data.augment import Augmentation, augment
from contrastdiagnosis_training.data.healthy_patches import HealthyPatches
from contrastdiagnosis_training.data.patch_store import (
    STORE_GEOMETRY,
    STORED,
    load_patch_store,
    windowed,
)
from contrastdiagnosis_training.pretraining import sets as module
from contrastdiagnosis_training.pretraining.recipe import SETS
from contrastdiagnosis_training.pretraining.sets import (
    HEALTHY_EXTENT_MM,
    Tissue,
    four_sets,
    native_quality,
    seen_of_store,
)
from torch.testing import assert_close

from training.conftest import write_case_folder

pytestmark = pytest.mark.usefixtures("one_thread")

MIDDLE = (Ellipsis, slice(25, 55), slice(25, 55))
"""What is left of a patch that shows its middle alone, mirrored."""

SHARP = Acquisition(kernel="LUNG")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """Eight nodules of four patients, two a fold; the third nodule's image is noisy."""
    folder = write_case_folder(tmp_path_factory.mktemp("sets") / "stacks", patients=4, folds=4)
    file = str(folder / "image" / "n2.nii.gz")
    image = sitk.ReadImage(file)
    hu = sitk.GetArrayFromImage(image)
    noisy = sitk.GetImageFromArray(
        hu + np.random.default_rng(0).normal(0, 150, hu.shape).astype(np.int16)
    )
    noisy.CopyInformation(image)
    sitk.WriteImage(noisy, file)
    return load_patch_store([folder])


PATIENTS = ("P000", "P001", "P003", "ct a", "ct a", "ct b", "phantom-11")


@pytest.fixture(scope="module")
def healthy():
    """Tissue beside nodules of three of the patients, and of others; two as it was in poor images.

    The smallest one's voxels, for there are none in it: -900 plus its number.
    """
    count = len(PATIENTS)
    hu = torch.full((count, *STORE_GEOMETRY.shape), -900, dtype=torch.int16)
    hu += torch.arange(count, dtype=torch.int16)[:, None, None, None]
    hu[:, :, 40:44] += 800
    return HealthyPatches(
        hu,
        torch.full(hu.shape, STORED, dtype=torch.uint8),
        list(PATIENTS),
        ["stack"] * 3 + ["ct"] * 3 + ["phantom"],
        ["1.2.0", "1.2.2", "1.2.6", "", "", "", ""],
        torch.tensor([False, False, False, True, False, False, True]),
    )


EVERYBODY = np.arange(8)
TOLD = {"1.2.4": SHARP, "1.2.6": SHARP, "1.2.1": Acquisition(1.0, 300.0, "STANDARD")}


@pytest.fixture(scope="module")
def sets(lesions, healthy):
    return four_sets(lesions, EVERYBODY, healthy, TOLD, 3)


def test_quality_is_what_is_measured_and_what_is_told(lesions):
    """The noisy image, and the two series with a sharp kernel."""
    assert native_quality(lesions, EVERYBODY, TOLD).tolist() == [
        False, False, True, False, True, False, True, False,
    ]  # fmt: skip
    assert native_quality(lesions, [7, 2, 4], {}).tolist() == [False, True, False]
    assert native_quality(lesions, np.array([], dtype=np.int64), {}).dtype == torch.bool


def test_good_sets_hold_only_good_images_and_poor_sets_all(sets, healthy):
    assert sets.members("L").tolist() == [0, 1, 3, 5, 7]
    assert sets.members("L~").tolist() == list(range(8))
    # By its scan, by its series, or neither.
    assert sets.healthy.poor.tolist() == [False, False, True, True, False, False, True]
    assert sets.members("H").tolist() == [0, 1, 4, 5]
    assert sets.members("H~").tolist() == list(range(7))


def test_a_set_holds_the_voxels_of_its_tissue(lesions, healthy):
    elsewhere = replace(healthy, source=["ct"] * len(healthy))
    sets = four_sets(lesions, EVERYBODY, elsewhere, TOLD, 3)
    for name, hu in (("L", lesions.hu), ("H", healthy.hu)):
        members = sets.members(name)
        assert torch.equal(sets.hu(name, members, generator()), hu[members].float())
    assert torch.equal(sets.lesions.share, lesions.share) and sets.healthy.share is None


def across_seam(hu):
    """Whether patches go on mirrored at all four sides of the middle."""
    pairs = []
    for patches in (hu, hu.mT):
        pairs += [(patches[..., 25 - n, :], patches[..., 24 + n, :]) for n in range(1, 26)]
        pairs += [(patches[..., 54 + n, :], patches[..., 55 - n, :]) for n in range(1, 26)]
    return torch.stack([(a == b).flatten(1).all(dim=1) for a, b in pairs]).all(dim=0)


@pytest.mark.parametrize("beside", [0, 3, 7])
def test_a_seam_does_not_tell_lesions_from_healthy_tissue(lesions, healthy, beside):
    """As many lesions as healthy patches of either quality show the middle alone, mirrored."""
    source = ["stack"] * beside + ["ct"] * (7 - beside)
    noise = torch.randint(-900, 100, healthy.hu.shape, generator=generator(), dtype=torch.int16)
    sets = four_sets(lesions, EVERYBODY, replace(healthy, hu=noise, source=source), TOLD, 3)
    seamed = across_seam(sets.healthy.hu)
    assert seamed.tolist() == [n < beside for n in range(7)]
    of_lesions = across_seam(sets.lesions.hu)
    for poor in (False, True):
        wanted = float(seamed[sets.healthy.poor == poor].float().mean())
        found = float(of_lesions[sets.lesions.poor == poor].float().mean())
        assert abs(found - wanted) <= 0.5 / int((sets.lesions.poor == poor).sum()), poor
    # What is marked and what is stored are told of the middle alone as well.
    assert not sets.lesions.share[of_lesions][..., :25, :].any()
    assert torch.equal(sets.lesions.hu[MIDDLE], lesions.hu[MIDDLE])
    assert torch.equal(sets.lesions.share[MIDDLE], lesions.share[MIDDLE])
    assert across_seam(sets.lesions.coverage[of_lesions]).all()


@pytest.mark.parametrize("name", ["L~", "H~"])
def test_good_images_are_made_poor_and_poor_ones_are_left(sets, name):
    members, tissue = sets.members(name), sets.tissue(name)
    hu = sets.hu(name, members, generator())
    for n in members.tolist():
        as_scanned = torch.equal(hu[n], tissue.hu[n].float())
        assert as_scanned == bool(tissue.poor[n]), n
    # Nothing is drawn where nothing is made poor.
    before = generator(3)
    state = before.get_state()
    poor = torch.nonzero(tissue.poor).flatten()
    assert torch.equal(sets.hu(name, poor, before), tissue.hu[poor].float())
    assert torch.equal(before.get_state(), state)


def test_images_are_made_poor_by_the_least_severity_at_least(sets, monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "degraded_at_random", lambda hu, least, _: asked.append((len(hu), least)) or hu
    )
    sets.hu("L~", torch.tensor([0, 2, 7, 0]), generator())
    replace(sets, least_severity=5).hu("H~", torch.tensor([1]), generator())
    sets.hu("L", torch.tensor([0, 1]), generator())
    assert asked == [(3, 3), (1, 5)]


def test_the_generator_decides_how_images_are_made_poor(sets):
    first, again, other = (sets.hu("L~", torch.tensor([0, 1]), generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_patients_have_one_number_over_both_tissues(sets, lesions, healthy):
    """So that tissue beside a nodule is known to be of the nodule's patient."""
    name_of = {}
    told = [
        *zip(sets.lesions.patient.tolist(), (n.patient_id for n in lesions.nodules), strict=True),
        *zip(sets.healthy.patient.tolist(), healthy.patient_id, strict=True),
    ]
    for number, name in told:
        assert name_of.setdefault(number, name) == name
    assert len(name_of) == len({name for _, name in told}) == 7
    assert sets.lesions.patient.dtype == torch.int64


def test_numbers_do_not_depend_on_the_order_of_the_patches(lesions, healthy):
    back = four_sets(lesions, EVERYBODY[::-1].copy(), healthy, TOLD, 3)
    front = four_sets(lesions, EVERYBODY, healthy, TOLD, 3)
    assert back.lesions.patient.flip(0).tolist() == front.lesions.patient.tolist()
    assert back.healthy.patient.tolist() == front.healthy.patient.tolist()
    assert torch.equal(back.lesions.poor.flip(0), front.lesions.poor)


def test_healthy_tissue_of_patients_that_may_not_be_seen_is_left_out(lesions, healthy):
    """Those who test and validate: their lesions are not chosen, nor is what lies beside them."""
    kept_out = {"P001", "ct b"}
    positions = np.array([n for n in EVERYBODY if lesions.nodules[n].patient_id not in kept_out])
    sets = four_sets(lesions, positions, healthy, TOLD, 3, lambda name: name not in kept_out)
    kept = [0, 2, 3, 4, 6]
    assert torch.equal(sets.healthy.hu[MIDDLE], healthy.hu[kept][MIDDLE])
    # Their quality and their patients went along.
    whole = four_sets(lesions, EVERYBODY, healthy, TOLD, 3)
    assert torch.equal(sets.healthy.poor, whole.healthy.poor[kept])
    number = dict(zip([PATIENTS[n] for n in kept], sets.healthy.patient.tolist(), strict=True))
    for n, patient in zip(positions.tolist(), sets.lesions.patient.tolist(), strict=True):
        name = lesions.nodules[n].patient_id
        assert (number.get(name) == patient) == (name in PATIENTS)
    # All of it is kept where nobody is held back.
    assert torch.equal(whole.healthy.hu[MIDDLE], healthy.hu[MIDDLE])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no lesion", "pre-training needs lesions in good images and lesions; there is none"),
        ("no healthy patient", "needs healthy tissue in good images and healthy tissue; there is"),
        ("no good lesion", "pre-training needs lesions in good images; there is none among the"),
        ("no good tissue", "pre-training needs healthy tissue in good images; there is none"),
    ],
)
def test_an_empty_set_is_told_in_a_sentence(lesions, healthy, case, message):
    positions, told = EVERYBODY, TOLD
    if case == "no lesion":
        positions = np.array([], dtype=np.int64)
    elif case == "no good lesion":
        positions = np.array([2, 4])
    elif case == "no good tissue":
        healthy = replace(healthy, poor=torch.ones(len(PATIENTS), dtype=torch.bool))
    with pytest.raises(InputError, match=message):
        four_sets(lesions, positions, healthy, told, 3, lambda _: case != "no healthy patient")


def test_copies_are_made_once_and_drawn_of(sets):
    """Each patch has its own; what is poor as it was scanned stays so."""
    names = ("hu", "share", "coverage", "patient", "poor")
    first = {name: getattr(sets.lesions, name)[:3] for name in names}
    few = replace(sets, lesions=Tissue(**first))
    copied, again, other = (few.with_copies(2, generator(s)) for s in (0, 0, 1))
    assert few.with_copies(0, generator()) is few and not few.poorer
    part = torch.tensor([2, 0, 1, 0])
    drawn = torch.stack([copied.hu("L~", part, generator(s)) for s in range(12)])
    for row, n in enumerate(part.tolist()):
        images = drawn[:, row].unique(dim=0)
        assert len(images) == (1 if n == 2 else 2)
        assert torch.equal(drawn[0, row], few.lesions.hu[n].float()) == (n == 2)
        # Both are this patch, made poor: nothing else looks like it.
        gaps = (images[0] - few.lesions.hu.float()).abs().flatten(1).mean(dim=1)
        assert gaps.argmin() == n
    whole = torch.arange(7)
    assert torch.equal(copied.hu("H~", whole, generator()), again.hu("H~", whole, generator()))
    assert not torch.equal(copied.hu("H~", whole, generator()), other.hu("H~", whole, generator()))
    assert torch.equal(copied.hu("H", whole, generator()), few.healthy.hu.float())


SMALL = (16, 32, 32)


def test_views_are_those_of_augment(sets):
    part, options = torch.tensor([5, 0]), Augmentation(flip_slices=True, context=True)
    hu = sets.hu("L", part, generator())
    seen = sets.views("L", part, hu, options, generator(1), SMALL)
    shown = sets.lesions
    wanted = augment(
        windowed(shown.hu[part]), shown.share[part], shown.coverage[part], options,
        generator(1), shape=SMALL,
    )  # fmt: skip
    assert seen.shape == (2, 1, *SMALL)
    assert_close(seen, wanted.intensity, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(8, 16, 16), SMALL, (32, 64, 64)])
@pytest.mark.parametrize(
    "change", [{}, {"far": 0.5}, {"scale": 0.3, "rotation_deg": 45.0, "probability": 1.0}]
)
def test_what_views_cannot_reach_is_left_out_of_the_store(sets, shape, change):
    """They are the views of the whole of it: geometry, and where they are cut."""
    options = replace(Augmentation(flip_slices=True, context=True, end_cuts=0.3, noise=0), **change)
    part = torch.tensor([7, 1, 0, 5, 3, 1])
    seen = sets.views("L", part, sets.hu("L", part, generator()), options, generator(2), shape)
    shown = sets.lesions
    whole = augment(
        windowed(shown.hu[part]), shown.share[part], shown.coverage[part], options,
        generator(2), shape=shape,
    )  # fmt: skip
    # A voxel at the very edge of a cut may fall to either side.
    off = (seen - whole.intensity).abs() > 1e-3
    assert off.float().mean() < 1e-3


def test_a_small_view_needs_a_part_of_the_store():
    options = Augmentation()
    assert seen_of_store((16, 32, 32), options) == (slice(7, 33), slice(8, 72), slice(8, 72))
    everything = tuple(slice(0, n) for n in STORE_GEOMETRY.shape)
    assert seen_of_store((32, 64, 64), options) == everything
    assert seen_of_store((16, 32, 32), None) == everything


def test_views_of_healthy_tissue_are_cut_beyond_a_middle(sets, healthy):
    """As those of lesions are beyond the lesion: where a view ends does not tell what it is of."""
    options = Augmentation(probability=0, context=True)
    part = torch.zeros(24, dtype=torch.int64)
    hu = sets.hu("H", part, generator())
    seen = sets.views("H", part, hu, options, generator(), (32, 64, 64))
    shown = seen[:, 0] > 0
    assert 0.2 < (~shown).flatten(1).any(dim=1).float().mean() < 1
    k, j, i = (
        slice(*(round((n + sign * HEALTHY_EXTENT_MM / s) / 2) for sign in (-0.6, 0.6)))
        for n, s in zip((32, 64, 64), STORE_GEOMETRY.spacing_mm, strict=True)
    )
    assert shown[:, k, j, i].all()
    # Without augmentation nothing is cut.
    plain = sets.views("H", part[:1], hu[:1], None, generator(), SMALL)
    assert_close(plain[0, 0], windowed(healthy.hu[0, 12:28, 24:56, 24:56]), atol=1e-5, rtol=0)


def test_a_lesion_whose_mark_lies_outside_its_patch_is_shown_like_healthy_tissue(sets):
    """A detector may have found it that far away; nothing of the view is cut off at random."""
    share = sets.lesions.share.clone()
    share[1] = 0
    lesions = replace(sets.lesions, share=share)
    extent = lesions.extent(torch.tensor([0, 1]))
    assert_close(extent[0], sets.lesions.extent(torch.tensor([0]))[0])
    assert_close(extent[1], sets.healthy.extent(torch.tensor([0]))[0])


def test_there_is_a_tissue_for_every_set(sets):
    assert [sets.tissue(name) is sets.lesions for name in SETS] == [True, True, False, False]
