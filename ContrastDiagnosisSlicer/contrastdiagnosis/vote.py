"""The vote of the nearest cases, and what it means as a probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCORE_MARGIN = 1e-3
"""Scores are kept this far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class VoteRule:
    """How many cases vote, and how fast their weight falls with distance."""

    k: int
    """Nearest cases that vote; odd, so that a plain vote cannot tie."""
    temperature: float
    """Distance over which a case's weight falls to 1/e of the nearest one's, > 0."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.k % 2 == 0:
            raise ValueError(f"k must be odd and positive, got {self.k}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def score(self, distance: ArrayLike, malignant: ArrayLike) -> NDArray[np.float64]:
        """Distance-weighted share of malignant cases, (...).

        Args:
            distance: (..., k) distances of the voting cases.
            malignant: (..., k) bool labels of the voting cases.
        """
        distance = np.asarray(distance, dtype=np.float64)
        nearest = distance.min(axis=-1, keepdims=True)
        weight = np.exp(-(distance - nearest) / self.temperature)
        return (weight * np.asarray(malignant)).sum(axis=-1) / weight.sum(axis=-1)


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of vote scores: probability = sigmoid(slope * logit(score) + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, score: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probability of scores in [0, 1], elementwise."""
        return 1 / (1 + np.exp(-(self.slope * logit(score) + self.intercept)))


def fit_calibration(score: ArrayLike, share: ArrayLike) -> Calibration:
    """Platt scaling fitted to scores of cases that neither the network nor the vote has seen.

    Args:
        score: (N,) scores in [0, 1].
        share: (N,) bool labels, or shares of readers in [0, 1].
    """
    from sklearn.linear_model import LogisticRegression

    x, share = logit(score)[:, None], np.asarray(share, dtype=np.float64)
    # A share is as many opinions for as against.
    label = np.repeat([True, False], len(share))
    weight = np.concatenate([share, 1 - share])
    model = LogisticRegression(C=1e6).fit(np.tile(x, (2, 1)), label, sample_weight=weight)
    return Calibration(float(model.coef_[0, 0]), float(model.intercept_[0]))


def logit(score: ArrayLike) -> NDArray[np.float64]:
    """Log odds of scores in [0, 1], held within `SCORE_MARGIN` of the ends."""
    inner = np.clip(np.asarray(score, dtype=np.float64), SCORE_MARGIN, 1 - SCORE_MARGIN)
    return np.log(inner / (1 - inner))
