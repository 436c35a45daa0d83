"""The similarity indicator (docs/methods.md 7.7: A9, A10)."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.trust.confidence import (
    Confidence,
    SimilarityIndicator,
    matched_distances,
    vote_doubts,
)


def test_the_indicator_equals_its_definition():
    matched = np.random.default_rng(0).gamma(2, 1, 50).astype(np.float32)
    indicator = SimilarityIndicator(matched)
    for distance in (0.0, 0.7, float(matched[3]), 99.0):
        slow = (1 + sum(s >= distance for s in matched)) / (len(matched) + 1)
        assert indicator.similarity(distance) == pytest.approx(slow)


def test_a9_exchangeable_draws_give_uniform_values():
    rng = np.random.default_rng(1)
    values = [
        float(SimilarityIndicator(draw[:-1]).similarity(draw[-1]))
        for draw in rng.gamma(2, 1, (4000, 60)).astype(np.float32)
    ]
    for level in (0.05, 0.25, 0.5, 0.9):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=0.025)


def test_a10_similarity_falls_with_distance_and_stays_in_0_1():
    indicator = SimilarityIndicator(np.random.default_rng(2).gamma(2, 1, 200))
    values = indicator.similarity(np.linspace(0, 20, 300))
    assert (np.diff(values) <= 0).all()
    assert values.max() == 1
    assert values.min() > 0


def test_the_threshold_holds_its_share():
    matched = np.random.default_rng(3).gamma(2, 1, 5000)
    threshold = SimilarityIndicator(matched, 0.95).threshold
    assert (matched <= threshold).mean() == pytest.approx(0.95, abs=1e-3)


def test_the_normal_interval_ends_at_mean_and_1_96_standard_deviations():
    matched = np.random.default_rng(4).normal(5, 0.5, 20000)
    indicator = SimilarityIndicator(matched, 0.95, "normal")
    mean = matched.sum() / 20000
    spread = np.sqrt(((matched - mean) ** 2).sum() / 20000)
    assert indicator.threshold == pytest.approx(mean + 1.96 * spread, abs=1e-4)
    # One end of a two-sided interval: 2.5 % lie beyond it.
    assert (matched <= indicator.threshold).mean() == pytest.approx(0.975, abs=3e-3)
    assert indicator.threshold_name == "mean + 1.96 SD"
    empirical = SimilarityIndicator(matched)
    assert empirical.threshold == np.quantile(matched.astype(np.float32), 0.95)
    assert empirical.threshold_name == "95%"
    np.testing.assert_array_equal(indicator.similarity(matched), empirical.similarity(matched))


def test_an_unknown_interval_is_refused():
    with pytest.raises(ValueError, match="interval must be quantile or normal, got 'gamma'"):
        SimilarityIndicator(np.ones(3), 0.95, "gamma")


def test_only_right_votes_by_the_same_class_are_matched():
    distance = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    neighbours = np.array([[True, False], [True, True], [False, False]])
    malignant, correct = np.array([True, True, False]), np.array([True, False, True])
    np.testing.assert_array_equal(
        matched_distances(distance, neighbours, malignant, correct), [1, 5, 6]
    )


@pytest.mark.parametrize(
    ("matched", "quantile", "message"),
    [
        ([], 0.95, "got 0 values"),
        ([1, np.inf], 0.95, "finite matched"),
        ([1.0], 1.0, "quantile must"),
    ],
)
def test_impossible_indicators_are_refused(matched, quantile, message):
    with pytest.raises(ValueError, match=message):
        SimilarityIndicator(np.array(matched, np.float32), quantile)


def test_a_diagnosis_is_confident_when_nothing_speaks_against_it():
    assert Confidence().confident and Confidence().judged
    doubted = Confidence(doubts=("the vote is split",))
    assert doubted.judged and not doubted.confident
    for name in ("nothing_there", "not_judgeable"):
        told = Confidence(**{name: ("no",)}, doubts=("the vote is split",))
        assert not told.judged and not told.confident
        assert told.reasons == ("no",)


def test_a_vote_is_doubted_for_far_cases_and_for_a_split():
    assert vote_doubts(1.0, 1.0, 0.65, (0.35, 0.65)) == []
    (far,) = vote_doubts(1.2, 1.0, 0.9, (0.35, 0.65))
    assert "its distance 1.20 exceeds 1.00" in far
    (split,) = vote_doubts(0.2, 1.0, 0.5, (0.35, 0.65))
    assert "the probability 0.50 lies between 0.35 and 0.65" in split
