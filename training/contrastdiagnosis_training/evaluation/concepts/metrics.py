"""Metrics of concepts: calibration on other nodules, agreement with readers, pruning by rule."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.vote import Calibration, fit_calibration, logit
from contrastdiagnosis.concepts.fit import fit_linear_parts
from contrastdiagnosis.concepts.head import Concept, ConceptHead
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from contrastdiagnosis_training.concept_head.scores import ConceptScores
from contrastdiagnosis_training.data.concept_list import cohen_kappa, reader_pairs
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.objectives.metrics import auc, auc_interval, f1

LEAST_SLOPE = 1e-3

HARDLY_SEEN = 0.05
"""Share of the readers below which a concept counts as one that hardly anybody would see."""

Scored = tuple[ConceptHead, ConceptScores]
"""A head, and nodules that are new to it."""


def presence_score(head: ConceptHead, scores: NDArray) -> NDArray[np.float64]:
    """(N, K) sigmoid of the presence logits of (N, K, M) scores."""
    with torch.inference_mode():
        logits = head.presence(torch.from_numpy(scores).double() * head.kept)
    return torch.sigmoid(logits).numpy()


def decision_score(head: ConceptHead, scores: NDArray) -> NDArray[np.float64]:
    """(N,) sigmoid of the malignancy logits of (N, K, M) scores."""
    with torch.inference_mode():
        return torch.sigmoid(head.decide(torch.from_numpy(scores).double())).numpy()


def calibrate_concepts(
    concepts: Sequence[Concept], others: Sequence[Scored]
) -> tuple[tuple[Concept, ...], Calibration]:
    """The concepts, and the decision, calibrated on nodules that were new to their heads."""
    share = np.concatenate([scored.share for _, scored in others])
    presence = np.concatenate([presence_score(head, s.scores) for head, s in others])
    calibrated = []
    for k, concept in enumerate(concepts):
        known = np.isfinite(share[:, k])
        fitted = rising_calibration(presence[known, k], share[known, k])
        calibrated.append(replace(concept, calibration=fitted))
    decision = np.concatenate([decision_score(head, s.scores) for head, s in others])
    malignancy = np.concatenate([s.malignancy for _, s in others])
    kept = RULES["exclude3"](malignancy)
    truth = is_malignant(malignancy[kept]).astype(np.float64)
    return tuple(calibrated), rising_calibration(decision[kept], truth)


def rising_calibration(score: NDArray, share: NDArray) -> Calibration:
    """Platt scaling; the plain mean where a higher score does not mean more.

    Args:
        score: (N,) in [0, 1].
        share: (N,) in [0, 1].
    """
    fitted = fit_calibration(score, share)
    if fitted.slope >= LEAST_SLOPE:
        return fitted
    return Calibration(LEAST_SLOPE, float(logit(share.mean())))


def concept_metrics(
    concepts: Sequence[Concept], presence: NDArray, share: NDArray, nodules: Sequence[Nodule]
) -> dict[str, dict[str, Any]]:
    """How far the calibrated presences (N, K) agree with the readers, concept by concept.

    `kappa` is with one reader at a time, to be read beside `kappa_readers`, that of two of them.
    """
    metrics = {}
    for k, concept in enumerate(concepts):
        known = np.isfinite(share[:, k])
        truth, score = share[known, k] >= 0.5, presence[known, k]
        told = score > 0.5
        pairs = [
            (bool(shown > 0.5), concept.share([vote]) > 0.5)
            for nodule, shown in zip(nodules, presence[:, k], strict=True)
            for vote in nodule.ratings.get(concept.rating, ())
        ]
        both = bool(truth.any() and not truth.all())
        metrics[concept.name] = {
            "n": int(known.sum()),
            "prevalence": float(truth.mean()),
            "auroc": auc(score, truth),
            "balanced_accuracy": float(balanced_accuracy_score(truth, told)) if both else None,
            "accuracy": float((told == truth).mean()),
            "accuracy_majority_constant": float(max(truth.mean(), 1 - truth.mean())),
            "kappa": cohen_kappa(np.array(pairs, dtype=bool).reshape(-1, 2)),
            "kappa_readers": cohen_kappa(reader_pairs(nodules, concept)),
        }
    return metrics


def decision_metrics(probability: NDArray, malignancy: NDArray, patient: NDArray) -> dict[str, Any]:
    """AUC, accuracy, F1 and macro-F1 under the rule exclude3."""
    kept = RULES["exclude3"](malignancy)
    p, truth, who = probability[kept], is_malignant(malignancy[kept]), patient[kept]
    told = p > 0.5
    return {
        "n": int(kept.sum()),
        "auc": auc(p, truth),
        "auc_ci": auc_interval(p, truth, who),
        "accuracy": float((told == truth).mean()),
        "f1": f1(told, truth),
        "macro_f1": (f1(told, truth) + f1(~told, ~truth)) / 2,
    }


def mean_logits(presence: NDArray, contribution: NDArray) -> dict[str, float]:
    """Mean size of what concepts add to the decision, by whether they are seen.

    What concepts add that hardly anybody would see is not what they are named for: leakage
    (docs/methods.md 6.9).

    Args:
        presence: (N, K) calibrated.
        contribution: (N, K) logits.
    """
    places = {"hardly_seen": presence < HARDLY_SEEN, "seen": presence > 0.5}
    return {
        name: float(np.abs(contribution[there]).mean()) if there.any() else float("nan")
        for name, there in places.items()
    }


def presence_alone(parts: Sequence[Scored]) -> NDArray[np.float64]:
    """Malignancy from the K presences alone, each part by a regression on the others.

    What the full head has beyond it went through the prototypes unnamed (docs/methods.md 6.9).
    """
    rows = [presence_score(head, s.scores) for head, s in parts]
    logits = [np.log(np.clip(p, 1e-3, 1 - 1e-3) / (1 - np.clip(p, 1e-3, 1 - 1e-3))) for p in rows]
    found = []
    for n in range(len(parts)):
        others = [m for m in range(len(parts)) if m != n]
        x = np.concatenate([logits[m] for m in others])
        malignancy = np.concatenate([parts[m][1].malignancy for m in others])
        kept = RULES["exclude3"](malignancy)
        model = LogisticRegression().fit(x[kept], is_malignant(malignancy[kept]))
        found.append(model.predict_proba(logits[n])[:, 1])
    return np.concatenate(found)


def refined_head(head: ConceptHead, train: ConceptScores) -> ConceptHead:
    """The head without the prototypes that a look at the atlas would condemn.

    Removed is a prototype whose nearest training nodule lacks the concept in most readers' eyes, or
    is most alike outside the nodule; the best one of each concept stays. Presence and decision are
    then fitted anew, as when a clinician prunes.
    """
    count, each = train.scores.shape[1:]
    kept, before = np.zeros((count, each), np.float32), head.kept.numpy()
    nearest = train.scores.argmax(axis=0)
    for k in range(count):
        for m in range(each):
            n = nearest[k, m]
            kept[k, m] = train.share[n, k] >= 0.5 and train.inside[n, k, m]
        kept[k] *= before[k]
        if not kept[k].any():
            highest = np.where(before[k] > 0, train.scores[:, k].max(axis=0), -np.inf)
            kept[k, highest.argmax()] = 1
    refined = copy.deepcopy(head)
    refined.kept.copy_(torch.from_numpy(kept))
    fit_linear_parts(refined, train.scores, train.share, train.malignancy)
    return refined


def alive_counts(scores: NDArray, share: NDArray) -> list[int]:
    """For each concept, how many prototypes are the nearest of a nodule that shows it.

    Args:
        scores: (N, K, M).
        share: (N, K) share of the readers who call the concept present, NaN where unknown.
    """
    return [
        len(np.unique(scores[share[:, k] >= 0.5, k].argmax(axis=1))) for k in range(scores.shape[1])
    ]
