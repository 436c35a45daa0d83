"""The metrics of a cross-fit run's unseen nodules, or of a bundle on a case folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.cases.vote import VoteForm, VoteRule
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.trust.confidence import IntervalForm, interval_end
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.fold_groups import RECIPE_FOLDS, auc_by_fold_group
from contrastdiagnosis_training.evaluation.gate import Answers
from contrastdiagnosis_training.evaluation.mask_measures import Control, control_of
from contrastdiagnosis_training.evaluation.shipped_rule import (
    Part,
    confidence_metrics,
    fold_limits,
    rule_in_words,
    with_size_factors,
)
from contrastdiagnosis_training.evaluation.support_vote import (
    SupportVote,
    calibrate,
    choose_vote,
    embedding_scale,
    scaled_matched_distances,
    support_of_bundle,
    support_of_predictions,
)
from contrastdiagnosis_training.objectives.metrics import (
    BAND_MM,
    auc,
    auc_interval,
    expected_calibration_error,
    expected_ece,
    f1,
    paired_auc,
    reliability,
    retrieval,
    risk_coverage,
    roc,
    size_baseline,
)
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run, load_fold
from contrastdiagnosis_training.runs.predictions import Predictions, predict_nodules
from contrastdiagnosis_training.runs.run_folder import SETTINGS, read_settings


def evaluate_crossfit(
    run: Path,
    form: VoteForm = "distance-weighted",
    interval: IntervalForm = "quantile",
    answers: Answers | None = None,
    concepts: Path | None = None,
    chose: Sequence[int] = RECIPE_FOLDS,
) -> dict[str, Any]:
    """Metrics of the pooled test folds of a cross-fit run.

    k and the temperature of a fold come from its validation part, voted on by its training part;
    its calibration comes from the votes of the other folds.

    Args:
        run: Folder that `crossfit` filled.
        form: Of the vote.
        interval: Of the matched distances.
        answers: For confidence, see `crossfit_confidence`.
        concepts: Likewise.
        chose: Folds that chose the recipe.
    """
    numbers = folds_of_run(run)
    folds, parts = calibrated_folds(run, form)
    metrics = metrics_of(parts, control_of_run(run), numbers, chose)
    others = [
        (support, fold["other"])
        for (support, _), fold in zip(parts, folds, strict=True)
        if "other" in fold
    ]
    metrics |= context_metrics(once_each([*others, *parts]))
    worth = crossfit_confidence(run, form, interval, answers, concepts)
    metrics["printed_by"] = "contrastdiagnosis-train evaluate --crossfit"
    metrics["confidence"] = {**worth, "printed_by": metrics["printed_by"]}
    metrics["protocol"] = (
        f"patient-wise {len(folds)}-fold cross-fitting on {metrics['n']} nodules;"
        f" {'majority vote, k' if form == 'majority' else 'k and temperature'} chosen on each"
        " training fold's validation patients, calibration fitted to the other folds' votes."
    )
    if interval == "normal":
        metrics["protocol"] += " A case is near within mean + 1.96 SD of the matched distances."
    metrics["k"] = [support.vote.k for support, _ in parts]
    return metrics


def calibrated_folds(run: Path, form: VoteForm) -> tuple[list[dict[str, Predictions]], list[Part]]:
    """The predictions of every fold by role, and its test nodules with their calibrated vote."""
    folds = [load_fold(run, fold) for fold in folds_of_run(run)]
    return folds, calibrated_across([fold_part(fold, form=form) for fold in folds])


def crossfit_confidence(
    run: Path,
    form: VoteForm = "distance-weighted",
    interval: IntervalForm = "quantile",
    answers: Answers | None = None,
    concepts: Path | None = None,
) -> dict[str, Any]:
    """What confidence is worth on a cross-fit run's unseen nodules, and the rule it is told by.

    Args:
        run: Folder that `crossfit` filled.
        form: Of the vote.
        interval: Of the matched distances.
        answers: What the shipped limits and gate are fitted to, for each fold without its patients.
        concepts: Folder that `concepts` filled for the run.
    """
    folds, parts = calibrated_folds(run, form)
    thresholds = fold_thresholds(parts, interval)
    limits = [fold_limits(fold, answers) for fold in folds]
    told = with_size_factors(parts, concepts, folds_of_run(run)) if concepts else parts
    metrics = confidence_metrics(told, thresholds, BundleInfo.split_vote, limits)
    return {"rule": rule_in_words(answers, concepts), **metrics}


def fold_thresholds(parts: Sequence[Part], interval: IntervalForm = "quantile") -> list[float]:
    """For every part the distance beyond which a case is unlike, measured on the other parts."""
    return [
        embedding_scale(support.embedding)
        * nearness([p for p in parts if p[1] is not predictions], support.vote.k, interval)
        for support, predictions in parts
    ]


def control_of_run(run: Path) -> Control | None:
    """The control of the case folder that a run reports on; None where that is not at hand."""
    made = run / f"fold{folds_of_run(run)[0]}"
    if not (made / SETTINGS).is_file():
        return None
    folder = Path(read_settings(made)["cases"][0])
    return control_of(read_case_folder(folder)) if folder.is_dir() else None


def fold_part(
    fold: dict[str, Predictions],
    choice: VoteRule | None = None,
    form: VoteForm = "distance-weighted",
) -> Part:
    """A fold's test nodules and the support set of its other nodules, not yet calibrated.

    Args:
        fold: Predictions by role.
        choice: The vote, in embedding scales; chosen on the fold's own validation part if not
            given.
        form: Of the vote that is chosen.
    """
    if choice is None:
        choice = choose_vote([(support_of_predictions(fold["train"]), fold["validation"])], form)
    support = support_of_predictions(fold["train"], fold["validation"])
    return replace(support, vote=choice.scaled(embedding_scale(support.embedding))), fold["test"]


def calibrated_across(parts: Sequence[Part]) -> list[Part]:
    """Every vote calibrated by the votes of all the other parts."""
    return [
        (
            replace(support, calibration=calibrate([p for p in parts if p[1] is not predictions])),
            predictions,
        )
        for support, predictions in parts
    ]


def evaluate_bundle(bundle: Bundle, cases: Path, device: str) -> dict[str, Any]:
    """Metrics of a bundle on any case folder; nodules of its own patients never vote for them."""
    chosen = choose_device(device)
    diagnoser = Diagnoser(bundle, chosen.type)
    nodules = read_case_folder(cases)
    predictions = predict_nodules(diagnoser.network, nodules, chosen, diagnoser)
    support = support_of_bundle(bundle)
    seen = int(np.isin(predictions.patient_id, support.patient_id).sum())
    parts = [(support, predictions)]
    metrics = metrics_of(parts, control_of(nodules)) | context_metrics(parts)
    rule = ([bundle.indicator.threshold], bundle.info.split_vote, [bundle.info.limits])
    metrics["confidence"] = {"rule": "the bundle's own", **confidence_metrics(parts, *rule)}
    metrics["of_patients_in_bundle"] = seen
    metrics["printed_by"] = "contrastdiagnosis-train evaluate --bundle"
    metrics["protocol"] = (
        f"bundle {bundle.info.name} {bundle.info.version} on {len(predictions)} nodules of"
        f" {cases.name}"
        + (f", {support.vote.text}" if support.vote.majority else "")
        + (f"; {seen} are of patients it was made from: no held-out figure" if seen else "")
    )
    return metrics


def metrics_of(
    parts: Sequence[Part],
    control: Control | None = None,
    folds: Sequence[int] | None = None,
    chose: Sequence[int] = RECIPE_FOLDS,
) -> dict[str, Any]:
    """The metrics of every label rule and of the masks, pooled over parts.

    Args:
        parts: Support sets and the nodules that are new to them.
        control: Of these nodules; without it the forest's metrics are None.
        folds: Number of each part, to tell apart which chose the recipe.
        chose: Those that did.
    """
    predictions = [r for _, r in parts]
    metrics: dict[str, Any] = {"n": sum(len(r) for r in predictions)}
    metrics |= {rule: rule_metrics(parts, rule, control, folds, chose) for rule in RULES}
    for name in ("dice", "dice_inter_reader", "dice_reader_consensus"):
        values = np.concatenate([getattr(r, name) for r in predictions])
        metrics[name] = float(np.nanmean(values)) if np.isfinite(values).any() else None
    return metrics


RULE_METRICS = (
    "auc", "auc_ci", "auc_6_12mm", "n_6_12mm", "auc_diameter", "auc_diameter_6_12mm", "auc_gain_ci",
    "auc_forest", "auc_forest_ci", "auc_forest_6_12mm", "by_folds", "accuracy", "f1", "ece",
    "ece_expected", "precision_at_1", "map", "curves",
)  # fmt: skip
"""What a label rule is measured by; all None where it leaves a single class."""


def strict(value: Any) -> Any:
    """The metrics with None for every number that is not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {name: strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def rule_metrics(
    parts: Sequence[Part],
    rule: str,
    control: Control | None = None,
    folds: Sequence[int] | None = None,
    chose: Sequence[int] = RECIPE_FOLDS,
) -> dict[str, Any]:
    """Malignancy and retrieval metrics under one label rule; arguments as of `metrics_of`."""
    kept = [(support, r[RULES[rule](r.malignancy)]) for support, r in parts]
    probability = np.concatenate([j.probability(r.embedding, r.patient_id) for j, r in kept])
    size = np.concatenate([_size_probability(j, r, rule) for j, r in kept])
    patient = np.concatenate([r.patient_id for _, r in kept])
    diameter = np.concatenate([r.diameter_mm for _, r in kept])
    truth = is_malignant(np.concatenate([r.malignancy for _, r in kept]))
    counts = {"n": len(truth), "n_malignant": int(truth.sum())}
    if truth.all() or not truth.any():
        return dict.fromkeys(RULE_METRICS) | counts
    band = (diameter >= BAND_MM[0]) & (diameter < BAND_MM[1])
    case_id = np.concatenate([r.case_id for _, r in kept])
    forest = control.probability(rule, case_id) if control else None
    scores = {"auc": probability, "auc_diameter": size}
    scores |= {} if forest is None else {"auc_forest": forest}
    fold = np.repeat(folds, [len(r) for _, r in kept]) if folds else np.array([])
    first, average = zip(*(_retrieval(j, r, rule) for j, r in kept), strict=True)
    weight = [len(r) for _, r in kept]
    return counts | {
        "auc": auc(probability, truth),
        "auc_ci": auc_interval(probability, truth, patient),
        "auc_6_12mm": auc(probability[band], truth[band]),
        "n_6_12mm": int(band.sum()),
        "auc_diameter": auc(size, truth),
        "auc_diameter_6_12mm": auc(size[band], truth[band]),
        "auc_gain_ci": paired_auc(probability, size, truth, patient)[1:],
        **_forest_metrics(forest, truth, patient, band),
        "by_folds": _by_folds(scores, truth, patient, fold, chose) if folds else None,
        "accuracy": float(((probability > 0.5) == truth).mean()),
        "f1": f1(probability > 0.5, truth),
        "ece": expected_calibration_error(probability, truth),
        "ece_expected": expected_ece(probability),
        "precision_at_1": float(np.average(first, weights=weight)),
        "map": float(np.average(average, weights=weight)),
        "curves": {
            "reliability": reliability(probability, truth),
            "roc": roc(probability, truth),
            "roc_diameter": roc(size, truth),
            "risk_coverage": risk_coverage(probability, truth),
        },
    }


def _forest_metrics(
    forest: NDArray[np.float64] | None, truth: NDArray, patient: NDArray, band: NDArray[np.bool_]
) -> dict[str, Any]:
    """The control beside the diameter; all None where the readers' masks are not at hand."""
    if forest is None:
        return dict.fromkeys(("auc_forest", "auc_forest_ci", "auc_forest_6_12mm"))
    return {
        "auc_forest": auc(forest, truth),
        "auc_forest_ci": auc_interval(forest, truth, patient),
        "auc_forest_6_12mm": auc(forest[band], truth[band]),
    }


def _by_folds(
    scores: dict[str, NDArray],
    truth: NDArray,
    patient: NDArray,
    fold: NDArray,
    chose: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """AUC of the vote and of its controls, apart for folds that chose the recipe."""
    groups: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        told = auc_by_fold_group(score, truth, patient, fold, chose, interval=name == "auc")
        for group, metrics in told.items():
            groups.setdefault(group, {"n": metrics["n"]})[name] = metrics["auc"]
            if "auc_ci" in metrics:
                groups[group]["auc_ci"] = metrics["auc_ci"]
    return groups


def _size_probability(
    support: SupportVote, predictions: Predictions, rule: str
) -> NDArray[np.float64]:
    keep = RULES[rule](support.malignancy)
    label = is_malignant(support.malignancy[keep])
    return size_baseline(support.diameter_mm[keep], label, predictions.diameter_mm)


def _retrieval(support: SupportVote, predictions: Predictions, rule: str) -> tuple[float, float]:
    """Precision at 1 and mAP among the cases that the rule keeps."""
    keep = RULES[rule](support.malignancy)
    distance = support.distance(predictions.embedding, predictions.patient_id)[:, keep]
    label, truth = is_malignant(support.malignancy[keep]), is_malignant(predictions.malignancy)
    return retrieval(distance, label[None] == truth[:, None], np.isfinite(distance))


def context_metrics(parts: Sequence[Part]) -> dict[str, Any]:
    """How far diagnosis, probability and mask stay when a file is cut to the nodule's slices.

    Returns:
        Number of nodules, share with the same diagnosis, mean of the probability with surroundings
        less that without, mean Dice of the masks; nothing where no file shows surroundings.
    """
    same, shift, overlap = [], [], []
    for support, predictions in parts:
        whole = predictions[np.isfinite(predictions.trimmed_dice)]
        if len(whole):
            full = support.probability(whole.embedding, whole.patient_id)
            trimmed = support.probability(whole.trimmed_embedding, whole.patient_id)
            same.append((full > 0.5) == (trimmed > 0.5))
            shift.append(full - trimmed)
            overlap.append(whole.trimmed_dice)
    if not same:
        return {}
    return {
        "context_n": sum(len(s) for s in same),
        "context_same_diagnosis": float(np.concatenate(same).mean()),
        "context_shift": float(np.concatenate(shift).mean()),
        "context_dice": float(np.concatenate(overlap).mean()),
    }


def nearness(parts: Sequence[Part], k: int, interval: IntervalForm = "quantile") -> float:
    """Distance, in embedding scales, within which 95 % of the correctly matched cases lie.

    Args:
        parts: Support sets and the nodules that are new to them.
        k: How many of the nearest count: the more, the further away the last of them lie.
        interval: How the end of the 95 % is estimated.
    """
    # Calibrated by themselves: the votes' own calibrations know the nodules that are left out.
    calibration = calibrate(parts)
    alike = [
        (replace(support, vote=replace(support.vote, k=k), calibration=calibration), predictions)
        for support, predictions in parts
    ]
    return interval_end(scaled_matched_distances(alike), BundleInfo.similarity_quantile, interval)


def once_each(parts: Sequence[Part]) -> list[Part]:
    """The parts without nodules that an earlier part holds already."""
    seen: set[str] = set()
    kept = []
    for support, predictions in parts:
        new = np.array([case_id not in seen for case_id in predictions.case_id], dtype=bool)
        seen.update(predictions.case_id)
        kept.append((support, predictions[new]))
    return kept
