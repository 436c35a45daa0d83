"""Self-paced learning: how many hard negatives, and which anchors count (arXiv:2404.04887)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

SelfPacing = Literal["paper", "quantile", "off"]
"""Which anchors count: those below the published threshold, the easiest share, or all."""


class SelfPaced(NamedTuple):
    """Which anchors of a batch count.

    Attributes:
        weights: (B,) s, 0 or 1, without gradient.
        fallback: Whether none was selected, and therefore all count.
    """

    weights: Tensor
    fallback: bool

    @property
    def selected_share(self) -> float:
        """Share of the anchors that the rule selected; 0 where all count as the fallback."""
        return 0.0 if self.fallback else float(self.weights.mean())


def negatives_kept(step: int, steps: int, count: int) -> int:
    """K_t = floor(count cos(pi t / 2T)): how many of the hardest negatives are kept.

    At least 1, unlike the published K_T = 0, which leaves no negative and divides by 0.

    Args:
        step: t, 0 to `steps`.
        steps: T, at least 1.
        count: How many negatives there are, at least 1; all are kept at the first step.

    Example:
        >>> [negatives_kept(t, 6, 256) for t in range(7)]
        [256, 247, 221, 181, 128, 66, 1]
    """
    if steps < 1 or not 0 <= step <= steps:
        raise ValueError(f"wanted a step from 0 to at least 1, got step {step} of {steps}")
    if count < 1:
        raise ValueError(f"wanted at least one negative, got {count}")
    # The quotient first: pi t / 2T would miss count / 2 by one at t = 26 of T = 39.
    return max(1, math.floor(count * math.cos(math.pi / 2 * (step / steps))))


def self_paced_weights(loss: Tensor, kept: int, mode: SelfPacing, progress: float) -> SelfPaced:
    """Which anchors count by their losses: the easy ones.

    Args:
        loss: (B,) losses of the anchors on the kept negatives.
        kept: K_t, at least 1.
        mode: "paper" selects losses below 1 / K_t, which minimise sum s l - sum s / K_t. It
            selects nothing before the encoder is trained; then all count. "quantile" selects the
            easiest share, growing evenly from 1/2 to 1; of equal losses the first. "off" selects
            all.
        progress: Share of the steps that are done, 0 to 1.

    Example:
        >>> self_paced_weights(torch.tensor([0.3, 0.1, 0.2]), 4, "paper", 0.0).weights
        tensor([0., 1., 1.])
        >>> self_paced_weights(torch.tensor([0.3, 0.4, 0.5]), 4, "paper", 0.0)
        SelfPaced(weights=tensor([1., 1., 1.]), fallback=True)
        >>> self_paced_weights(torch.tensor([0.3, 0.2, 0.2]), 4, "quantile", 0.0).weights
        tensor([0., 1., 1.])
    """
    if mode not in get_args(SelfPacing):
        raise ValueError(f"wanted one of {', '.join(get_args(SelfPacing))}, got {mode}")
    if kept < 1 or not 0 <= progress <= 1:
        raise ValueError(
            f"wanted at least one negative and a progress from 0 to 1, got {kept} and {progress}"
        )
    if mode == "paper":
        selected = loss < 1 / kept
        if not selected.any():
            return SelfPaced(torch.ones_like(loss), fallback=True)
        return SelfPaced(selected.to(loss.dtype), fallback=False)
    if mode == "quantile":
        return SelfPaced(_easiest(loss, 0.5 + 0.5 * progress), fallback=False)
    return SelfPaced(torch.ones_like(loss), fallback=False)


def _easiest(loss: Tensor, share: float) -> Tensor:
    """(B,) 1 for the ceil(share B) smallest of (B,) losses, else 0."""
    # Rounded first: 0.55 x 100 is 55.00000000000001, whose ceiling is 56.
    count = math.ceil(round(share * len(loss), 9))
    order = loss.argsort(stable=True)
    return torch.zeros_like(loss).scatter(0, order[:count], 1.0)
