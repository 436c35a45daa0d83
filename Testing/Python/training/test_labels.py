"""The three label rules, and the size baseline on the real table (docs/methods.md 7.7: G3, G5)."""

from __future__ import annotations

import numpy as np
import pytest
from contrastdiagnosis.cases.case_folder import read_case_folder, read_scan
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.objectives.metrics import auc, size_baseline

MEAN = np.array([1.0, 2.5, 2.75, 3.0, 3.25, 3.5, 5.0, np.nan])


@pytest.fixture(scope="module")
def nodules(lidc_stacks):
    return read_case_folder(lidc_stacks)


@pytest.fixture(scope="module")
def malignancy(nodules):
    return np.array([n.mean_rating("malignancy") for n in nodules])


@pytest.mark.parametrize(
    ("rule", "kept"),
    [("paper", "11111110"), ("exclude3", "11101110"), ("band", "11000110")],
)
def test_a_rule_keeps(rule, kept):
    assert RULES[rule](MEAN).tolist() == [c == "1" for c in kept]


def test_malignant_is_a_mean_above_three():
    assert is_malignant(MEAN).tolist() == [False, False, False, False, True, True, True, False]


def test_g3_the_counts_of_the_real_table(malignancy):
    """350 benign, 111 undecided, 297 malignant of 758 (shared/data/README.md)."""
    malignant = is_malignant(malignancy)
    counts = {rule: (keep(malignancy).sum(), malignant[keep(malignancy)].sum())
              for rule, keep in RULES.items()}  # fmt: skip
    slow = [m for m in malignancy.tolist() if not 2.5 < m < 3.5]
    assert counts["paper"] == (350 + 111 + 297, 297)
    assert counts["exclude3"] == (350 + 297, 297)
    assert counts["band"] == (len(slow), sum(m > 3 for m in slow))


def test_g5_the_diameter_alone_reaches_its_known_auc(nodules, malignancy):
    """Logistic regression on the diameter of the readers' consensus, fold by fold."""
    diameter = np.array([read_scan(n).diameter_mm for n in nodules])
    fold, malignant = np.array([n.fold for n in nodules]), is_malignant(malignancy)
    keep = RULES["exclude3"](malignancy)
    probability = np.full(len(nodules), np.nan)
    for f in range(5):
        train, test = keep & (fold != f), keep & (fold == f)
        probability[test] = size_baseline(diameter[train], malignant[train], diameter[test])
    assert auc(probability[keep], malignant[keep]) == pytest.approx(0.89, abs=0.02)
