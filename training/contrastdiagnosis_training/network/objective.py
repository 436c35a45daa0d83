"""What a training step minimises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from contrastdiagnosis.model.network import NoduleFeatures
from torch import Tensor

from contrastdiagnosis_training.network.recipe import Recipe
from contrastdiagnosis_training.objectives.losses import (
    dice_ce,
    known_bce,
    margin_contrastive,
    pairwise_distance,
    rating_regression,
    soft_vote,
    vote_cross_entropy,
    weighted_mean,
)


class Targets(NamedTuple):
    """What is known of a batch.

    Attributes:
        malignant: (B,) bool.
        suspicion: (B,) share of the readers who suspect malignancy, NaN where unknown.
        ratings: (B, R) standardised ratings and log diameter, NaN where unknown.
        concepts: (B, K) share of the readers who call each concept present, NaN where unknown.
    """

    malignant: Tensor
    suspicion: Tensor
    ratings: Tensor
    concepts: Tensor


def objective(
    features: NoduleFeatures,
    share: Tensor,
    targets: Targets,
    recipe: Recipe,
    mask_only: bool,
    concept_logits: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of the loss by name; their sum is minimised.

    Args:
        features: Of a batch.
        share: (B, 1, D, H, W) share of the readers who marked each voxel.
        targets: Of the same batch.
        recipe: Weights of the terms.
        mask_only: Leave everything but the segmentation out.
        concept_logits: (B, K) of `concept_task.py`, where concepts are trained along.
    """
    # Two branches, each with its own segmentation loss (arXiv:2403.05280): hence the factor.
    terms = {"mask": 2 * recipe.omega * dice_ce(features.mask_logits.float(), share).mean()}
    if mask_only:
        return terms
    embedding = features.embedding.float()
    distance = pairwise_distance(embedding, embedding)
    if recipe.contrastive_weight:
        terms["contrast"] = recipe.contrastive_weight * contrast(distance, targets, recipe)
    if recipe.vote_weight:
        terms["vote"] = recipe.vote_weight * vote_loss(distance, targets)
    if recipe.rating_weight:
        loss = rating_regression(features.ratings.float(), targets.ratings)
        terms["ratings"] = recipe.rating_weight * loss.mean()
    if concept_logits is not None:
        loss = known_bce(concept_logits.float(), targets.concepts)
        terms["concepts"] = recipe.concept_weight * loss.mean()
    return terms


def contrast(distance: Tensor, targets: Targets, recipe: Recipe) -> Tensor:
    """Contrastive loss over all pairs of a batch: mean over pairs of one class plus of two.

    Args:
        distance: (B, B).
        targets: Labels.
        recipe: Margin, and whether pairs weigh by how sure the readers were.
    """
    first, second = torch.triu_indices(
        len(distance), len(distance), offset=1, device=distance.device
    )
    same = targets.malignant[first] == targets.malignant[second]
    loss = margin_contrastive(distance[first, second], same, recipe.margin)
    if recipe.sure_pairs:
        certainty = (2 * targets.suspicion - 1).abs().nan_to_num()
        weight = certainty[first] * certainty[second]
    else:
        weight = torch.ones_like(loss)
    return weighted_mean(loss, weight * same) + weighted_mean(loss, weight * ~same)


def vote_loss(distance: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy of the soft vote among the rest of the batch."""
    known = targets.suspicion.isfinite()
    suspicion = targets.suspicion.nan_to_num()
    others = ~torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    vote = soft_vote(distance, suspicion, others & known[None])
    return weighted_mean(vote_cross_entropy(vote, suspicion), known.float())
