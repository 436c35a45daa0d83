"""Simulated users, who correct made-up predictions of four concepts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.vote import Calibration
from contrastdiagnosis.concepts.boxes import CellGrid
from contrastdiagnosis.concepts.concept_prediction import predict_concepts
from contrastdiagnosis.concepts.head import Concept, ConceptConfig, ConceptHead
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, Patch
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis_training.concept_head.scores import touched_cells
from contrastdiagnosis_training.evaluation.concepts.users import (
    MARGIN_MM,
    MISTAKES,
    Truth,
    astray_concepts,
    nodule_box,
    noisy_actions,
    perfect_actions,
    revision_of,
    wrong_concepts,
)

CONCEPTS = (
    Concept("spiculated", "spiculation", at_least=3),
    Concept("ill-defined margin", "margin", at_most=3),
    Concept("sub-solid", "texture", at_most=3),
    Concept("calcified", "calcification", at_most=5),
)
SPICULATED, MARGIN, SUB_SOLID, CALCIFIED = (concept.name for concept in CONCEPTS)
CENTER = (10.0, -20.0, 30.0)
GRID = CellGrid(
    Patch(
        np.zeros(DEFAULT_GEOMETRY.shape, np.float32),
        np.ones(DEFAULT_GEOMETRY.shape, bool),
        DEFAULT_GEOMETRY.ijk_to_ras(CENTER),
    ),
    (8, 8, 8),
)
IN, OUT = (4, 4, 4), (0, 1, 2)
"""A cell of the nodule, and one far from it."""


def made_head(weight=(1.0, -3.0, 2.0, 0.5)):
    """Shows a concept whose score exceeds one half."""
    head = ConceptHead(ConceptConfig(len(CONCEPTS), 1, 4, 1, 5)).requires_grad_(False)
    head.presence_weight[:] = 10
    head.presence_bias[:] = -5
    head.decision_weight[:, 0] = torch.tensor(weight)
    head.absent[:] = 0.1
    return head


def reader(score, place=(IN, IN, IN, IN), weight=(1.0, -3.0, 2.0, 0.5)):
    """Reads maps of these scores at these cells, after any revision."""
    head = made_head(weight)
    similarity = np.full((len(CONCEPTS), 1, *GRID.shape), -0.2, np.float32)
    for k, cell in enumerate(place):
        similarity[(k, 0, *cell)] = score[k]

    def read(revision=Revision()):
        return predict_concepts(head, CONCEPTS, Calibration(), similarity, GRID, revision)

    return read


def made_mask():
    mask = np.zeros(DEFAULT_GEOMETRY.shape, bool)
    mask[14:20, 30:41, 24:37] = True
    return mask


def truth_of(share, mask=None):
    mask = made_mask() if mask is None else mask
    return Truth(np.array(share), mask, touched_cells(mask, GRID.shape))


def actions_of(read, truth, kinds=("reject", "box")):
    return perfect_actions(read(), truth, GRID, kinds, read)


def moved(read, action):
    return abs(read(revision_of([action])).logit - read().logit)


def test_wrong_is_what_is_shown_and_most_readers_deny():
    prediction = reader((0.9, 0.9, 0.9, 0.3))()
    assert wrong_concepts(prediction, truth_of((0.25, 0.5, np.nan, 0.0))) == [SPICULATED]
    assert wrong_concepts(prediction, truth_of((0.0, 0.4, 0.1, 0.0))) == [
        SPICULATED, MARGIN, SUB_SOLID,
    ]  # fmt: skip


def test_astray_is_what_is_shown_elsewhere_than_in_the_nodule():
    prediction = reader((0.9, 0.9, 0.3, 0.9), (IN, OUT, OUT, (7, 4, 4)))()
    assert astray_concepts(prediction, truth_of([1.0] * 4)) == [MARGIN, CALCIFIED]
    everywhere = truth_of([1.0] * 4, np.ones(DEFAULT_GEOMETRY.shape, bool))
    assert astray_concepts(prediction, everywhere) == []


def test_the_box_reaches_a_margin_beyond_the_nodule_on_every_side():
    mask = np.zeros(DEFAULT_GEOMETRY.shape, bool)
    mask[4:9, 10:21, 30] = True
    mask[6, 15, 30:51] = True
    box = nodule_box(GRID, mask)
    assert box.look and box.concept is None
    # i runs to the left, j to posterior, both by 0.7 mm; k runs to superior by 1.25 mm.
    assert box.size_mm == pytest.approx(np.array([20 * 0.7, 10 * 0.7, 4 * 1.25]) + 2 * MARGIN_MM)
    away = np.array([(31.5 - 40) * 0.7, (31.5 - 15) * 0.7, (6 - 15.5) * 1.25])
    assert box.center_ras_mm == pytest.approx(CENTER + away)


@pytest.mark.parametrize("seed", range(4))
def test_the_box_touches_every_cell_of_the_nodule(seed):
    random = np.random.default_rng(seed)
    mask = np.zeros(DEFAULT_GEOMETRY.shape, bool)
    mask[tuple(random.integers(0, (32, 64, 64), (3, 3)).T)] = True
    assert GRID.touched(nodule_box(GRID, mask))[touched_cells(mask, GRID.shape)].all()


def test_all_that_is_called_for_is_done_and_what_moves_the_logit_most_comes_first():
    read = reader((0.9, 0.8, 0.7, 0.9), (OUT, IN, IN, IN))
    actions = actions_of(read, truth_of((0.0, 0.0, 0.0, 1.0)))
    box = ("box", nodule_box(GRID, made_mask()))
    # By 3 * 0.7 down, 2 * 0.6 and 1 * 0.8 up; the box leaves 0.2 of a score of 0.9.
    assert actions == [
        ("reject", MARGIN), ("reject", SUB_SOLID), ("reject", SPICULATED), box,
    ]  # fmt: skip
    assert [moved(read, a) for a in actions] == pytest.approx([2.1, 1.2, 0.8, 0.72], abs=1e-5)


def test_a_box_that_moves_more_than_rejections_comes_before_them():
    read = reader((0.9, 0.8, 0.7, 0.9), (IN, OUT, IN, IN), weight=(1.0, -3.0, 2.0, 0.5))
    actions = actions_of(read, truth_of((0.0, 1.0, 0.0, 0.0)))
    assert [what if kind == "reject" else kind for kind, what in actions] == [
        "box", SUB_SOLID, SPICULATED, CALCIFIED,
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_order_is_that_of_a_slow_look_at_each_action(seed):
    random = np.random.default_rng(seed)
    place = tuple(tuple(cell) for cell in random.integers(0, 8, (4, 3)))
    read = reader(random.uniform(0.4, 0.95, 4), place, tuple(random.normal(size=4)))
    truth = truth_of(random.uniform(0, 1, 4))
    actions = actions_of(read, truth)
    wanted = [("reject", name) for name in wrong_concepts(read(), truth)]
    if astray_concepts(read(), truth):
        wanted.append(("box", nodule_box(GRID, truth.mask)))
    assert len(actions) == len(wanted) and all(a in actions for a in wanted)
    steps = [moved(read, a) for a in actions]
    assert steps == sorted(steps, reverse=True)


def test_only_the_kinds_that_are_asked_for_are_done():
    read = reader((0.9, 0.8, 0.7, 0.9), (OUT, IN, IN, IN))
    truth = truth_of((0.0, 0.0, 1.0, 1.0))
    rejections = [("reject", MARGIN), ("reject", SPICULATED)]
    assert actions_of(read, truth, ("reject",)) == rejections
    assert actions_of(read, truth, ("box",)) == [("box", nodule_box(GRID, made_mask()))]
    assert actions_of(read, truth, ()) == []


def test_nothing_is_done_where_nothing_is_called_for():
    assert (
        actions_of(reader((0.9, 0.8, 0.3, 0.2), (IN, IN, OUT, OUT)), truth_of((1, 1, 0, 0))) == []
    )


def test_without_a_nodule_no_box_is_drawn():
    empty = truth_of((1.0, 1.0, 1.0, 1.0), np.zeros(DEFAULT_GEOMETRY.shape, bool))
    assert actions_of(reader((0.9, 0.8, 0.7, 0.9)), empty) == []


BOX = ("box", Box(CENTER, (8.0, 8.0, 8.0), look=True))
REJECTION = ("reject", SUB_SOLID)


def noisy(actions, share=(1.0, 0.5, 0.0, np.nan), seed=0):
    prediction = reader((0.9, 0.9, 0.9, 0.9))()
    return noisy_actions(actions, prediction, truth_of(share), GRID, np.random.default_rng(seed))


def test_corrections_are_weighed_as_they_are_taken():
    """The box leaves 0.2 of a score of 0.9 and moves less than a rejection by 0.8, or nothing."""
    read, truth = reader((0.9, 0.8, 0.7, 0.9), (OUT, IN, IN, IN)), truth_of((0.0, 0.0, 0.0, 1.0))
    kinds = {}
    for elsewhere in (0.2, 0.0):
        way = Revision(elsewhere=elsewhere)
        actions = perfect_actions(read(), truth, GRID, ("reject", "box"), read, way)
        kinds[elsewhere] = [kind for kind, _ in actions]
    assert kinds == {0.2: ["reject"] * 3 + ["box"], 0.0: ["reject", "reject", "box", "reject"]}


def single(action, count, share=(1.0, 0.5, 0.0, np.nan)):
    """What becomes of an action, again and again."""
    return [made for n in range(count) for made in noisy([action], share, seed=n)]


def test_one_action_in_five_is_wrong_and_none_is_lost():
    for right in (REJECTION, BOX):
        made = single(right, 2000)
        assert {kind for kind, _ in made} == {right[0]} and len(made) == 2000
        assert sum(m != right for m in made) / 2000 == pytest.approx(MISTAKES, abs=0.03)
    assert MISTAKES == 0.2
    assert noisy([]) == []


def test_a_wrong_rejection_hits_any_concept_that_the_readers_see():
    hit = Counter(what for _, what in single(REJECTION, 2000))
    assert set(hit) == {SUB_SOLID, SPICULATED, MARGIN}
    assert hit[SPICULATED] / hit[MARGIN] == pytest.approx(1, abs=0.25)


def test_where_the_readers_see_none_a_wrong_rejection_hits_one_that_is_told_rightly():
    made = single(REJECTION, 2000, share=(0.0, 0.4, 0.0, np.nan))
    hit = Counter(what for _, what in made)
    assert set(hit) == {concept.name for concept in CONCEPTS}
    assert 1 - hit[SUB_SOLID] / 2000 == pytest.approx(MISTAKES, abs=0.03)


def test_no_concept_is_rejected_twice():
    actions = [("reject", SPICULATED), ("reject", SUB_SOLID), ("reject", MARGIN)]
    for seed in range(200):
        made = noisy(actions, share=(0.0, 0.0, 0.0, 1.0), seed=seed)
        assert len(set(made)) == len(made)


def test_wrong_boxes_lie_anywhere_in_the_patch():
    boxes = [what for _, what in noisy([BOX] * 4000) if what != BOX[1]]
    assert {(box.size_mm, box.look, box.concept) for box in boxes} == {((12.0,) * 3, True, None)}
    centers = np.array([box.center_ras_mm for box in boxes])
    cells = GRID.centers_ras_mm.reshape(-1, 3)
    np.testing.assert_allclose(centers.min(axis=0), cells.min(axis=0))
    np.testing.assert_allclose(centers.max(axis=0), cells.max(axis=0))
    assert len(np.unique(centers.round(3), axis=0)) > 300


def test_the_same_draws_make_the_same_mistakes():
    actions = [REJECTION, BOX] * 50
    assert noisy(actions, seed=3) == noisy(actions, seed=3)
    assert noisy(actions, seed=3) != noisy(actions, seed=4)


def test_a_revision_holds_boxes_and_each_rejection_once():
    other = ("box", Box(CENTER, (5.0, 6.0, 7.0), look=False))
    revision = revision_of([REJECTION, BOX, ("reject", MARGIN), other, REJECTION])
    assert revision == Revision(boxes=(BOX[1], other[1]), rejected=(SUB_SOLID, MARGIN))
    assert revision_of([]) == Revision()


def test_a_revision_takes_only_mode_and_weight_from_the_other():
    corrected = Revision((BOX[1],), (CALCIFIED,), mode="zero", elsewhere=0.5)
    revision = revision_of([REJECTION], corrected)
    assert revision == Revision((), (SUB_SOLID,), mode="zero", elsewhere=0.5)
