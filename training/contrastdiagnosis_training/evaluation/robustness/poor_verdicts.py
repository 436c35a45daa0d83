"""What verdicts in poor images are worth, by unseen nodules whose scans were made poorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from contrastdiagnosis.cases.vote import fit_calibration
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.facts import facts_of_row
from contrastdiagnosis.trust.poor_image import (
    KINDS,
    SEVERAL,
    Band,
    PoorVerdicts,
    QualityDetector,
)
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.robustness.degraded import Poorer
from contrastdiagnosis_training.evaluation.robustness.figures import CHOSEN_SEVERITY
from contrastdiagnosis_training.evaluation.shipped_rule import Part
from contrastdiagnosis_training.objectives.metrics import expected_calibration_error, expected_ece

WRONG = 0.05
"""Share of the sure verdicts of one sign that may be wrong."""

LEAST = 40
"""Fewer verdicts beyond a cut tell nothing."""


class Verdicts(NamedTuple):
    """Verdicts in images that were told to be poor in one way.

    Attributes:
        probability: (N,) calibrated, of the nodules with a verdict and a label (rule exclude3).
        malignant: (N,) bool, what the readers said.
        missed: (M,) bool, whether no nodule was told of; of all nodules in such images.
    """

    probability: NDArray[np.float64]
    malignant: NDArray[np.bool_]
    missed: NDArray[np.bool_] = np.zeros(0, bool)


def verdicts_by_kind(
    poorer: Mapping[Poorer, Sequence[Part]],
    detectors: Sequence[QualityDetector],
    folds: Sequence[int],
    limits: Sequence[CaseLimits],
) -> dict[str, list[tuple[int, Verdicts]]]:
    """Verdicts by the kind that their images are told to be poor in, and the fold.

    Images that are poor in more than one way stand under `SEVERAL` alone.

    Args:
        poorer: Unseen nodules by the way their scans were made poorer, one part a fold; ways of
            severity `CHOSEN_SEVERITY` and worse count.
        detectors: Tell what is poor, one of each part.
        folds: Number of each part.
        limits: By which there is a verdict or none, of each part.
    """
    told: dict[str, list[tuple[int, Verdicts]]] = {kind: [] for kind in (*KINDS, SEVERAL)}
    for way, parts in poorer.items():
        if way.severity < CHOSEN_SEVERITY:
            continue
        of_parts = zip(folds, parts, limits, detectors, strict=True)
        for fold, (support, nodules), limit, detector in of_parts:
            facts = [facts_of_row(row) for row in nodules.facts]
            whole = np.isfinite(nodules.trimmed_dice).tolist()
            found = [limit.confidence(f, whole_scan=w) for f, w in zip(facts, whole, strict=True)]
            missed = np.array([bool(c.nothing_there) for c in found], dtype=bool)
            labelled = RULES["exclude3"](nodules.malignancy)
            verdict = labelled & np.array([c.judged for c in found], dtype=bool)
            probability = support.probability(nodules.embedding, nodules.patient_id)
            truth = is_malignant(nodules.malignancy)
            kinds = [detector.told(f.quality) for f in facts]
            alone = [SEVERAL if len(k) > 1 else "".join(k) for k in kinds]
            for kind in told:
                rows = np.array(alone) == kind
                judged = rows & verdict
                told[kind].append(
                    (fold, Verdicts(probability[judged], truth[judged], missed[rows]))
                )
    return told


def fit_poor_verdicts(
    told: Mapping[str, Sequence[tuple[int, Verdicts]]], without: int | None = None
) -> tuple[PoorVerdicts, ...]:
    """From where on verdicts in poor images are sure, one a kind that was told at all.

    Args:
        told: As of `verdicts_by_kind`.
        without: Leave a fold's verdicts out.
    """
    fitted = []
    for kind, by_fold in told.items():
        chosen = [verdicts for fold, verdicts in by_fold if fold != without]
        if not chosen:
            continue
        probability = np.concatenate([v.probability for v in chosen])
        malignant = np.concatenate([v.malignant for v in chosen])
        missed = np.concatenate([v.missed for v in chosen])
        if len(probability):
            worth = _poor_verdicts(kind, probability, malignant)
            share = round(float(missed.mean()), 4) if len(missed) else None
            fitted.append(replace(worth, missed=share))
    return tuple(fitted)


def verdict_table(
    told: Mapping[str, Sequence[tuple[int, Verdicts]]], fitted: Sequence[PoorVerdicts]
) -> list[dict[str, Any]]:
    """From where on verdicts are sure, and how many were wrong, a row a kind.

    The shares of the sure ones and of the others are of each fold by the borders of the others.

    Args:
        told: As of `verdicts_by_kind`.
        fitted: What ships.
    """
    others = {
        (worth.kind, fold): worth
        for fold in {fold for by_fold in told.values() for fold, _ in by_fold}
        for worth in fit_poor_verdicts(told, without=fold)
    }
    table = []
    for worth in fitted:
        wrong: dict[bool, list[bool]] = {True: [], False: []}
        for fold, verdicts in told[worth.kind]:
            border = others.get((worth.kind, fold))
            if border is None:
                continue
            for p, malignant in zip(verdicts.probability, verdicts.malignant, strict=True):
                wrong[border.sure(p)].append(bool((p > 0.5) != malignant))
        row = {"kind": worth.kind, "low": worth.low, "high": worth.high}
        for name, values in (("sure", wrong[True]), ("unsure", wrong[False])):
            row[f"n_{name}"] = len(values)
            row[f"wrong_{name}"] = float(np.mean(values)) if values else None
        table.append(row | {"missed": worth.missed})
    return table


def band_table(fitted: Sequence[PoorVerdicts]) -> list[dict[str, Any]]:
    """How many verdicts were wrong by their probability, a row a kind and band."""
    return [{"kind": worth.kind, **band._asdict()} for worth in fitted for band in worth.bands]


def recalibration_table(
    told: Mapping[str, Sequence[tuple[int, Verdicts]]],
) -> list[dict[str, Any]]:
    """Whether probabilities in poor images gain by a calibration of their own, a row a kind.

    A fold's verdicts are recalibrated by those of the other folds. `brier` and `ece` are of the
    probabilities as they are; `ece_expected` is that of a perfectly calibrated score.

    Args:
        told: As of `verdicts_by_kind`.
    """
    table = []
    for kind, by_fold in told.items():
        before, after, malignant = _recalibrated(by_fold)
        if not len(malignant):
            continue
        row: dict[str, Any] = {"kind": kind, "n": len(malignant)}
        for name, probability in (("", before), ("_own", after)):
            row[f"brier{name}"] = float(np.mean((probability - malignant) ** 2))
            row[f"ece{name}"] = expected_calibration_error(probability, malignant)
        table.append(row | {"ece_expected": expected_ece(before)})
    return table


def _recalibrated(
    by_fold: Sequence[tuple[int, Verdicts]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Probabilities as they are and by a calibration of the other folds, and the labels."""
    before, after, truth = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, bool)]
    for fold in dict.fromkeys(f for f, _ in by_fold):
        own, others = ([v for f, v in by_fold if (f == fold) == same] for same in (True, False))
        if not others:
            continue
        known = np.concatenate([v.probability for v in others])
        malignant = np.concatenate([v.malignant for v in others])
        if len(set(malignant.tolist())) < 2:
            continue
        calibration = fit_calibration(known, malignant)
        for verdicts in own:
            before.append(verdicts.probability)
            after.append(calibration.probability(verdicts.probability))
            truth.append(verdicts.malignant)
    return np.concatenate(before), np.concatenate(after), np.concatenate(truth)


def _poor_verdicts(kind: str, probability: NDArray, malignant: NDArray) -> PoorVerdicts:
    return PoorVerdicts(
        kind,
        low=round(1 - sure_from(1 - probability, malignant), 4),
        high=round(sure_from(probability, ~malignant), 4),
        bands=bands_of(probability, malignant),
    )


def bands_of(probability: NDArray[np.float64], malignant: NDArray[np.bool_]) -> tuple[Band, ...]:
    """How many verdicts were wrong by tenths of their probability, of `LEAST` verdicts or more.

    Tenths of fewer are joined with their neighbours towards one half; those of one sign are one
    band where they are fewer altogether, and none where there are none.

    Args:
        probability: (N,) calibrated.
        malignant: (N,) bool.

    Example:
        >>> probability = np.repeat([0.05, 0.15, 0.95], 50)
        >>> bands_of(probability, probability > 0.1)
        (Band(low=0.0, high=0.1, wrong=0.0), Band(low=0.1, high=0.5, wrong=1.0), \
Band(low=0.5, high=1.0, wrong=0.0))
    """
    benign = _bands_of_sign(1 - probability[probability <= 0.5], malignant[probability <= 0.5])
    other = _bands_of_sign(probability[probability > 0.5], ~malignant[probability > 0.5])
    mirrored = [Band(round(1 - b.high, 4), round(1 - b.low, 4), b.wrong) for b in benign]
    return (*mirrored, *reversed(other))


def _bands_of_sign(sureness: NDArray[np.float64], wrong: NDArray[np.bool_]) -> list[Band]:
    """The surest first."""
    if not len(sureness):
        return []
    cuts = [1.0]
    for low in (0.9, 0.8, 0.7, 0.6, 0.5):
        if np.count_nonzero(_between(sureness, low, cuts[-1])) >= LEAST:
            cuts.append(low)
    if len(cuts) > 1:
        cuts.pop()
    cuts.append(0.5)
    return [
        Band(low, high, round(float(wrong[_between(sureness, low, high)].mean()), 4))
        for high, low in pairwise(cuts)
    ]


def _between(sureness: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    return (sureness >= low) & ((sureness < high) | (high == 1))


def sure_from(probability: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """The least probability above one half from which few verdicts are wrong; 1 if there is none.

    Args:
        probability: (N,) of the verdict that is asked about.
        wrong: (N,) whether it would be wrong.

    Example:
        >>> probability = np.linspace(0.51, 1, 100)
        >>> round(sure_from(probability, probability < 0.7), 2)  # All wrong below .7.
        0.69
        >>> sure_from(probability, probability > 0)
        1.0
    """
    order = np.argsort(-probability, kind="stable")
    share = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    fits = (share <= WRONG) & (np.arange(1, len(order) + 1) >= LEAST)
    fits &= probability[order] > 0.5
    return float(probability[order][np.flatnonzero(fits)[-1]]) if fits.any() else 1.0
