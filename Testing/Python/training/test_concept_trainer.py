"""The three stages of a concept head on made cells: what is planted is learned, where it is."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.concepts.head import ConceptConfig, ConceptHead
from contrastdiagnosis_training.commands.concepts_ablate import recipe_of
from contrastdiagnosis_training.concept_head import trainer as concept_trainer
from contrastdiagnosis_training.concept_head.cell_views import CellViews
from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe, chosen_concept_recipe
from contrastdiagnosis_training.concept_head.trainer import (
    PRESENT,
    ConceptTargets,
    _count,
    _labels,
    _reseed,
    fit_concepts,
    fit_decisions,
    fit_prototypes,
    keep_alive,
    new_head,
    train_head,
    views_scores,
)
from contrastdiagnosis_training.objectives.losses import soft_triple
from sklearn.metrics import roc_auc_score

GRID = (2, 3, 4)
CONCEPTS, CHANNELS = 3, 8
RECIPE = ConceptRecipe(
    prototypes=3, width=16, blocks=1, concept_epochs=8, prototype_epochs=15, batch=16,
    concept_rate=0.03, prototype_rate=0.01, gamma=(10.0, 100.0), reseed=True, presence_weight=1.0,
    outside_weight=1.0, cell_weight=1.0, soft_labels=True, mask_prior=True, margin_sign=-1,
    penalty=2.0,
)  # fmt: skip
PUBLISHED = replace(
    RECIPE, presence_weight=0.0, outside_weight=0.0, cell_weight=0.0, mask_prior=False,
    soft_labels=False, margin_sign=1, gamma=(100.0, 100.0),
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def made(n=128, views=2, seed=0):
    """Views, targets and the cell of each concept, (V, N, K): channel k shines there if present.

    A nodule is made of 6 cells that the readers marked; concepts are seen within it. Another cell
    of the background shines in channel 7 only, whatever the concepts.
    """
    random = np.random.default_rng(seed)
    share = random.choice([0.0, 0.25, 0.75, 1.0], (n, CONCEPTS), p=[0.4, 0.15, 0.15, 0.3])
    count = int(np.prod(GRID))
    cells = 0.3 * random.normal(size=(views, n, CHANNELS, count)) + 2
    weight, marked = np.full((views, n, count), 1e-4), np.zeros((views, n, count))
    where = np.zeros((views, n, CONCEPTS), int)
    for v, i in np.ndindex(views, n):
        order = random.permutation(count)
        nodule = order[:6]
        weight[v, i, nodule], marked[v, i, nodule] = 1, 1
        cells[v, i, 6, nodule] += 2
        cells[v, i, 7, order[6]] += 3
        for k in range(CONCEPTS):
            where[v, i, k] = nodule[k]
            if share[i, k] >= PRESENT:
                cells[v, i, k, nodule[k]] += 4
    weight /= weight.sum(axis=-1, keepdims=True)
    cells, weight, marked = (
        torch.from_numpy(x).half().unflatten(-1, GRID) for x in (cells, weight, marked)
    )
    seen = (marked[:, :, None] >= PRESENT).repeat(1, 1, CONCEPTS, 1, 1, 1)
    malignant = (share[:, 0] >= PRESENT) ^ (random.random(n) < 0.05)
    malignancy = torch.from_numpy(np.where(malignant, 4.5, 1.5)).float()
    malignancy[::10] = 3
    targets = ConceptTargets(torch.from_numpy(share).float(), malignancy)
    return CellViews(cells, weight, marked, seen.half(), ~seen), targets, where


@pytest.fixture(scope="module")
def training():
    return made()


@pytest.fixture(scope="module")
def trained(training):
    return train_head(training[0], training[1], RECIPE, seed=0)


def measured(head, data):
    """AUROC of presence, share of the present concepts found in their cell, AUROC of the logit."""
    views, targets, where = data
    scores = views_scores(head, views)[0]
    present = (targets.share >= PRESENT).numpy()
    presence = head.presence(scores).numpy()
    auroc = [roc_auc_score(present[:, k], presence[:, k]) for k in range(CONCEPTS)]
    mean, scale = (x[:, None, None, None] for x in (head.mean, head.scale))
    similarity = head.similarity((views.cells[0].float() - mean) / scale)
    best = similarity.amax(dim=2).flatten(2).argmax(dim=-1).numpy()
    found = (best == where[0])[present].mean()
    rated = (targets.malignancy != 3).numpy()
    logit = head.decide(scores).numpy()
    return auroc, found, roc_auc_score(targets.malignancy[rated] > 3, logit[rated])


def test_planted_concepts_are_learned_and_found(trained):
    auroc, found, malignant = measured(trained, made(seed=1))
    assert min(auroc) > 0.95
    assert found > 0.95
    assert malignant > 0.85


def test_an_untrained_head_finds_nothing(training):
    """What the test above asks for is not had for nothing."""
    still = replace(RECIPE, concept_epochs=0, prototype_epochs=0)
    _, found, _ = measured(train_head(training[0], training[1], still), made(seed=1))
    assert found < 0.5


def test_a_trained_head_is_ready_to_be_used(trained, training):
    assert not trained.training
    assert not any(p.requires_grad for p in trained.parameters())
    assert all(w.isfinite().all() for w in trained.state_dict().values())
    torch.testing.assert_close(
        trained.prototype.norm(dim=-1), torch.ones(CONCEPTS, RECIPE.prototypes)
    )
    assert (trained.presence_weight >= 0).all()
    mean, scale = training[0].mean_and_scale(CHANNELS)
    assert torch.equal(trained.mean, mean) and torch.equal(trained.scale, scale)
    assert trained.kept.eq(1).all()


def test_the_seed_fixes_the_head(training, trained):
    short = replace(RECIPE, concept_epochs=1, prototype_epochs=2)
    first, again, other = (train_head(training[0], training[1], short, seed=s) for s in (3, 3, 4))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert not torch.equal(first.prototype, other.prototype)


@pytest.mark.parametrize(
    "change",
    [
        {"soft_labels": False, "cell_weight": 0.0},
        {"mask_prior": False, "margin_sign": 1},
        {"reseed": False, "blocks": 0},
        {"presence_weight": 0.0, "outside_weight": 0.0},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_setting_learns(training, change):
    head = train_head(training[0], training[1], replace(RECIPE, **change))
    auroc, found, _ = measured(head, training)
    assert min(auroc) > 0.85
    assert found > 0.8


def test_the_published_settings_run(training):
    head = train_head(training[0], training[1], PUBLISHED)
    assert all(w.isfinite().all() for w in head.state_dict().values())
    auroc, _, malignant = measured(head, training)
    assert min(auroc) > 0.85 and malignant > 0.6


def with_twins(data):
    """The same, but another cell of the nodule shines as well, and in channel 5; and its places."""
    views, targets, where = data
    cells, inside = views.cells.flatten(3).clone(), views.weight.flatten(2) > 0.01
    twin, seen = where.copy(), torch.zeros_like(views.seen).flatten(3)
    for v, n in np.ndindex(where.shape[:2]):
        nodule = inside[v, n].nonzero().flatten().numpy()
        twin[v, n] = np.setdiff1d(nodule, where[v, n])[:CONCEPTS]
        for k in range(CONCEPTS):
            cells[v, n, k, twin[v, n, k]] = cells[v, n, k, where[v, n, k]]
            cells[v, n, 5, twin[v, n, k]] += 2
            seen[v, n, k, twin[v, n, k]] = 1
    shaped = cells.unflatten(3, GRID)
    return replace(views, cells=shaped), targets, twin, seen.unflatten(3, GRID)


def test_a_concept_is_found_where_it_is_told_to_be_seen():
    views, targets, _, seen = with_twins(made())
    told = replace(views, seen=seen, elsewhere=seen == 0)
    fresh_views, fresh_targets, fresh_twin, _ = with_twins(made(seed=1))
    found = [
        measured(train_head(v, targets, RECIPE), (fresh_views, fresh_targets, fresh_twin))[1]
        for v in (told, views)
    ] + [
        measured(
            train_head(told, targets, replace(RECIPE, places=False)),
            (fresh_views, fresh_targets, fresh_twin),
        )[1]
    ]
    assert found[0] > 0.9
    assert max(found[1:]) < found[0] - 0.2


def test_unknown_shares_are_left_out(training):
    views, targets, _ = training
    share = targets.share.clone()
    share[::2, 1] = share[1::3, 2] = torch.nan
    unrated = targets.malignancy.clone()
    unrated[::4] = torch.nan
    head = train_head(views, ConceptTargets(share, unrated), RECIPE)
    assert all(w.isfinite().all() for w in head.state_dict().values())
    auroc, found, _ = measured(head, made(seed=1))
    assert min(auroc) > 0.9
    assert found > 0.8


def test_one_view_and_fewer_nodules_than_a_batch_suffice():
    views, targets, where = made(n=24, views=1)
    head = train_head(
        views, targets, replace(RECIPE, batch=64, concept_epochs=30, prototype_epochs=40)
    )
    assert np.mean(measured(head, (views, targets, where))[0]) > 0.75


def test_progress_is_told(training):
    told = []
    recipe = replace(RECIPE, concept_epochs=2, prototype_epochs=3)
    train_head(training[0], training[1], recipe, on_progress=lambda *args: told.append(args))
    assert told == [("concepts", n, 2) for n in (1, 2)] + [("prototypes", n, 3) for n in (1, 2, 3)]


LINEAR = {"absent", "presence_weight", "presence_bias", "decision_weight", "decision_bias"}
SECOND = ("projector", "prototype")


def fresh(views, recipe=RECIPE):
    torch.manual_seed(0)
    config = ConceptConfig(CONCEPTS, recipe.prototypes, recipe.width, recipe.blocks, CHANNELS)
    head = ConceptHead(config)
    head.mean, head.scale = views.mean_and_scale(CHANNELS)
    return head


def changed(head, before):
    after = head.state_dict()
    return {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("recipe", [RECIPE, PUBLISHED], ids=["ours", "published"])
def test_f11_a_stage_changes_nothing_but_its_own(training, recipe):
    views, targets, _ = training
    recipe = replace(recipe, concept_epochs=1, prototype_epochs=2)
    head, generator = fresh(views), torch.Generator().manual_seed(0)
    before = copy.deepcopy(head.state_dict())
    fit_concepts(head, views, targets, recipe, generator)
    assert changed(head, before) == {"concept.weight", "concept_bias"}
    before = copy.deepcopy(head.state_dict())
    fit_prototypes(head, views, targets, recipe, generator)
    moved = changed(head, before)
    assert moved and all(name.startswith(SECOND) for name in moved)
    assert "prototype" in moved and any(name.startswith("projector") for name in moved)
    assert all(p.requires_grad for p in head.parameters())
    before = copy.deepcopy(head.state_dict())
    fit_decisions(head, views_scores(head, views), targets, recipe)
    assert changed(head, before) == LINEAR


def test_the_decision_leaves_out_what_was_rated_in_the_middle_or_not_at_all(training):
    views, targets, _ = training
    head = fresh(views)
    scores = views_scores(head, views)
    fit_decisions(head, scores, targets, RECIPE)
    before = copy.deepcopy(head.state_dict())
    unsure = (targets.malignancy == 3).nonzero().flatten()
    unknown = targets.malignancy.clone()
    unknown[unsure] = torch.nan
    fit_decisions(head, scores, ConceptTargets(targets.share, unknown), RECIPE)
    assert changed(head, before) == set()
    unknown[unsure] = 5
    fit_decisions(head, scores, ConceptTargets(targets.share, unknown), RECIPE)
    assert changed(head, before) == {"decision_weight", "decision_bias"}


def test_scores_of_views_are_those_of_each_view_alone(training, trained):
    views = training[0]
    scores = views_scores(trained, views)
    assert scores.shape == (2, 128, CONCEPTS, RECIPE.prototypes)
    mean, scale = (x[:, None, None, None] for x in (trained.mean, trained.scale))
    for v, n in ((0, 0), (1, 63), (1, 64), (0, 127)):
        cells = (views.cells[v, n].float() - mean) / scale
        alone = trained.scores(trained.similarity(cells[None]))[0]
        torch.testing.assert_close(scores[v, n], alone, atol=1e-5, rtol=1e-5)


def test_labels_are_shares_or_majorities():
    nan = float("nan")
    targets = ConceptTargets(torch.tensor([[0.25, 0.5], [nan, 0.75]]), torch.zeros(2))
    soft = _labels(targets, replace(RECIPE, soft_labels=True))
    hard = _labels(targets, replace(RECIPE, soft_labels=False))
    torch.testing.assert_close(soft, targets.share, equal_nan=True)
    torch.testing.assert_close(hard, torch.tensor([[0.0, 1.0], [nan, 1.0]]), equal_nan=True)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_reseeding_moves_dead_prototypes_alone_and_onto_vectors_that_none_covers():
    torch.manual_seed(0)
    head = ConceptHead(ConceptConfig(3, 4, 16, 1, CHANNELS))
    before = head.prototype.detach().clone()
    hits = torch.tensor([[3.0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    seen = [unit(30, 16), unit(30, 16, seed=1), torch.zeros(0, 16)]
    _reseed(head, hits, seen, torch.Generator().manual_seed(0))
    moved = (head.prototype != before).any(dim=-1)
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[0, [1, 3]] = True
    assert torch.equal(moved, expected)
    covered = (seen[0] @ torch.nn.functional.normalize(before[0], dim=-1).T).amax(dim=1)
    worst = seen[0][covered.argsort()[:4]]
    for m in (1, 3):
        assert (head.prototype[0, m] == worst).all(dim=-1).any()
    assert not torch.equal(head.prototype[0, 1], head.prototype[0, 3])


def test_fewer_vectors_than_dead_prototypes_move_as_many_as_there_are():
    torch.manual_seed(0)
    head = ConceptHead(ConceptConfig(1, 4, 16, 1, CHANNELS))
    before = head.prototype.detach().clone()
    _reseed(head, torch.zeros(1, 4), [unit(2, 16)], torch.Generator().manual_seed(0))
    assert int((head.prototype != before).any(dim=-1).sum()) == 2


def test_hits_are_counted_by_the_nearest_prototype_of_the_own_concept():
    torch.manual_seed(0)
    head = ConceptHead(ConceptConfig(2, 3, 16, 1, CHANNELS))
    prototypes = head.unit_prototypes().detach()
    vectors = torch.stack([prototypes[0, 2], prototypes[0, 2], prototypes[1, 0], prototypes[1, 1]])
    concept = torch.tensor([0, 0, 1, 0])
    hits, seen = torch.zeros(2, 3), [torch.zeros(0, 16) for _ in range(2)]
    _count(head, vectors, concept, hits, seen)
    nearest = int((prototypes[0] @ prototypes[1, 1]).argmax())
    expected = torch.tensor([[0.0, 0, 2], [1, 0, 0]])
    expected[0, nearest] += 1
    assert torch.equal(hits, expected)
    assert [len(x) for x in seen] == [3, 1]


def test_the_positive_weight_knows_only_known_shares():
    """Nodules that nobody rated are no reason to call a concept rare."""
    views, targets, _ = made(n=64, views=1)
    unknown = ConceptTargets(targets.share.clone(), targets.malignancy)
    few = targets.share[:, 0] < PRESENT
    unknown.share[few.nonzero().flatten()[:-4], 0] = torch.nan
    logits = []
    for t in (targets, unknown):
        head, generator = fresh(views), torch.Generator().manual_seed(0)
        recipe = replace(RECIPE, concept_epochs=1, concept_rate=1e-9, soft_labels=False)
        seen = []
        original = torch.nn.functional.binary_cross_entropy_with_logits

        def spying(*args, seen=seen, original=original, **options):
            seen.append(options["pos_weight"])
            return original(*args, **options)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", spying)
            fit_concepts(head, views, t, recipe, generator)
        share = t.share[t.share[:, 0].isfinite(), 0]
        positive = float((share >= PRESENT).float().mean())
        logits.append(positive)
        assert float(seen[0][0]) == pytest.approx((1 - positive) / positive, rel=1e-5)
    assert logits[1] > logits[0] + 0.2


@pytest.mark.parametrize("margin_sign", [-1, 1])
@pytest.mark.parametrize("contrast_shown", [False, True])
def test_prototypes_are_told_apart_as_the_recipe_says(
    monkeypatch, training, margin_sign, contrast_shown
):
    views, targets, _ = training
    calls = []

    def spied(cosine, concept, margin, scale, gamma, left_out):
        calls.append((concept, margin, left_out))
        return soft_triple(cosine, concept, margin, scale, gamma, left_out)

    monkeypatch.setattr(concept_trainer, "soft_triple", spied)
    recipe = replace(
        RECIPE, margin_sign=margin_sign, contrast_shown=contrast_shown, prototype_epochs=1
    )
    train_head(views, targets, recipe, seed=0)
    rows = {tuple(row) for row in (targets.share >= PRESENT).tolist() if any(row)}
    for concept, margin, left_out in calls:
        assert margin == margin_sign * recipe.margin
        if contrast_shown:
            assert left_out is None
        else:
            assert left_out[torch.arange(len(concept)), concept].all()
            assert {tuple(row) for row in left_out.tolist()} <= rows
    assert len(calls) > 5


def test_the_shipped_recipe_has_a_true_margin_and_spares_what_a_nodule_shows():
    assert ConceptRecipe().margin_sign == -1 and not ConceptRecipe().contrast_shown


def test_a_local_head_sees_nothing_of_the_whole_nodule(training):
    """The features of the whole come last; a head that is to see none is not changed by them."""
    views = replace(training[0], own=CHANNELS - 2)
    local, whole = (new_head(views, CONCEPTS, replace(RECIPE, whole=w)) for w in (False, True))
    assert (local.config.channels, whole.config.channels) == (CHANNELS - 2, CHANNELS)
    cells = views.cells[0, :5].clone()
    other = cells.clone()
    other[:, -2:] += 3
    for head, same in ((local, True), (whole, False)):
        seen = [head.similarity(head.standardised(x)) for x in (cells, other)]
        assert torch.equal(*seen) == same


def test_a_rectified_head_counts_no_similarity_below_0(training):
    plain, rectified = (
        new_head(training[0], CONCEPTS, replace(RECIPE, rectified=r)) for r in (False, True)
    )
    rectified.load_state_dict(plain.state_dict())
    cells = plain.standardised(training[0].cells[0, :5])
    cosine = plain.similarity(cells)
    assert cosine.min() < -0.1
    torch.testing.assert_close(rectified.similarity(cells), cosine.clamp(min=0))
    assert rectified.scores(rectified.similarity(cells)).min() >= 0


def test_prototypes_that_no_nodule_is_nearest_to_are_left_out(training):
    head = new_head(training[0], 2, replace(RECIPE, prototypes=3))
    head.kept[1, 0] = 0
    scores = np.zeros((4, 2, 3))
    share = np.array([[1.0, np.nan], [0.6, 1.0], [0.4, 0.5], [0.0, 0.0]])
    scores[:, 0] = [[0.9, 0.1, 0], [0.8, 0.7, 0.7], [0, 0.9, 0], [0, 0, 0.9]]
    scores[:, 1] = [[0, 0, 0.9], [0.9, 0.2, 0.1], [0.9, 0.1, 0.0], [0, 0, 1]]
    keep_alive(head, scores, share)
    assert head.kept.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_csr_as_published_has_a_name_and_trains(training):
    recipe = chosen_concept_recipe("paper", ["prototypes=4", "width=8", "prototype_epochs=1"])
    assert (recipe.scale, recipe.margin, recipe.gamma) == (20, 0.1, (1000, 1000))
    assert recipe.margin_sign == 1 and recipe.contrast_shown and not recipe.whole
    assert recipe.cell_weight == recipe.presence_weight == recipe.outside_weight == 0
    assert chosen_concept_recipe("paper").prototypes == 100
    assert recipe_of("paper prototypes=4 width=8 prototype_epochs=1") == recipe
    head = train_head(training[0], training[1], recipe)
    assert head.config.width == 8 and head.presence_weight.isfinite().all()
