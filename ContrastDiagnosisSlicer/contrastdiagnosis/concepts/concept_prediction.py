"""`ConceptPrediction`: what concepts a nodule shows, where, and what follows for malignancy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from contrastdiagnosis.cases.vote import Calibration
from contrastdiagnosis.concepts.boxes import CellGrid, importance
from contrastdiagnosis.concepts.head import Concept, ConceptHead
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.revision import Box, Revision

LEAST_SHOWN = 0.005
"""Logits below which what a prototype adds counts as nothing: they are shown as 0.00."""


@dataclass(frozen=True, eq=False)
class ConceptPrediction:
    """The concepts of a nodule. Research use only.

    The logit of `probability` is `baseline + contribution.sum()`: the calibration is part of both.

    Attributes:
        concepts: The K concepts.
        similarity: (K, M, d, h, w) cosines with the prototypes, after the boxes.
        scores: (K, M) highest of them, after the rejections; 0 for prototypes that were removed.
        presence: (K,) calibrated share of readers who would call the concept present; NaN where
            it was rejected.
        contribution: (K,) logits of malignancy that each concept adds.
        shown: (K,) the prototype of each concept that is shown as evidence, see `shown_prototypes`;
            -1 for none.
        baseline: Logit of a nodule that shows none.
        probability: Calibrated probability that readers would suspect malignancy.
        revision: What was corrected.
        remarks: Sentences for the user about the boxes.
    """

    concepts: tuple[Concept, ...]
    similarity: NDArray[np.float32]
    scores: NDArray[np.float64]
    presence: NDArray[np.float64]
    contribution: NDArray[np.float64]
    shown: NDArray[np.int64]
    baseline: float
    probability: float
    revision: Revision = field(default_factory=Revision)
    remarks: tuple[str, ...] = ()

    @property
    def logit(self) -> float:
        """Log odds of malignancy: of `probability`."""
        return self.baseline + float(self.contribution.sum())

    @property
    def malignant(self) -> bool:
        """Whether the calibrated probability exceeds one half."""
        return self.probability > 0.5

    @property
    def maps(self) -> NDArray[np.float32]:
        """(K, d, h, w) similarity with the prototype that is shown, negative values as 0."""
        chosen = self.similarity[np.arange(len(self.shown)), self.shown]
        return np.maximum(chosen, 0) * (self.shown >= 0)[:, None, None, None]


def predict_concepts(
    head: ConceptHead,
    concepts: Sequence[Concept],
    calibration: Calibration,
    similarity: NDArray[np.float32],
    grid: CellGrid,
    revision: Revision = Revision(),
) -> ConceptPrediction:
    """What similarity maps say, with corrections and without a pass through the network.

    Args:
        head: Gives weights, kept prototypes and the scores of absent concepts.
        concepts: The head's K concepts.
        calibration: From the sigmoid of the head's logit to probability.
        similarity: (K, M, d, h, w) cosines of one patch.
        grid: Its cells.
        revision: What a clinician corrects.

    Raises:
        InputError: The revision names a concept that the head does not know.
    """
    names = [concept.name for concept in concepts]
    asked = {
        *revision.rejected,
        *(box.concept for box in revision.boxes if box.concept is not None),
    }
    if unknown := sorted(asked - set(names)):
        told = ", ".join(unknown)[:200]
        raise InputError(f"no concept is called {told}; there are {', '.join(names)}")
    maps, remarks = _weighed(similarity, names, grid, revision)
    with torch.inference_mode():
        # In float64, so that bias and contributions add up to the decision.
        seen = scores = head.scores(torch.from_numpy(maps)[None]).double()
        rejected = torch.tensor([name in revision.rejected for name in names])
        substitute = head.absent * head.kept if revision.mode == "absent_median" else 0 * head.kept
        scores = torch.where(rejected[:, None], substitute.double(), scores)
        # The calibration scales what every concept adds, and shifts the baseline.
        contribution = calibration.slope * head.contributions(scores)[0].numpy()
        presence_logit = head.presence(scores)[0].numpy()
        nothing = float(head.decision_bias.double() + _absent_part(head))
    baseline = calibration.slope * nothing + calibration.intercept
    presence = np.array(
        [
            np.nan if name in revision.rejected else c.calibration.probability(expit(x))
            for name, c, x in zip(names, concepts, presence_logit, strict=True)
        ]
    )
    logit = baseline + float(contribution.sum())
    return ConceptPrediction(
        concepts=tuple(concepts),
        similarity=maps,
        scores=scores[0].numpy(),
        presence=presence,
        contribution=contribution,
        shown=shown_prototypes(head, seen[0].numpy(), calibration.slope),
        baseline=baseline,
        probability=float(expit(logit)),
        revision=revision,
        remarks=remarks,
    )


def shown_prototypes(head: ConceptHead, scores: NDArray, slope: float = 1.0) -> NDArray[np.int64]:
    """(K,) the prototype of each concept that is evidence for what the concept adds.

    It is the one that some cell is most like among those that add or take in the direction of the
    whole concept, `LEAST_SHOWN` at least; where no cell is like any of these, the one that adds
    most by that. Where there is none, it is the one that most makes the concept present, and -1
    where there is no such one either: what has no weight is no evidence.

    Args:
        head: Gives the weights.
        scores: (K, M).
        slope: Of the decision's calibration.
    """
    kept = head.kept.double().numpy()
    added = slope * (scores - head.absent.double().numpy()) * kept * head.decision_weight.numpy()
    along = added * np.sign(added.sum(axis=1, keepdims=True))
    present = np.maximum(scores, 0) * kept * head.presence_weight.numpy()
    told = along >= LEAST_SHOWN
    shown = np.full(len(scores), -1)
    for strength, able in ((present, present > 0), (along, told), (scores, told & (scores > 0))):
        chosen = np.where(able, strength, -np.inf).argmax(axis=1)
        shown = np.where(able.any(axis=1), chosen, shown)
    return shown


def size_factor(
    concepts: Sequence[Concept], presence: NDArray[np.float64], volume_mm3: float
) -> float:
    """By what factor a measured size contradicts the concepts of size; 1 where it does not.

    A concept that is rather present than absent says that the diameter of a sphere of that volume
    is at least its bound, or at most; one that is rather absent says the opposite.

    Args:
        concepts: K of them; none gives no factor.
        presence: (K,) share of readers who would call each one present.
        volume_mm3: Measured, > 0.

    Returns:
        The largest factor, >= 1; NaN without concepts of size.

    Example:
        >>> large = [Concept("8 mm or more", "diameter_mm", at_least=8.0)]
        >>> ball_mm3 = np.pi / 6 * 5.0**3
        >>> size_factor(large, np.array([0.9]), ball_mm3)  # Called 8 mm or more, measured 5 mm.
        1.6
        >>> size_factor(large, np.array([0.1]), ball_mm3)
        1.0
    """
    if not volume_mm3 > 0:
        return float("nan")
    diameter_mm = (6 * volume_mm3 / np.pi) ** (1 / 3)
    factors = []
    for concept, share in zip(concepts, presence.tolist(), strict=True):
        if concept.measured and np.isfinite(share):
            bound = concept.at_least if concept.at_least is not None else concept.at_most
            larger = (share > 0.5) == (concept.at_least is not None)
            factors.append(bound / diameter_mm if larger else diameter_mm / bound)
    return max([1.0, *factors]) if factors else float("nan")


def _absent_part(head: ConceptHead) -> float:
    return float((head.absent.double() * head.kept * head.decision_weight).sum())


def _weighed(
    similarity: NDArray[np.float32], names: Sequence[str], grid: CellGrid, revision: Revision
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Similarities under the boxes: A * S, as published (arXiv:2503.06873, 3.4).

    A lies between 0 and 1 and S is cut off at 0, for which a rectified head was fitted, so no box
    raises any. Heads of older bundles know S below 0, which is left alone.
    """
    maps = similarity.copy()
    remarks: list[str] = []
    known: dict[tuple[Box, ...], tuple[NDArray[np.float32], tuple[str, ...]]] = {}
    for n, name in enumerate(names):
        boxes = tuple(box for box in revision.boxes if box.concept in (None, name))
        if boxes:
            # Most boxes are about all concepts alike.
            if boxes not in known:
                known[boxes] = importance(boxes, grid, revision.elsewhere)
            weight, told = known[boxes]
            remarks += told
            maps[n] = np.where(similarity[n] > 0, weight * similarity[n], similarity[n])
    return maps, tuple(dict.fromkeys(remarks))
