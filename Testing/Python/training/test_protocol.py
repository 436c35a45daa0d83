"""The protocol of evaluation: what a fold is measured on has no say in how it is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.cases.vote import VoteRule
from contrastdiagnosis_training.data.columns import save_columns
from contrastdiagnosis_training.evaluation import metrics as evaluate
from contrastdiagnosis_training.evaluation.metrics import (
    calibrated_across,
    evaluate_crossfit,
    fold_part,
    fold_thresholds,
)
from contrastdiagnosis_training.evaluation.support_vote import (
    calibrate,
    choose_vote,
    embedding_scale,
    support_of_predictions,
)

from training.test_support_vote import predictions


def fold(number):
    """Predictions by role; patients of one fold are in no other role."""
    first = 3000 * number
    return {
        "train": predictions(160, 10 * number, 0.4, first),
        "validation": predictions(80, 10 * number + 1, 0.4, first + 1000),
        "test": predictions(80, 10 * number + 2, 0.4, first + 2000),
    }


def turned(told):
    """The predictions with the opposite labels."""
    return replace(told, malignancy=6 - told.malignancy)


@pytest.mark.parametrize("form", ["distance-weighted", "majority"])
@pytest.mark.parametrize("number", range(3))
def test_the_vote_is_chosen_on_the_validation_part_by_the_training_part(number, form):
    roles = fold(number)
    choice = choose_vote([(support_of_predictions(roles["train"]), roles["validation"])], form)
    support, _ = fold_part(roles, form=form)
    assert (support.vote.k, support.vote.form) == (choice.k, form)
    assert support.vote == fold_part(roles, choice)[0].vote
    assert support.vote == fold_part({**roles, "test": turned(roles["test"])}, form=form)[0].vote


def test_another_part_would_have_chosen_another_vote():
    """So that the test before this one could fail."""
    of = {}
    for number in range(3):
        roles = fold(number)
        cases = support_of_predictions(roles["train"])
        of[number] = [choose_vote([(cases, roles[part])]) for part in ("validation", "test")]
    assert any(validation.k != test.k for validation, test in of.values())


def test_the_cases_of_a_fold_are_its_training_and_validation_nodules():
    roles = fold(0)
    support, unseen = fold_part(roles)
    wanted = np.concatenate([roles["train"].patient_id, roles["validation"].patient_id])
    np.testing.assert_array_equal(np.sort(support.patient_id), np.sort(wanted))
    assert not np.isin(unseen.patient_id, support.patient_id).any()


def test_a_fold_is_calibrated_by_the_others_alone():
    parts = [fold_part(fold(number)) for number in range(3)]
    changed = [(parts[0][0], turned(parts[0][1])), *parts[1:]]
    before = [support.calibration for support, _ in calibrated_across(parts)]
    after = [support.calibration for support, _ in calibrated_across(changed)]
    assert before[0] == after[0]
    assert before[1] != after[1] and before[2] != after[2]


def test_the_normal_interval_of_a_fold_is_that_of_the_other_folds_matched_distances():
    """Slow: mean and 1.96 standard deviations, pair by pair, in the fold's own scale."""
    parts = calibrated_across([fold_part(fold(number), VoteRule(5, 0.2)) for number in range(3)])
    thresholds = fold_thresholds(parts, "normal")
    for number, (support, _) in enumerate(parts):
        others = [part for n, part in enumerate(parts) if n != number]
        calibration, matched = calibrate(others), []
        for other, unseen in others:
            near, labels = other.voters(unseen.embedding, unseen.patient_id)
            p = calibration.probability(other.vote.score(near, labels))
            scale = embedding_scale(other.embedding)
            for n, rating in enumerate(unseen.malignancy):
                if rating != 3 and (p[n] > 0.5) == (rating > 3):
                    matched += [d / scale for d in near[n][labels[n] == (rating > 3)]]
        wanted = np.mean(matched) + 1.96 * np.std(matched)
        assert thresholds[number] == pytest.approx(
            embedding_scale(support.embedding) * wanted, 1e-4
        )
    assert thresholds != fold_thresholds(parts)


@pytest.fixture
def judged(monkeypatch, tmp_path):
    """What `evaluate_crossfit` judges the folds by, with changes to the first one's test part."""

    def asked(**changes):
        run = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        for number in range(3):
            for role, told in fold(number).items():
                mine = replace(told, **changes) if (number, role) == (0, "test") else told
                folder = run / f"fold{number}"
                folder.mkdir(parents=True, exist_ok=True)
                save_columns(mine, folder / f"{role}.npz")
        calls = []
        monkeypatch.setattr(evaluate, "metrics_of", lambda *args: {"n": 0})  # Takes long.
        monkeypatch.setattr(evaluate, "confidence_metrics", lambda *args: calls.append(args) or {})
        evaluate_crossfit(run)
        ((_, thresholds, _, limits),) = calls
        return thresholds, limits

    return asked


def test_thresholds_and_limits_of_a_fold_come_from_other_nodules(judged):
    thresholds, limits = judged()
    test = fold(0)["test"]
    away = judged(embedding=test.embedding + 5)[0]
    assert away[0] == thresholds[0]
    assert away[1] != thresholds[1] and away[2] != thresholds[2]
    odd = judged(facts=test.facts * 3)[1]
    assert odd == limits
