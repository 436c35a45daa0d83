"""The engine's own rule of confidence, applied to many nodules; its limits, from the cases."""

from __future__ import annotations

import numpy as np
from contrastdiagnosis.trust.confidence import Confidence, vote_doubts
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.facts import FACT_NAMES, facts_of_row
from numpy.typing import NDArray

from contrastdiagnosis_training.evaluation.support_vote import SupportVote
from contrastdiagnosis_training.runs.predictions import Predictions

LEAST_COVERED_SHARE = 0.3
"""Cut down to this the same nodules still kept their diagnosis, and the probability moved by less
than .18 in all but one of twenty; with less of their surroundings they were not tried."""

OUTERMOST = 0.005
"""Share of the cases that may lie beyond a limit."""

SURE_COVERED_SHARE = 0.5
"""Of 99 nodules with all their surroundings, cut to less and less around them, 2 to 3 in 100 change
their diagnosis down to half of the patch, and the probability moves by more than .12 in one of
twenty; below that by .16 and more (training/LOG.md, 2026-11-28)."""


def confidence_of_nodules(
    support: SupportVote,
    predictions: Predictions,
    threshold: float,
    split_vote: tuple[float, float],
    limits: CaseLimits,
) -> list[Confidence]:
    """Whether each nodule has a verdict, and how sure, by the rule that the product uses.

    Files that end with the nodule's slices are not doubted for it: they were cut on purpose.

    Args:
        support: The cases.
        predictions: N nodules that are new to them.
        threshold: Distance beyond which even the nearest case is unlike.
        split_vote: Probabilities between these are split.
        limits: How far the cases go.
    """
    if not len(predictions):
        return []
    distance, _ = support.voters(predictions.embedding, predictions.patient_id)
    probability = support.probability(predictions.embedding, predictions.patient_id)
    rows = zip(
        predictions.facts, distance[:, 0].tolist(), probability.tolist(), predictions.trimmed_dice,
        strict=True,
    )  # fmt: skip
    return [
        limits.confidence(
            facts_of_row(row),
            vote_doubts(nearest, threshold, p, split_vote),
            whole_scan=bool(np.isfinite(trimmed)),
            probability=p,
        )
        for row, nearest, p, trimmed in rows
    ]


def limits_of(*facts: NDArray[np.float64]) -> CaseLimits:
    """How far nodules go: all but the outermost one in two hundred of a source; without a gate.

    How much of the surroundings is needed is no matter of the cases: their files are cut.

    Args:
        facts: (N, F) `NoduleFacts.row` of the nodules of each source; the widest limits count.
    """

    def outermost(name: str, share: float, digits: int) -> list[float]:
        columns = [rows[:, FACT_NAMES.index(name)] for rows in facts]
        known = [column[np.isfinite(column)] for column in columns]
        return [round(float(np.quantile(column, share)), digits) for column in known if len(column)]

    return CaseLimits(
        min_lung_share=min(outermost("lung_share", OUTERMOST, 3)),
        max_noise_hu=max(outermost("noise_hu", 1 - OUTERMOST, 1), default=None),
        max_slice_mm=max(outermost("slice_mm", 1 - OUTERMOST, 2)),
        min_covered_share=LEAST_COVERED_SHARE,
        sure_covered_share=SURE_COVERED_SHARE,
        min_volume_mm3=min(outermost("volume_mm3", OUTERMOST, 1)),
        max_diameter_mm=max(outermost("long_mm", 1 - OUTERMOST, 1)),
        max_size_factor=max(outermost("size_factor", 1 - OUTERMOST, 2), default=None),
    )
