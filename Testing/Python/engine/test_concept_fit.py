"""The head's linear parts against scikit-learn and against what the optimum must fulfil."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.concepts.fit import (
    DECISION_PENALTY,
    DROPOUT,
    PRESENCE_PENALTY,
    absent_scores,
    absent_spread,
    fit_decision,
    fit_presence,
)
from sklearn.linear_model import LogisticRegression

N, K, M = 300, 3, 4
ALL = np.ones((K, M))


def made(seed=0, sign=1.0):
    """Scores in a narrow band, as cosines are; concept 0 tells malignancy, so does concept 2."""
    random = np.random.default_rng(seed)
    present = random.random((N, K)) < 0.4
    scores = 0.6 + 0.02 * random.normal(size=(N, K, M)) * (1 + np.arange(M))
    scores += sign * 0.03 * present[..., None]
    malignant = random.random(N) < 1 / (1 + np.exp(-(2 * present[:, 0] - 3 * present[:, 2] + 0.5)))
    share = np.clip(present + random.choice([-0.25, 0, 0.25], (N, K)), 0, 1)
    return scores, share, malignant


def sklearn_fit(x, y, penalty, weight=None):
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    model.fit((x - mean) / deviation, y, sample_weight=weight)
    w = model.coef_[0] / deviation
    return w, model.intercept_[0] - w @ mean


@pytest.mark.parametrize("penalty", [0.5, DECISION_PENALTY, 500.0])
def test_the_decision_equals_scikit_learns_on_standardised_scores(penalty):
    scores, share, malignant = made()
    ours = fit_decision(
        scores, malignant, share, ALL, np.zeros((K, M)), dropout=0, penalty=penalty,
        absent_penalty=0,
    )  # fmt: skip
    weight, bias = sklearn_fit(scores.reshape(N, -1), malignant, penalty)
    theirs = scores.reshape(N, -1) @ weight + bias
    logit = (scores * ours.weight).sum(axis=(1, 2)) + ours.bias
    np.testing.assert_allclose(logit, theirs, atol=5e-3 * np.abs(theirs).max())
    np.testing.assert_allclose(ours.weight.ravel(), weight, atol=5e-3 * np.abs(weight).max())
    assert ours.weight.shape == (K, M) and ours.bias.shape == ()


def test_presence_equals_scikit_learns_where_all_weights_are_positive():
    """A row that half of the readers call present counts half as present, half as absent."""
    scores, share, _ = made()
    ours = fit_presence(scores, share, ALL)
    for k in range(K):
        x = np.concatenate([scores[:, k]] * 2)
        y = np.repeat([1, 0], N)
        # Standardised before rows are doubled, which changes neither mean nor deviation.
        weight, bias = sklearn_fit(
            x, y, PRESENCE_PENALTY, np.concatenate([share[:, k], 1 - share[:, k]])
        )
        assert (weight > 0).all()
        np.testing.assert_allclose(ours.weight[k], weight, atol=5e-3 * weight.max())
        assert ours.bias[k] == pytest.approx(bias, abs=5e-3 * abs(bias))


def test_presence_has_no_negative_weight_and_is_the_best_without():
    """Karush-Kuhn-Tucker: no slope along free weights, none downwards at those held at 0."""
    scores, share, _ = made()
    scores[:, 0, :2] = 1.2 - scores[:, 0, :2]
    scores[:, 1] = 1.2 - scores[:, 1]
    ours = fit_presence(scores, share, ALL)
    assert (ours.weight >= 0).all()
    assert not ours.weight[1].any()
    assert not ours.weight[0, :2].any()
    assert (ours.weight[0, 2:] > 0).all() and (ours.weight[2] > 0).all()
    for k in range(K):
        deviation = scores[:, k].std(axis=0)
        z = (scores[:, k] - scores[:, k].mean(axis=0)) / deviation
        logit = scores[:, k] @ ours.weight[k] + ours.bias[k]
        error = 1 / (1 + np.exp(-logit)) - share[:, k]
        w = ours.weight[k] * deviation
        slope = z.T @ error + PRESENCE_PENALTY * w
        assert np.abs(slope[w > 0]).max(initial=0) < 0.05
        assert slope[w == 0].min(initial=0) > -0.05
        assert abs(error.sum()) < 0.05


def test_unknown_shares_are_left_out():
    scores, share, _ = made()
    share[::3, 1] = np.nan
    known = np.isfinite(share[:, 1])
    ours = fit_presence(scores, share, ALL)
    alone = fit_presence(scores[known], share[known], ALL)
    np.testing.assert_array_equal(ours.weight[1], alone.weight[1])
    assert ours.bias[1] == alone.bias[1]
    whole = fit_presence(scores, np.nan_to_num(share), ALL)
    assert np.abs(whole.weight[1] - ours.weight[1]).max() > 1e-3
    np.testing.assert_array_equal(whole.weight[0], ours.weight[0])


def test_removed_prototypes_get_no_weight_and_do_not_matter():
    scores, share, malignant = made()
    kept = ALL.copy()
    kept[0, 1] = kept[2, 3] = 0
    absent = np.full((K, M), 0.6)
    other, elsewhere = scores.copy(), absent.copy()
    other[:, kept == 0] = np.random.default_rng(5).uniform(-1, 1, (N, 2))
    elsewhere[kept == 0] = -7.0
    for fits in (
        [fit_presence(s, share, kept) for s in (scores, other)],
        [
            fit_decision(s, malignant, share, kept, a)
            for s, a in ((scores, absent), (other, elsewhere))
        ],
    ):
        first, second = fits
        assert not first.weight[kept == 0].any()
        assert (first.weight[kept > 0] != 0).any()
        np.testing.assert_array_equal(first.weight, second.weight)
        np.testing.assert_array_equal(first.bias, second.bias)


def test_the_seed_fixes_the_decision():
    scores, share, malignant = made()
    absent = np.full((K, M), 0.6)
    first, again, other = (
        fit_decision(scores, malignant, share, ALL, absent, seed=s) for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.weight, again.weight)
    assert first.bias == again.bias
    assert np.abs(first.weight - other.weight).max() > 1e-3
    # Nothing is drawn without dropout.
    still = [fit_decision(scores, malignant, share, ALL, absent, dropout=0, seed=s) for s in (3, 4)]
    np.testing.assert_array_equal(still[0].weight, still[1].weight)


def test_rejecting_what_readers_deny_is_trained():
    """Rows in which it is rejected by 0 are as unlike the others as docs/methods.md 6.6 says."""
    scores, share, malignant = made()
    absent = np.full((K, M), 0.6)

    def loss(fit, rows):
        logit = (rows * fit.weight).sum(axis=(1, 2)) + fit.bias
        return float(np.mean(np.logaddexp(0, logit) - malignant * logit))

    rejected = scores.copy()
    rejected[share[:, 1] < 0.5, 1] = 0
    plain, safe = (
        fit_decision(scores, malignant, share, ALL, absent, dropout=d) for d in (0.0, DROPOUT)
    )
    assert loss(safe, rejected) < loss(plain, rejected)
    assert loss(safe, scores) < loss(plain, scores) + 0.1


def test_what_readers_see_is_never_rejected_in_training():
    scores, _, malignant = made()
    absent, seen = np.full((K, M), 0.6), np.full((len(scores), K), 0.9)
    plain, none = (
        fit_decision(scores, malignant, seen, ALL, absent, dropout=d) for d in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain.weight, none.weight)


def test_shifting_or_stretching_the_scores_changes_no_decision():
    scores, share, malignant = made()
    absent = absent_scores(scores, share)
    plain = fit_decision(scores, malignant, share, ALL, absent, dropout=0)
    moved = fit_decision(7 * scores - 3, malignant, share, ALL, 7 * absent - 3, dropout=0)
    a = (scores * plain.weight).sum(axis=(1, 2)) + plain.bias
    b = ((7 * scores - 3) * moved.weight).sum(axis=(1, 2)) + moved.bias
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_scores_that_never_vary_get_no_say():
    scores, share, malignant = made()
    scores[:, 0, 0] = 0.7
    absent = np.zeros((K, M))
    for fit in (
        fit_presence(scores, share, ALL),
        fit_decision(scores, malignant, share, ALL, absent, dropout=0),
    ):
        assert np.isfinite(fit.weight).all() and np.isfinite(fit.bias).all()
        assert fit.weight[0, 0] == 0


def test_absent_scores_are_medians_of_nodules_that_few_call_so():
    scores = np.arange(5 * 2 * 3, dtype=float).reshape(5, 2, 3) ** 2
    share = np.array([[0, 1], [0.49, 0.2], [0.5, np.nan], [np.nan, 0.4], [0.25, 0]])
    absent = absent_scores(scores, share)
    np.testing.assert_array_equal(absent[0], np.sort(scores[[0, 1, 4], 0], axis=0)[1])
    np.testing.assert_array_equal(absent[1], np.sort(scores[[1, 3, 4], 1], axis=0)[1])


def test_the_form_is_what_absent_concepts_add():
    """The sum over nodules of the squared contribution, counted by the readers who deny it."""
    scores, share, _ = made()
    share[::5, 1] = np.nan
    random = np.random.default_rng(2)
    weight, absent = random.normal(size=(K, M)), random.uniform(0.5, 0.7, (K, M))
    kept = ALL.copy()
    kept[0, 1] = 0
    form = absent_spread(scores, share, kept, absent)
    for k in range(K):
        added = 0.0
        for n in range(N):
            if np.isfinite(share[n, k]):
                logit = sum(
                    kept[k, m] * weight[k, m] * (scores[n, k, m] - absent[k, m]) for m in range(M)
                )
                added += (1 - share[n, k]) * logit**2
        assert weight[k] @ form[k] @ weight[k] == pytest.approx(added)


def test_a_penalised_decision_is_the_best_there_is():
    """No slope of cross-entropy, squared weights and squared contributions of absent concepts."""
    scores, share, malignant = made()
    absent = absent_scores(scores, share)
    form = 0.7 * absent_spread(scores, share, ALL, absent)
    free, fit = (
        fit_decision(
            scores, malignant, share, ALL, absent, dropout=0, penalty=2.0, absent_penalty=a
        )
        for a in (0.0, 0.7)
    )
    error = 1 / (1 + np.exp(-((scores * fit.weight).sum(axis=(1, 2)) + fit.bias))) - malignant
    deviation = scores.std(axis=0)
    slope = np.einsum("n,nkm->km", error, scores - scores.mean(axis=0))
    slope += 2.0 * deviation**2 * fit.weight + np.einsum("kml,kl->km", form, fit.weight)
    assert np.abs(slope / deviation).max() < 0.05
    assert abs(error.sum()) < 0.05
    assert np.abs(fit.weight - free.weight).max() > 0.1 * np.abs(free.weight).max()


def test_absent_concepts_are_silenced_and_present_ones_are_not():
    """Concept 0 is a sign of malignancy; concept 1 tells it only where it is absent."""
    random = np.random.default_rng(4)
    share = (random.random((N, 2)) < 0.4).astype(float)
    malignant = random.random(N) < np.where(share[:, 0] > 0, 0.8, 0.2)
    scores = 0.5 + 0.005 * random.normal(size=(N, 2, M)) + 0.05 * share[..., None]
    denied = share[:, 1] == 0
    scores[denied, 1] += 0.02 * malignant[denied, None]
    absent = absent_scores(scores, share)

    def added(absent_penalty):
        fit = fit_decision(
            scores, malignant, share, np.ones((2, M)), absent, dropout=0, penalty=0.3,
            absent_penalty=absent_penalty,
        )  # fmt: skip
        contribution = np.abs(((scores - absent) * fit.weight).sum(axis=2))
        return contribution[denied, 1].mean(), contribution[share[:, 0] > 0, 0].mean()

    (leak, told), (silenced, still_told) = added(0.0), added(1.0)
    assert silenced < 0.5 * leak
    assert still_told > 0.8 * told
