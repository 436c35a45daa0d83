"""Diagnoser: the whole way from a volume and a point to a diagnosis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.library import CaseLibrary
from contrastdiagnosis.concepts.concept_prediction import predict_concepts
from contrastdiagnosis.concepts.encoding import encode
from contrastdiagnosis.diagnosis.diagnoser import SHOWN_CASES, Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import Patch, crop_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.trust.confidence import SimilarityIndicator
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from scipy.spatial.transform import Rotation

from engine.conftest import CONCEPTS, NODULE


class DenseIsNodule(torch.nn.Module):
    """Marks what is denser than -300 HU; the embedding tells the mean density of the centre."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        features = self.network(x)
        center = x[:, 0, 12:20, 24:40, 24:40].mean(dim=(1, 2, 3))
        embedding = center[:, None].expand(-1, 5)
        return features._replace(mask_logits=60 * (x - 0.5), embedding=embedding)


@pytest.fixture(scope="module")
def diagnoser(bundle):
    return Diagnoser(replace(bundle, network=DenseIsNodule(bundle.network)), "cpu")


@pytest.fixture(scope="module")
def diagnosis(diagnoser, phantom):
    return diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm)


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_mask_lies_on_the_nodule_in_the_volume(diagnosis, phantom):
    assert overlap(diagnosis.mask.full(), phantom.masks[0].full()) > 0.85
    assert diagnosis.mask.volume_shape == phantom.volume.hu.shape


def test_the_measurements_are_the_nodules(diagnosis):
    assert diagnosis.diameters.long_mm == pytest.approx(NODULE.diameter_mm, rel=0.2)
    assert diagnosis.volume_mm3 == pytest.approx(np.pi / 6 * NODULE.diameter_mm**3, rel=0.2)


@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (12, -9, 25)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_turned_and_flipped_volumes_give_the_same_answer(
    diagnoser, diagnosis, phantom, turn_deg, flips
):
    """The voxels are stored in another order or the whole patient lies turned in space."""
    order = tuple(slice(None, None, f) for f in flips)
    hu = phantom.volume.hu[order]
    flip = np.eye(4)
    for axis, f in enumerate(flips[::-1]):
        if f < 0:
            flip[axis, axis], flip[axis, 3] = -1, hu.shape[2 - axis] - 1
    volume = Volume(hu, phantom.volume.ijk_to_ras @ flip)
    if any(turn_deg):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
        volume = Volume(hu, turn @ volume.ijk_to_ras)
        point = turn[:3, :3] @ NODULE.center_ras_mm
    else:
        point = NODULE.center_ras_mm
    other = diagnoser.diagnose(volume, point)
    truth = phantom.masks[0].full()[order]
    assert overlap(other.mask.full(), truth) > 0.8
    if not any(turn_deg):
        assert other.probability == pytest.approx(diagnosis.probability, abs=1e-5)


def test_the_cases_are_the_nearest_and_the_vote_is_theirs(diagnoser, diagnosis):
    library, rule = diagnoser.bundle.library, diagnoser.bundle.info.vote
    nearest = library.nearest(diagnosis.encoding.embedding, rule.k)
    assert [s.case for s in diagnosis.cases[: rule.k]] == [n.case for n in nearest]
    assert len(diagnosis.cases) == SHOWN_CASES
    labels = [n.case.malignant for n in nearest]
    assert diagnosis.malignant_voters == sum(labels)
    assert diagnosis.voters == rule.k
    assert diagnosis.score == pytest.approx(
        float(rule.score([n.distance for n in nearest], labels))
    )
    assert diagnosis.malignant == (diagnosis.probability > 0.5)
    similarities = [s.similarity for s in diagnosis.cases]
    assert similarities == sorted(similarities, reverse=True)


def test_the_own_patient_is_left_out(diagnoser, diagnosis, phantom):
    own = diagnosis.cases[0].case.patient_id
    without = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm, patient_id=own)
    assert own not in {s.case.patient_id for s in without.cases}


def test_mirroring_the_patch_changes_nothing(bundle, phantom):
    """Averaged with its mirror image, so a mirrored nodule gets the mirrored answer."""
    patch = crop_patch(phantom.volume, NODULE.center_ras_mm)
    mirrored = Patch(
        np.ascontiguousarray(patch.intensity[..., ::-1]), patch.valid[..., ::-1], patch.ijk_to_ras
    )
    device = torch.device("cpu")
    first, second = (encode(bundle.network, [p], device)[0] for p in (patch, mirrored))
    np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-5)
    np.testing.assert_allclose(first.probability, second.probability[..., ::-1], atol=1e-5)


def test_several_patches_are_encoded_as_one_by_one(bundle, phantom):
    patches = [crop_patch(phantom.volume, (60, -10, s)) for s in (8, 0, -20)]
    together = encode(bundle.network, patches, torch.device("cpu"))
    for patch, encoding in zip(patches, together, strict=True):
        alone = encode(bundle.network, [patch], torch.device("cpu"))[0]
        np.testing.assert_allclose(encoding.embedding, alone.embedding, atol=1e-4)
        np.testing.assert_allclose(encoding.probability, alone.probability, atol=1e-4)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ((500, 0, 0), r"\(500.0, 0.0, 0.0\) mm RAS lies outside the volume, which reaches from"),
        ((np.nan, 0, 0), "3 finite millimetres"),
        ((1, 2), "3 finite millimetres"),
    ],
)
def test_a_point_that_cannot_be_is_refused(diagnoser, phantom, point, message):
    with pytest.raises(InputError, match=message):
        diagnoser.diagnose(phantom.volume, point)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hu: hu + 1024, "add -1024 to its voxels"),
        (lambda hu: np.clip((hu + 1000) // 8, 0, 255), "8-bit"),
        (np.zeros_like, "every voxel is 0"),
        (lambda hu: np.where(hu < 0, np.nan, hu), "NaN"),
        (lambda hu: hu[29:31], "at least 3 slices"),
    ],
)
def test_what_is_no_ct_is_refused_also_when_it_was_not_read_from_a_file(
    diagnoser, phantom, change, message
):
    hu = change(phantom.volume.hu.astype(np.float32))
    affine = phantom.volume.ijk_to_ras.copy()
    if len(hu) == 2:
        affine[2, 3] = NODULE.center_ras_mm[2]
    with pytest.raises(InputError, match=message):
        diagnoser.diagnose(Volume(hu, affine), NODULE.center_ras_mm)


def test_a_scan_smaller_than_the_patch_is_diagnosed_with_a_notice(diagnoser, phantom):
    i, j, k = np.round(phantom.volume.ijk_from_ras(NODULE.center_ras_mm)).astype(int)
    affine = phantom.volume.ijk_to_ras.copy()
    affine[:3, 3] = phantom.volume.ras_from_ijk((i - 10, j - 10, k - 5))
    small = Volume(phantom.volume.hu[k - 5 : k + 6, j - 10 : j + 11, i - 10 : i + 11], affine)
    diagnosis = diagnoser.diagnose(small, NODULE.center_ras_mm)
    assert diagnosis.nodule.any()
    (notice,) = diagnosis.notices
    assert "of the 45x45x40 mm around the point; the rest was taken as air" in notice


def test_a_library_smaller_than_k_votes_with_a_notice(diagnoser, phantom):
    library = diagnoser.bundle.library
    few = CaseLibrary(library.cases[:4], library.embedding[:4])
    small = Diagnoser(replace(diagnoser.bundle, library=few), "cpu")
    diagnosis = small.diagnose(phantom.volume, NODULE.center_ras_mm)
    assert diagnosis.voters == 4
    assert "only 4 cases could vote instead of 5" in diagnosis.notices


def test_a_library_of_the_own_patient_alone_is_refused(diagnoser, phantom):
    library = diagnoser.bundle.library
    own = [replace(c, patient_id="me") for c in library.cases]
    alone = Diagnoser(replace(diagnoser.bundle, library=CaseLibrary(own, library.embedding)), "cpu")
    with pytest.raises(InputError, match="every case of the library is of patient me"):
        alone.diagnose(phantom.volume, NODULE.center_ras_mm, patient_id="me")


def with_info(diagnoser, **changes):
    return Diagnoser(
        replace(diagnoser.bundle, info=replace(diagnoser.bundle.info, **changes)), "cpu"
    )


def test_a_point_beside_every_nodule_is_not_confident(diagnoser, phantom):
    diagnosis = diagnoser.diagnose(phantom.volume, (150, 100, 0))
    assert not diagnosis.nodule.any()
    assert diagnosis.volume_mm3 == 0
    assert any("no nodule was found" in r for r in diagnosis.confidence.reasons)
    assert not diagnosis.mask.full().any()


def test_a_point_outside_the_lung_is_not_confident(diagnoser, phantom):
    strict = with_info(diagnoser, limits=CaseLimits(min_lung_share=0.2))
    heart = strict.diagnose(phantom.volume, (-30.0, 28.0, -28.0))
    assert any("does not seem to lie in lung" in r for r in heart.confidence.reasons)
    lung = strict.diagnose(phantom.volume, NODULE.center_ras_mm)
    assert not any("lung" in r for r in lung.confidence.reasons)


def test_a_noisy_or_thickly_sliced_scan_is_not_confident(diagnoser, phantom):
    strict = with_info(diagnoser, limits=CaseLimits(max_noise_hu=60.0, max_slice_mm=3.0))
    volume = phantom.volume
    sound = strict.diagnose(volume, NODULE.center_ras_mm).confidence.reasons
    assert not any("noisier" in r or "slices" in r for r in sound)
    noise = np.random.default_rng(0).normal(0, 110, volume.hu.shape)
    noisy = strict.diagnose(Volume(volume.hu + noise, volume.ijk_to_ras), NODULE.center_ras_mm)
    assert any("noisier than those of the cases" in r for r in noisy.confidence.reasons)
    affine = volume.ijk_to_ras.copy()
    affine[:3, 2] *= 3
    thick = strict.diagnose(Volume(volume.hu[::3], affine), NODULE.center_ras_mm)
    assert any("slices or pixels are too far apart: 7.5 mm" in r for r in thick.confidence.reasons)


def test_a_nodule_unlike_all_cases_is_not_confident(diagnoser, phantom):
    near = replace(diagnoser.bundle, indicator=SimilarityIndicator(np.array([1e-4, 2e-4])))
    diagnosis = Diagnoser(near, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)
    assert any("even the nearest case is unlike" in r for r in diagnosis.confidence.reasons)


def test_a_split_vote_is_not_confident_and_a_clear_one_is(diagnoser, phantom):
    probability = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm).probability
    far = replace(diagnoser.bundle, indicator=SimilarityIndicator(np.array([1e3, 2e3])))
    wide = with_info(Diagnoser(far, "cpu"), split_vote=(probability - 0.1, probability + 0.1))
    reasons = wide.diagnose(phantom.volume, NODULE.center_ras_mm).confidence.reasons
    assert len(reasons) == 1
    assert "the vote is split" in reasons[0]
    narrow = with_info(Diagnoser(far, "cpu"), split_vote=(probability + 0.1, probability + 0.2))
    assert narrow.diagnose(phantom.volume, NODULE.center_ras_mm).confidence.confident


def test_the_series_of_a_case_tells_its_patient(diagnoser, phantom):
    """A scan that the cases come from must not be voted on by its own nodules."""
    of_case = replace(phantom.volume, series_uid="1.2.3.7")
    diagnosis = diagnoser.diagnose(of_case, NODULE.center_ras_mm)
    named = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm, patient_id="P3")
    assert [c.case.case_id for c in diagnosis.cases] == [c.case.case_id for c in named.cases]
    assert diagnosis.notices == named.notices
    assert "2 cases of this patient were left out" in diagnosis.notices
    unknown = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm, patient_id="P999")
    assert "none of the cases is of the patient that was named" in unknown.notices


def test_two_diagnosers_of_one_bundle_do_not_share_weights(bundle):
    first, second = Diagnoser(bundle, "cpu"), Diagnoser(bundle, "cpu")
    assert first.network is not second.network


def test_a_diagnosis_tells_the_concepts(diagnoser, diagnosis):
    head, info = diagnoser.bundle.head, diagnoser.bundle.info
    similarity = diagnosis.encoding.similarity
    prediction = predict_concepts(
        head, info.concepts, info.concept_calibration, similarity, diagnosis.encoding.grid
    )
    assert diagnosis.concepts.logit == prediction.logit
    assert diagnosis.concepts.probability == prediction.probability
    np.testing.assert_array_equal(diagnosis.concepts.presence, prediction.presence)
    np.testing.assert_array_equal(diagnosis.concepts.similarity, similarity)
    decided = head.decide(torch.from_numpy(similarity.max(axis=(2, 3, 4)))[None])
    calibration = info.concept_calibration
    shown = calibration.slope * float(decided[0]) + calibration.intercept
    assert prediction.logit == pytest.approx(shown, abs=1e-5)


def test_without_a_concept_head_nothing_is_told_of_concepts(diagnoser, phantom, diagnosis):
    plain = Diagnoser(replace(diagnoser.bundle, concepts=None), "cpu")
    told = plain.diagnose(phantom.volume, NODULE.center_ras_mm)
    assert told.concepts is None and told.disagreement == ""
    assert told.encoding.similarity is None
    assert (told.probability, told.cases) == (diagnosis.probability, diagnosis.cases)
    with pytest.raises(InputError, match="the bundle tiny has no concepts to revise"):
        plain.revise(told, phantom.volume, Revision())


class Forbidden(torch.nn.Module):
    """A network that must not be run."""

    def forward(self, x):
        raise AssertionError("the network was run")


def test_revising_needs_no_network_and_changes_the_concepts_alone(diagnoser, diagnosis, phantom):
    still = Diagnoser(replace(diagnoser.bundle, network=Forbidden()), "cpu")
    revision = Revision(
        boxes=(Box(NODULE.center_ras_mm, (12, 12, 12), True),), rejected=("calcified",)
    )
    before = diagnosis.encoding.similarity.copy()
    revised = still.revise(diagnosis, phantom.volume, revision)
    for name in vars(diagnosis):
        if name != "concepts":
            assert getattr(revised, name) is getattr(diagnosis, name), name
    np.testing.assert_array_equal(diagnosis.encoding.similarity, before)
    assert revised.concepts.revision == revision
    assert revised.concepts.logit != diagnosis.concepts.logit
    assert np.isnan(revised.concepts.presence[2])
    assert diagnosis.concepts.revision.empty
    # From the first prediction again, not from the revised one.
    again = still.revise(revised, phantom.volume, Revision())
    assert again.concepts.logit == diagnosis.concepts.logit
    np.testing.assert_array_equal(again.concepts.similarity, diagnosis.concepts.similarity)


def test_a_revision_that_does_not_fit_is_refused(diagnoser, diagnosis, phantom):
    with pytest.raises(InputError, match="no concept is called spiky"):
        diagnoser.revise(diagnosis, phantom.volume, Revision(rejected=("spiky",)))
    far = Box((0.0, 0.0, 9000.0), (12, 12, 12), True)
    with pytest.raises(InputError, match="lies outside the volume; it may have been drawn for"):
        diagnoser.revise(diagnosis, phantom.volume, Revision(boxes=(far,)))
    beside = Box(tuple(np.add(NODULE.center_ras_mm, (-60, 0, 0))), (9, 9, 9), True)
    told = diagnoser.revise(diagnosis, phantom.volume, Revision(boxes=(beside,))).concepts
    assert "lies beside the patch" in told.remarks[0]


def test_cases_and_concepts_that_disagree_are_told(diagnosis):
    for probability in (0.1, 0.9):
        concepts = replace(diagnosis.concepts, probability=probability)
        same = replace(diagnosis, probability=probability, concepts=concepts)
        assert same.disagreement == ""
    concepts = replace(diagnosis.concepts, probability=0.1)
    assert replace(diagnosis, probability=0.9, concepts=concepts).disagreement == (
        "the similar cases say malignant, the concepts say benign: weigh both"
    )
    concepts = replace(diagnosis.concepts, probability=0.9)
    assert replace(diagnosis, probability=0.1, concepts=concepts).disagreement == (
        "the similar cases say benign, the concepts say malignant: weigh both"
    )


def test_ignoring_where_each_concept_is_seen_most_lowers_its_presence(
    diagnoser, diagnosis, phantom
):
    prediction, grid = diagnosis.concepts, diagnosis.encoding.grid
    k = int(np.argmax(prediction.maps.max(axis=(1, 2, 3))))
    assert prediction.maps[k].max() > 0
    where = np.unravel_index(prediction.maps[k].argmax(), grid.shape)
    box = Box(tuple(grid.centers_ras_mm[where]), (6, 6, 5.5), False, CONCEPTS[k].name)
    revised = diagnoser.revise(diagnosis, phantom.volume, Revision(boxes=(box,))).concepts
    shown = prediction.shown[k]
    assert revised.scores[k, shown] < prediction.scores[k, shown]
    rest = [n for n in range(len(CONCEPTS)) if n != k]
    np.testing.assert_array_equal(revised.presence[rest], prediction.presence[rest])
