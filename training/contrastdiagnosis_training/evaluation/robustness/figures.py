"""Figures of one cross-fit run in poorer and poorer scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.facts import facts_of_row
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from contrastdiagnosis_training.data.acquisition import Acquisition, is_poor_scan
from contrastdiagnosis_training.data.degradations.degrade import WORST
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.confidences import confidence_of_nodules
from contrastdiagnosis_training.evaluation.robustness.degraded import Poorer
from contrastdiagnosis_training.evaluation.shipped_rule import Part
from contrastdiagnosis_training.objectives.metrics import (
    auc,
    patient_bootstrap,
    resampled_auc,
    size_baseline,
)
from contrastdiagnosis_training.peers.predictions import PeerPredictions
from contrastdiagnosis_training.runs.predictions import Predictions

T = TypeVar("T", Predictions, PeerPredictions)

SHOWN_NEIGHBOURS = 10
"""Of the retrieval overlap."""

CHOSEN_SEVERITY = 3
"""At which the fall of the AUC is told."""


@dataclass(frozen=True)
class RobustFigures:
    """Figures of unseen nodules in scans of one kind, rule exclude3 unless noted.

    Attributes:
        n: Nodules.
        auc: Of the vote's probability.
        auc_diameter: Of the diameter of the readers' marks, which no scan makes poorer.
        accuracy: At one half.
        kappa: Quadratic, of the voters' mean malignancy with the readers', rounded to 1-5, of all
            nodules that were rated.
        shift: Mean change of the probability against the scan as it is, of all nodules.
        change: Mean absolute change.
        overlap: Share of the ten nearest cases that stay.
        dice: Mean, of all nodules.
        confident: Share of the answers that are confident.
        confident_wrong: Share of these that are wrong; NaN where none is confident.
        wrong: Share of all answers that are confident and wrong.
    """

    n: int
    auc: float
    auc_diameter: float
    accuracy: float
    kappa: float
    shift: float
    change: float
    overlap: float
    dice: float
    confident: float
    confident_wrong: float
    wrong: float


@dataclass(frozen=True, eq=False)
class Judges:
    """How confident answers are told, one of each a fold.

    Attributes:
        thresholds: Distances beyond which a case is unlike.
        limits: How far the cases go.
    """

    thresholds: Sequence[float]
    limits: Sequence[CaseLimits]


def robust_figures(clean: Sequence[Part], poorer: Sequence[Part], judges: Judges) -> RobustFigures:
    """Figures of nodules in poorer scans.

    Args:
        clean: Support sets and unseen nodules in their scans as they are.
        poorer: The same nodules in poorer scans.
        judges: Of each part.
    """
    probability, before = voted(poorer), voted(clean)
    malignancy = np.concatenate([r.malignancy for _, r in poorer])
    diameter = diameter_scores(clean)
    kept = RULES["exclude3"](malignancy)
    truth = is_malignant(malignancy)
    right = (probability > 0.5) == truth
    told = [
        confidence_of_nodules(support, nodules, threshold, BundleInfo.split_vote, limits)
        for (support, nodules), threshold, limits in zip(
            poorer, judges.thresholds, judges.limits, strict=True
        )
    ]
    sure = np.array([c.confident for part in told for c in part])[kept]
    wrong = sure & ~right[kept]
    return RobustFigures(
        n=int(kept.sum()),
        auc=auc(probability[kept], truth[kept]),
        auc_diameter=auc(diameter[kept], truth[kept]),
        accuracy=float(right[kept].mean()),
        kappa=kappa_of(np.concatenate([_mean_malignancy(part) for part in poorer]), malignancy),
        shift=float((probability - before).mean()),
        change=float(np.abs(probability - before).mean()),
        overlap=float(
            np.concatenate([_overlap(c, p) for c, p in zip(clean, poorer, strict=True)]).mean()
        ),
        dice=float(np.concatenate([r.dice for _, r in poorer]).mean()),
        confident=float(sure.mean()),
        confident_wrong=float(wrong.sum() / sure.sum()) if sure.any() else float("nan"),
        wrong=float(wrong.mean()),
    )


def voted(parts: Sequence[Part]) -> NDArray[np.float64]:
    """(N,) the vote's probability of the nodules of all parts."""
    return np.concatenate([s.probability(n.embedding, n.patient_id) for s, n in parts])


def diameter_scores(parts: Sequence[Part]) -> NDArray[np.float64]:
    """(N,) what the diameter of the readers' marks says of the nodules of all parts."""
    return np.concatenate([_diameter_score(part) for part in parts])


def _diameter_score(part: Part) -> NDArray[np.float64]:
    support, nodules = part
    keep = RULES["exclude3"](support.malignancy)
    label = is_malignant(support.malignancy[keep])
    return size_baseline(support.diameter_mm[keep], label, nodules.diameter_mm)


def _mean_malignancy(part: Part) -> NDArray[np.float64]:
    """(N,) the voters' malignancy, each with its weight in the vote."""
    support, nodules = part
    distance = support.distance(nodules.embedding, nodules.patient_id)
    order = np.argsort(distance, axis=1, kind="stable")[:, : support.vote.k]
    weight = support.vote.weight(np.take_along_axis(distance, order, axis=1))
    return (weight * support.malignancy[order]).sum(axis=1) / weight.sum(axis=1)


def kappa_of(predicted: NDArray, malignancy: NDArray) -> float:
    """Quadratic kappa of two malignancies, rounded to 1-5, where both are known.

    Args:
        predicted: (N,).
        malignancy: (N,) mean of the readers.
    """
    rated = np.isfinite(predicted) & np.isfinite(malignancy)
    levels = [np.rint(x[rated]).clip(1, 5).astype(int) for x in (predicted, malignancy)]
    return float(cohen_kappa_score(*levels, weights="quadratic"))


def _overlap(clean: Part, poorer: Part) -> NDArray[np.float64]:
    """(N,) share of the nearest cases of the clean scan that are still among them."""
    nearest = []
    for support, nodules in (clean, poorer):
        distance = support.distance(nodules.embedding, nodules.patient_id)
        nearest.append(np.argsort(distance, axis=1, kind="stable")[:, :SHOWN_NEIGHBOURS])
    same = nearest[0][:, :, None] == nearest[1][:, None]
    return same.any(axis=2).mean(axis=1)


def mixed_parts(
    clean: Sequence[Part], poorer: Mapping[Poorer, Sequence[Part]], share: float, seed: int = 0
) -> list[Part]:
    """The parts with a drawn share of the nodules in scans of a drawn operation and severity.

    Args:
        clean: Support sets and nodules in their scans as they are.
        poorer: The same by way.
        share: Of the nodules, 0 to 1.
        seed: Draws them.
    """
    rows = {way: [nodules for _, nodules in parts] for way, parts in poorer.items()}
    mixed = mixed_rows([nodules for _, nodules in clean], rows, share, seed)
    return [(support, nodules) for (support, _), nodules in zip(clean, mixed, strict=True)]


def mixed_rows(
    clean: Sequence[T], poorer: Mapping[Poorer, Sequence[T]], share: float, seed: int = 0
) -> list[T]:
    """Predictions of which a drawn share is of scans of a drawn operation and severity.

    The same rows are drawn of every run that was asked of the same nodules.

    Args:
        clean: Of nodules in their scans as they are, one table a fold.
        poorer: The same by way; severities from `CHOSEN_SEVERITY` on are drawn.
        share: Of the nodules, 0 to 1.
        seed: Draws them.
    """
    ways = [way for way in poorer if way.severity >= CHOSEN_SEVERITY]
    random = np.random.default_rng(seed)
    told = []
    for n, nodules in enumerate(clean):
        chosen = random.permutation(len(nodules))[: round(share * len(nodules))]
        way_of = random.integers(len(ways), size=len(nodules))
        columns = {}
        for field in fields(nodules):
            column = getattr(nodules, field.name).copy()
            for row in chosen.tolist():
                column[row] = getattr(poorer[ways[way_of[row]]][n], field.name)[row]
            columns[field.name] = column
        told.append(type(nodules)(**columns))
    return told


def fall_of_auc(by_way: Mapping[Poorer, RobustFigures], clean: RobustFigures) -> float:
    """Mean over the operations of how much AUC is lost at `CHOSEN_SEVERITY`."""
    falls = [clean.auc - f.auc for w, f in by_way.items() if w.severity == CHOSEN_SEVERITY]
    return float(np.mean(falls)) if falls else float("nan")


class Said(NamedTuple):
    """What a run or a peer says of the same nodules.

    Attributes:
        clean: (N,) probabilities in their scans as they are.
        poorer: (N,) probabilities in scans made poorer, one array a way.
    """

    clean: NDArray[np.float64]
    poorer: list[NDArray[np.float64]]

    def only(self, chosen: NDArray[np.bool_]) -> Said:
        """Of the chosen nodules alone."""
        return Said(self.clean[chosen], [told[chosen] for told in self.poorer])


def fall_interval(
    said: Said, firsts: Said | None, malignant: NDArray[np.bool_], patient: NDArray
) -> tuple[float, float]:
    """95 % patient bootstrap interval of the mean fall of the AUC, paired.

    Args:
        said: Of N nodules.
        firsts: Of another run, whose fall is taken off; None for the fall itself.
        malignant: (N,).
        patient: (N,).
    """

    def fall(told: Said, times: NDArray[np.int64]) -> NDArray[np.float64]:
        poorer = [resampled_auc(p, malignant, times) for p in told.poorer]
        return np.asarray(resampled_auc(told.clean, malignant, times) - np.mean(poorer, axis=0))

    return patient_bootstrap(
        lambda times: fall(said, times) - (fall(firsts, times) if firsts else 0.0), patient
    )


def wrong_at_worst(by_way: Mapping[Poorer, RobustFigures]) -> float:
    """Mean over the operations of the confident answers that are wrong at the worst severity."""
    told = [f.confident_wrong for w, f in by_way.items() if w.severity == WORST]
    known = [wrong for wrong in told if np.isfinite(wrong)]
    return float(np.mean(known)) if known else float("nan")


def as_record(figures: RobustFigures) -> dict[str, Any]:
    """The figures by name, for JSON."""
    return asdict(figures)


def poor_as_scanned(
    clean: Sequence[Part], nodules: Sequence[Nodule], acquisitions: Mapping[str, Acquisition]
) -> NDArray[np.bool_]:
    """(N,) whether the scans were poor as they came, by what is told and measured of them.

    Args:
        clean: Support sets and unseen nodules in their scans as they are.
        nodules: Rows of their case folder.
        acquisitions: How series were scanned, by UID.
    """
    series = {nodule.case_id: nodule.series_uid for nodule in nodules}
    poor = []
    for _, part in clean:
        for case_id, row in zip(part.case_id.tolist(), part.facts, strict=True):
            quality = facts_of_row(row).quality
            told = acquisitions.get(series[case_id])
            poor.append(is_poor_scan(quality.slice_mm, quality.noise_hu, told))
    return np.array(poor, dtype=bool)


def native_strata(
    probability: NDArray, malignancy: NDArray, poor: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """AUC apart for scans that were good and poor as they came, rule exclude3.

    Args:
        probability: (N,).
        malignancy: (N,) mean of the readers.
        poor: (N,) of `poor_as_scanned`.
    """
    kept, truth = RULES["exclude3"](malignancy), is_malignant(malignancy)
    strata = {}
    for name, chosen in (("good", ~poor), ("poor", poor)):
        rows = kept & chosen
        strata[name] = {"n": int(rows.sum()), "auc": auc(probability[rows], truth[rows])}
    return strata
