"""Can confidence and neighbours be trusted? Coverage, abstention, agreement of ratings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.diagnosis.diagnoser import SHOWN_CASES
from numpy.typing import NDArray

from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.data.patch_store import mean_ratings
from contrastdiagnosis_training.evaluation.shipped_rule import confidence_metrics
from contrastdiagnosis_training.evaluation.support_vote import (
    embedding_scale,
    scaled_matched_distances,
)
from contrastdiagnosis_training.evaluation.unseen import UnseenNodules


def confidence(unseen_sets: Sequence[UnseenNodules]) -> dict[str, Any]:
    """Coverage of the threshold, and what confidence by the shipped rule is worth (exclude3)."""
    within = []
    for unseen in unseen_sets:
        kept = unseen.predictions[RULES["exclude3"](unseen.predictions.malignancy)]
        if len(kept):
            matched = scaled_matched_distances([(unseen.support, kept)])
            within.append(embedding_scale(unseen.support.embedding) * matched <= unseen.threshold)
    if not within:
        return {}
    inside = np.concatenate(within)
    worth = confidence_metrics(
        [(unseen.support, unseen.predictions) for unseen in unseen_sets],
        [unseen.threshold for unseen in unseen_sets],
        unseen_sets[0].split_vote,
        [unseen.limits for unseen in unseen_sets],
    )
    return {
        "rule": unseen_sets[0].rule,
        "coverage": float(inside.mean()) if len(inside) else None,
        "coverage_by_part": [float(w.mean()) if len(w) else None for w in within],
        "matched_pairs": len(inside),
        **worth,
        "auc_gap": worth["confident"]["auc"] - worth["doubtful"]["auc"],
    }


def rating_agreement(unseen_sets: Sequence[UnseenNodules]) -> dict[str, dict[str, float]]:
    """Mean absolute rating differences, by rating that cases and nodules share.

    To the nearest `SHOWN_CASES`, to all cases of the same label, and between a reader and the mean
    of the nodule's other readers.

    Args:
        unseen_sets: Rated by the same scales.
    """
    near, same, readers = [], [], []
    names = [scale.name for scale in unseen_sets[0].scales]
    for unseen in unseen_sets:
        queries = mean_ratings(unseen.rows, unseen.scales)
        distance = unseen.support.distance(
            unseen.predictions.embedding, unseen.predictions.patient_id
        )
        order = np.argsort(distance, axis=1, kind="stable")[:, :SHOWN_CASES]
        label = is_malignant(unseen.support.malignancy)
        truth = is_malignant(unseen.predictions.malignancy)
        for n, query in enumerate(queries):
            near.append(_mean_gap(query, unseen.case_ratings[order[n]]))
            alike = np.isfinite(distance[n]) & (label == truth[n])
            same.append(_mean_gap(query, unseen.case_ratings[alike]))
            readers.append([_reader_gap(unseen.rows[n], name) for name in names])
    table: dict[str, dict[str, float]] = {}
    for r, name in enumerate(names):
        columns = [np.array(x, dtype=np.float64)[:, r] for x in (near, same, readers)]
        if np.isfinite(columns[0]).any():
            table[name] = dict(
                zip(("neighbours", "same_label", "readers"), map(_mean, columns), strict=True)
            )
    return table


def _mean_gap(query: NDArray[np.float64], cases: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) mean absolute difference to cases, NaN where a rating is unknown."""
    gap = np.ma.masked_invalid(np.abs(cases - query))
    return gap.mean(axis=0).filled(np.nan)


def _reader_gap(nodule: Nodule, name: str) -> float:
    values = np.array(nodule.ratings.get(name, ()), dtype=np.float64)
    if len(values) < 2:
        return np.nan
    others = (values.sum() - values) / (len(values) - 1)
    return float(np.abs(values - others).mean())


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
