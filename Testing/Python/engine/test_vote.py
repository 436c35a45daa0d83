"""The vote and its calibration."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.vote import Calibration, VoteRule, fit_calibration, logit
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


def test_a6_with_one_voter_auc_is_balanced_accuracy():
    rng = np.random.default_rng(1)
    truth = rng.random(300) < 0.4
    voter = np.where(rng.random(300) < 0.8, truth, ~truth)
    score = VoteRule(1, 1.0).score(rng.random((300, 1)), voter[:, None])
    assert roc_auc_score(truth, score) == pytest.approx(balanced_accuracy_score(truth, score > 0.5))


@pytest.mark.parametrize(
    ("k", "temperature", "message"),
    [(4, 1, "k must be odd"), (0, 1, "k must be odd"), (3, 0, "temperature must be positive")],
)
def test_impossible_rules_are_refused(k, temperature, message):
    with pytest.raises(ValueError, match=message):
        VoteRule(k, temperature)


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
