"""The losses. Each gives one value per item; weighting and reduction stand apart."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional


def weighted_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean of (N,) losses weighted by (N,) non-negative weights; 0 where all weights are 0.

    Example:
        >>> loss = torch.tensor([1.0, 3.0, 100.0])
        >>> weighted_mean(loss, torch.tensor([3.0, 1.0, 0.0])).item()
        1.5
        >>> weighted_mean(loss, torch.zeros(3)).item()
        0.0
    """
    return (loss * weight).sum() / weight.sum().clamp(min=1e-12)


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) Euclidean distances of (N, p) and (M, p), with a zero gradient at distance 0.

    The differences are formed outright: `torch.cdist` by matrix product gives distances of up to
    0.3 between equal unnormalised embeddings.
    """
    return torch.linalg.vector_norm(a[:, None] - b[None], dim=-1)


def margin_contrastive(distance: Tensor, same: Tensor, margin: float) -> Tensor:
    """Per-pair contrastive loss l_c = y d + (1 - y) max(0, m - d) (arXiv:2403.05280).

    Args:
        distance: (P,) distances of pairs.
        same: (P,) bool, whether the pair is of one class.
        margin: Distance m beyond which a pair of two classes costs nothing, > 0.
    """
    if margin <= 0:
        raise ValueError(f"margin must be positive, got {margin}")
    return torch.where(same, distance, functional.relu(margin - distance))


def consensus(share: Tensor) -> Tensor:
    """How far a voxel belongs to the consensus of at least half of the readers, in [0, 1].

    Shares of up to a quarter are 0, from a half on 1. With three or four readers the consensus
    begins between 1/3 or 1/4 and 1/2; a plain threshold at 1/2 would lose every border voxel that
    half of the readers marked, as soon as interpolation mixes it with its neighbour.
    """
    return ((share - 0.25) * 4).clamp(0, 1)


def dice_ce(logits: Tensor, share: Tensor) -> Tensor:
    """(B,) Dice loss plus voxel cross-entropy against the readers' consensus.

    Args:
        logits: (B, 1, D, H, W).
        share: (B, 1, D, H, W) in [0, 1], share of the readers who marked the voxel. Binary masks
            give the plain DiceCE of arXiv:2403.05280.
    """
    target = consensus(share)
    dice = DiceLoss(sigmoid=True, reduction="none")(logits, (target >= 0.5).float())
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return dice.flatten(1).mean(dim=1) + cross_entropy.flatten(1).mean(dim=1)


def rating_regression(predicted: Tensor, target: Tensor) -> Tensor:
    """(B,) mean smooth L1 over the known ratings, 0 where none is known.

    Args:
        predicted: (B, R) standardised ratings.
        target: (B, R) standardised ratings, NaN where unknown.
    """
    known = target.isfinite()
    loss = functional.smooth_l1_loss(predicted, target.nan_to_num(), reduction="none") * known
    return loss.sum(dim=1) / known.sum(dim=1).clamp(min=1)


def soft_vote(distance: Tensor, share: Tensor, allowed: Tensor) -> Tensor:
    """(B,) softmax-weighted vote: the share of suspicion among the others, by closeness.

    A differentiable k-NN vote, as in neighbourhood components analysis (Goldberger 2004).

    Args:
        distance: (B, M) distances from each anchor to the voters.
        share: (M,) voters' share of suspicious ratings in [0, 1].
        allowed: (B, M) bool, False where a voter may not vote (the anchor itself).
    """
    weight = torch.softmax((-distance).masked_fill(~allowed, -torch.inf), dim=1)
    return weight @ share


def vote_cross_entropy(vote: Tensor, share: Tensor) -> Tensor:
    """(B,) cross-entropy of votes in [0, 1] against shares in [0, 1]."""
    vote = vote.clamp(1e-4, 1 - 1e-4)
    return -(share * vote.log() + (1 - share) * (1 - vote).log())


def soft_triple(
    cosine: Tensor,
    concept: Tensor,
    margin: float = -0.1,
    scale: float = 20.0,
    gamma: float = 10.0,
    left_out: Tensor | None = None,
) -> Tensor:
    """(N,) multi-prototype contrastive loss (SoftTriple, arXiv:1909.05235; CSR, Eqs. 6-9).

    Args:
        cosine: (N, K, M) of each vector with the M prototypes of K concepts.
        concept: (N,) index of the vector's own concept.
        margin: Added to the own concept's similarity, also in the denominator: negative is a true
            margin; positive is the sign printed in arXiv:2503.06873, which relaxes the constraint.
        scale: lambda.
        gamma: Sharpness of the choice among prototypes; high ones leave the best alone.
        left_out: (N, K) bool, concepts that the vector need not be told from.
    """
    share = (gamma * cosine).softmax(dim=-1)
    own = functional.one_hot(concept, cosine.shape[1])
    similarity = (share * cosine).sum(dim=-1) + margin * own
    if left_out is not None:
        similarity = similarity.masked_fill(left_out & ~own.bool(), -torch.inf)
    return functional.cross_entropy(scale * similarity, concept, reduction="none")


def known_bce(logit: Tensor, target: Tensor, positive_weight: Tensor | None = None) -> Tensor:
    """(B,) mean binary cross-entropy over what is known, 0 where nothing is.

    Args:
        logit: (B, K).
        target: (B, K) in [0, 1], NaN where unknown.
        positive_weight: (K,) weight of the positive part.
    """
    known = target.isfinite()
    loss = functional.binary_cross_entropy_with_logits(
        logit, target.nan_to_num(), reduction="none", pos_weight=positive_weight
    )
    return (loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
