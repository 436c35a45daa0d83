"""The metrics that are reported, each with its definition; none of them looks at a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

BOOTSTRAPS = 1000
BAND_MM = (6.0, 12.0)
"""Diameters where size alone says least."""


def auc(score: NDArray, malignant: NDArray) -> float:
    """Area under the ROC curve, NaN where only one class is present.

    Args:
        score: (N,).
        malignant: (N,) of 0 and 1.

    Raises:
        ValueError: A score is not a finite number.

    Example:
        >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))  # A tie is half a pair.
        0.875
        >>> auc(np.array([0.1, 0.4]), np.array([1, 1]))
        nan
    """
    return float(resampled_auc(score, malignant, np.ones((1, len(score)), dtype=np.int64))[0])


def resampled_auc(
    score: NDArray, malignant: NDArray, times: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(R,) areas under the ROC curves of R resamples, NaN where only one class was drawn.

    The share of pairs that are in order, ties counting half (Mann-Whitney U). Scikit-learn's
    `roc_auc_score` looks at one resample a call, and its checks take longer than the metric.

    Args:
        score: (N,).
        malignant: (N,) of 0 and 1.
        times: (R, N) how often each nodule is in a resample.

    Raises:
        ValueError: A score is not a finite number.
    """
    malignant = np.asarray(malignant, dtype=bool)
    positive, negative = times * malignant, times * ~malignant
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    if not pairs.any():
        return np.full(len(times), np.nan)
    if not np.isfinite(score).all():
        raise ValueError("an AUC wants finite scores, got NaN or infinity among them")
    order = np.argsort(score, kind="stable")
    steps = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    positive = np.add.reduceat(positive[:, order], steps, axis=1)
    negative = np.add.reduceat(negative[:, order], steps, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    in_order = (positive * (below + negative / 2)).sum(axis=1)
    return np.divide(in_order, pairs, out=np.full(len(times), np.nan), where=pairs > 0)


Metric = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Gives the metric of each of R resamples, (R,), for how often each nodule is in it, (R, N)."""


def patient_bootstrap(metric: Metric, patient: NDArray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a metric when whole patients are drawn with replacement.

    Resamples that have no such metric are left out; `scipy.stats.bootstrap`, which draws the same
    ones, would give no interval then.

    Args:
        metric: Of resamples.
        patient: (N,) patient of each nodule.
        seed: Fixes the draws.
    """
    low, high = np.nanpercentile(patient_draws(metric, patient, seed), [2.5, 97.5])
    return float(low), float(high)


def patient_draws(metric: Metric, patient: NDArray, seed: int = 0) -> NDArray[np.float64]:
    """(BOOTSTRAPS,) values of a metric when whole patients are drawn with replacement."""
    names, member = np.unique(patient, return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(names), size=(BOOTSTRAPS, len(names)))
    times = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(names))
    return metric(times[:, member])


def auc_interval(score: NDArray, malignant: NDArray, patient: NDArray) -> tuple[float, float]:
    """95 % patient bootstrap interval of the AUC."""
    return patient_bootstrap(lambda times: resampled_auc(score, malignant, times), patient)


def paired_p(difference: NDArray[np.float64], patient: NDArray, seed: int = 0) -> float:
    """Two-sided p of a mean difference of 0, by a bootstrap over whole patients.

    Args:
        difference: (N,) per nodule.
        patient: (N,).
        seed: Fixes the draws.
    """
    means = patient_draws(lambda times: times @ difference / times.sum(axis=1), patient, seed)
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return float(min(1.0, 2 * max(tail, 1 / len(means))))


def paired_auc(
    a: NDArray, b: NDArray, malignant: NDArray, patient: NDArray
) -> tuple[float, float, float]:
    """AUC of `a` less that of `b`, and its 95 % patient bootstrap interval."""
    low, high = patient_bootstrap(
        lambda times: resampled_auc(a, malignant, times) - resampled_auc(b, malignant, times),
        patient,
    )
    return auc(a, malignant) - auc(b, malignant), low, high


def f1(predicted: NDArray, malignant: NDArray) -> float:
    """F1 of the malignant class."""
    hits = (predicted & malignant).sum()
    return float(2 * hits / (predicted.sum() + malignant.sum()))


def expected_calibration_error(probability: NDArray, malignant: NDArray, bins: int = 10) -> float:
    """ECE over bins of equal mass (docs/methods.md 7.2).

    Example:
        >>> p, malignant = np.array([0.2, 0.2, 0.9, 0.9]), np.array([0, 0, 1, 1])
        >>> round(expected_calibration_error(p, malignant, bins=2), 3)
        0.15
    """
    order = np.argsort(probability, kind="stable")
    gaps = [
        len(part) * abs(probability[part].mean() - malignant[part].mean())
        for part in np.array_split(order, bins)
        if len(part)
    ]
    return float(sum(gaps) / len(order))


EXPECTED_DRAWS = 1000
"""Sets of labels that `expected_ece` is the mean over."""


def expected_ece(probability: NDArray, bins: int = 10, seed: int = 0) -> float:
    """ECE that a perfectly calibrated score with these probabilities would have on average.

    It is above 0, and the more so the fewer the nodules: shares of malignant nodules in a bin vary
    by chance. Labels are drawn from the probabilities themselves (Monte Carlo), bins are those of
    `expected_calibration_error`.

    Args:
        probability: (N,).
        bins: Of equal mass.
        seed: Fixes the draws.
    """
    random = np.random.default_rng(seed)
    ordered = np.sort(probability)
    drawn = random.random((EXPECTED_DRAWS, len(ordered))) < ordered
    ends = np.cumsum([len(part) for part in np.array_split(ordered, bins)])[:-1]
    gaps = [
        np.abs(part.sum(axis=1)) for part in np.split(ordered - drawn, ends, axis=1) if part.size
    ]
    return float(np.mean(sum(gaps)) / len(ordered))


CURVE_POINTS = 60
"""Points that are kept of a curve: enough for a picture."""

Points = list[tuple[float, ...]]


def reliability(probability: NDArray, malignant: NDArray, bins: int = 10) -> Points:
    """Mean probability, share that is malignant and count of each of the bins of equal mass."""
    order = np.argsort(probability, kind="stable")
    return [
        (float(probability[part].mean()), float(malignant[part].mean()), len(part))
        for part in np.array_split(order, bins)
        if len(part)
    ]


def roc(score: NDArray, malignant: NDArray) -> Points:
    """False and true positive rates, at most `CURVE_POINTS` of them."""
    false_positive, true_positive, _ = roc_curve(malignant, score)
    return _thinned(false_positive, true_positive)


def risk_coverage(probability: NDArray, malignant: NDArray) -> Points:
    """Share of errors among the surest nodules, against the share of nodules that these are.

    Sure is a probability far from one half. It starts at a tenth of the nodules: of fewer, an
    error says little.
    """
    order = np.argsort(-np.abs(probability - 0.5), kind="stable")
    wrong = ((probability > 0.5) != malignant)[order]
    count = np.arange(1, len(wrong) + 1)
    first = max(len(wrong) // 10, 1) - 1
    return _thinned((count / len(wrong))[first:], (np.cumsum(wrong) / count)[first:])


def _thinned(x: NDArray, y: NDArray) -> Points:
    kept = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
    return [(round(float(a), 4), round(float(b), 4)) for a, b in zip(x[kept], y[kept], strict=True)]


def retrieval(
    distance: NDArray, relevant: NDArray[np.bool_], allowed: NDArray[np.bool_]
) -> tuple[float, float]:
    """Precision at 1 and mean average precision over the full ranking.

    Args:
        distance: (N, M) from queries to cases.
        relevant: (N, M), case has the query's label.
        allowed: (N, M), False for cases of the query's own patient.
    """
    first, average = [], []
    for d, r, a in zip(distance, relevant, allowed, strict=True):
        ranked = r[a][np.argsort(d[a], kind="stable")]
        if not ranked.any():
            continue
        precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
        first.append(ranked[0])
        average.append(precision[ranked].mean())
    return float(np.mean(first)), float(np.mean(average))


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice coefficient; 1 for two empty masks."""
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else 1.0


def inter_reader_dice(votes: NDArray, readers: int) -> float:
    """Dice between readers, pooled over their pairs, from how many marked each voxel.

    A voxel with v votes is shared by v (v - 1) / 2 of the pairs; every reader's volume counts in
    (readers - 1) pairs.
    """
    votes = votes.astype(np.float64)
    return float((votes * (votes - 1)).sum() / ((readers - 1) * votes.sum()))


def reader_consensus_dice(votes: NDArray, readers: int) -> float:
    """Dice of the readers with their own 50 % consensus, pooled: about the best one can reach."""
    consensus = votes >= readers / 2
    return float(2 * votes[consensus].sum() / (votes.sum() + readers * consensus.sum()))


def size_baseline(
    diameter_mm: NDArray, malignant: NDArray, unseen_diameter_mm: NDArray
) -> NDArray[np.float64]:
    """Probability by a logistic regression on the log diameter alone, for unseen nodules."""
    model = LogisticRegression().fit(np.log(diameter_mm)[:, None], malignant)
    return model.predict_proba(np.log(unseen_diameter_mm)[:, None])[:, 1]


TREES = 500
"""Of the control forest; all else is as scikit-learn has it, nothing was chosen."""


def forest_baseline(
    measures: NDArray, malignant: NDArray, unseen_measures: NDArray, seed: int = 0
) -> NDArray[np.float64]:
    """Probability by a random forest on measures of the readers' masks, for unseen nodules.

    The control beside the diameter: what size, shape and density say without a network, from
    outlines that radiologists drew.

    Args:
        measures: (N, F) `mask_measures` of known nodules.
        malignant: (N,) their labels.
        unseen_measures: (M, F).
        seed: Grows the trees.
    """
    if malignant.all() or not malignant.any():
        return np.full(len(unseen_measures), float(malignant.any()))
    model = RandomForestClassifier(TREES, random_state=seed).fit(measures, malignant)
    return model.predict_proba(unseen_measures)[:, 1]
