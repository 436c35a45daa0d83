"""The atlas, the cells of a region, and metrics of recipes side by side, on made scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.concepts.head import Concept, ConceptConfig, ConceptHead
from contrastdiagnosis_training.commands.concepts_ablate import (
    HEADING,
    ablation_line,
    heldout_metrics,
)
from contrastdiagnosis_training.concept_head.cell_views import CellViews
from contrastdiagnosis_training.concept_head.scores import ConceptScores, make_atlas, touched_cells
from contrastdiagnosis_training.concept_head.trainer import ConceptTargets
from contrastdiagnosis_training.data.concept_list import concepts_of

CONCEPTS = (
    Concept("spiculated", "spiculation", at_least=3),
    Concept("calcified", "calcification", at_most=5),
)
EACH = 3
LIDC_CONCEPTS = concepts_of(LIDC)
LARGE = [not concept.measured for concept in LIDC_CONCEPTS].index(False)

pytestmark = pytest.mark.usefixtures("one_thread")


def made_head(**changes):
    head = ConceptHead(ConceptConfig(len(CONCEPTS), EACH, 4, 1, 5)).requires_grad_(False)
    for name, value in changes.items():
        getattr(head, name).copy_(torch.as_tensor(value))
    return head


def made_scores(n=40, seed=0):
    random = np.random.default_rng(seed)
    shape = (n, len(CONCEPTS), EACH)
    return ConceptScores(
        case_id=np.array([f"case {i}" for i in range(n)]),
        patient_id=np.array([f"p{i}" for i in range(n)]),
        scores=random.uniform(-0.2, 0.9, shape).astype(np.float32),
        share=random.choice([0.0, 0.25, 0.5, 1.0, np.nan], shape[:2]),
        malignancy=random.uniform(1, 5, n),
        diameter_mm=random.uniform(4, 20, n),
        place=random.integers(0, 512, shape),
        inside=np.ones(shape, bool),
    )


def test_the_atlas_shows_the_nearest_case_and_the_cell_that_came_nearest():
    scored = made_scores()
    scored.scores[7, 1, 2], scored.place[7, 1, 2] = 0.95, 3 * 64 + 5 * 8 + 6
    scored.scores[8, 0, 0], scored.place[8, 0, 0] = 0.97, 511
    atlas = make_atlas(CONCEPTS, made_head(), scored)
    assert [(p.concept, p.number) for p in atlas] == [
        (c.name, m) for c in CONCEPTS for m in range(3)
    ]
    last, first = atlas[-1], atlas[0]
    assert (last.case_id, last.cell_kji) == ("case 7", (3, 5, 6))
    assert (first.case_id, first.cell_kji) == ("case 8", (7, 7, 7))
    assert (last.similarity, first.similarity) == pytest.approx((0.95, 0.97))


def test_the_nearest_case_need_not_show_the_concept():
    scored = made_scores()
    scored.scores[7, 1, 2], scored.share[7, 1] = 0.95, 0
    assert make_atlas(CONCEPTS, made_head(), scored)[-1].case_id == "case 7"


def test_hits_are_cases_that_show_the_concept_and_score_highest_among_the_kept():
    scored = made_scores()
    kept = np.array([[1, 0, 1], [1, 1, 1]], np.float32)
    hits = np.zeros((2, EACH), int)
    for n, k in np.ndindex(40, 2):
        if scored.share[n, k] >= 0.5:
            best = max((m for m in range(EACH) if kept[k, m]), key=lambda m: scored.scores[n, k, m])
            hits[k, best] += 1
    atlas = make_atlas(CONCEPTS, made_head(kept=kept), scored)
    assert [p.hits for p in atlas] == hits.ravel().tolist()
    assert hits[0, 1] == 0 and (hits.ravel()[[0, 2, 3, 4, 5]] > 0).all()


def test_removed_prototypes_stay_in_the_atlas_and_are_marked():
    scored = made_scores()
    kept = np.array([[1, 0, 1], [0, 1, 1]], np.float32)
    whole = make_atlas(CONCEPTS, made_head(), scored)
    pruned = make_atlas(CONCEPTS, made_head(kept=kept), scored)
    assert all(p.kept for p in whole)
    assert [p.kept for p in pruned] == [True, False, True, False, True, True]
    assert [replace(p, hits=0, kept=True) for p in pruned] == [replace(p, hits=0) for p in whole]


def test_a_concept_that_no_case_shows_has_no_hits():
    scored = made_scores()
    scored.share[:, 0] = 0.25
    assert [p.hits for p in make_atlas(CONCEPTS, made_head(), scored)[:EACH]] == [0] * EACH


@pytest.mark.parametrize(("shape", "grid"), [((6, 12, 20), (2, 3, 4)), ((4, 3, 2), (4, 3, 2))])
def test_touched_cells_as_in_plain_loops(shape, grid):
    region = np.random.default_rng(0).random(shape) < 0.05
    cells = np.zeros(grid, bool)
    for voxel in np.argwhere(region):
        cells[tuple(v * g // s for v, g, s in zip(voxel, grid, shape, strict=True))] = True
    assert 0 < cells.sum() < cells.size
    np.testing.assert_array_equal(touched_cells(region, grid), cells)
    assert not touched_cells(np.zeros(shape, bool), grid).any()


GRID = (2, 3, 4)
COUNT, VIEWS, CHANNELS = 70, 2, 5


def made_views(seed=0):
    random = torch.Generator().manual_seed(seed)
    cells = 2 + torch.randn(VIEWS, COUNT, CHANNELS, *GRID, generator=random)
    seen = (torch.rand(VIEWS, COUNT, len(LIDC_CONCEPTS), *GRID, generator=random) - 0.6).clamp(0)
    nowhere = torch.zeros(VIEWS, COUNT, *GRID)
    return CellViews(cells.half(), nowhere, nowhere, seen.half(), seen == 0)


def made_targets(seed=0):
    random = np.random.default_rng(seed)
    share = random.choice([0, 0.25, 0.5, 1, np.nan], (COUNT, len(LIDC_CONCEPTS)))
    malignancy = random.choice([1, 2.5, 3, 4, np.nan], COUNT)
    return ConceptTargets(torch.from_numpy(share).float(), torch.from_numpy(malignancy).float())


def ablated_head(seed=0):
    torch.manual_seed(seed)
    head = ConceptHead(ConceptConfig(len(LIDC_CONCEPTS), EACH, 6, 1, CHANNELS))
    for name in ("mean", "presence_weight", "presence_bias", "decision_weight"):
        getattr(head, name).copy_(torch.rand(getattr(head, name).shape))
    head.scale.copy_(1 + torch.rand(CHANNELS))
    return head.eval().requires_grad_(False)


def area(score, positive):
    """AUC by counting pairs."""
    above = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, p in zip(score, positive, strict=True) if p
        for b, q in zip(score, positive, strict=True) if not q
    ]  # fmt: skip
    return np.mean(above)


def metrics(views=None, targets=None):
    return heldout_metrics(
        ablated_head(), views or made_views(), targets or made_targets(), LIDC_CONCEPTS
    )


def test_the_metrics_of_a_recipe_as_in_plain_loops():
    head, views, targets = ablated_head(), made_views(), made_targets()
    share, malignancy = targets.share.numpy(), targets.malignancy.numpy()
    auroc, malignant, pointing = [], [], []
    each = {concept.name: [] for concept in LIDC_CONCEPTS}
    for v in range(VIEWS):
        presence, logit, hits = np.zeros(share.shape), np.zeros(COUNT), []
        for n in range(COUNT):
            cells = (views.cells[v, n].float() - head.mean.view(-1, 1, 1, 1)) / head.scale.view(
                -1, 1, 1, 1
            )
            alike = head.similarity(cells[None])
            presence[n] = head.presence(head.scores(alike))[0]
            logit[n] = head.decide(head.scores(alike))[0]
            for k in np.flatnonzero(share[n] >= 0.5):
                _, *cell = np.unravel_index(alike[0, k].argmax(), (EACH, *GRID))
                hits.append(float(views.seen[(v, n, k, *cell)]) > 0)
        for k, concept in enumerate(LIDC_CONCEPTS):
            known = share[:, k] == share[:, k]
            if 0 < (share[known, k] >= 0.5).sum() < known.sum():
                each[concept.name].append(area(presence[known, k], share[known, k] >= 0.5))
            if not concept.measured:
                auroc.append(each[concept.name][-1])
        kept = (malignancy == malignancy) & (malignancy != 3)
        malignant.append(area(logit[kept], malignancy[kept] > 3))
        pointing.append(np.mean(hits))
    assert len(auroc) == VIEWS * 6
    told = metrics()
    concepts = told.pop("concepts")
    assert list(concepts) == list(each)
    for name, values in each.items():
        expected = np.mean(values) if values else np.nan
        assert concepts[name] == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert told == pytest.approx(
        {
            "auroc": np.mean(auroc),
            "malignancy": np.mean(malignant),
            "pointing": np.mean(pointing),
        },
        abs=1e-5,
    )


def test_size_is_pointed_at_but_counts_for_no_auroc():
    targets = made_targets()
    share = targets.share.clone()
    share[:, LARGE] = 1
    before, after = metrics(targets=targets), metrics(targets=replace(targets, share=share))
    assert after["auroc"] == before["auroc"] and after["pointing"] != before["pointing"]


@pytest.mark.parametrize("weight", [0.0, 0.01, 1.0])
def test_a_pointer_hits_wherever_there_is_any_weight(weight):
    views = made_views()
    everywhere = replace(views, seen=torch.full_like(views.seen, weight))
    assert metrics(everywhere)["pointing"] == float(weight > 0)


def test_a_line_shows_recipe_network_and_all_metrics():
    centred = {"auroc": 0.81234, "malignancy": 0.9, "pointing": 0.7}
    off_centre = {"auroc": 0.8, "malignancy": 0.85, "pointing": 0.05}
    row = {
        "recipe": "prototypes=5", "network": "runs/cv/fold0", "seed": 2, "alive": [3, 10],
        "centred": centred, "off_centre": off_centre,
    }  # fmt: skip
    line = ablation_line(row)
    told = "prototypes=5 cv/fold0 2 0.812 0.900 0.700 · 0.800 0.850 0.050 alive [3, 10]"
    assert " ".join(line.split()) == told
    # Under the heading's columns.
    heading = HEADING
    for name, value in (("recipe", "prototypes=5"), ("network", "cv/fold0"), ("seed", " 2")):
        side = str.index if name == "recipe" else lambda text, part: text.index(part) + len(part)
        assert side(line, value) == side(heading, name)
