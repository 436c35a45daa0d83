"""The protocol of evaluation: what a fold is measured on has no say in how it is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis_training import evaluate
from contrastdiagnosis_training.columns import save_columns
from contrastdiagnosis_training.evaluate import calibrated_across, evaluate_crossfit, fold_part
from contrastdiagnosis_training.judge import choose_vote, judge_of_readings

from training.test_judge import readings


def fold(number):
    """Readings by role; patients of one fold are in no other role."""
    first = 3000 * number
    return {
        "train": readings(160, 10 * number, 0.4, first),
        "validation": readings(80, 10 * number + 1, 0.4, first + 1000),
        "test": readings(80, 10 * number + 2, 0.4, first + 2000),
    }


def turned(told):
    """The readings with the opposite labels."""
    return replace(told, malignancy=6 - told.malignancy)


@pytest.mark.parametrize("number", range(3))
def test_the_vote_is_chosen_on_the_validation_part_by_the_training_part(number):
    roles = fold(number)
    k, _ = choice = choose_vote([(judge_of_readings(roles["train"]), roles["validation"])])
    judge, _ = fold_part(roles)
    assert judge.vote.k == k
    assert judge.vote == fold_part(roles, choice)[0].vote
    assert judge.vote == fold_part({**roles, "test": turned(roles["test"])})[0].vote


def test_another_part_would_have_chosen_another_vote():
    """So that the test before this one could fail."""
    of = {}
    for number in range(3):
        roles = fold(number)
        cases = judge_of_readings(roles["train"])
        of[number] = [choose_vote([(cases, roles[part])]) for part in ("validation", "test")]
    assert any(validation[0] != test[0] for validation, test in of.values())


def test_the_cases_of_a_fold_are_its_training_and_validation_nodules():
    roles = fold(0)
    judge, unseen = fold_part(roles)
    wanted = np.concatenate([roles["train"].patient_id, roles["validation"].patient_id])
    np.testing.assert_array_equal(np.sort(judge.patient_id), np.sort(wanted))
    assert not np.isin(unseen.patient_id, judge.patient_id).any()


def test_a_fold_is_calibrated_by_the_others_alone():
    parts = [fold_part(fold(number)) for number in range(3)]
    changed = [(parts[0][0], turned(parts[0][1])), *parts[1:]]
    before = [judge.calibration for judge, _ in calibrated_across(parts)]
    after = [judge.calibration for judge, _ in calibrated_across(changed)]
    assert before[0] == after[0]
    assert before[1] != after[1] and before[2] != after[2]


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
        monkeypatch.setattr(evaluate, "figures_of", lambda parts: {"n": 0})  # Takes long.
        monkeypatch.setattr(evaluate, "confidence_figures", lambda *args: calls.append(args) or {})
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
