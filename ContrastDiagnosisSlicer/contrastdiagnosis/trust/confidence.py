"""How far a diagnosis can be trusted: similarity to the cases, and reasons to abstain."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntervalForm = Literal["quantile", "normal"]
"""Where the 95 % interval of matched distances ends: at their empirical 0.95 quantile, or at mean
+ 1.96 standard deviations, as if they were normally distributed (docs/methods.md 4.6)."""


@dataclass(frozen=True, eq=False)
class SimilarityIndicator:
    """Where a distance stands among those of correctly matched pairs (arXiv:2403.05280).

    Attributes:
        matched: (S,) ascending distances between unseen nodules and cases of the same class that
            voted them right. They come from cross-fitting: distances among training embeddings
            are collapsed and would make every new nodule look strange.
        quantile: Share of the matched pairs that counts as near enough.
        interval: How the end of that share is estimated.
    """

    matched: NDArray[np.float32]
    quantile: float = 0.95
    interval: IntervalForm = "quantile"

    def __post_init__(self) -> None:
        matched = np.sort(np.asarray(self.matched, dtype=np.float32))
        if matched.size == 0 or not np.isfinite(matched).all():
            raise ValueError(f"wanted finite matched distances, got {matched.size} values")
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie between 0 and 1, got {self.quantile}")
        check_interval(self.interval)
        object.__setattr__(self, "matched", matched)

    @property
    def threshold(self) -> float:
        """Distance beyond which a case is too far to rely on."""
        return interval_end(self.matched, self.quantile, self.interval)

    @property
    def threshold_name(self) -> str:
        """What the threshold is among the matched distances: "95%" or "mean + 1.96 SD"."""
        if self.interval == "normal":
            return f"mean + {normal_factor(self.quantile):.2f} SD"
        return f"{self.quantile:.0%}"

    def similarity(self, distance: ArrayLike) -> NDArray[np.float64]:
        """Share of matched pairs at least as far apart, in (0, 1]; a conformal p-value.

        It falls with distance; for exchangeable pairs it is uniform (docs/methods.md 4.6).

        Example:
            >>> indicator = SimilarityIndicator(np.array([1.0, 2.0, 3.0, 4.0]))
            >>> indicator.similarity([0.5, 3.0, 3.5, 9.0]).tolist()
            [1.0, 0.6, 0.4, 0.2]
        """
        nearer = np.searchsorted(self.matched, np.asarray(distance, np.float32), side="left")
        return (1 + self.matched.size - nearer) / (self.matched.size + 1)


def interval_end(matched: NDArray, share: float, interval: IntervalForm) -> float:
    """The upper end of the interval that holds a share of the matched distances."""
    if interval == "normal":
        return float(matched.mean() + normal_factor(share) * matched.std())
    return float(np.quantile(matched, share))


def check_interval(interval: object) -> None:
    """Raises ValueError for what is no `IntervalForm`."""
    if interval not in get_args(IntervalForm):
        wanted = " or ".join(get_args(IntervalForm))
        raise ValueError(f"the similarity interval must be {wanted}, got {interval!r}")


def normal_factor(share: float) -> float:
    """Standard deviations to each side of the mean that hold a share of a normal distribution.

    Example:
        >>> round(normal_factor(0.95), 2)
        1.96
    """
    return NormalDist().inv_cdf((1 + share) / 2)


def matched_distances(
    distance: ArrayLike, neighbour_malignant: ArrayLike, malignant: ArrayLike, correct: ArrayLike
) -> NDArray[np.float64]:
    """Distances of the pairs that `SimilarityIndicator` compares with.

    Args:
        distance: (N, k) from each unseen nodule to its voters.
        neighbour_malignant: (N, k) labels of the voters.
        malignant: (N,) labels of the nodules.
        correct: (N,) whether the vote was right.

    Example:
        >>> distance = [[1.0, 2.0], [3.0, 4.0]]
        >>> cases = [[True, False], [True, True]]
        >>> matched_distances(distance, cases, [True, True], correct=[True, False]).tolist()
        [1.0]
    """
    same = np.asarray(neighbour_malignant) == np.asarray(malignant)[:, None]
    return np.asarray(distance)[same & np.asarray(correct)[:, None]]


@dataclass(frozen=True)
class Confidence:
    """Whether there is something to judge, whether the verdict can be relied on, and if not, why.

    Each tuple holds sentences for the user.

    Attributes:
        doubts: What speaks against the verdict.
        not_judgeable: Why what is there cannot be judged; there is no verdict then.
        nothing_there: Why there is no nodule; neither is there a verdict then.
    """

    doubts: tuple[str, ...] = ()
    not_judgeable: tuple[str, ...] = ()
    nothing_there: tuple[str, ...] = ()

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why there is nothing to judge."""
        return (*self.nothing_there, *self.not_judgeable)

    @property
    def judged(self) -> bool:
        """Whether there is a verdict at all."""
        return not self.obstacles

    @property
    def confident(self) -> bool:
        """True when nothing speaks against the verdict."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the user is told: without a verdict, nothing is said against it."""
        return self.obstacles or self.doubts


def vote_doubts(
    nearest: float, threshold: float, probability: float, split_vote: tuple[float, float]
) -> list[str]:
    """What speaks against a vote: cases that are far away, and a split among them.

    Args:
        nearest: Distance of the nearest case.
        threshold: Beyond it a case is unlike the nodule (`SimilarityIndicator.threshold`).
        probability: Calibrated, of the vote.
        split_vote: Between these the vote is split.
    """
    doubts = []
    if nearest > threshold:
        doubts.append(
            f"even the nearest case is unlike this nodule: its distance {nearest:.2f} exceeds"
            f" {threshold:.2f}, within which nearly all correctly matched cases lie"
        )
    low, high = split_vote
    if low < probability < high:
        doubts.append(
            f"the vote is split: the probability {probability:.2f} lies between {low:.2f} and"
            f" {high:.2f}"
        )
    return doubts
