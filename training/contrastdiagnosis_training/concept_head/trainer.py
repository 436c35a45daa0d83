"""The three stages that make a `ConceptHead` (CSR, arXiv:2503.06873) on a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from contrastdiagnosis.concepts.fit import absent_scores, fit_linear_parts
from contrastdiagnosis.concepts.head import ConceptConfig, ConceptHead
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from contrastdiagnosis_training.concept_head.cell_views import CellViews
from contrastdiagnosis_training.concept_head.items import Items, epoch_of_items, steps_per_epoch
from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe
from contrastdiagnosis_training.objectives.losses import known_bce, soft_triple

PRESENT = 0.5
"""Share of the readers from which on a concept counts as present: their majority."""

HIGHEST_POSITIVE_WEIGHT = 10.0

LAST_RESEED = 0.7
"""Share of the epochs after which prototypes stay where they are, so that all of them settle."""

FIRST_THRESHOLD = 0.4
FIRST_STEEPNESS = 10.0
"""Where presence begins on the scale of cosines, and how steeply; both are learned."""


@dataclass(frozen=True, eq=False)
class ConceptTargets:
    """What readers say of N nodules.

    Attributes:
        share: (N, K) share of the readers who call each concept present, NaN where unknown.
        malignancy: (N,) mean on the scale that all sources share.
    """

    share: Tensor
    malignancy: Tensor


def train_head(
    views: CellViews,
    targets: ConceptTargets,
    recipe: ConceptRecipe,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ConceptHead:
    """A head after all three stages, in eval mode.

    Args:
        views: Of the training nodules.
        targets: In the same order.
        recipe: How.
        seed: Fixes weights and order.
        on_progress: Called with (stage, done, all) after each epoch.
    """
    torch.manual_seed(seed)
    head = new_head(views, targets.share.shape[1], recipe)
    generator = torch.Generator().manual_seed(seed)
    fit_concepts(head, views, targets, recipe, generator, on_progress)
    fit_prototypes(head, views, targets, recipe, generator, on_progress)
    fit_decisions(head, views_scores(head, views), targets, recipe, seed)
    return head.eval().requires_grad_(False)


def new_head(views: CellViews, concepts: int, recipe: ConceptRecipe) -> ConceptHead:
    """An untrained head that sees cells as they are in these views."""
    channels = views.cells.shape[2]
    if not recipe.whole:
        channels = views.own or channels
    config = ConceptConfig(
        concepts, recipe.prototypes, recipe.width, recipe.blocks, channels, recipe.whole,
        recipe.rectified,
    )  # fmt: skip
    head = ConceptHead(config)
    head.mean, head.scale = views.mean_and_scale(channels)
    return head


def fit_concepts(
    head: ConceptHead,
    views: CellViews,
    targets: ConceptTargets,
    recipe: ConceptRecipe,
    generator: torch.Generator,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Stage 1: concept maps by the cross-entropy of their pooled logits."""
    share = _labels(targets, recipe)
    known = targets.share.isfinite().sum(dim=0).clamp(min=1)
    positive = ((targets.share >= PRESENT).sum(dim=0) / known).clamp(min=0.02)
    weight = ((1 - positive) / positive).clamp(max=HIGHEST_POSITIVE_WEIGHT)

    def loss(items: Items) -> Tensor:
        logits = head.concept_logits(items.cells, items.prior(recipe))
        return known_bce(logits, share[items.nodule], weight).mean()

    parameters = [*head.concept.parameters(), head.concept_bias]
    batches = [epoch_of_items(head, views, recipe, generator) for _ in range(recipe.concept_epochs)]
    _optimise(
        "concepts", parameters, recipe.concept_rate, recipe.weight_decay, batches,
        steps_per_epoch(views, recipe), lambda items, _: loss(items), on_progress,
    )  # fmt: skip


def fit_prototypes(
    head: ConceptHead,
    views: CellViews,
    targets: ConceptTargets,
    recipe: ConceptRecipe,
    generator: torch.Generator,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Stage 2: projector and prototypes; features and concept maps stay as they are."""
    k, m = head.config.concepts, head.config.prototypes
    share, present = _labels(targets, recipe), targets.share >= PRESENT
    threshold = nn.Parameter(torch.full((k,), FIRST_THRESHOLD))
    steepness = nn.Parameter(torch.full((k,), FIRST_STEEPNESS).log())
    head.concept.requires_grad_(False)
    hits, seen = torch.zeros(k, m), [torch.zeros(0, head.config.width) for _ in range(k)]

    def triple(vectors: Tensor, concept: Tensor, shown: Tensor | None, gamma: float) -> Tensor:
        cosine = torch.einsum("nw,kmw->nkm", vectors, head.unit_prototypes())
        margin = recipe.margin_sign * recipe.margin
        return soft_triple(cosine, concept, margin, recipe.scale, gamma, shown).mean()

    def loss(items: Items, done: float) -> Tensor:
        first, last = recipe.gamma
        gamma = first * (last / first) ** done
        total = items.cells.new_zeros(())
        row, concept = present[items.nodule].nonzero(as_tuple=True)
        if len(row):
            prior = items.prior_of_concepts(recipe)
            local = head.local_vectors(items.cells, prior)[row, concept]
            vectors = head.projector(local)
            shown = None if recipe.contrast_shown else present[items.nodule][row]
            _count(head, vectors.detach(), concept, hits, seen)
            total = total + triple(vectors, concept, shown, gamma)
            if recipe.cell_weight:
                cell = _cell_that_shows(items, row, concept, generator)
                total = total + recipe.cell_weight * triple(
                    head.projector(cell), concept, shown, gamma
                )
        if recipe.presence_weight or recipe.outside_weight:
            best = head.similarity(items.cells).amax(dim=2)

            def logit(highest: Tensor) -> Tensor:
                return steepness.exp() * (highest - threshold)

            there = logit(best.flatten(2).amax(dim=-1))
            outside = best.masked_fill(~items.elsewhere, -1).flatten(2).amax(dim=-1)
            total = total + recipe.presence_weight * known_bce(there, share[items.nodule]).mean()
            nothing = functional.softplus(logit(outside)).mean()
            total = total + recipe.outside_weight * nothing
        return total

    def after_epoch(stage: str, done: int, epochs: int) -> None:
        if recipe.reseed and done <= LAST_RESEED * epochs:
            _reseed(head, hits, seen, generator)
        hits.zero_()
        seen[:] = [torch.zeros(0, head.config.width) for _ in range(k)]
        if on_progress:
            on_progress(stage, done, epochs)

    parameters = [*head.projector.parameters(), head.prototype, threshold, steepness]
    batches = [
        epoch_of_items(head, views, recipe, generator) for _ in range(recipe.prototype_epochs)
    ]
    _optimise(
        "prototypes", parameters, recipe.prototype_rate, recipe.weight_decay, batches,
        steps_per_epoch(views, recipe), loss, after_epoch,
    )  # fmt: skip
    head.concept.requires_grad_(True)
    with torch.no_grad():
        head.prototype.copy_(head.unit_prototypes())


def fit_decisions(
    head: ConceptHead,
    scores: Tensor,
    targets: ConceptTargets,
    recipe: ConceptRecipe,
    seed: int = 0,
) -> None:
    """Stage 3: presence and decision, linear in the scores; all else stays as it is.

    Args:
        head: After stage 2.
        scores: (V, N, K, M) of views of the training nodules; the penalties count V rows as one.
        targets: What readers say of them.
        recipe: Dropout and penalty.
        seed: Fixes which concepts are dropped.
    """
    views = len(scores)
    flat = scores.flatten(0, 1).double().numpy()
    share = targets.share.repeat(views, 1).numpy()
    malignancy = targets.malignancy.repeat(views).numpy()
    head.absent.copy_(torch.from_numpy(absent_scores(flat, share)))
    fit_linear_parts(
        head, flat, share, malignancy, recipe.dropout, recipe.penalty, recipe.absent_penalty,
        views, seed,
    )  # fmt: skip


def keep_alive(head: ConceptHead, scores: NDArray, share: NDArray) -> None:
    """Leaves out prototypes that no nodule with the concept is nearest to.

    Args:
        head: Its `kept` is changed in place.
        scores: (N, K, M) of the training nodules.
        share: (N, K) share of the readers who call each concept present, NaN where unknown.
    """
    kept = head.kept.numpy().copy()
    for k in range(len(kept)):
        best = np.where(kept[k] > 0, scores[share[:, k] >= PRESENT, k], -np.inf).argmax(axis=1)
        kept[k] *= np.bincount(best, minlength=kept.shape[1]) > 0
    head.kept.copy_(torch.from_numpy(kept))


@torch.no_grad()
def views_scores(head: ConceptHead, views: CellViews) -> Tensor:
    """(V, N, K, M) scores of all views."""
    rows = []
    for view in views.cells:
        parts = [head.scores(head.similarity(head.standardised(part))) for part in view.split(64)]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _optimise(
    stage: str,
    parameters: list[nn.Parameter],
    rate: float,
    weight_decay: float,
    epochs: Sequence[Iterable[Items]],
    steps: int,
    loss: Callable[[Items, float], Tensor],
    on_progress: Callable[[str, int, int], None] | None,
) -> None:
    """AdamW on a cycle of the rate; the loss is told how far the stage has come, from 0 to 1."""
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)
    total = max(len(epochs) * steps, 2)
    warm_up = max(0.1, 1.5 / total)
    schedule = OneCycleLR(
        optimizer, rate, total_steps=total, pct_start=warm_up, cycle_momentum=False
    )
    for done, epoch in enumerate(epochs):
        for items in epoch:
            value = loss(items, done / len(epochs))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            schedule.step()
        if on_progress:
            on_progress(stage, done + 1, len(epochs))


def _labels(targets: ConceptTargets, recipe: ConceptRecipe) -> Tensor:
    if recipe.soft_labels:
        return targets.share
    hard = (targets.share >= PRESENT).float()
    return torch.where(targets.share.isfinite(), hard, torch.nan)


def _cell_that_shows(
    items: Items, row: Tensor, concept: Tensor, generator: torch.Generator
) -> Tensor:
    """(R, C) a random cell for each (row, concept) that may show it; any where none does."""
    chance = items.seen.flatten(2)[row, concept] + 1e-9
    place = torch.multinomial(chance, 1, generator=generator)[:, 0]
    return items.cells.flatten(2)[row, :, place]


@torch.no_grad()
def _count(
    head: ConceptHead, vectors: Tensor, concept: Tensor, hits: Tensor, seen: list[Tensor]
) -> None:
    """Which prototype of its concept each vector is nearest to."""
    prototypes = head.unit_prototypes()
    for k in concept.unique().tolist():
        own = vectors[concept == k]
        hits[k] += (own @ prototypes[k].T).argmax(dim=1).bincount(minlength=hits.shape[1])
        seen[k] = torch.cat([seen[k], own])


@torch.no_grad()
def _reseed(
    head: ConceptHead, hits: Tensor, seen: list[Tensor], generator: torch.Generator
) -> None:
    """Moves prototypes that nobody chose onto the vectors that are covered worst."""
    prototypes = head.unit_prototypes()
    for k, vectors in enumerate(seen):
        dead = (hits[k] == 0).nonzero().flatten()
        if not len(vectors) or not len(dead):
            continue
        covered = (vectors @ prototypes[k].T).amax(dim=1)
        worst = covered.argsort()[: max(2 * len(dead), 1)]
        chosen = worst[torch.randperm(len(worst), generator=generator)][: len(dead)]
        head.prototype[k, dead[: len(chosen)]] = vectors[chosen]
