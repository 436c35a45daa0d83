"""Who trains, validates and tests (docs/methods.md 7.7: G1)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.errors import InputError
from contrastdiagnosis_training.data.labels import is_malignant
from contrastdiagnosis_training.data.splits import patient_folds, split_by_patient

from training.conftest import DATA

ROLES = ("train", "validation", "test")


def nodule(patient: int, cluster: int, fold: int | None, malignancy: int, source: str = "stacks"):
    return Nodule(
        case_id=f"P{patient:03}_{cluster}", patient_id=f"P{patient:03}", image_path=Path(),
        mask_path=Path(), readers=4, ratings={"malignancy": (malignancy,) * 4}, series_uid="",
        fold=fold, source=source, case_source=LIDC,
    )  # fmt: skip


def table():
    """A first folder with folds, and a second one that shares patients and names no folds."""
    random = np.random.default_rng(0)
    first = [
        nodule(p, c, p % 5, int(random.integers(1, 6))) for p in range(70) for c in range(1 + p % 3)
    ]
    second = [nodule(p, 9, None, 4, source="more") for p in range(60, 80)]
    return first + second


def patients(nodules, positions):
    return {nodules[n].patient_id for n in positions.tolist()}


def assert_patients_have_one_role(nodules, split):
    train, validation, test = (patients(nodules, getattr(split, role)) for role in ROLES)
    assert not train & validation
    assert not train & test
    assert not validation & test


@pytest.mark.parametrize("fold", range(5))
def test_g1_no_patient_stands_on_two_sides(fold):
    nodules = table()
    split = split_by_patient(nodules, fold)
    assert_patients_have_one_role(nodules, split)
    assert all(len(getattr(split, role)) for role in ROLES)


@pytest.mark.parametrize("fold", range(5))
def test_g1_all_real_tables_share_one_patient_split(lidc_stacks, fold):
    folders = [DATA / name for name in ("lidc_stacks", "lidc_voi", "lidc_context")]
    nodules = [n for folder in folders for n in read_case_folder(folder)]
    split = split_by_patient(nodules, fold)
    assert_patients_have_one_role(nodules, split)
    assert {n.source for n in nodules} == {nodules[n].source for n in split.test.tolist()}


def test_the_folders_own_fold_tests():
    nodules = table()
    split = split_by_patient(nodules, 3)
    assert patients(nodules, split.test) == {f"P{p:03}" for p in range(70) if p % 5 == 3}


def test_a_fold_named_by_one_table_holds_in_the_others():
    nodules = table()
    more = {n for n, row in enumerate(nodules) if row.source == "more" and row.patient_id == "P063"}
    assert more <= set(split_by_patient(nodules, 3).test.tolist())
    assert not more & set(split_by_patient(nodules, 2).test.tolist())


def test_every_nodule_of_a_patient_with_a_fold_has_a_role_and_no_other():
    nodules = table()
    split = split_by_patient(nodules, 1)
    placed = np.concatenate([getattr(split, role) for role in ROLES])
    known = [n for n, row in enumerate(nodules) if row.patient_id < "P070"]
    assert sorted(placed.tolist()) == known


def test_validation_is_a_stratified_seventh_of_the_training_patients():
    nodules = table()
    split = split_by_patient(nodules, 0)
    rest = np.r_[split.train, split.validation]
    share = len(patients(nodules, split.validation)) / len(patients(nodules, rest))
    assert share == pytest.approx(1 / 7, abs=0.04)
    label = is_malignant(np.array([n.mean_rating("malignancy") for n in nodules]))
    assert label[split.validation].mean() == pytest.approx(label[rest].mean(), abs=0.1)


def test_the_seed_fixes_who_validates_and_nothing_else():
    nodules = table()
    first, again, other = (split_by_patient(nodules, 2, seed) for seed in (1, 1, 2))
    for role in ROLES:
        np.testing.assert_array_equal(getattr(first, role), getattr(again, role))
    np.testing.assert_array_equal(first.test, other.test)
    assert patients(nodules, first.validation) != patients(nodules, other.validation)


def test_without_a_fold_every_patient_trains_who_is_not_held_back():
    nodules = table()
    split = split_by_patient(nodules, None)
    assert patients(nodules, split.train) == {f"P{p:03}" for p in range(70)}
    assert not len(split.validation) and not len(split.test)


def test_a_patient_in_two_folds_is_refused():
    nodules = [*table(), nodule(4, 8, 0, 5)]
    with pytest.raises(InputError, match="patient P004 stands in folds 4 and 0"):
        patient_folds(nodules)
    with pytest.raises(InputError, match="patient P004"):
        split_by_patient(nodules, 0)


def test_a_fold_that_nobody_has_is_refused():
    with pytest.raises(InputError, match=r"no nodule has fold 7; the folds are \[0, 1, 2, 3, 4\]"):
        split_by_patient(table(), 7)


def test_a_table_without_folds_can_still_be_trained_on_by_nobody():
    """Patients without a fold may be held back elsewhere: none of them is used."""
    nodules = [replace(n, fold=None) for n in table()]
    assert not len(split_by_patient(nodules, None).train)
