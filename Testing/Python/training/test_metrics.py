"""The reported metrics against slow references (docs/methods.md 7)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from contrastdiagnosis_training.objectives.metrics import (
    BOOTSTRAPS,
    auc,
    auc_interval,
    dice,
    expected_calibration_error,
    expected_ece,
    f1,
    forest_baseline,
    inter_reader_dice,
    paired_auc,
    paired_p,
    patient_bootstrap,
    patient_draws,
    reader_consensus_dice,
    reliability,
    resampled_auc,
    retrieval,
    risk_coverage,
    roc,
    size_baseline,
)
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import auc as area
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score


def scores(count=120, seed=0):
    random = np.random.default_rng(seed)
    malignant = random.random(count) < 0.4
    return np.clip(random.normal(0.4 + 0.2 * malignant, 0.2), 0, 1), malignant


def test_auc_is_the_share_of_pairs_in_order():
    score, malignant = scores(40)
    score = score.round(1)  # with ties
    pairs = [(a > b) + 0.5 * (a == b) for a in score[malignant] for b in score[~malignant]]
    assert auc(score, malignant) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("truth", [True, False])
def test_auc_of_one_class_is_unknown(truth):
    assert np.isnan(auc(np.arange(3.0), np.full(3, truth)))


@pytest.mark.parametrize("digits", [1, 2, 6])
def test_auc_is_that_of_scikit_learn(digits):
    for seed in range(20):
        score, malignant = scores(60, seed)
        score = score.round(digits)
        assert auc(score, malignant) == pytest.approx(roc_auc_score(malignant, score), abs=1e-14)
        assert auc(score, malignant.astype(float)) == auc(score, malignant)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_auc_of_what_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="finite scores"):
        auc(np.array([0.2, bad, 0.4]), np.array([True, False, True]))


def test_f1_is_that_of_scikit_learn():
    score, malignant = scores()
    assert f1(score > 0.5, malignant) == pytest.approx(f1_score(malignant, score > 0.5))


def plain_draws(figure, patient, seed=0):
    """One resample after the other, each as positions of nodules that may repeat."""
    random = np.random.default_rng(seed)
    names = sorted(set(patient))
    values = []
    for _ in range(BOOTSTRAPS):
        drawn = random.integers(len(names), size=len(names))
        values.append(figure(np.concatenate([np.flatnonzero(patient == names[n]) for n in drawn])))
    return np.array(values)


def patients(count, of, seed=0):
    return np.random.default_rng(seed).integers(of, size=count)


def mean_of(values):
    return lambda times: times @ values / times.sum(axis=1)


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize(("count", "of"), [(80, 50), (9, 4)])
def test_resamples_at_once_are_those_of_the_plain_loop(count, of, digits):
    score, malignant = scores(count)
    score, patient = score.round(digits), patients(count, of)

    def slow(i):
        if malignant[i].all() or not malignant[i].any():
            return np.nan
        above = score[i][malignant[i]][:, None] - score[i][~malignant[i]]
        return ((above > 0) + 0.5 * (above == 0)).mean()

    plain = plain_draws(slow, patient)
    found = patient_draws(lambda times: resampled_auc(score, malignant, times), patient)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-12)
    interval = np.nanpercentile(plain, [2.5, 97.5])
    np.testing.assert_allclose(auc_interval(score, malignant, patient), interval, atol=1e-12)


def test_the_gain_over_another_score_is_that_of_the_plain_loop():
    (a, malignant), (b, _), patient = scores(60, 1), scores(60, 2), patients(60, 25)
    a, b = a.round(1), b.round(1)
    plain = plain_draws(lambda i: auc(a[i], malignant[i]) - auc(b[i], malignant[i]), patient)
    found = paired_auc(a, b, malignant, patient)
    told = (auc(a, malignant) - auc(b, malignant), *np.nanpercentile(plain, [2.5, 97.5]))
    np.testing.assert_allclose(found, told, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 3.0])
def test_p_is_that_of_the_plain_loop(shift):
    difference, patient = np.random.default_rng(5).normal(shift, 1, 70), patients(70, 30)
    means = plain_draws(lambda i: difference[i].mean(), patient)
    tail = min((means <= 0).mean(), (means >= 0).mean())
    assert paired_p(difference, patient) == min(1, 2 * max(tail, 1 / BOOTSTRAPS))


def test_one_nodule_a_patient_is_the_bootstrap_of_scipy():
    values = np.random.default_rng(3).normal(size=40)
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=BOOTSTRAPS, method="percentile",
        random_state=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    found = patient_bootstrap(mean_of(values), np.arange(40), seed=7)
    np.testing.assert_allclose(found, interval, rtol=0, atol=1e-12)


def test_the_bootstrap_draws_whole_patients():
    patient = np.array(["c", "a", "b", "a", "c", "c", "d"])
    size = {"a": 2, "b": 1, "c": 3, "d": 1}
    drawn = []

    def metric(times):
        drawn.extend(times)
        return times.sum(axis=1)

    patient_bootstrap(metric, patient)
    assert len(drawn) == BOOTSTRAPS
    for times in drawn:
        of_patient = {p: times[patient == p] for p in size}
        assert sum(t[0] for t in of_patient.values()) == len(size)
        assert all(len(set(t)) == 1 for t in of_patient.values())
    assert len({tuple(times) for times in drawn}) > 20


def test_the_interval_is_that_of_the_mean():
    """With one nodule a patient: the textbook's mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).normal(5, 2, 300)
    low, high = patient_bootstrap(mean_of(values), np.arange(300))
    error = values.std() / np.sqrt(300)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_siblings_make_the_interval_no_narrower():
    values = np.random.default_rng(1).normal(size=60)
    alone = patient_bootstrap(mean_of(values), np.arange(60))
    siblings = patient_bootstrap(mean_of(np.repeat(values, 4)), np.repeat(np.arange(60), 4))
    np.testing.assert_allclose(siblings, alone)


def test_the_seed_fixes_the_interval():
    values = np.random.default_rng(2).normal(size=30)

    def interval(seed):
        return patient_bootstrap(mean_of(values), np.arange(30), seed)

    assert interval(1) == interval(1) != interval(2)


def test_a_draw_without_both_classes_is_left_out_of_the_interval():
    score, malignant = np.array([0.1, 0.9, 0.4]), np.array([False, True, False])
    assert auc_interval(score, malignant, np.arange(3)) == (1, 1)


def test_ece_equals_the_loop_over_bins_of_equal_mass():
    probability, malignant = scores(100)
    probability = probability**3  # crowded near 0: equal widths would give other bins
    ranked = sorted(range(100), key=lambda n: probability[n])
    slow = 0.0
    for start in range(0, 100, 10):
        part = ranked[start : start + 10]
        claimed = sum(probability[n] for n in part) / 10
        found = sum(bool(malignant[n]) for n in part) / 10
        slow += 10 / 100 * abs(claimed - found)
    assert expected_calibration_error(probability, malignant) == pytest.approx(slow)


def test_ece_of_a_liar_and_of_an_honest_one():
    malignant = np.arange(1000) % 2 == 0
    assert expected_calibration_error(np.full(1000, 0.9), malignant) == pytest.approx(0.4)
    assert expected_calibration_error(np.full(1000, 0.5), malignant) == pytest.approx(0)
    assert expected_calibration_error(malignant.astype(float), malignant) == 0


def test_ece_of_fewer_nodules_than_bins():
    assert expected_calibration_error(np.array([0.2, 0.7]), np.array([False, True])) == (
        pytest.approx((0.2 + 0.3) / 2)
    )


@pytest.mark.parametrize("count", [7, 154])
def test_the_expected_ece_is_that_of_labels_drawn_from_the_probabilities(count):
    random = np.random.default_rng(3)
    probability = random.random(count) ** 2
    slow = [
        expected_calibration_error(probability, random.random(count) < probability)
        for _ in range(2000)
    ]
    assert expected_ece(probability) == pytest.approx(np.mean(slow), rel=0.04)
    assert expected_ece(probability) == expected_ece(probability[::-1])


def test_the_expected_ece_falls_with_the_number_of_nodules_and_is_none_for_the_certain():
    probability = np.random.default_rng(0).random(3000)
    assert expected_ece(probability) < 0.35 * expected_ece(probability[:150])
    assert 0.05 < expected_ece(probability[:154]) < 0.12
    assert expected_ece(np.array([0.0, 1.0, 1.0])) == 0


def test_the_forest_is_scikit_learns_and_always_the_same():
    random = np.random.default_rng(0)
    measures = random.normal(size=(120, 3))
    malignant = measures[:, 0] * measures[:, 1] > 0  # No single measure tells it.
    unseen = random.normal(size=(80, 3))
    told = forest_baseline(measures, malignant, unseen)
    truth = unseen[:, 0] * unseen[:, 1] > 0
    assert auc(told, truth) > 0.9
    np.testing.assert_array_equal(told, forest_baseline(measures, malignant, unseen))
    same = RandomForestClassifier(500, random_state=0).fit(measures, malignant)
    np.testing.assert_array_equal(told, same.predict_proba(unseen)[:, 1])


def test_a_forest_of_one_class_knows_that_class():
    measures = np.zeros((4, 2))
    assert forest_baseline(measures, np.ones(4, bool), measures[:2]).tolist() == [1, 1]
    assert forest_baseline(measures, np.zeros(4, bool), measures[:2]).tolist() == [0, 0]


def search(queries=25, cases=60, seed=0):
    """Distances, labels and patients of a made-up retrieval."""
    random = np.random.default_rng(seed)
    distance = random.random((queries, cases))
    relevant = random.random(cases)[None] < random.random(queries)[:, None]
    allowed = random.integers(0, 12, queries)[:, None] != random.integers(0, 12, cases)[None]
    return distance, relevant, allowed


def test_retrieval_equals_the_slow_loop():
    first, average = [], []
    distance, relevant, allowed = search()
    for q in range(len(distance)):
        ranked = sorted(np.flatnonzero(allowed[q]), key=lambda c: distance[q, c])
        hits, precisions = 0, []
        for rank, c in enumerate(ranked, start=1):
            if relevant[q, c]:
                hits += 1
                precisions.append(hits / rank)
        if precisions:
            first.append(relevant[q, ranked[0]])
            average.append(sum(precisions) / len(precisions))
    np.testing.assert_allclose(
        retrieval(distance, relevant, allowed), (np.mean(first), np.mean(average))
    )


def test_the_mean_average_precision_is_that_of_scikit_learn():
    distance, relevant, allowed = search(seed=1)
    values = [
        average_precision_score(r[a], -d[a])
        for d, r, a in zip(distance, relevant, allowed, strict=True)
        if r[a].any()
    ]
    assert retrieval(distance, relevant, allowed)[1] == pytest.approx(np.mean(values))


def test_the_own_patient_is_not_retrieved():
    """A8: a twin from the same patient would always come first."""
    distance = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
    relevant = np.array([[True, False, True], [True, False, True]])
    own = np.array([[True, False, False], [True, False, False]])
    assert retrieval(distance, relevant, np.ones_like(own))[0] == 1
    first, average = retrieval(distance, relevant, ~own)
    assert first == 0.5
    assert average == pytest.approx((1 / 2 + 1) / 2)


def test_a_query_without_any_case_of_its_class_does_not_count():
    distance = np.array([[1.0, 2.0], [1.0, 2.0]])
    relevant = np.array([[False, False], [False, True]])
    assert retrieval(distance, relevant, np.ones_like(relevant)) == (0, 0.5)


def masks(readers=4, seed=0):
    """Overlapping marks of a few readers."""
    random = np.random.default_rng(seed)
    center = random.uniform(5, 7, (readers, 3))
    grid = np.stack(np.mgrid[:12, :12, :12], axis=-1)
    return [np.linalg.norm(grid - c, axis=-1) < random.uniform(3, 5) for c in center]


def test_dice_equals_its_definition():
    a, b, _, _ = masks()
    both = len(set(map(tuple, np.argwhere(a))) & set(map(tuple, np.argwhere(b))))
    assert dice(a, b) == pytest.approx(2 * both / (a.sum() + b.sum()))
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1


@pytest.mark.parametrize("readers", [2, 3, 4])
def test_the_overlap_of_the_readers_is_read_from_their_votes(readers):
    marks = masks(readers)
    votes = sum(m.astype(np.uint8) for m in marks)
    pairs = list(combinations(marks, 2))
    shared = sum(2 * (a & b).sum() for a, b in pairs)
    assert inter_reader_dice(votes, readers) == pytest.approx(
        shared / sum(a.sum() + b.sum() for a, b in pairs)
    )
    consensus = votes * 2 >= readers
    shared = sum(2 * (m & consensus).sum() for m in marks)
    assert reader_consensus_dice(votes, readers) == pytest.approx(
        shared / sum(m.sum() + consensus.sum() for m in marks)
    )


def test_readers_who_agree_have_dice_one():
    votes = np.array([0, 3, 3, 0], dtype=np.uint8)
    assert inter_reader_dice(votes, 3) == reader_consensus_dice(votes, 3) == 1


def test_the_size_baseline_grows_with_the_diameter_and_recovers_its_odds():
    random = np.random.default_rng(0)
    diameter = random.uniform(3, 30, 20000)
    odds = 3 * np.log(diameter / 10)
    malignant = random.random(20000) < 1 / (1 + np.exp(-odds))
    probability = size_baseline(diameter, malignant, np.array([5.0, 10.0, 20.0]))
    np.testing.assert_allclose(probability, [1 / 9, 1 / 2, 8 / 9], atol=0.02)


def test_reliability_counts_every_nodule_once():
    probability, malignant = scores(203)
    points = reliability(probability, malignant)
    assert len(points) == 10
    assert sum(n for *_, n in points) == 203
    assert sum(p * n for p, _, n in points) == pytest.approx(probability.sum())
    assert sum(observed * n for _, observed, n in points) == pytest.approx(malignant.sum())
    assert [p for p, *_ in points] == sorted(p for p, *_ in points)


def test_a_thinned_roc_keeps_its_ends_and_its_area():
    probability, malignant = scores(900)
    points = np.array(roc(probability, malignant))
    assert len(points) <= 60
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]
    assert area(*points.T) == pytest.approx(auc(probability, malignant), abs=0.01)


def test_risk_falls_when_the_unsure_are_left_out_and_ends_at_the_error_rate():
    random = np.random.default_rng(0)
    probability = random.random(2000)
    malignant = random.random(2000) < probability
    points = np.array(risk_coverage(probability, malignant))
    assert points[0, 0] == pytest.approx(0.1) and points[-1, 0] == 1
    assert points[-1, 1] == pytest.approx(((probability > 0.5) != malignant).mean(), abs=1e-4)
    assert points[0, 1] < 0.1 < points[-1, 1]
    sure = np.abs(probability - 0.5) >= np.sort(np.abs(probability - 0.5))[-200]
    slow = ((probability > 0.5) != malignant)[sure].mean()
    assert points[0, 1] == pytest.approx(slow, abs=1e-3)


def test_paired_p_tells_a_difference_from_none():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 2)
    noise = random.normal(0, 1, 120)
    assert paired_p(noise + 1, patient) < 0.01
    assert paired_p(noise - 1, patient) < 0.01
    assert paired_p(noise - noise.mean(), patient) > 0.3


def test_nodules_of_one_patient_do_not_count_twice():
    """A difference that only a single patient shows is none, however many nodules it has."""
    difference = np.r_[np.zeros(20), np.full(200, 1.0)]
    patient = np.r_[np.arange(20), np.full(200, 99)]
    assert paired_p(difference, patient) > 0.05
