"""Who trains, validates and tests: always whole patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.errors import InputError
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from contrastdiagnosis_training.data.labels import is_malignant

VALIDATION_PARTS = 7
"""One part in seven of a training fold's patients validates: 15 %."""


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of the nodules by role; no patient has two roles."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_by_patient(nodules: Sequence[Nodule], fold: int | None, seed: int = 0) -> Split:
    """Test patients by the folder's own protocol, validation patients drawn from the rest.

    Nodules of patients that no table gives a fold are left out: they may be held back elsewhere.

    Args:
        nodules: Rows of all case folders.
        fold: The fold that tests; None trains on every patient and neither validates nor tests.
        seed: Fixes which patients validate.

    Raises:
        InputError: A patient stands in two folds, or nobody stands in the asked one.

    Example:
        >>> from pathlib import Path
        >>> from contrastdiagnosis.cases.lidc import LIDC
        >>> def nodule(n):  # Patients have two nodules each, folds two patients each.
        ...     ratings = {"malignancy": (1.0 + 4 * (n % 2),)}
        ...     patient, file = f"P{n // 2}", Path()
        ...     of_case = f"{patient}_{n}", patient, file, file, 1, ratings, "", n // 4, "made"
        ...     return Nodule(*of_case, case_source=LIDC)
        ...
        >>> split = split_by_patient([nodule(n) for n in range(40)], fold=1)
        >>> split.test.tolist()
        [4, 5, 6, 7]
        >>> {n // 2 for n in split.train.tolist()} & {n // 2 for n in split.validation.tolist()}
        set()
    """
    fold_of = patient_folds(nodules)
    known = np.array([fold_of.get(n.patient_id, -1) for n in nodules])
    nobody = np.array([], dtype=np.int64)
    if fold is None:
        return Split(np.flatnonzero(known >= 0), nobody, nobody)
    test = np.flatnonzero(known == fold)
    if not len(test):
        raise InputError(
            f"no nodule has fold {fold}; the folds are {sorted(set(fold_of.values()))}"
        )
    rest = np.flatnonzero((known >= 0) & (known != fold))
    label = is_malignant(np.array([nodules[n].malignancy for n in rest.tolist()]))
    patient = np.array([nodules[n].patient_id for n in rest.tolist()])
    parts = StratifiedGroupKFold(VALIDATION_PARTS, shuffle=True, random_state=seed)
    train, validation = next(parts.split(rest, label, patient))
    return Split(rest[train], rest[validation], test)


def patient_folds(nodules: Sequence[Nodule]) -> dict[str, int]:
    """The fold of every patient that has one in any of the tables.

    Raises:
        InputError: A patient stands in two folds.
    """
    folds: dict[str, int] = {}
    for nodule in nodules:
        if nodule.fold is None:
            continue
        if folds.setdefault(nodule.patient_id, nodule.fold) != nodule.fold:
            raise InputError(
                f"patient {nodule.patient_id} stands in folds {folds[nodule.patient_id]} and"
                f" {nodule.fold}"
            )
    return folds
