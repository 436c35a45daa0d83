"""Confidence of a cross-fit run's unseen nodules by the rule that a bundle ships, and its worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from contrastdiagnosis.concepts.concept_prediction import size_factor
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.facts import FACT_NAMES
from numpy.typing import NDArray

from contrastdiagnosis_training.concept_head.run_folder import TEST, concepts_of_run, head_of_run
from contrastdiagnosis_training.concept_head.scores import ConceptScores
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.concepts.metrics import (
    calibrate_concepts,
    presence_score,
)
from contrastdiagnosis_training.evaluation.confidences import confidence_of_nodules, limits_of
from contrastdiagnosis_training.evaluation.gate import Answers, fitted_limits
from contrastdiagnosis_training.evaluation.support_vote import SupportVote
from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.runs.predictions import Predictions

Part = tuple[SupportVote, Predictions]
"""Nodules, and a support set to which they are new."""


def confidence_metrics(
    parts: Sequence[Part],
    thresholds: Sequence[float],
    split_vote: tuple[float, float],
    limits: Sequence[CaseLimits],
) -> dict[str, Any]:
    """What the confident and the doubtful diagnoses are worth, and their shares (rule exclude3).

    Nodules without a verdict are neither.

    Args:
        parts: Support sets and the nodules that are new to them.
        thresholds: Distance of the nearest case, for each part, beyond which nothing is alike.
        split_vote: Probabilities between these are called split.
        limits: How far the cases go, for each part.
    """
    judged: list[NDArray[np.bool_]] = []
    sure: list[NDArray[np.bool_]] = []
    score, truth = [], []
    for (support, predictions), threshold, limit in zip(parts, thresholds, limits, strict=True):
        kept = predictions[RULES["exclude3"](predictions.malignancy)]
        if not len(kept):
            continue
        told = confidence_of_nodules(support, kept, threshold, split_vote, limit)
        judged.append(np.array([c.judged for c in told]))
        sure.append(np.array([c.confident for c in told]))
        score.append(support.probability(kept.embedding, kept.patient_id))
        truth.append(is_malignant(kept.malignancy))
    if not judged:
        return {}
    verdict, confident = np.concatenate(judged), np.concatenate(sure)
    probability, malignant = np.concatenate(score), np.concatenate(truth)
    return {
        "n": len(verdict),
        "confident": _worth(confident, probability, malignant),
        "doubtful": _worth(verdict & ~confident, probability, malignant),
        "no_verdict": {"n": int((~verdict).sum()), "share": float((~verdict).mean())},
    }


def _worth(chosen: NDArray[np.bool_], probability: NDArray, malignant: NDArray) -> dict[str, Any]:
    p, truth = probability[chosen], malignant[chosen]
    return {
        "n": int(chosen.sum()),
        "share": float(chosen.mean()),
        "auc": auc(p, truth),
        "accuracy": float(((p > 0.5) == truth).mean()) if len(p) else np.nan,
    }


def others_facts(fold: dict[str, Predictions]) -> NDArray[np.float64]:
    """The facts of a fold's nodules that are not tested."""
    return np.concatenate([fold[role].facts for role in ("train", "validation")])


def fold_limits(fold: dict[str, Predictions], answers: Answers | None) -> CaseLimits:
    """The limits that judge a fold's test nodules, made without their patients.

    Args:
        fold: Predictions by role.
        answers: What a bundle's limits and gate were fitted to; without these the limits are those
            of the fold's other nodules, and there is no gate.
    """
    if answers is None:
        return limits_of(others_facts(fold))
    return fitted_limits(answers, fold["test"].patient_id)


def rule_in_words(answers: Answers | None, concepts: Path | None, poor_images: bool = False) -> str:
    """What judged confidence, and what of the shipped rule is missing.

    Args:
        answers: What limits and gate were fitted to, if there was a gate.
        concepts: Folder of the heads that told sizes, if any did.
        poor_images: Whether poor images were told.
    """
    if answers is None:
        limits, missing = "limits of the other folds' nodules", ["the gate"]
    else:
        limits, missing = "limits and gate fitted without the judged patients", []
    if concepts is None:
        missing.append("the concepts of size")
    shipped = "as shipped" if poor_images else "as shipped by bundles that tell no poor images"
    lacks = f"; not yet as shipped: without {' and '.join(missing)}" if missing else f", {shipped}"
    told = ", poor images as of detectors and verdicts of other folds" if poor_images else ""
    return f"vote, {limits}{'' if concepts is None else ', concepts of size'}{told}{lacks}"


def with_size_factors(parts: Sequence[Part], run: Path, folds: Sequence[int]) -> list[Part]:
    """The parts with facts that tell by what factor the concepts contradict each nodule's size.

    Every fold's concepts are read by its own head and calibrated on the other folds.

    Args:
        parts: One a fold; the networks read no concepts.
        run: Folder that `concepts` filled for these folds.
        folds: Their numbers.

    Raises:
        InputError: A fold's head, or a nodule, is missing there.
    """
    scored = [
        (head_of_run(run / f"fold{n}"), load_columns(ConceptScores, run / f"fold{n}" / TEST))
        for n in folds
    ]
    if len(scored) < 2:
        raise InputError(f"{run}: concepts are calibrated on other folds, got one alone")
    named = concepts_of_run(run / f"fold{folds[0]}")
    told = []
    for number, ((support, predictions), (head, scores)) in enumerate(
        zip(parts, scored, strict=True)
    ):
        others = [part for n, part in enumerate(scored) if n != number]
        concepts, _ = calibrate_concepts(named, others)
        raw = presence_score(head, scores.scores)
        presence = np.stack(
            [c.calibration.probability(raw[:, k]) for k, c in enumerate(concepts)], axis=1
        )
        row = {case: n for n, case in enumerate(scores.case_id.tolist())}
        if absent := [case for case in predictions.case_id.tolist() if case not in row]:
            raise InputError(f"{run} lacks {len(absent)} nodules of the run: {absent[0]}")
        facts = predictions.facts.copy()
        volume = facts[:, FACT_NAMES.index("volume_mm3")].tolist()
        facts[:, FACT_NAMES.index("size_factor")] = [
            size_factor(concepts, presence[row[case]], mm3)
            for case, mm3 in zip(predictions.case_id.tolist(), volume, strict=True)
        ]
        told.append((support, replace(predictions, facts=facts)))
    return told
