"""Coverage, abstention and neighbours' ratings against slow references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.vote import VoteRule
from contrastdiagnosis.trust.facts import FACT_NAMES
from contrastdiagnosis_training.data.patch_store import mean_ratings
from contrastdiagnosis_training.evaluation.support_vote import SupportVote
from contrastdiagnosis_training.evaluation.trust import confidence, rating_agreement
from contrastdiagnosis_training.evaluation.unseen import UnseenNodules
from contrastdiagnosis_training.runs.predictions import Predictions

from training.conftest import sound_facts

NAMES = [scale.name for scale in LIDC.scales]
MALIGNANCY, MARGIN = NAMES.index("malignancy"), NAMES.index("margin")


def ratings_of(rows):
    return mean_ratings(rows, LIDC.scales)


def nodule(n, malignancy, margin):
    return Nodule(
        case_id=f"{n}", patient_id=f"P{n}", image_path=Path(), mask_path=Path(), readers=3,
        ratings={"malignancy": malignancy, "margin": margin}, series_uid="", fold=0, source="made",
        case_source=LIDC,
    )  # fmt: skip


def unseen(threshold, queries=60, cases=200, seed=0):
    """One-dimensional embeddings: the position tells both ratings, with some noise."""
    random = np.random.default_rng(seed)

    def draw(count, first):
        place = random.uniform(1, 5, count)
        rows = []
        for n, x in enumerate(place):
            read = np.clip(np.round(x + random.normal(0, 0.7, 3)), 1, 5)
            margin = np.clip(np.round(x + random.normal(0, 0.4, 3)), 1, 5)
            rows.append(nodule(first + n, tuple(read), tuple(margin)))
        return place[:, None].astype(np.float32), rows

    z_cases, case_rows = draw(cases, 1000)
    z, rows = draw(queries, 0)
    blank = np.full(queries, np.nan)
    malignancy = ratings_of(rows)[:, MALIGNANCY]
    predictions = Predictions(
        case_id=np.array([r.case_id for r in rows]),
        patient_id=np.array([r.patient_id for r in rows]),
        malignancy=malignancy, diameter_mm=blank + 8, embedding=z, dice=blank,
        dice_inter_reader=blank, dice_reader_consensus=blank, trimmed_embedding=z,
        trimmed_dice=blank, facts=sound_facts(queries),
    )  # fmt: skip
    ratings = ratings_of(case_rows)
    support = SupportVote(
        z_cases, np.array([r.patient_id for r in case_rows]), ratings[:, MALIGNANCY],
        np.full(cases, 8.0), VoteRule(9, 0.5),
    )  # fmt: skip
    return UnseenNodules(
        "made", None, support, ratings, LIDC.scales, rows, predictions, threshold, (0.35, 0.65)
    )


def test_the_confident_are_better_than_the_rest():
    metrics = confidence([unseen(threshold=99.0, queries=400)])
    sure, doubtful = metrics["confident"], metrics["doubtful"]
    assert sure["auc"] > doubtful["auc"] + 0.1
    assert sure["accuracy"] > doubtful["accuracy"]
    assert metrics["auc_gap"] == sure["auc"] - doubtful["auc"]
    assert 0.3 < sure["share"] < 1
    assert sure["n"] + doubtful["n"] == metrics["n"]


def test_what_has_no_verdict_is_neither_confident_nor_doubtful():
    part = unseen(threshold=99.0, queries=100)
    facts = part.predictions.facts.copy()
    facts[:30, FACT_NAMES.index("volume_mm3")] = 0.0  # Nothing was outlined.
    before = confidence([part])
    metrics = confidence([replace(part, predictions=replace(part.predictions, facts=facts))])
    gone = int((part.predictions.malignancy[:30] != 3).sum())
    assert metrics["no_verdict"]["n"] == gone
    assert metrics["confident"]["n"] + metrics["doubtful"]["n"] == before["n"] - gone


def test_coverage_is_the_share_of_matched_pairs_within_the_threshold():
    part = unseen(threshold=0.05)
    support, predictions = part.support, part.predictions
    within = total = 0
    for z, rating in zip(predictions.embedding, predictions.malignancy, strict=True):
        if rating == 3:
            continue
        distance = np.abs(support.embedding[:, 0] - z[0])
        near = np.argsort(distance, kind="stable")[:9]
        votes = support.malignancy[near] > 3
        weight = np.exp(-(distance[near] - distance[near].min()) / 0.5)
        if ((weight * votes).sum() / weight.sum() > 0.5) != (rating > 3):
            continue
        matched = distance[near][votes == (rating > 3)]
        within, total = within + (matched <= 0.05).sum(), total + len(matched)
    metrics = confidence([part])
    assert metrics["matched_pairs"] == total
    assert metrics["coverage"] == pytest.approx(within / total, abs=0.005)
    assert confidence([unseen(threshold=0.0)])["coverage"] < 0.05
    assert confidence([unseen(threshold=99.0)])["coverage"] == 1


def test_neighbours_share_ratings_where_the_space_knows_them():
    part = unseen(threshold=1.0)
    agreement = rating_agreement([part])
    assert set(agreement) == {"malignancy", "margin"}
    for metrics in agreement.values():
        assert metrics["neighbours"] < metrics["same_label"]
    queries = ratings_of(part.rows)
    slow = []
    for n, z in enumerate(part.predictions.embedding):
        near = np.argsort(np.abs(part.support.embedding[:, 0] - z[0]), kind="stable")[:6]
        slow.append(np.abs(part.case_ratings[near, MARGIN] - queries[n, MARGIN]).mean())
    assert agreement["margin"]["neighbours"] == pytest.approx(np.mean(slow))


def test_a_reader_is_compared_with_the_mean_of_the_others():
    part = unseen(threshold=1.0, queries=2)
    rows = [nodule(0, (1.0, 2.0, 5.0), (3.0, 3.0, 3.0)), nodule(1, (4.0, 4.0, 1.0), (2.0,))]
    made = UnseenNodules(
        "x", None, part.support, part.case_ratings, LIDC.scales, rows, part.predictions, 1.0,
        (0.35, 0.65),
    )  # fmt: skip
    agreement = rating_agreement([made])
    assert agreement["malignancy"]["readers"] == pytest.approx(
        np.mean([np.mean([2.5, 1.0, 3.5]), np.mean([1.5, 1.5, 3.0])])
    )
    assert agreement["margin"]["readers"] == 0


def test_the_own_patient_is_no_neighbour():
    part = unseen(threshold=1.0)
    before = rating_agreement([part])["margin"]["neighbours"]
    support = part.support
    twin = SupportVote(
        np.concatenate([support.embedding, part.predictions.embedding]),
        np.concatenate([support.patient_id, part.predictions.patient_id]),
        np.concatenate([support.malignancy, part.predictions.malignancy]),
        np.full(260, 8.0), support.vote,
    )  # fmt: skip
    ratings = np.concatenate([part.case_ratings, ratings_of(part.rows)])
    with_twins = UnseenNodules(
        "x", None, twin, ratings, LIDC.scales, part.rows, part.predictions, 1.0, (0.35, 0.65)
    )
    # Every nodule is now among the cases; it may help others, but must not be its own neighbour.
    after = rating_agreement([with_twins])["margin"]["neighbours"]
    assert after > 0.75 * before
    support_distance = twin.distance(part.predictions.embedding, part.predictions.patient_id)
    assert np.isinf(support_distance[np.arange(60), 200 + np.arange(60)]).all()
