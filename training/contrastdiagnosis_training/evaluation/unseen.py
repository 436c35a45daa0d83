"""`UnseenNodules`: nodules, and a network and cases to which they are new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.source import RatingScale
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from numpy.typing import NDArray

from contrastdiagnosis_training.data.patch_store import mean_ratings
from contrastdiagnosis_training.evaluation.gate import Answers
from contrastdiagnosis_training.evaluation.metrics import calibrated_folds, fold_thresholds
from contrastdiagnosis_training.evaluation.shipped_rule import (
    fold_limits,
    rule_in_words,
    with_size_factors,
)
from contrastdiagnosis_training.evaluation.support_vote import SupportVote, support_of_bundle
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run
from contrastdiagnosis_training.runs.predictions import Predictions, predict_nodules
from contrastdiagnosis_training.runs.run_folder import network_of_run


@dataclass(frozen=True, eq=False)
class UnseenNodules:
    """Nodules, and a network and cases to which they are new.

    Attributes:
        name: Of the bundle or the fold.
        network: In eval mode, on its device.
        support: The cases.
        case_ratings: (M, R) mean ratings of the cases, NaN where unknown.
        scales: R of them, by which both the cases and the nodules are rated.
        rows: The nodules.
        predictions: What the network says of them, in the same order.
        threshold: Distance of the 95 % of correctly matched pairs, from other nodules.
        split_vote: Probabilities between these are split.
        limits: How far the cases go.
        rule: What the confidence is told by.
        of_patients_in_cases: How many nodules are of patients that the network was made from.
    """

    name: str
    network: NoduleNet
    support: SupportVote
    case_ratings: NDArray[np.float64]
    scales: tuple[RatingScale, ...]
    rows: Sequence[Nodule]
    predictions: Predictions
    threshold: float
    split_vote: tuple[float, float]
    limits: CaseLimits = field(default_factory=CaseLimits)
    rule: str = ""
    of_patients_in_cases: int = 0


def unseen_of_crossfit(
    run: Path,
    rows: Sequence[Nodule],
    only: Sequence[int] | None,
    device: torch.device,
    answers: Answers | None = None,
    concepts: Path | None = None,
) -> list[UnseenNodules]:
    """One set a fold; thresholds and calibration come from the other folds.

    Args:
        run: Folder that `crossfit` filled.
        rows: The nodules that it was made from.
        only: These folds alone.
        device: Where the networks go.
        answers: For confidence, as of `evaluate.crossfit_confidence`.
        concepts: Likewise.

    Raises:
        InputError: The folder lacks a nodule that the run was made from, or there is no such fold.
    """
    by_id, scales = {n.case_id: n for n in rows}, rows[0].case_source.scales
    numbers = folds_of_run(run)
    if only and not set(only) <= set(numbers):
        raise InputError(f"{run} holds the folds {numbers}, got --folds {sorted(only)}")
    folds, parts = calibrated_folds(run, "distance-weighted")
    thresholds = fold_thresholds(parts)
    if concepts:
        parts = with_size_factors(parts, concepts, numbers)
    unseen_sets = []
    rule = rule_in_words(answers, concepts)
    for number, fold, (support, predictions), threshold in zip(
        numbers, folds, parts, thresholds, strict=True
    ):
        if only and number not in only:
            continue
        ids = np.concatenate([fold[role].case_id for role in ("train", "validation")])
        absent = [i for i in [*ids, *predictions.case_id] if i not in by_id]
        if absent:
            raise InputError(f"the case folder lacks {len(absent)} nodules of {run}: {absent[0]}")
        unseen_sets.append(
            UnseenNodules(
                name=f"fold {number}",
                network=network_of_run(run / f"fold{number}").to(device),
                support=support,
                case_ratings=mean_ratings([by_id[i] for i in ids], scales),
                scales=scales,
                rows=[by_id[i] for i in predictions.case_id],
                predictions=predictions,
                threshold=threshold,
                split_vote=BundleInfo.split_vote,
                limits=fold_limits(fold, answers),
                rule=rule,
            )
        )
    return unseen_sets


def unseen_of_bundle(folder: Path, rows: Sequence[Nodule], device: torch.device) -> UnseenNodules:
    """A bundle on any nodules; cases of a nodule's own patient take no part."""
    bundle = load_bundle(folder)
    diagnoser = Diagnoser(bundle, device.type)
    network = diagnoser.network
    rated = [n for n in rows if np.isfinite(n.malignancy)]
    if not rated:
        raise InputError("no nodule of the case folder has a malignancy rating")
    support = support_of_bundle(bundle)
    scales = tuple(s for s in bundle.info.case_source.scales if s in rated[0].case_source.scales)
    predictions = predict_nodules(network, rated, device, diagnoser)
    return UnseenNodules(
        name=f"bundle {bundle.info.name} {bundle.info.version}",
        network=network,
        support=support,
        case_ratings=np.array(
            [[c.ratings.get(s.name, np.nan) for s in scales] for c in bundle.library.cases]
        ),
        scales=scales,
        rows=rated,
        predictions=predictions,
        threshold=bundle.indicator.threshold,
        split_vote=bundle.info.split_vote,
        limits=bundle.info.limits,
        rule="the bundle's own",
        of_patients_in_cases=int(np.isin(predictions.patient_id, support.patient_id).sum()),
    )
