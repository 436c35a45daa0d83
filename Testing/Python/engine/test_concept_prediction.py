"""Concepts predicted: rejections, boxes, and numbers that add up (docs/methods.md 7.7: F4-F6)."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.cases.vote import Calibration
from contrastdiagnosis.concepts.boxes import CellGrid
from contrastdiagnosis.concepts.concept_prediction import predict_concepts, size_factor
from contrastdiagnosis.concepts.encoding import encode
from contrastdiagnosis.concepts.head import DIAMETER, Concept
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch, crop_patch
from contrastdiagnosis.imaging.phantom import make_phantom
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.report.summary import concept_summary, evidence_sentence

from engine.conftest import CONCEPTS, PROTOTYPES

NAMES = tuple(concept.name for concept in CONCEPTS)
CENTER = (10.0, -20.0, 30.0)
CALIBRATION = Calibration(1.4, -0.3)
SHAPE = (8, 8, 8)
GRID = CellGrid(
    Patch(
        np.zeros(DEFAULT_GEOMETRY.shape, np.float32),
        np.ones(DEFAULT_GEOMETRY.shape, bool),
        DEFAULT_GEOMETRY.ijk_to_ras(CENTER),
    ),
    SHAPE,
)
WHOLE = (100.0, 100.0, 100.0)


@pytest.fixture(scope="module")
def head(bundle):
    return bundle.concepts.head


def made_similarity(seed=0, low=-1.0):
    """Cut off at 0, as the heads that are made today give it."""
    random = np.random.default_rng(seed)
    shape = (len(CONCEPTS), PROTOTYPES, *SHAPE)
    return np.maximum(random.uniform(low, 0.95, shape), 0).astype(np.float32)


def read(head, similarity=None, **revision):
    similarity = made_similarity() if similarity is None else similarity
    return predict_concepts(head, CONCEPTS, CALIBRATION, similarity, GRID, Revision(**revision))


def box_of(kji, look, concept=None, cells=(1, 1, 1), grow=0.05):
    """A box over a cell, or over some around it; slightly larger or smaller than they are."""
    size = np.array([5.6, 5.6, 5.0]) * np.array(cells)[::-1] + grow
    return Box(tuple(GRID.centers_ras_mm[tuple(kji)]), tuple(size), look, concept)


def random_boxes(seed, count=3, looks=(True, False)):
    random = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        center = np.array(CENTER) + random.uniform(-18, 18, 3)
        concept = random.choice([None, *NAMES])
        look = bool(random.choice(looks))
        boxes.append(Box(tuple(center), tuple(random.uniform(5, 30, 3)), look, concept))
    return tuple(boxes)


def calibrated(logit):
    """The head's logit as it is shown."""
    return CALIBRATION.slope * float(logit) + CALIBRATION.intercept


def test_plain_scores_are_the_heads(head):
    similarity = made_similarity()
    prediction = read(head, similarity)
    np.testing.assert_allclose(prediction.scores, similarity.max(axis=(2, 3, 4)), atol=1e-7)
    np.testing.assert_array_equal(prediction.similarity, similarity)
    assert prediction.remarks == ()
    assert prediction.revision.empty


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["absent_median", "zero"])
def test_the_logit_is_the_heads_decision(head, seed, mode):
    prediction = read(
        head, made_similarity(seed), boxes=random_boxes(seed), rejected=NAMES[: seed % 3], mode=mode
    )
    scores = torch.from_numpy(prediction.scores)[None]
    assert prediction.logit == pytest.approx(calibrated(head.decide(scores)[0]), abs=1e-5)
    assert prediction.logit == prediction.baseline + prediction.contribution.sum()
    assert prediction.baseline == pytest.approx(calibrated(head.baseline), abs=1e-5)
    odds = prediction.probability / (1 - prediction.probability)
    assert np.log(odds) == pytest.approx(prediction.logit, abs=1e-9)
    assert (prediction.logit > 0) == prediction.malignant
    assert prediction.malignant == (prediction.probability > 0.5)


def test_presence_is_the_calibrated_logit_of_each_concept(head):
    prediction = read(head)
    logits = head.presence(torch.from_numpy(prediction.scores)[None])[0].numpy()
    for k, concept in enumerate(CONCEPTS):
        expected = concept.calibration.probability(1 / (1 + np.exp(-logits[k])))
        assert prediction.presence[k] == pytest.approx(float(expected), abs=1e-6)


def test_f4_rejecting_all_concepts_in_mode_zero_leaves_the_bias(head):
    prediction = read(head, rejected=NAMES, mode="zero")
    assert prediction.logit == pytest.approx(calibrated(head.decision_bias), abs=1e-5)
    assert not prediction.scores.any()
    assert np.isnan(prediction.presence).all()
    assert abs(read(head).logit - calibrated(head.decision_bias)) > 0.1


def test_f4_a_negative_box_over_everything_does_the_same(head):
    prediction = read(head, boxes=(Box(CENTER, WHOLE, False),))
    assert prediction.logit == pytest.approx(calibrated(head.decision_bias), abs=1e-5)
    assert not prediction.scores.any()
    assert not prediction.maps.any()
    assert np.isfinite(prediction.presence).all()
    each = tuple(Box(CENTER, WHOLE, False, name) for name in NAMES)
    assert read(head, boxes=each).logit == prediction.logit


def test_f4_rejecting_all_as_absent_leaves_the_baseline(head):
    prediction = read(head, rejected=NAMES)
    assert prediction.revision.mode == "absent_median"
    assert prediction.logit == pytest.approx(calibrated(head.baseline), abs=1e-5)
    assert not prediction.contribution.any()
    np.testing.assert_allclose(prediction.scores, head.absent.numpy())
    assert abs(float(head.baseline) - float(head.decision_bias)) > 0.05


@pytest.mark.parametrize("mode", ["absent_median", "zero"])
@pytest.mark.parametrize("name", NAMES)
def test_rejecting_one_concept_leaves_the_others_alone(head, name, mode):
    plain, prediction = read(head), read(head, rejected=(name,), mode=mode)
    k = NAMES.index(name)
    rest = [n for n in range(len(NAMES)) if n != k]
    np.testing.assert_array_equal(prediction.scores[rest], plain.scores[rest])
    np.testing.assert_array_equal(prediction.contribution[rest], plain.contribution[rest])
    np.testing.assert_array_equal(prediction.presence[rest], plain.presence[rest])
    assert np.isnan(prediction.presence[k])
    expected = 0.0
    if mode == "zero":
        expected = -CALIBRATION.slope * float((head.absent * head.decision_weight)[k].sum())
    assert prediction.contribution[k] == pytest.approx(expected, abs=1e-5)
    # What the network saw stays to be seen.
    np.testing.assert_array_equal(prediction.maps, plain.maps)


def test_f5_no_boxes_or_one_to_look_at_everything_change_nothing(head):
    similarity = made_similarity()
    plain = read(head, similarity)
    for boxes in ((), (Box(CENTER, WHOLE, True),)):
        prediction = read(head, similarity, boxes=boxes, elsewhere=0.0)
        np.testing.assert_array_equal(prediction.scores, plain.scores)
        np.testing.assert_array_equal(prediction.contribution, plain.contribution)
        np.testing.assert_array_equal(prediction.presence, plain.presence)
        assert (prediction.baseline, prediction.probability) == (plain.baseline, plain.probability)
        np.testing.assert_array_equal(prediction.maps, plain.maps)


@pytest.mark.parametrize("seed", range(20))
def test_f5_boxes_weigh_every_similarity_as_published(head, seed):
    """A * S: 1 inside what is to be looked at, alpha elsewhere, 0 where it is to be ignored."""
    similarity, boxes = made_similarity(seed), random_boxes(seed)
    prediction = read(head, similarity, boxes=boxes, elsewhere=0.3)
    for k, name in enumerate(NAMES):
        about = [box for box in boxes if box.concept in (None, name)]
        looked = np.any([GRID.touched(b) for b in about if b.look] or [np.ones(SHAPE)], axis=0)
        ignored = np.any(
            [GRID.covered(b) for b in about if not b.look] or [~looked & looked], axis=0
        )
        if not looked.any():  # A box beside the patch changes nothing.
            looked[:] = True
        weight = np.where(ignored, 0, np.where(looked, 1, 0.3)).astype(np.float32)
        np.testing.assert_allclose(prediction.similarity[k], weight * similarity[k], atol=1e-7)


@pytest.mark.parametrize("low", [0.0, -1.0], ids=["rectified", "older"])
@pytest.mark.parametrize("seed", range(20))
def test_f5_boxes_never_raise_anything(head, seed, low):
    """Also where a head of an older bundle gives similarities below 0."""
    random = np.random.default_rng(seed)
    similarity = random.uniform(low, 0.95, (len(CONCEPTS), PROTOTYPES, *SHAPE)).astype(np.float32)
    similarity[:, :2] = np.maximum(similarity[:, :2] - 0.9 * (seed % 2), low)
    plain = read(head, similarity)
    boxes = (*random_boxes(seed), *((Box(CENTER, WHOLE, False),) if seed % 3 == 0 else ()))
    prediction = read(head, similarity, boxes=boxes)
    assert (prediction.similarity <= similarity).all()
    assert (prediction.scores <= plain.scores).all()
    assert (prediction.presence <= plain.presence).all()


def test_f6_a_negative_box_over_the_highest_cell_lowers_the_score(head):
    similarity = made_similarity()
    plain = read(head, similarity)
    for k, m in np.ndindex(len(CONCEPTS), PROTOTYPES):
        where = np.unravel_index(similarity[k, m].argmax(), SHAPE)
        prediction = read(head, similarity, boxes=(box_of(where, False),))
        assert prediction.scores[k, m] < plain.scores[k, m]
        assert prediction.similarity[k, m][where] == 0
        left = similarity[k, m].copy()
        left[where] = 0
        assert prediction.scores[k, m] == pytest.approx(left.max(), abs=1e-7)


def test_f6_a_positive_box_elsewhere_never_raises_a_score(head):
    similarity = made_similarity()
    plain = read(head, similarity)
    for k, m in np.ndindex(len(CONCEPTS), PROTOTYPES):
        where = np.array(np.unravel_index(similarity[k, m].argmax(), SHAPE))
        away = (where + 4) % 8
        # Smaller than the cell, so that it touches no other.
        prediction = read(head, similarity, boxes=(box_of(away, True, grow=-0.5),), elsewhere=0.2)
        expected = max(similarity[k, m][tuple(away)], 0.2 * similarity[k, m].max())
        assert prediction.scores[k, m] == pytest.approx(expected, abs=1e-6)
        assert prediction.scores[k, m] < plain.scores[k, m]


def test_a_box_may_be_about_one_concept(head):
    similarity = made_similarity()
    plain = read(head, similarity)
    for k, name in enumerate(NAMES):
        prediction = read(head, similarity, boxes=(Box(CENTER, WHOLE, False, name),))
        rest = [n for n in range(len(NAMES)) if n != k]
        np.testing.assert_array_equal(prediction.similarity[rest], plain.similarity[rest])
        np.testing.assert_array_equal(prediction.contribution[rest], plain.contribution[rest])
        assert not prediction.scores[k].any()


@pytest.mark.parametrize("seed", range(20))
def test_presence_never_rises_when_a_box_says_ignore(head, seed):
    """Weights of presence are not negative, and no box raises a score."""
    assert (head.presence_weight >= 0).all()
    random = np.random.default_rng(seed)
    similarity = made_similarity(seed)
    boxes = random_boxes(seed, count=seed % 3)
    before = read(head, similarity, boxes=boxes)
    center = np.array(CENTER) + random.uniform(-15, 15, 3)
    more = Box(tuple(center), tuple(random.uniform(15, 40, 3)), False, None)
    after = read(head, similarity, boxes=(*boxes, more))
    assert (after.presence <= before.presence + 1e-12).all()
    assert (after.scores <= before.scores + 1e-12).all()


@pytest.mark.parametrize("remove", ["prototype", "absent", "presence_weight", "decision_weight"])
def test_f9_a_removed_prototype_says_nothing_under_any_revision(head, remove):
    pruned = copy.deepcopy(head)
    pruned.kept[1, 2] = 0
    other = copy.deepcopy(pruned)
    similarity = made_similarity()
    changed = similarity.copy()
    if remove == "prototype":
        changed[1, 2] = 1.0
    else:
        getattr(other, remove)[1, 2] = 50.0
    for mode in ("zero", "absent_median"):
        for rejected in ((), NAMES[1:2], NAMES):
            for boxes in ((), random_boxes(3)):
                revision = {"boxes": boxes, "rejected": rejected, "mode": mode}
                first = read(pruned, similarity, **revision)
                second = read(other, changed, **revision)
                assert first.logit == pytest.approx(second.logit, abs=1e-9)
                np.testing.assert_array_equal(first.scores, second.scores)
                np.testing.assert_array_equal(first.presence, second.presence)
                np.testing.assert_allclose(first.contribution, second.contribution, atol=1e-9)


def with_weights(head, decision, presence=0.0, absent=0.0):
    """A head whose first concept has these weights, and the others none."""
    other = copy.deepcopy(head)
    for name, value in {
        "decision_weight": decision, "presence_weight": presence, "absent": absent
    }.items():  # fmt: skip
        getattr(other, name).zero_()
        getattr(other, name)[0] = torch.as_tensor(value)
    return other


def test_the_shown_prototype_adds_in_the_direction_of_its_concept(head):
    """Not the highest score, if what it adds runs against the sum or is nothing."""
    similarity = np.zeros((len(CONCEPTS), PROTOTYPES, *SHAPE), np.float32)
    for m, score in enumerate((0.9, 0.8, 0.6, 0.5)):
        similarity[0, m, 1, 2, m] = score
    for decision, shown in (
        ((-1.0, 0.0, 2.0, 1.0), 2),  # The sum is above 0: the first one speaks against it.
        ((-3.0, 0.0, 2.0, 1.0), 0),
        ((0.0, 0.0, 0.0, -1.0), 3),
        ((-9.0, 0.5, 20.0, 30.0), 1),  # The most alike of those, whatever each adds.
    ):
        prediction = read(with_weights(head, decision), similarity)
        assert prediction.shown.tolist() == [shown, -1, -1]
        assert np.argwhere(prediction.maps).tolist() == [[0, 1, 2, shown]]
        assert prediction.maps[0, 1, 2, shown] == similarity[0, shown].max()
        assert prediction.maps.shape == (len(CONCEPTS), *SHAPE)
        assert prediction.maps.dtype == np.float32


def test_a_prototype_that_the_nodule_lacks_speaks_against_the_concept(head):
    similarity = np.zeros((len(CONCEPTS), PROTOTYPES, *SHAPE), np.float32)
    similarity[0, 1, 0, 0, 0], similarity[0, 3, 4, 4, 4] = 0.1, 0.4
    prediction = read(with_weights(head, (0.0, 2.0, 0.0, 1.0), absent=0.35), similarity)
    assert prediction.contribution[0] < 0
    assert prediction.shown[0] == 1


def test_one_that_some_cell_is_like_goes_before_what_the_nodule_is_not_like(head):
    similarity = np.zeros((len(CONCEPTS), PROTOTYPES, *SHAPE), np.float32)
    similarity[0, 3, 4, 4, 4] = 0.4
    # The second one adds most, as the nodule is less like it than others.
    prediction = read(with_weights(head, (0.0, -9.0, 0.0, 2.0), absent=0.1), similarity)
    assert prediction.contribution[0] > 0
    assert prediction.shown[0] == 3


def test_where_nothing_is_added_the_presence_is_explained(head):
    similarity = np.zeros((len(CONCEPTS), PROTOTYPES, *SHAPE), np.float32)
    similarity[0, :, 0, 0, 0] = (0.9, 0.8, 0.7, 0.6)
    silent = with_weights(head, 1e-4, presence=(0.0, 1.0, 1.1, 0.0))
    assert read(silent, similarity).shown.tolist() == [1, -1, -1]
    assert not read(with_weights(head, 1e-4), similarity).maps.any()


def test_a_rejected_concept_is_shown_as_it_was_seen(head):
    plain, prediction = read(head), read(head, rejected=NAMES)
    np.testing.assert_array_equal(prediction.shown, plain.shown)


def test_a_removed_prototype_is_never_shown(head):
    pruned = copy.deepcopy(head)
    pruned.kept[0, 1] = 0
    similarity = made_similarity()
    similarity[0, 1] = 0.99
    for weight in (9.0, -9.0):
        pruned.decision_weight[0, 1] = pruned.presence_weight[0, 1] = weight
        assert read(pruned, similarity).shown[0] != 1


@pytest.mark.parametrize(
    "revision",
    [
        {"rejected": ("spiky",)},
        {"boxes": (Box(CENTER, WHOLE, True, "spiky"),)},
        {"rejected": ("calcified", "spiky")},
    ],
)
def test_a_concept_that_there_is_not_is_refused(head, revision):
    with pytest.raises(
        InputError, match="^no concept is called spiky; there are spiculated, ill-defined margin, c"
    ):
        read(head, **revision)


@pytest.mark.parametrize(
    "revision", [{"rejected": ("",)}, {"boxes": (Box(CENTER, WHOLE, True, ""),)}]
)
def test_a_concept_without_a_name_is_refused(head, revision):
    with pytest.raises(InputError, match="no concept is called ;"):
        read(head, **revision)


def test_a_refusal_quotes_little(head):
    with pytest.raises(InputError) as refused:
        read(head, rejected=("x" * 90_000,))
    assert len(str(refused.value)) < 500


def test_remarks_about_boxes_are_told_once(head):
    small = Box(CENTER, (3, 3, 3), False)
    prediction = read(head, boxes=(small, replace(small, size_mm=(4.0, 4.0, 4.0))))
    assert len(prediction.remarks) == 1
    assert "covers no whole cell" in prediction.remarks[0]
    np.testing.assert_array_equal(prediction.scores, read(head).scores)


def test_extreme_logits_stay_finite(head):
    for factor in (1e4, -1e4):
        loud = copy.deepcopy(head)
        for name in ("decision_weight", "presence_weight"):
            getattr(loud, name).mul_(factor)
        prediction = read(loud)
        assert 0 <= prediction.probability <= 1
        assert ((prediction.presence >= 0) & (prediction.presence <= 1)).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_summarys_numbers_add_up(head, seed):
    prediction = read(
        head, made_similarity(seed), boxes=random_boxes(seed), rejected=NAMES[: seed % 2]
    )
    told = json.loads(json.dumps(concept_summary(prediction), allow_nan=False))
    total = told["baseline"] + sum(row["contribution"] for row in told["concepts"])
    assert total == pytest.approx(told["logit"], abs=1e-5)
    decided = calibrated(head.decide(torch.from_numpy(prediction.scores)[None])[0])
    assert told["logit"] == pytest.approx(decided, abs=1e-5)
    assert told["probability"] == prediction.probability
    assert told["verdict"] == ("malignant" if prediction.probability > 0.5 else "benign")
    for k, row in enumerate(told["concepts"]):
        assert row["name"] == NAMES[k]
        assert row["rejected"] == (NAMES[k] in prediction.revision.rejected)
        assert (row["presence"] is None) == row["rejected"]
        m = prediction.shown[k]
        assert row["prototype"] == (m if m >= 0 else None)
        assert row["score"] == (
            pytest.approx(prediction.scores[k, m], abs=1e-4) if m >= 0 else None
        )
        assert row["reader_kappa"] == CONCEPTS[k].reader_kappa
        assert row["criterion"] == CONCEPTS[k].criterion
    assert told["revision"]["elsewhere"] == prediction.revision.elsewhere
    assert len(told["revision"]["boxes"]) == 3
    assert told["remarks"] == list(prediction.remarks)


def test_the_sentence_begins_with_what_weighs_most(head):
    prediction = read(head, rejected=("calcified",), mode="zero")
    prediction = replace(
        prediction,
        contribution=np.array([0.26, -1.34, 0.04]),
        presence=np.array([0.817, 0.1, np.nan]),
        baseline=-2.0,
    )
    assert evidence_sentence(prediction) == (
        "ill-defined margin 0.10, -1.3 logits; spiculated 0.82, +0.3 logits;"
        " calcified rejected, +0.0 logits; without any -2.0: together -3.0"
    )


def test_what_the_shipped_head_shows_adds_up_to_what_it_says():
    """All cases: the shown logits are those of the shown probability, and of its verdict."""
    bundle = load_bundle(default_bundle_folder())
    info, calibration = bundle.info, bundle.info.concept_calibration
    assert calibration.slope > 1.1  # There is something to fold in.
    for scores in bundle.concepts.scores:
        maps = scores[..., None, None, None]
        prediction = predict_concepts(bundle.head, info.concepts, calibration, maps, GRID)
        told = concept_summary(prediction)
        shown = told["baseline"] + sum(row["contribution"] for row in told["concepts"])
        assert np.log(told["probability"] / (1 - told["probability"])) == pytest.approx(
            shown, abs=1e-4
        )
        assert (shown > 0) == (told["verdict"] == "malignant")


@pytest.fixture(scope="module")
def shipped():
    return load_bundle(default_bundle_folder())


@pytest.fixture(scope="module")
def shipped_encodings(shipped):
    """The phantom's nodules as the shipped network and head see them, on and off their centres."""
    random, phantom = np.random.default_rng(0), make_phantom()
    points = [
        np.array(nodule.center_ras_mm) + random.uniform(-6, 6, 3) * off
        for nodule in phantom.nodules
        for off in (0, 1)
    ]
    patches = [crop_patch(phantom.volume, tuple(point)) for point in points]
    return encode(shipped.network, patches, torch.device("cpu"), shipped.head)


def test_f5_no_box_raises_anything_that_the_shipped_head_says_is_there(shipped, shipped_encodings):
    random, info = np.random.default_rng(1), shipped.info
    names = [concept.name for concept in info.concepts]

    def read_shipped(encoding, *boxes):
        return predict_concepts(
            shipped.head, info.concepts, info.concept_calibration, encoding.similarity,
            encoding.grid, Revision(boxes=boxes),
        )  # fmt: skip

    for encoding in shipped_encodings:
        plain = read_shipped(encoding)
        middle = encoding.grid.centers_ras_mm.reshape(-1, 3).mean(axis=0)
        boxes: list[Box] = []
        for n in range(40):
            center = middle + random.uniform(-20, 20, 3)
            size = (100.0,) * 3 if n % 10 == 9 else tuple(random.uniform(5, 40, 3))
            about = None if n % 2 else str(random.choice(names))
            box = Box(tuple(center), size, look=n % 4 == 3, concept=about)
            before = read_shipped(encoding, *boxes) if boxes else plain
            after = read_shipped(encoding, *boxes, box)
            assert (after.similarity <= encoding.similarity).all()
            assert (after.presence <= plain.presence + 1e-6).all()
            if not box.look:  # A further box to look into may take back what another one hid.
                assert (after.similarity <= before.similarity).all()
                assert (after.presence <= before.presence + 1e-6).all()
            boxes = [*boxes, box][-3:]


def test_no_shown_prototype_of_the_shipped_head_runs_against_its_bar(shipped):
    head, slope = shipped.head, shipped.info.concept_calibration.slope
    weight = (head.decision_weight * head.kept).numpy()
    for scores in shipped.concepts.scores[::5]:
        maps = scores[..., None, None, None]
        prediction = predict_concepts(
            head, shipped.info.concepts, shipped.info.concept_calibration, maps, GRID
        )
        for k, m in enumerate(prediction.shown):
            added = slope * (scores[k] - head.absent[k].numpy()) * weight[k]
            bar = prediction.contribution[k]
            if m >= 0 and abs(added[m]) >= 0.005:
                assert added[m] * bar > 0
            elif m >= 0:
                assert not ((added * np.sign(bar)) >= 0.005).any()
                assert head.presence_weight[k, m] * head.kept[k, m] > 0


@pytest.mark.parametrize(
    ("bound", "share", "diameter_mm", "factor"),
    [
        ({"at_least": 8.0}, 0.9, 4.0, 2.0),
        ({"at_least": 8.0}, 0.9, 16.0, 1.0),
        ({"at_least": 8.0}, 0.1, 16.0, 2.0),
        ({"at_least": 8.0}, 0.1, 4.0, 1.0),
        ({"at_most": 8.0}, 0.9, 16.0, 2.0),
        ({"at_most": 8.0}, 0.9, 4.0, 1.0),
        ({"at_most": 8.0}, 0.1, 4.0, 2.0),
        ({"at_most": 8.0}, 0.1, 16.0, 1.0),
    ],
)
def test_a_measured_size_contradicts_what_the_concepts_say_of_it(bound, share, diameter_mm, factor):
    """Both kinds of bound, present and absent, each with a size on its either side."""
    concepts = [Concept("size", DIAMETER, **bound), Concept("smooth", "margin", at_least=4.0)]
    volume_mm3 = np.pi / 6 * diameter_mm**3
    told = size_factor(concepts, np.array([share, 0.99]), volume_mm3)
    assert told == pytest.approx(factor)
    assert np.isnan(size_factor(concepts[1:], np.array([0.99]), volume_mm3))
