"""How far a diagnosis can be trusted: similarity to the cases, and reasons to abstain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class SimilarityIndicator:
    """Where a distance stands among those of correctly matched pairs (arXiv:2403.05280).

    Attributes:
        matched: (S,) ascending distances between unseen nodules and cases of the same class that
            voted them right. They come from cross-fitting: distances among training embeddings
            are collapsed and would make every new nodule look strange.
        quantile: Share of the matched pairs that counts as near enough.
    """

    matched: NDArray[np.float32]
    quantile: float = 0.95

    def __post_init__(self) -> None:
        matched = np.sort(np.asarray(self.matched, dtype=np.float32))
        if matched.size == 0 or not np.isfinite(matched).all():
            raise ValueError(f"wanted finite matched distances, got {matched.size} values")
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie between 0 and 1, got {self.quantile}")
        object.__setattr__(self, "matched", matched)

    @property
    def threshold(self) -> float:
        """Distance beyond which a case is too far to rely on."""
        return float(np.quantile(self.matched, self.quantile))

    def similarity(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Share of matched pairs at least as far apart, in (0, 1]; a conformal p-value.

        It falls with distance; for exchangeable pairs it is uniform (METHODS 1.5).
        """
        nearer = np.searchsorted(self.matched, np.asarray(distance, np.float32), side="left")
        return (1 + self.matched.size - nearer) / (self.matched.size + 1)


def matched_distances(
    distance: ArrayLike, neighbour_malignant: ArrayLike, malignant: ArrayLike, correct: ArrayLike
) -> NDArray[np.float64]:
    """Distances of the pairs that `SimilarityIndicator` compares with.

    Args:
        distance: (N, k) from each unseen nodule to its voters.
        neighbour_malignant: (N, k) labels of the voters.
        malignant: (N,) labels of the nodules.
        correct: (N,) whether the vote was right.
    """
    same = np.asarray(neighbour_malignant) == np.asarray(malignant)[:, None]
    return np.asarray(distance)[same & np.asarray(correct)[:, None]]


@dataclass(frozen=True)
class Confidence:
    """Whether the vote can be relied on, and if not, why."""

    reasons: tuple[str, ...]
    """Sentences for the user; empty when the diagnosis is confident."""

    @property
    def confident(self) -> bool:
        """True when nothing speaks against the vote."""
        return not self.reasons


def distance_doubts(nearest: float, indicator: SimilarityIndicator) -> list[str]:
    """A sentence if even the nearest case lies beyond the threshold."""
    if nearest <= indicator.threshold:
        return []
    return [
        f"even the nearest case is unlike this nodule: its distance {nearest:.2f} exceeds"
        f" {indicator.threshold:.2f}, within which {indicator.quantile:.0%} of correctly matched"
        " cases lie"
    ]


def vote_doubts(probability: float, split_vote: tuple[float, float]) -> list[str]:
    """A sentence if the calibrated probability lies between the bounds of a split vote."""
    low, high = split_vote
    if not low < probability < high:
        return []
    return [
        f"the vote is split: the probability {probability:.2f} lies between {low:.2f} and"
        f" {high:.2f}"
    ]
