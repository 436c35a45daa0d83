"""`SupportVote`: unseen nodules are voted on as the engine would (docs/methods.md 7.7: G1, A8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.cases.library import Case, CaseLibrary
from contrastdiagnosis.cases.vote import Calibration, VoteRule
from contrastdiagnosis_training.data.columns import load_columns, save_columns
from contrastdiagnosis_training.evaluation.metrics import context_metrics
from contrastdiagnosis_training.evaluation.support_vote import (
    K_CHOICES,
    TEMPERATURE_CHOICES,
    calibrate,
    choose_vote,
    embedding_scale,
    support_of_predictions,
)
from contrastdiagnosis_training.runs.predictions import Predictions

from training.conftest import sound_facts


def predictions(count=80, seed=0, separation=1.5, first_patient=0):
    """Two nodules a patient; the first coordinate of z tells malignant from benign."""
    random = np.random.default_rng(seed)
    malignancy = random.choice([1.0, 2.0, 3.0, 4.0, 5.0], count)
    embedding = random.normal(size=(count, 4)).astype(np.float32)
    embedding[:, 0] += separation * (malignancy - 3)
    nothing = np.full(count, np.nan)
    patient = np.array([f"P{first_patient + n // 2:04}" for n in range(count)])
    return Predictions(
        case_id=np.array([f"{p}_{n % 2}" for n, p in enumerate(patient)]),
        patient_id=patient,
        malignancy=malignancy,
        diameter_mm=random.uniform(4, 20, count),
        embedding=embedding,
        dice=nothing,
        dice_inter_reader=nothing,
        dice_reader_consensus=nothing,
        trimmed_embedding=np.full_like(embedding, np.nan),
        trimmed_dice=nothing,
        facts=sound_facts(count),
    )


def test_distances_equal_the_loop_and_the_own_patient_is_infinitely_far():
    cases = predictions()
    support, queries = support_of_predictions(cases), cases[np.arange(10)]
    distance = support.distance(queries.embedding, queries.patient_id)
    for q in range(10):
        for c in range(80):
            gap = queries.embedding[q].astype(np.float64) - cases.embedding[c]
            own = queries.patient_id[q] == cases.patient_id[c]
            assert distance[q, c] == pytest.approx(np.inf if own else np.sqrt((gap**2).sum()))


def test_g1_a_case_never_votes_for_its_own_patient():
    cases = predictions()
    support = replace(support_of_predictions(cases), vote=VoteRule(5, 1.0))
    distance, _ = support.voters(cases.embedding, cases.patient_id)
    assert (distance > 0).all()
    blind, _ = support.voters(cases.embedding, np.full(80, "stranger"))
    assert (blind[:, 0] == 0).all()


def test_a8_with_itself_among_the_cases_every_nodule_would_be_voted_right():
    cases = predictions(separation=0.0)
    support = replace(support_of_predictions(cases), vote=VoteRule(1, 1.0))
    truth = cases.malignancy > 3
    leaky = support.score(cases.embedding, np.full(80, "stranger")) > 0.5
    honest = support.score(cases.embedding, cases.patient_id) > 0.5
    assert (leaky == truth).all()
    assert (honest == truth).mean() < 0.75


def test_the_vote_is_the_engines():
    cases, queries = predictions(), predictions(12, seed=3, first_patient=20)
    rule, calibration = VoteRule(7, 0.8), Calibration(1.4, -0.3)
    support = replace(support_of_predictions(cases), vote=rule, calibration=calibration)
    library = CaseLibrary(
        [
            Case(i, p, bool(m > 3), 5.0, {})
            for i, p, m in zip(cases.case_id, cases.patient_id, cases.malignancy, strict=True)
        ],
        cases.embedding,
    )
    probability = support.probability(queries.embedding, queries.patient_id)
    for q in range(12):
        near = library.nearest(queries.embedding[q], 7, exclude_patient=queries.patient_id[q])
        score = rule.score([n.distance for n in near], [n.case.malignant for n in near])
        assert probability[q] == pytest.approx(float(calibration.probability(score)))


def test_a_judge_of_several_readings_holds_the_cases_of_all():
    first, second = predictions(10), predictions(6, seed=1, first_patient=50)
    support = support_of_predictions(first, second)
    np.testing.assert_array_equal(support.embedding[10:], second.embedding)
    np.testing.assert_array_equal(support.malignancy[:10], first.malignancy)


def test_the_embedding_scale_is_the_root_mean_square_distance():
    z = predictions(40).embedding
    slow = [np.sum((a.astype(np.float64) - b) ** 2) for a in z for b in z]
    assert embedding_scale(z) == pytest.approx(np.sqrt(np.mean(slow)), rel=1e-5)
    assert embedding_scale(7 * z) == pytest.approx(7 * embedding_scale(z), rel=1e-5)


def test_the_chosen_vote_is_the_best_on_the_validation_nodules():
    """Against trying every choice, one support set at a time."""
    support, unseen = (
        support_of_predictions(predictions(200)),
        predictions(60, seed=1, first_patient=500),
    )
    kept = unseen[unseen.malignancy != 3]
    truth = kept.malignancy > 3

    def slow_auc(k, temperature):
        rule = VoteRule(k, temperature * embedding_scale(support.embedding))
        score = replace(support, vote=rule).score(kept.embedding, kept.patient_id)
        pairs = score[truth][:, None] - score[~truth][None]
        return ((pairs > 0) + 0.5 * (pairs == 0)).mean()

    best = max(slow_auc(k, t) for k in K_CHOICES for t in TEMPERATURE_CHOICES)
    chosen = choose_vote([(support, unseen)])
    assert slow_auc(chosen.k, chosen.temperature) == pytest.approx(best)


def test_the_chosen_majority_vote_is_the_best_on_the_validation_nodules():
    cases, unseen = predictions(200, separation=0.3), predictions(60, 1, 0.3, first_patient=500)
    support, kept = support_of_predictions(cases), unseen[unseen.malignancy != 3]
    truth = kept.malignancy > 3
    distance = np.linalg.norm(kept.embedding[:, None] - cases.embedding[None], axis=2)
    votes = (cases.malignancy > 3)[distance.argsort(axis=1, kind="stable")]
    areas = {}
    for k in K_CHOICES:
        share = votes[:, :k].mean(axis=1)
        pairs = share[truth][:, None] - share[~truth][None]
        areas[k] = ((pairs > 1e-9) + 0.5 * (abs(pairs) < 1e-9)).mean()
    chosen = choose_vote([(support, unseen)], "majority")
    assert chosen == VoteRule(max(areas, key=areas.get), form="majority")
    # So that the choice is one: the weighted vote would have taken another k.
    assert len(set(areas.values())) > 1


def test_a_case_of_the_own_patient_has_no_say_in_a_majority():
    """More voters than cases of others: what is left decides."""
    cases = predictions(6)
    support = replace(support_of_predictions(cases), vote=VoteRule(5, form="majority"))
    score = support.score(cases.embedding, cases.patient_id)
    for n, patient in enumerate(cases.patient_id):
        others = cases.malignancy[cases.patient_id != patient] > 3
        assert len(others) == 4 and score[n] == others.mean()


def test_a_calibrated_majority_still_decides_at_one_half():
    """The published decision, also where few cases are malignant."""
    cases, unseen = predictions(200, separation=0.5), predictions(200, 1, 0.5, first_patient=500)
    unseen = replace(unseen, malignancy=np.where(unseen.malignancy == 4, 2, unseen.malignancy))
    for form, kept in (("majority", True), ("distance-weighted", False)):
        support = replace(support_of_predictions(cases), vote=VoteRule(15, 1.0, form))
        calibrated = replace(support, calibration=calibrate([(support, unseen)]))
        score = support.score(unseen.embedding, unseen.patient_id)
        probability = calibrated.probability(unseen.embedding, unseen.patient_id)
        assert bool(((probability > 0.5) == (score > 0.5)).all()) == kept


def test_the_choice_does_not_depend_on_the_scale_of_the_network():
    cases, unseen = predictions(200), predictions(60, seed=1, first_patient=500)
    larger = [replace(r, embedding=9 * r.embedding) for r in (cases, unseen)]
    assert choose_vote([(support_of_predictions(cases), unseen)]) == choose_vote(
        [(support_of_predictions(larger[0]), larger[1])]
    )


def test_calibration_pulls_overconfident_votes_in():
    """Neighbours that tell nothing: whatever they say, about half are malignant."""
    support = replace(
        support_of_predictions(predictions(200, separation=0.0)), vote=VoteRule(3, 0.1)
    )
    unseen = predictions(300, seed=1, separation=0.0, first_patient=500)
    calibrated = replace(support, calibration=calibrate([(support, unseen)]))
    before, after = (
        j.probability(unseen.embedding, unseen.patient_id) for j in (support, calibrated)
    )
    assert np.abs(before - 0.5).mean() > 0.2
    assert np.abs(after - 0.5).mean() < 0.1


def test_readings_come_back_as_they_were_saved(tmp_path):
    before = predictions(6)
    save_columns(before, tmp_path / "r.npz")
    after = load_columns(Predictions, tmp_path / "r.npz")
    for name in ("case_id", "patient_id", "embedding", "malignancy", "trimmed_dice"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_what_context_changes_is_told_with_its_sign():
    """Cut to their slices, half of the nodules look benign: less is suspected without context."""
    support = support_of_predictions(predictions())
    whole = predictions(40, seed=5, first_patient=100)
    cut = whole.embedding.copy()
    cut[::2, 0] -= 6
    shown = replace(whole, trimmed_embedding=cut, trimmed_dice=np.linspace(0, 1, 40))
    unknown = predictions(10, seed=6, first_patient=200)
    told = context_metrics([(support, shown), (support, unknown)])
    full, without = (support.probability(z, whole.patient_id) for z in (whole.embedding, cut))
    assert told["context_n"] == 40
    assert told["context_shift"] == pytest.approx((full - without).mean())
    assert told["context_shift"] > 0.1
    assert told["context_same_diagnosis"] == pytest.approx(((full > 0.5) == (without > 0.5)).mean())
    assert told["context_dice"] == pytest.approx(0.5)
    assert context_metrics([(support, unknown)]) == {}
