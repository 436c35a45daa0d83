"""`contrastdiagnosis-train agreement`: how far readers agree, and the ceiling that sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contrastdiagnosis.cases.case_folder import read_case_folder, read_case_source, read_scan
from contrastdiagnosis.cases.source import UNDECIDED, CaseSource
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_writable, write_file
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.objectives.metrics import BAND_MM, auc, f1, retrieval
from contrastdiagnosis_training.progress import Bar

Ratings = Sequence[Sequence[float] | NDArray[np.float64]]
"""Every reader's rating of each nodule, as many as there are."""

IDEAL_METRICS = ("auc", "auc_6_12mm", "accuracy", "f1", "precision_at_1", "map")
"""As `evaluate` calls them."""


@dataclass(frozen=True)
class Agreement:
    """Print how far the readers agree, and an estimate of the best metrics that this allows."""

    cases: Path
    """Case folder with every reader's ratings."""
    json: Path | None = None
    """Write the metrics here."""
    repeats: int = 100
    """Simulated ratings of all nodules."""

    def run(self) -> None:
        """Measures, prints, writes."""
        check_writable(self.json)
        metrics = reader_metrics(self.cases, self.repeats)
        print(table(metrics))
        if self.json:
            write_file(self.json, (json.dumps(metrics, indent=1) + "\n").encode())
            print(f"wrote {self.json}")


@dataclass(frozen=True)
class Components:
    """Variance between nodules and within a nodule's ratings."""

    between: float
    within: float

    def reliability(self, readers: float) -> float:
        """Squared correlation of the mean of so many ratings with the true score."""
        return self.between / (self.between + self.within / readers)


def variance_components(ratings: Ratings) -> Components:
    """One-way random effects analysis of variance (Shrout and Fleiss 1979, case 1).

    Args:
        ratings: Of one name.

    Raises:
        InputError: No nodule was rated twice, or there are fewer than two nodules.
    """
    count = np.array([len(r) for r in ratings], dtype=np.float64)
    if len(ratings) < 2 or count.sum() <= len(ratings):
        raise InputError(
            f"wanted at least two nodules, some of them rated by two readers or more, got"
            f" {len(ratings)} nodules with {int(count.sum())} ratings"
        )
    mean = np.array([np.mean(r) for r in ratings])
    inside = sum(((np.asarray(r) - m) ** 2).sum() for r, m in zip(ratings, mean, strict=True))
    within = inside / (count.sum() - len(count))
    among = (count * (mean - np.average(mean, weights=count)) ** 2).sum() / (len(count) - 1)
    typical = (count.sum() - (count**2).sum() / count.sum()) / (len(count) - 1)
    return Components(max((among - within) / typical, 0.0), float(within))


def one_reader_against_the_others(ratings: Ratings, case_source: CaseSource) -> dict[str, float]:
    """AUC and accuracy of a single rating for the label that the other readers give.

    Args:
        ratings: Of malignancy, on the source's own scale; rule exclude3 for the others.
        case_source: Whose scale that is.
    """
    own, others = [], []
    for values in ratings:
        for n, value in enumerate(values if len(values) > 1 else ()):
            own.append(value)
            others.append(float(np.mean([*values[:n], *values[n + 1 :]])))
    mean = case_source.malignancy_of(others)
    kept = RULES["exclude3"](mean)
    score, truth = case_source.malignancy_of(own)[kept], is_malignant(mean[kept])
    sure = score != UNDECIDED
    right = np.where(sure, (score > UNDECIDED) == truth, 0.5)
    return {"auc": auc(score, truth), "accuracy": float(right.mean())}


class ReaderModel:
    """Readers who see a nodule's true score and add noise of their own, then round to the scale.

    True scores are the observed means, drawn together or apart so that simulated ratings have the
    variances of the real ones: what is observed spreads wider than the truth. The noise is the same
    at every score, which is a simplification: real readers agree most on the plainly benign.

    Args:
        ratings: Of malignancy, on the source's own scale, which has whole steps.
        case_source: Whose scale that is.
        seed: Fixes the simulation.
    """

    def __init__(self, ratings: Ratings, case_source: CaseSource, seed: int = 0) -> None:
        self.case_source = case_source
        self._scale = case_source.scale(case_source.malignancy)
        observed = variance_components(ratings)
        self.random = np.random.default_rng(seed)
        self.readers = np.array([len(r) for r in ratings])
        mean = np.array([np.mean(r) for r in ratings])
        self._center, self._offset = mean.mean(), mean - mean.mean()
        self.spread = float(np.sqrt(observed.between / max(mean.var(), 1e-12)))
        self.noise = float(np.sqrt(observed.within))
        for _ in range(20):  # Damped steps: rounding and clipping change both variances a little.
            simulated = [variance_components(self.ratings()) for _ in range(5)]
            between = float(np.mean([s.between for s in simulated]))
            within = float(np.mean([s.within for s in simulated]))
            self.spread *= (observed.between / max(between, 1e-12)) ** 0.25
            self.noise *= (observed.within / max(within, 1e-12)) ** 0.25

    @property
    def true_score(self) -> NDArray[np.float64]:
        """(N,) what infinitely many readers would agree on."""
        return self._center + self.spread * self._offset

    def ratings(self) -> list[NDArray[np.float64]]:
        """Fresh ratings of every nodule, as many as it has."""
        noise = self.noise * self.random.standard_normal(int(self.readers.sum()))
        told = np.round(np.repeat(self.true_score, self.readers) + noise)
        values = np.clip(told, self._scale.lowest, self._scale.highest)
        return np.split(values, np.cumsum(self.readers)[:-1])


def ideal_metrics(
    model: ReaderModel, diameter_mm: NDArray, patient_id: NDArray, repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Mean and 95 % range of the metrics of somebody who knows the true scores.

    The labels are those of the simulated readers (rule exclude3): even perfect knowledge does not
    agree with the mean of three or four of them. Cases of a nodule's own patient are left out.

    Args:
        model: Of the readers.
        diameter_mm: (N,).
        patient_id: (N,).
        repeats: Simulations.
    """
    rows = []
    for _ in range(repeats):
        mean = model.case_source.malignancy_of([r.mean() for r in model.ratings()])
        kept = RULES["exclude3"](mean)
        truth, score = is_malignant(mean[kept]), model.true_score[kept]
        # Means of few ratings coincide; ties must not be broken by the table's order.
        score = score + 1e-6 * model.random.standard_normal(len(score))
        band = (diameter_mm[kept] >= BAND_MM[0]) & (diameter_mm[kept] < BAND_MM[1])
        patient = patient_id[kept]
        first, average = retrieval(
            np.abs(score[:, None] - score[None]),
            truth[:, None] == truth[None],
            patient[:, None] != patient[None],
        )
        found = model.case_source.malignancy_of(score) > UNDECIDED
        rows.append(
            (auc(score, truth), auc(score[band], truth[band]), (found == truth).mean(),
             f1(found, truth), first, average)
        )  # fmt: skip
    metrics = {}
    for name, values in zip(IDEAL_METRICS, np.array(rows).T, strict=True):
        known = values[np.isfinite(values)]  # The band may lack a class.
        if len(known):
            low, high = np.percentile(known, [2.5, 97.5])
            metrics[name] = (float(known.mean()), float(low), float(high))
    return metrics


def reader_metrics(cases: Path, repeats: int) -> dict[str, Any]:
    """All that is printed, for a case folder.

    Raises:
        InputError: The folder does not hold the single readers' malignancy ratings.
    """
    case_source = read_case_source(cases)
    told = case_source.malignancy or "malignancy"
    nodules = [n for n in read_case_folder(cases) if n.ratings.get(told)]
    if not nodules:
        raise InputError(f"{cases} holds no {told} ratings (column {told}_readers)")
    malignancy = [n.ratings[told] for n in nodules]
    model = ReaderModel(malignancy, case_source)
    diameter = np.array(
        [read_scan(n).diameter_mm for n in Bar(nodules, unit="nodule", leave=False)]
    )
    patient = np.array([n.patient_id for n in nodules])
    of_rating = {}
    for name in (scale.name for scale in case_source.scales):
        rated = [n.ratings[name] for n in nodules if n.ratings.get(name)]
        if rated:
            found = variance_components(rated)
            readers = float(np.mean([len(r) for r in rated]))
            of_rating[name] = {
                "between": found.between,
                "within": found.within,
                "reliability_of_one": found.reliability(1),
                "reliability_of_mean": found.reliability(readers),
            }
    return {
        "n": len(nodules),
        "ratings": of_rating,
        "one_reader": one_reader_against_the_others(malignancy, case_source),
        "one_reader_simulated": one_reader_against_the_others(
            [r for _ in range(10) for r in model.ratings()], case_source
        ),
        "ideal": ideal_metrics(model, diameter, patient, repeats),
    }


def table(metrics: dict[str, Any]) -> str:
    """The metrics as text."""
    lines = [
        f"{metrics['n']} nodules",
        "",
        f"{'rating':20}{'within':>9}{'between':>9}{'one reader':>12}{'their mean':>12}"
        "   share of variance that is the nodule's",
    ]
    for name, of in metrics["ratings"].items():
        lines.append(
            f"{name:20}{of['within']:9.2f}{of['between']:9.2f}{of['reliability_of_one']:12.2f}"
            f"{of['reliability_of_mean']:12.2f}"
        )
    one, simulated = metrics["one_reader"], metrics["one_reader_simulated"]
    lines += [
        "",
        f"one reader against the others: AUC {one['auc']:.3f}, accuracy {one['accuracy']:.3f}",
        f"  the same of simulated readers: {simulated['auc']:.3f}, {simulated['accuracy']:.3f}",
        "",
        "knowing what infinitely many readers would say, against the mean of these (exclude3):",
    ]
    for name, (mean, low, high) in metrics["ideal"].items():
        lines.append(f"  {name:18}{mean:8.3f}   {low:.3f}-{high:.3f}")
    return "\n".join(lines)
