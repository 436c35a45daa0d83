"""AUC apart for folds that chose the recipe."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis_training.evaluation.fold_groups import auc_by_fold_group, folds_in_words
from contrastdiagnosis_training.objectives.metrics import auc

pytestmark = pytest.mark.usefixtures("few_draws")


def scores(count=200):
    random = np.random.default_rng(0)
    malignant = random.random(count) < 0.4
    fold = random.integers(0, 5, count)
    # Folds 0 and 2 are told better.
    gain = np.where(np.isin(fold, (0, 2)), 2.0, 0.3)
    return random.normal(gain * malignant), malignant, np.arange(count) // 2, fold


def test_each_group_is_measured_on_its_own_nodules():
    score, malignant, patient, fold = scores()
    told = auc_by_fold_group(score, malignant, patient, fold)
    assert list(told) == [
        "folds 0 and 2, which chose the recipe", "folds 1, 3 and 4, which chose nothing"
    ]  # fmt: skip
    for metrics, among in zip(
        told.values(), (np.isin(fold, (0, 2)), ~np.isin(fold, (0, 2))), strict=True
    ):
        assert metrics["n"] == among.sum()
        assert metrics["auc"] == auc(score[among], malignant[among])
        low, high = metrics["auc_ci"]
        assert low < metrics["auc"] < high


def test_other_folds_may_have_chosen_or_none():
    score, malignant, patient, fold = scores()
    (first, second) = auc_by_fold_group(score, malignant, patient, fold, (3,), interval=False)
    assert first == "fold 3, which chose the recipe"
    assert second == "folds 0, 1, 2 and 4, which chose nothing"
    assert auc_by_fold_group(score, malignant, patient, fold, ()) == {}
    of_one = fold == 0
    told = auc_by_fold_group(score[of_one], malignant[of_one], patient[of_one], fold[of_one])
    assert list(told) == ["fold 0, which chose the recipe"]


def test_a_group_of_one_class_has_no_auc():
    told = auc_by_fold_group(
        np.arange(4.0), np.zeros(4, bool), np.arange(4), np.array([0, 0, 1, 1])
    )
    for metrics in told.values():
        assert np.isnan([metrics["auc"], *metrics["auc_ci"]]).all()


def test_folds_are_named_as_one_says_them():
    assert [folds_in_words(f) for f in ([1], [0, 2], [1, 3, 4])] == [
        "fold 1", "folds 0 and 2", "folds 1, 3 and 4"
    ]  # fmt: skip
