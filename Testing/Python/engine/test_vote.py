"""The vote and its calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.cases.vote import Calibration, VoteRule, fit_calibration, logit
from sklearn.metrics import balanced_accuracy_score, roc_auc_score


def test_the_score_equals_the_slow_sum():
    rule = VoteRule(k=5, temperature=0.7)
    distance = np.array([0.2, 0.5, 0.9, 1.1, 3.0])
    malignant = np.array([True, False, True, True, False])
    weights = [np.exp(-d / 0.7) for d in distance]
    slow = sum(w for w, m in zip(weights, malignant, strict=True) if m) / sum(weights)
    assert rule.score(distance, malignant) == pytest.approx(slow)


def test_a_score_far_from_all_cases_is_still_defined():
    assert VoteRule(3, 0.01).score([900.0, 900.0, 901.0], [True, False, False]) == pytest.approx(
        0.5
    )


def test_an_infinite_temperature_is_the_plain_vote():
    rng = np.random.default_rng(0)
    distance, malignant = rng.random((20, 7)), rng.random((20, 7)) < 0.5
    np.testing.assert_allclose(VoteRule(7, 1e9).score(distance, malignant), malignant.mean(axis=1))


@pytest.mark.parametrize("rule", [VoteRule(1, 1.0), VoteRule(1, form="majority")])
def test_a6_with_one_voter_auc_is_balanced_accuracy(rule):
    rng = np.random.default_rng(1)
    truth = rng.random(300) < 0.4
    voter = np.where(rng.random(300) < 0.8, truth, ~truth)
    score = rule.score(rng.random((300, 1)), voter[:, None])
    assert roc_auc_score(truth, score) == pytest.approx(balanced_accuracy_score(truth, score > 0.5))


def test_in_a_majority_vote_every_case_counts_alike():
    """The published score, (1/k) sum y, however far the cases lie."""
    rng = np.random.default_rng(3)
    rule = VoteRule(9, form="majority")
    distance, malignant = rng.gamma(2, 5, (50, 9)), rng.random((50, 9)) < 0.4
    score = rule.score(distance, malignant)
    assert score.tolist() == [sum(votes) / 9 for votes in malignant.tolist()]
    np.testing.assert_array_equal(rule.score(7 * distance[:, ::-1], malignant), score)
    assert (rule.weight(distance) == 1).all()


@pytest.mark.parametrize("rule", [VoteRule(5, 0.5), VoteRule(5, form="majority")])
def test_a_case_that_must_not_vote_is_infinitely_far(rule):
    distance, malignant = [0.1, 0.2, 0.4, np.inf, np.inf], [True, False, True, False, False]
    assert rule.score(distance, malignant) == rule.score(distance[:3], malignant[:3])


def test_a_majority_vote_has_no_temperature():
    weighted = VoteRule(5, 0.5)
    majority = replace(weighted, form="majority")
    assert majority == VoteRule(5, form="majority") and majority.temperature is None
    assert majority.scaled(3) == majority
    assert weighted.scaled(3) == VoteRule(5, 1.5)
    assert [rule.text for rule in (weighted, majority)] == [
        "distance-weighted vote of the 5 nearest cases", "majority vote of the 5 nearest cases",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((4, 1), "k must be odd"),
        ((0, 1), "k must be odd"),
        ((3, 0), "temperature must be positive, got 0"),
        ((3,), "temperature must be positive, got None"),
        ((4, None, "majority"), "k must be odd"),
        ((3, 1, "most"), "the vote must be distance-weighted or majority, got 'most'"),
    ],
)
def test_impossible_rules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VoteRule(*options)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, 0.25), (2, -1.5)])
def test_calibration_is_a_line_through_the_log_odds(slope, intercept):
    score = np.array([0.05, 0.3, 0.5, 0.8, 0.99])
    wanted = 1 / (1 + np.exp(-(slope * np.log(score / (1 - score)) + intercept)))
    np.testing.assert_allclose(Calibration(slope, intercept).probability(score), wanted)


def test_a_calibration_through_one_half_keeps_the_side_of_every_score():
    """Where malignant cases are rare, a free calibration moves the border away from one half."""
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 1.5, 20000)
    malignant = rng.random(20000) < 1 / (1 + np.exp(-(odds - 1)))
    score = 1 / (1 + np.exp(-2 * odds))
    free, bound = fit_calibration(score, malignant), fit_calibration(score, malignant, True)
    assert abs(free.intercept) > 0.5 and bound.intercept == 0
    assert ((bound.probability(score) > 0.5) == (score > 0.5)).all()
    assert bound.probability(0.5) == 0.5
    slopes = np.linspace(0.1, 1.5, 57)
    loss = [
        -np.log(np.where(malignant, p, 1 - p)).mean()
        for p in (Calibration(slope).probability(score) for slope in slopes)
    ]
    assert bound.slope == pytest.approx(slopes[np.argmin(loss)], abs=0.03)


def test_calibration_recovers_what_distorted_the_scores():
    rng = np.random.default_rng(2)
    odds = rng.normal(0, 1.5, 20000)
    malignant = rng.random(20000) < 1 / (1 + np.exp(-odds))
    overconfident = 1 / (1 + np.exp(-(2 * odds - 0.5)))
    calibration = fit_calibration(overconfident, malignant)
    assert calibration.slope == pytest.approx(0.5, abs=0.05)
    assert calibration.intercept == pytest.approx(0.25, abs=0.08)


def test_calibration_keeps_the_order_and_stays_inside_0_and_1():
    probability = Calibration(1.3, -0.2).probability(np.linspace(0, 1, 50))
    assert (np.diff(probability) >= 0).all()
    assert probability[0] > 0 and probability[-1] < 1


def test_logit_is_finite_at_the_ends():
    assert np.isfinite(logit([0, 0.5, 1])).all()
    assert logit(0.5) == 0
