"""Confidence of a cross-fit run by the rule that ships, made without the judged patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis.trust.facts import FACT_NAMES
from contrastdiagnosis_training.data.columns import save_columns
from contrastdiagnosis_training.data.labels import is_malignant
from contrastdiagnosis_training.evaluation.gate import fitted_limits, joined, read_answers
from contrastdiagnosis_training.evaluation.metrics import crossfit_confidence
from contrastdiagnosis_training.evaluation.shipped_rule import (
    confidence_metrics,
    fold_limits,
    rule_in_words,
)

from training.test_gate import answers
from training.test_protocol import fold

THROUGH = FACT_NAMES.index("through")


@pytest.fixture(scope="module")
def known():
    """Answers that a gate is fitted to; patients of fold 0's test part are among them."""
    mine = answers("nodule", 80)
    mine = replace(mine, patient_id=fold(0)["test"].patient_id)
    vessels = [answers("vessel", 40, f"ct{n}", seed=10 + n, through=1.0) for n in range(4)]
    return joined([mine, answers("nodule", 200, seed=1), *vessels])


@pytest.fixture
def run(tmp_path):
    """A cross-fit run of three folds, and what changes the facts of its test nodules."""

    def written(change=lambda facts: facts):
        for number in range(3):
            for role, told in fold(number).items():
                kept = replace(told, facts=change(told.facts)) if role == "test" else told
                folder = tmp_path / f"fold{number}"
                folder.mkdir(exist_ok=True)
                save_columns(kept, folder / f"{role}.npz")
        return tmp_path

    return written


def test_the_gate_of_a_fold_knows_nothing_of_its_patients(known):
    roles = fold(0)
    limits = fold_limits(roles, known)
    own = np.isin(known.patient_id, roles["test"].patient_id)
    assert own.any() and limits == fitted_limits(known[~own])
    odd = known.facts.copy()
    odd[own] *= 3
    assert fold_limits(roles, replace(known, facts=odd)) == limits
    assert fitted_limits(replace(known, facts=odd)) != fitted_limits(known)


def test_what_the_shipped_gate_rejects_has_no_verdict(run, known):
    def vessels(facts):
        changed = facts.copy()
        changed[:20, THROUGH] = 1.5
        return changed

    folder = run(vessels)
    before, told = crossfit_confidence(folder), crossfit_confidence(folder, answers=known)
    assert before["no_verdict"]["n"] == 0
    rejected = sum(int((fold(n)["test"].malignancy[:20] != 3).sum()) for n in range(3))
    assert told["no_verdict"]["n"] >= rejected > 0
    assert told["rule"] == (
        "vote, limits and gate fitted without the judged patients; not yet as shipped: without the"
        " concepts of size"
    )


def test_the_answers_come_back_as_gate_fit_kept_them(known, tmp_path):
    save_columns(known, tmp_path / "answers.npz")
    assert fitted_limits(read_answers(tmp_path / "answers.npz")) == fitted_limits(known)


def test_the_worth_of_each_group_is_measured_on_it_alone(run, known):
    from contrastdiagnosis_training.evaluation.confidences import confidence_of_nodules
    from contrastdiagnosis_training.evaluation.metrics import calibrated_folds, fold_thresholds

    folds, parts = calibrated_folds(run(), "distance-weighted")
    thresholds, limits = fold_thresholds(parts), [fold_limits(f, known) for f in folds]
    metrics = confidence_metrics(parts, thresholds, (0.35, 0.65), limits)
    right: dict[str, list[bool]] = {"confident": [], "doubtful": []}
    for (support, unseen), threshold, limit in zip(parts, thresholds, limits, strict=True):
        told = confidence_of_nodules(support, unseen, threshold, (0.35, 0.65), limit)
        p = support.probability(unseen.embedding, unseen.patient_id)
        for n, verdict in enumerate(told):
            if unseen.malignancy[n] != 3 and verdict.judged:
                group = "confident" if verdict.confident else "doubtful"
                right[group].append((p[n] > 0.5) == is_malignant(unseen.malignancy[n]))
    for group, correct in right.items():
        assert metrics[group]["n"] == len(correct) > 0
        assert metrics[group]["accuracy"] == pytest.approx(np.mean(correct))


def test_only_the_whole_rule_is_called_shipped(known, tmp_path):
    assert "the gate and the concepts of size" in rule_in_words(None, None)
    assert rule_in_words(known, tmp_path).endswith("as shipped by bundles that tell no poor images")
    assert rule_in_words(known, tmp_path, True).endswith("other folds, as shipped")
