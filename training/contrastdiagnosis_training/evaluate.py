"""`contrastdiagnosis-train evaluate`: the target table, of a cross-fit run or of a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contrastdiagnosis.bundle import Bundle, load_bundle
from contrastdiagnosis.bundle_info import BundleInfo
from contrastdiagnosis.case_folder import read_case_folder
from contrastdiagnosis.case_limits import CaseLimits
from contrastdiagnosis.diagnoser import Diagnoser, choose_device
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.output import check_writable, write_file
from contrastdiagnosis.vote import VoteRule
from numpy.typing import NDArray

from contrastdiagnosis_training.crossfit import folds_of_run, load_fold
from contrastdiagnosis_training.judge import (
    Judge,
    calibrate,
    choose_vote,
    embedding_scale,
    judge_of_bundle,
    judge_of_readings,
    scaled_matched_distances,
)
from contrastdiagnosis_training.judgements import judgements, limits_of
from contrastdiagnosis_training.labels import RULES, is_malignant
from contrastdiagnosis_training.metrics import (
    BAND_MM,
    auc,
    expected_calibration_error,
    f1,
    patient_bootstrap,
    reliability,
    retrieval,
    risk_coverage,
    roc,
    size_baseline,
)
from contrastdiagnosis_training.readings import Readings, read_nodules

Part = tuple[Judge, Readings]
"""Nodules, and a judge to whom they are new."""


@dataclass(frozen=True)
class Evaluate:
    """Print the target table of the cross-fitted folds, or of a bundle on a case folder."""

    crossfit: Path | None = None
    """Folder that `crossfit` filled."""
    bundle: Path | None = None
    """Bundle folder; goes with --cases."""
    cases: Path | None = None
    """Case folder that the bundle is judged on."""
    json: Path | None = None
    """Write the figures here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the bundle's network runs."""

    def run(self) -> None:
        """Measures, prints, writes."""
        check_writable(self.json)
        if self.crossfit and not (self.bundle or self.cases):
            figures = evaluate_crossfit(self.crossfit)
        elif self.bundle and self.cases and not self.crossfit:
            figures = evaluate_bundle(load_bundle(self.bundle), self.cases, self.device)
        else:
            raise InputError("wanted either --crossfit RUN, or --bundle DIR with --cases FOLDER")
        print(table(figures))
        if self.json:
            write_file(self.json, (json.dumps(strict(figures), indent=1) + "\n").encode())
            print(f"wrote {self.json}")


def evaluate_crossfit(run: Path) -> dict[str, Any]:
    """Figures of the pooled test folds of a cross-fit run.

    k and the temperature of a fold come from its validation part, voted on by its training part;
    its calibration comes from the votes of the other folds.
    """
    folds = [load_fold(run, fold) for fold in folds_of_run(run)]
    parts = calibrated_across([fold_part(fold) for fold in folds])
    figures = figures_of(parts)
    others = [
        (judge, fold["other"])
        for (judge, _), fold in zip(parts, folds, strict=True)
        if "other" in fold
    ]
    figures |= context_figures(once_each([*others, *parts]))
    thresholds = [
        embedding_scale(judge.embedding)
        * nearness([p for p in parts if p[1] is not readings], judge.vote.k)
        for judge, readings in parts
    ]
    limits = [limits_of(others_facts(fold)) for fold in folds]
    figures |= confidence_figures(parts, thresholds, BundleInfo.split_vote, limits)
    figures["protocol"] = (
        f"patient-wise {len(folds)}-fold cross-fitting on {figures['n']} nodules; k and temperature"
        " chosen on each training fold's validation patients, calibration fitted to the other"
        " folds' votes."
    )
    figures["k"] = [judge.vote.k for judge, _ in parts]
    return figures


def fold_part(fold: dict[str, Readings], choice: tuple[int, float] | None = None) -> Part:
    """A fold's test nodules and the judge made of its other nodules, not yet calibrated.

    Args:
        fold: Readings by role.
        choice: k and temperature; chosen on the fold's own validation part if not given.
    """
    if choice is None:
        choice = choose_vote([(judge_of_readings(fold["train"]), fold["validation"])])
    k, temperature = choice
    judge = judge_of_readings(fold["train"], fold["validation"])
    vote = VoteRule(k, temperature * embedding_scale(judge.embedding))
    return replace(judge, vote=vote), fold["test"]


def calibrated_across(parts: Sequence[Part]) -> list[Part]:
    """Every judge calibrated by the votes of all the other parts."""
    return [
        (
            replace(judge, calibration=calibrate([p for p in parts if p[1] is not readings])),
            readings,
        )
        for judge, readings in parts
    ]


def evaluate_bundle(bundle: Bundle, cases: Path, device: str) -> dict[str, Any]:
    """Figures of a bundle on any case folder; nodules of its own patients never vote for them."""
    chosen = choose_device(device)
    diagnoser = Diagnoser(bundle, chosen.type)
    readings = read_nodules(diagnoser.network, read_case_folder(cases), chosen, diagnoser)
    judge = judge_of_bundle(bundle)
    seen = int(np.isin(readings.patient_id, judge.patient_id).sum())
    figures = figures_of([(judge, readings)]) | context_figures([(judge, readings)])
    figures |= confidence_figures(
        [(judge, readings)],
        [bundle.indicator.threshold],
        bundle.info.split_vote,
        [bundle.info.limits],
    )
    figures["of_patients_in_bundle"] = seen
    figures["protocol"] = (
        f"bundle {bundle.info.name} {bundle.info.version} on {len(readings)} nodules of"
        f" {cases.name}"
        + (f"; {seen} are of patients it was made from: no held-out figure" if seen else "")
    )
    return figures


def figures_of(parts: Sequence[Part]) -> dict[str, Any]:
    """The figures of every label rule and of the masks, pooled over parts."""
    readings = [r for _, r in parts]
    figures: dict[str, Any] = {"n": sum(len(r) for r in readings)}
    figures |= {rule: rule_figures(parts, rule) for rule in RULES}
    for name in ("dice", "dice_inter_reader", "dice_reader_consensus"):
        values = np.concatenate([getattr(r, name) for r in readings])
        figures[name] = float(np.nanmean(values)) if np.isfinite(values).any() else None
    return figures


RULE_FIGURES = (
    "auc", "auc_ci", "auc_6_12mm", "n_6_12mm", "auc_diameter", "auc_diameter_6_12mm", "auc_gain_ci",
    "accuracy", "f1", "ece", "precision_at_1", "map", "curves",
)  # fmt: skip
"""What a label rule is measured by; all None where it leaves a single class."""


def strict(value: Any) -> Any:
    """The figures with None for every number that is not finite, as JSON wants it."""
    if isinstance(value, dict):
        return {name: strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def rule_figures(parts: Sequence[Part], rule: str) -> dict[str, Any]:
    """Malignancy and retrieval figures under one label rule."""
    kept = [(judge, r[RULES[rule](r.malignancy)]) for judge, r in parts]
    probability = np.concatenate([j.probability(r.embedding, r.patient_id) for j, r in kept])
    size = np.concatenate([_size_probability(j, r, rule) for j, r in kept])
    patient = np.concatenate([r.patient_id for _, r in kept])
    diameter = np.concatenate([r.diameter_mm for _, r in kept])
    truth = is_malignant(np.concatenate([r.malignancy for _, r in kept]))
    counts = {"n": len(truth), "n_malignant": int(truth.sum())}
    if truth.all() or not truth.any():
        return dict.fromkeys(RULE_FIGURES) | counts
    band = (diameter >= BAND_MM[0]) & (diameter < BAND_MM[1])
    first, average = zip(*(_retrieval(j, r, rule) for j, r in kept), strict=True)
    weight = [len(r) for _, r in kept]
    return counts | {
        "auc": auc(probability, truth),
        "auc_ci": patient_bootstrap(lambda i: auc(probability[i], truth[i]), patient),
        "auc_6_12mm": auc(probability[band], truth[band]),
        "n_6_12mm": int(band.sum()),
        "auc_diameter": auc(size, truth),
        "auc_diameter_6_12mm": auc(size[band], truth[band]),
        "auc_gain_ci": patient_bootstrap(
            lambda i: auc(probability[i], truth[i]) - auc(size[i], truth[i]), patient
        ),
        "accuracy": float(((probability > 0.5) == truth).mean()),
        "f1": f1(probability > 0.5, truth),
        "ece": expected_calibration_error(probability, truth),
        "precision_at_1": float(np.average(first, weights=weight)),
        "map": float(np.average(average, weights=weight)),
        "curves": {
            "reliability": reliability(probability, truth),
            "roc": roc(probability, truth),
            "roc_diameter": roc(size, truth),
            "risk_coverage": risk_coverage(probability, truth),
        },
    }


def _size_probability(judge: Judge, readings: Readings, rule: str) -> NDArray[np.float64]:
    keep = RULES[rule](judge.malignancy)
    label = is_malignant(judge.malignancy[keep])
    return size_baseline(judge.diameter_mm[keep], label, readings.diameter_mm)


def _retrieval(judge: Judge, readings: Readings, rule: str) -> tuple[float, float]:
    """Precision at 1 and mAP among the cases that the rule keeps."""
    keep = RULES[rule](judge.malignancy)
    distance = judge.distance(readings.embedding, readings.patient_id)[:, keep]
    label, truth = is_malignant(judge.malignancy[keep]), is_malignant(readings.malignancy)
    return retrieval(distance, label[None] == truth[:, None], np.isfinite(distance))


def context_figures(parts: Sequence[Part]) -> dict[str, Any]:
    """How far diagnosis and mask stay when a file is cut to the nodule's slices."""
    same, overlap = [], []
    for judge, readings in parts:
        whole = readings[np.isfinite(readings.trimmed_dice)]
        if len(whole):
            full = judge.probability(whole.embedding, whole.patient_id)
            trimmed = judge.probability(whole.trimmed_embedding, whole.patient_id)
            same.append((full > 0.5) == (trimmed > 0.5))
            overlap.append(whole.trimmed_dice)
    if not same:
        return {}
    return {
        "context_n": sum(len(s) for s in same),
        "context_same_diagnosis": float(np.concatenate(same).mean()),
        "context_dice": float(np.concatenate(overlap).mean()),
    }


def nearness(parts: Sequence[Part], k: int) -> float:
    """Distance, in embedding scales, within which 95 % of the correctly matched cases lie.

    Args:
        parts: Judges and the nodules that are new to them.
        k: How many of the nearest count: the more, the further away the last of them lie.
    """
    # Calibrated by themselves: the judges' own calibrations know the nodules that are left out.
    calibration = calibrate(parts)
    alike = [
        (replace(judge, vote=replace(judge.vote, k=k), calibration=calibration), readings)
        for judge, readings in parts
    ]
    return float(np.quantile(scaled_matched_distances(alike), BundleInfo.similarity_quantile))


def others_facts(fold: dict[str, Readings]) -> NDArray[np.float64]:
    """The facts of a fold's nodules that are not tested."""
    return np.concatenate([fold[role].facts for role in ("train", "validation")])


def confidence_figures(
    parts: Sequence[Part],
    thresholds: Sequence[float],
    split_vote: tuple[float, float],
    limits: Sequence[CaseLimits],
) -> dict[str, Any]:
    """Accuracy (rule exclude3) of the confident and of the other diagnoses, and their share.

    Args:
        parts: Judges and the nodules that are new to them.
        thresholds: Distance of the nearest case, for each part, beyond which nothing is alike.
        split_vote: Probabilities between these are called split.
        limits: How far the cases go, for each part.
    """
    verdict, sure, right = [], [], []
    for (judge, readings), threshold, limit in zip(parts, thresholds, limits, strict=True):
        kept = readings[RULES["exclude3"](readings.malignancy)]
        if not len(kept):
            continue
        judged = judgements(judge, kept, threshold, split_vote, limit)
        probability = judge.probability(kept.embedding, kept.patient_id)
        verdict.append([j.judged for j in judged])
        sure.append([j.confident for j in judged])
        right.append((probability > 0.5) == is_malignant(kept.malignancy))
    if not sure:
        return {}
    confident, correct = np.concatenate(sure), np.concatenate(right)
    return {
        "verdict_share": float(np.concatenate(verdict).mean()),
        "confident_share": float(confident.mean()),
        "confident_accuracy": float(correct[confident].mean()) if confident.any() else None,
        "unsure_accuracy": float(correct[~confident].mean()) if not confident.all() else None,
    }


def once_each(parts: Sequence[Part]) -> list[Part]:
    """The parts without nodules that an earlier part holds already."""
    seen: set[str] = set()
    kept = []
    for judge, readings in parts:
        new = np.array([case_id not in seen for case_id in readings.case_id], dtype=bool)
        seen.update(readings.case_id)
        kept.append((judge, readings[new]))
    return kept


TARGETS: tuple[tuple[str, str, float, float], ...] = (
    ("auc", "AUC", 0.93, 0.962),
    ("auc_6_12mm", "AUC 6-12 mm", 0.85, 0.93),
    ("accuracy", "accuracy", 0.86, 0.893),
    ("f1", "F1", 0.84, 0.88),
    ("precision_at_1", "retrieval P@1", 0.82, 0.87),
    ("map", "retrieval mAP", 0.78, 0.85),
    ("ece", "ECE", 0.05, 0.03),
)
"""Key, name, must and aim, all under the rule exclude3."""


def table(figures: dict[str, Any]) -> str:
    """The figures as text: the rules side by side, then masks and context."""
    lines = [str(figures.get("protocol", "")), ""]
    lines.append(f"{'':24}" + "".join(f"{rule:>12}" for rule in RULES) + f"{'must':>8}{'aim':>8}")
    rows = [("n", "nodules", None, None), *TARGETS]
    rows[2:2] = [
        ("auc_diameter", "  diameter alone", None, None),
    ]
    rows.insert(4, ("auc_diameter_6_12mm", "  diameter alone", None, None))
    for key, name, must, aim in rows:
        values = "".join(f"{_text(figures[rule].get(key)):>12}" for rule in RULES)
        lines.append(f"{name:24}{values}" + (f"{must:>8}{aim:>8}" if must is not None else ""))
        if key == "auc":
            intervals = (figures[rule].get("auc_ci") for rule in RULES)
            texts = (f"{i[0]:.3f}-{i[1]:.3f}" if i else "-" for i in intervals)
            lines.append(f"{'  95 % patient bootstrap':24}" + "".join(f"{t:>12}" for t in texts))
    lines.append("")
    for key, name, goal in (
        ("dice", "Dice to the consensus", "0.80 / 0.85"),
        ("dice_inter_reader", "  between readers", ""),
        ("dice_reader_consensus", "  readers to consensus", ""),
        ("verdict_share", "with a verdict", ""),
        ("confident_share", "confident", ""),
        ("confident_accuracy", "  accuracy of these", ""),
        ("unsure_accuracy", "  accuracy of the others", ""),
        ("context_same_diagnosis", "same without context", "0.90 / 0.97"),
        ("context_dice", "  Dice of both masks", "0.85 / 0.92"),
    ):
        if figures.get(key) is not None:
            lines.append(f"{name:24}{figures[key]:12.3f}   {goal}")
    return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value if value is not None else "-")
