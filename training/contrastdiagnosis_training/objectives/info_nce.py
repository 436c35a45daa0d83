"""InfoNCE with a positive for every anchor and shared negatives (CoMCL, arXiv:2404.04887)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def similarities(anchor: Tensor, negative: Tensor) -> Tensor:
    """(B, N) cosines of (B, q) and (N, q), both L2-normalised.

    In float32 also under autocast: half precision makes neighbours tie, and a cosine that is
    off by 0.004 is off by 0.06 once it is divided by the temperature.
    """
    with torch.autocast(anchor.device.type, enabled=False):
        return anchor.float() @ negative.float().T


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    temperature: float = 0.07,
    allowed: Tensor | None = None,
) -> Tensor:
    """(B,) -log of the positive's share among positive and negatives (arXiv:2404.04887, Eq. 1).

    Args:
        anchor: (B, q), L2-normalised, as are the others.
        positive: (B, q), each anchor's own.
        negative: (N, q), of all anchors.
        temperature: tau, above 0.
        allowed: (B, N) bool, False where a negative does not count for an anchor. An anchor for
            which none counts costs exactly 0, without a gradient.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    with torch.autocast(anchor.device.type, enabled=False):
        own = (anchor.float() * positive.float()).sum(dim=1, keepdim=True)
        others = similarities(anchor, negative)
        if allowed is not None:
            others = others.masked_fill(~allowed, -torch.inf)
        logits = torch.cat([own, others], dim=1) / temperature
        first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return functional.cross_entropy(logits, first, reduction="none")


def hardest(similarity: Tensor, count: int, allowed: Tensor | None = None) -> Tensor:
    """(B, N) bool: each anchor's most similar negatives, M' of arXiv:2404.04887.

    Args:
        similarity: (B, N).
        count: How many to keep, at least 1; of equal ones the first. Where fewer are allowed, all
            of these.
        allowed: (B, N) bool, those to choose from.

    Example:
        >>> hardest(torch.tensor([[0.1, 0.9, 0.5, 0.9]]), 1)
        tensor([[False,  True, False, False]])
    """
    if count < 1:
        raise ValueError(f"at least one negative must be kept, got {count}")
    if allowed is None:
        allowed = torch.ones_like(similarity, dtype=torch.bool)
    hidden = similarity.masked_fill(~allowed, -torch.inf)
    order = hidden.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(allowed).scatter(1, order[:, :count], True)
    return kept & allowed
