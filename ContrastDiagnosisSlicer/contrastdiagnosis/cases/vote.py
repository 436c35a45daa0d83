"""The vote of the nearest cases, and what it means as a probability."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

VoteForm = Literal["distance-weighted", "majority"]
"""The majority vote is that of arXiv:2403.05280: every one of the k nearest counts alike."""

SCORE_MARGIN = 1e-3
"""Scores are kept this far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True)
class VoteRule:
    """How many cases vote, and how much each of them counts."""

    k: int
    """Nearest cases that vote; odd, so that a plain vote cannot tie."""
    temperature: float | None = None
    """Distance over which a case's weight falls to 1/e of the nearest one's, > 0; a majority vote
    has none, and drops that of the rule it was made from."""
    form: VoteForm = "distance-weighted"

    def __post_init__(self) -> None:
        if self.k < 1 or self.k % 2 == 0:
            raise ValueError(f"k must be odd and positive, got {self.k}")
        if self.form not in get_args(VoteForm):
            wanted = " or ".join(get_args(VoteForm))
            raise ValueError(f"the form of the vote must be {wanted}, got {self.form!r}")
        if self.majority:
            object.__setattr__(self, "temperature", None)
        elif self.temperature is None or not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    @property
    def majority(self) -> bool:
        """Whether every voting case counts alike."""
        return self.form == "majority"

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"{self.form} vote of the {self.k} nearest cases"

    def scaled(self, scale: float) -> VoteRule:
        """The same rule among embeddings that lie `scale` times as far apart."""
        if self.temperature is None:
            return self
        return replace(self, temperature=self.temperature * scale)

    def weight(self, distance: ArrayLike) -> NDArray[np.float64]:
        """(..., k) how much each voting case counts, 1 for the nearest.

        Args:
            distance: (..., k) distances of the voting cases; an infinite one does not count.
        """
        distance = np.asarray(distance, dtype=np.float64)
        if self.temperature is None:
            return np.isfinite(distance).astype(np.float64)
        nearest = distance.min(axis=-1, keepdims=True)
        return np.exp(-(distance - nearest) / self.temperature)

    def score(self, distance: ArrayLike, malignant: ArrayLike) -> NDArray[np.float64]:
        """Share of malignant cases, each with its weight, (...).

        Args:
            distance: (..., k) distances of the voting cases.
            malignant: (..., k) bool labels of the voting cases.

        Example:
            >>> rule = VoteRule(k=3, temperature=1.0)
            >>> rule.weight([1.0, 1.0, 2.0]).round(3).tolist()
            [1.0, 1.0, 0.368]
            >>> round(float(rule.score([1.0, 1.0, 2.0], [True, False, False])), 3)
            0.422
            >>> majority = VoteRule(k=3, form="majority")
            >>> round(float(majority.score([1.0, 1.0, 2.0], [True, False, False])), 3)
            0.333
        """
        weight = self.weight(distance)
        return (weight * np.asarray(malignant)).sum(axis=-1) / weight.sum(axis=-1)


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of vote scores: probability = sigmoid(slope * logit(score) + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, score: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probability of scores in [0, 1], elementwise.

        Example:
            >>> Calibration(slope=2.0).probability([0.0, 0.5, 0.8]).round(4).tolist()
            [0.0, 0.5, 0.9412]
        """
        return expit(self.slope * logit(score) + self.intercept)


def fit_calibration(score: ArrayLike, share: ArrayLike, through_half: bool = False) -> Calibration:
    """Platt scaling fitted to scores of cases that neither the network nor the vote has seen.

    Args:
        score: (N,) scores in [0, 1].
        share: (N,) bool labels, or shares of readers in [0, 1].
        through_half: Keep a score of one half at one half (temperature scaling, arXiv:1706.04599).
    """
    from sklearn.linear_model import LogisticRegression

    x, share = logit(score)[:, None], np.asarray(share, dtype=np.float64)
    # A share is as many opinions for as against.
    label = np.repeat([True, False], len(share))
    weight = np.concatenate([share, 1 - share])
    model = LogisticRegression(C=1e6, fit_intercept=not through_half)
    model.fit(np.tile(x, (2, 1)), label, sample_weight=weight)
    return Calibration(float(model.coef_[0, 0]), float(model.intercept_[0]))


def logit(score: ArrayLike) -> NDArray[np.float64]:
    """Log odds of scores in [0, 1], held within `SCORE_MARGIN` of the ends."""
    inner = np.clip(np.asarray(score, dtype=np.float64), SCORE_MARGIN, 1 - SCORE_MARGIN)
    return np.log(inner / (1 - inner))
