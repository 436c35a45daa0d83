"""`Items`: batches of cells for the stages of a concept head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from contrastdiagnosis.concepts.head import ConceptHead
from torch import Tensor

from contrastdiagnosis_training.concept_head.cell_views import CellViews
from contrastdiagnosis_training.concept_head.place import nodule_places
from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe


@dataclass(frozen=True, eq=False)
class Items:
    """A batch: positions among the training nodules (B,), and one view of each."""

    nodule: Tensor
    cells: Tensor
    weight: Tensor
    seen: Tensor
    """(B, K, d, h, w) weight of the cells that show each concept if it is present."""
    elsewhere: Tensor
    """(B, K, d, h, w) bool, cells that cannot."""

    def prior(self, recipe: ConceptRecipe) -> Tensor:
        """(B, d, h, w) where concept maps are pooled."""
        if recipe.mask_prior:
            return self.weight
        return torch.full_like(self.weight, 1 / self.weight[0].numel())

    def prior_of_concepts(self, recipe: ConceptRecipe) -> Tensor:
        """(B, K, d, h, w) the same without cells that cannot show the concept."""
        prior = self.prior(recipe)[:, None].expand_as(self.elsewhere)
        return prior.masked_fill(self.elsewhere, 0) if recipe.places else prior


def steps_per_epoch(views: CellViews, recipe: ConceptRecipe) -> int:
    """Batches that an epoch has."""
    return max(views.cells.shape[1] // recipe.batch, 1)


def epoch_of_items(
    head: ConceptHead, views: CellViews, recipe: ConceptRecipe, generator: torch.Generator
) -> Iterable[Items]:
    """Every nodule once, in one of its views; the last incomplete batch is dropped."""
    order = torch.randperm(views.cells.shape[1], generator=generator)
    for part in order.split(recipe.batch)[: steps_per_epoch(views, recipe)]:
        view = torch.randint(len(views.cells), (len(part),), generator=generator)
        weight = views.weight[view, part].float()
        yield Items(
            part,
            head.standardised(views.cells[view, part]),
            weight / weight.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12),
            *_places(views, view, part, recipe),
        )


def _places(
    views: CellViews, view: Tensor, part: Tensor, recipe: ConceptRecipe
) -> tuple[Tensor, Tensor]:
    if recipe.places:
        return views.seen[view, part].float(), views.elsewhere[view, part]
    shape = views.seen[view, part].shape
    seen, elsewhere = nodule_places(views.marked[view, part].float())
    return seen[:, None].expand(shape), elsewhere[:, None].expand(shape)
