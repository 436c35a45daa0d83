"""What a step of pre-training minimises: the terms of CoMCL (arXiv:2404.04887, Eqs. 1-4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from contrastdiagnosis_training.objectives.info_nce import hardest, info_nce, similarities
from contrastdiagnosis_training.objectives.losses import weighted_mean
from contrastdiagnosis_training.objectives.self_paced import (
    SelfPaced,
    negatives_kept,
    self_paced_weights,
)
from contrastdiagnosis_training.pretraining.negative_queue import NegativeQueue, allowed_negatives
from contrastdiagnosis_training.pretraining.recipe import TERMS, PretrainingRecipe


class Anchors(NamedTuple):
    """B patches of one set, each with its positive.

    Attributes:
        embedding: (B, q) L2-normalised, with gradient.
        positive: (B, q) L2-normalised, of another view of the same patch.
        patient: (B,) int64.
    """

    embedding: Tensor
    positive: Tensor
    patient: Tensor


class Phase(NamedTuple):
    """Where in the run a step is.

    Attributes:
        second: Whether hard negatives and self-pacing count.
        step: t of the second phase, 0 in the first.
        steps: T, the steps of the second phase.
    """

    second: bool
    step: int
    steps: int

    @property
    def progress(self) -> float:
        """Share of the second phase that is done."""
        return self.step / self.steps if self.second else 0.0


def term_loss(
    anchors: Anchors,
    negative: Tensor,
    negative_patient: Tensor,
    recipe: PretrainingRecipe,
    phase: Phase,
) -> tuple[Tensor, SelfPaced]:
    """The mean loss of one term, and which anchors counted.

    Args:
        anchors: Of the term.
        negative: (N, q) L2-normalised.
        negative_patient: (N,) int64; an anchor's own patient gives none.
        recipe: Temperature, hard negatives, pacing.
        phase: Where in the run.
    """
    allowed = allowed_negatives(anchors.patient, negative_patient)
    kept = max(len(negative), 1)
    if phase.second:
        kept = negatives_kept(phase.step, phase.steps, kept)
    if phase.second and recipe.hard_negatives:
        with torch.no_grad():
            allowed = hardest(similarities(anchors.embedding, negative), kept, allowed)
    loss = info_nce(anchors.embedding, anchors.positive, negative, recipe.temperature, allowed)
    mode = recipe.pacing if phase.second else "off"
    # An anchor without a negative costs 0: it would pass for an easy one.
    told = allowed.any(dim=1)
    if not told.any():
        return 0 * anchors.embedding.sum(), SelfPaced(torch.ones_like(loss), fallback=False)
    paced = self_paced_weights(loss[told], kept, mode, phase.progress)
    return weighted_mean(loss[told], paced.weights), paced


def terms_of_step(
    anchors: Mapping[str, Anchors],
    queues: Mapping[str, NegativeQueue],
    recipe: PretrainingRecipe,
    phase: Phase,
) -> tuple[dict[str, Tensor], dict[str, SelfPaced]]:
    """Every term of the recipe by name: its mean loss, and which anchors counted.

    Args:
        anchors: By set.
        queues: The negatives by set; those of this step are among them.
        recipe: Its terms.
        phase: Where in the run.
    """
    losses, selected = {}, {}
    for term in recipe.terms:
        whose, against = TERMS[term]
        joined = Anchors(
            *(torch.cat(part) for part in zip(*(anchors[s] for s in whose), strict=True))
        )
        negative = torch.cat([queues[s].embedding for s in against])
        patient = torch.cat([queues[s].patient for s in against])
        losses[term], selected[term] = term_loss(joined, negative, patient, recipe, phase)
    return losses, selected
