"""`SupportVote`: a support set with its vote and calibration, for many unseen nodules at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.cases.vote import Calibration, VoteForm, VoteRule, fit_calibration
from contrastdiagnosis.trust.confidence import matched_distances
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.runs.predictions import Predictions

K_CHOICES = (5, 9, 15, 25, 41, 61)
TEMPERATURE_CHOICES = (0.05, 0.1, 0.2, 0.4)
"""In units of `embedding_scale`, so that networks can share a choice."""


@dataclass(frozen=True, eq=False)
class SupportVote:
    """Cases that vote on nodules read by the same network.

    Attributes:
        embedding: (M, p) of the cases.
        patient_id: (M,) text.
        malignancy: (M,) mean on the scale that all sources share.
        diameter_mm: (M,).
        vote: How they vote.
        calibration: From votes to probabilities.
    """

    embedding: NDArray[np.float32]
    patient_id: NDArray
    malignancy: NDArray[np.float64]
    diameter_mm: NDArray[np.float64]
    vote: VoteRule = field(default_factory=lambda: VoteRule(15, 1.0))
    calibration: Calibration = field(default_factory=Calibration)

    def distance(self, embedding: NDArray[np.float32], patient_id: NDArray) -> NDArray[np.float64]:
        """(N, M) distances of embeddings (N, p); infinite to cases of the nodule's own patient."""
        gap = embedding[:, None].astype(np.float64) - self.embedding[None]
        distance = np.linalg.norm(gap, axis=-1)
        distance[patient_id[:, None] == self.patient_id[None]] = np.inf
        return distance

    def voters(
        self, embedding: NDArray[np.float32], patient_id: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Distances and labels (N, k) of the cases that vote, nearest first."""
        distance = self.distance(embedding, patient_id)
        order = np.argsort(distance, axis=1, kind="stable")[:, : self.vote.k]
        return np.take_along_axis(distance, order, axis=1), is_malignant(self.malignancy)[order]

    def score(self, embedding: NDArray[np.float32], patient_id: NDArray) -> NDArray[np.float64]:
        """(N,) votes."""
        return self.vote.score(*self.voters(embedding, patient_id))

    def probability(
        self, embedding: NDArray[np.float32], patient_id: NDArray
    ) -> NDArray[np.float64]:
        """(N,) calibrated probabilities."""
        return self.calibration.probability(self.score(embedding, patient_id))


def support_of_predictions(*predictions: Predictions) -> SupportVote:
    """A support set whose cases are these nodules, with the default vote."""

    def column(name: str) -> NDArray:
        return np.concatenate([getattr(r, name) for r in predictions])

    return SupportVote(
        column("embedding"), column("patient_id"), column("malignancy"), column("diameter_mm")
    )


def support_of_bundle(bundle: Bundle) -> SupportVote:
    """The support set that a bundle ships."""
    cases, case_source = bundle.library.cases, bundle.info.case_source
    return SupportVote(
        bundle.library.embedding,
        np.array([case.patient_id for case in cases]),
        case_source.malignancy_of(
            [case.ratings.get(case_source.malignancy, np.nan) for case in cases]
        ),
        np.array([case.diameter_mm for case in cases]),
        bundle.info.vote,
        bundle.info.calibration,
    )


def embedding_scale(embedding: NDArray) -> float:
    """Root mean square distance between two embeddings."""
    return float(np.sqrt(2 * embedding.var(axis=0, dtype=np.float64).sum()))


def choose_vote(
    validation: Sequence[tuple[SupportVote, Predictions]], form: VoteForm = "distance-weighted"
) -> VoteRule:
    """The vote with the best mean AUC (rule exclude3), its temperature in embedding scales.

    Args:
        validation: Training cases only, each set with the validation nodules of its network.
        form: Of the vote; a majority vote leaves k alone to choose.
    """
    temperatures = TEMPERATURE_CHOICES if form == "distance-weighted" else (None,)
    rules = [VoteRule(k, t, form) for k in K_CHOICES for t in temperatures]
    metrics: dict[VoteRule, list[float]] = {}
    for support, predictions in validation:
        kept = predictions[RULES["exclude3"](predictions.malignancy)]
        truth = is_malignant(kept.malignancy)
        distance = support.distance(kept.embedding, kept.patient_id)
        order = np.argsort(distance, axis=1, kind="stable")[:, : max(K_CHOICES)]
        near = np.take_along_axis(distance, order, axis=1)
        label = is_malignant(support.malignancy)[order]
        scale = embedding_scale(support.embedding)
        for rule in rules:
            score = rule.scaled(scale).score(near[:, : rule.k], label[:, : rule.k])
            metrics.setdefault(rule, []).append(auc(score, truth))
    return max(metrics, key=lambda rule: float(np.mean(metrics[rule])))


def calibrate(judged: Sequence[tuple[SupportVote, Predictions]]) -> Calibration:
    """Platt scaling of votes on unseen nodules (rule exclude3).

    A majority decides at one half, as published; its calibration keeps the decision there.
    """
    scores, truths = [], []
    for support, predictions in judged:
        kept = predictions[RULES["exclude3"](predictions.malignancy)]
        scores.append(support.score(kept.embedding, kept.patient_id))
        truths.append(is_malignant(kept.malignancy))
    majority = all(support.vote.majority for support, _ in judged)
    return fit_calibration(np.concatenate(scores), np.concatenate(truths), through_half=majority)


def scaled_matched_distances(
    parts: Sequence[tuple[SupportVote, Predictions]],
) -> NDArray[np.float64]:
    """Distances of correctly matched pairs of unseen nodules and cases, in embedding scales."""
    matched = []
    for support, predictions in parts:
        kept = predictions[RULES["exclude3"](predictions.malignancy)]
        truth = is_malignant(kept.malignancy)
        distance, label = support.voters(kept.embedding, kept.patient_id)
        correct = (support.probability(kept.embedding, kept.patient_id) > 0.5) == truth
        matched.append(
            matched_distances(distance, label, truth, correct) / embedding_scale(support.embedding)
        )
    return np.concatenate(matched)
