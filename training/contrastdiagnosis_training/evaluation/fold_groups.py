"""AUC apart for folds whose metrics chose the recipe, and for folds that chose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis_training.objectives.metrics import auc, auc_interval

RECIPE_FOLDS = (0, 2)
"""Folds of LIDC-IDRI that chose the default recipes of network and concepts (training/LOG.md)."""


def auc_by_fold_group(
    score: NDArray,
    malignant: NDArray,
    patient: NDArray,
    fold: NDArray,
    chose: Sequence[int] = RECIPE_FOLDS,
    interval: bool = True,
) -> dict[str, dict[str, Any]]:
    """`n` and `auc` of each group of folds, by the group's name; without nodules it is absent.

    Args:
        score: (N,) of unseen nodules, higher for malignant ones.
        malignant: (N,) labels.
        patient: (N,) of each nodule.
        fold: (N,) that each nodule was tested in.
        chose: Folds that chose the recipe; where none did, there is nothing to tell apart.
        interval: Adds the 95 % patient bootstrap interval, `auc_ci`.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for name, among in fold_groups(fold, chose).items():
        p, truth = score[among], malignant[among]
        metrics[name] = {"n": int(among.sum()), "auc": auc(p, truth)}
        if interval:
            metrics[name]["auc_ci"] = _interval(p, truth, patient[among])
    return metrics


def fold_groups(fold: NDArray, chose: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """(N,) which nodules belong to each group, by its name; nothing where no fold chose.

    Args:
        fold: (N,) that each nodule was tested in.
        chose: Folds that chose the recipe.
    """
    chosen = np.isin(fold, chose)
    groups = ((chosen, "which chose the recipe"), (~chosen, "which chose nothing"))
    return {
        f"{folds_in_words(np.unique(fold[among]).tolist())}, {what}": among
        for among, what in groups
        if chosen.any() and among.any()
    }


def folds_in_words(folds: Sequence[int]) -> str:
    """Such as "fold 2", "folds 0 and 2" or "folds 1, 3 and 4".

    Example:
        >>> folds_in_words([2]), folds_in_words([1, 3, 4])
        ('fold 2', 'folds 1, 3 and 4')
    """
    *first, last = (str(fold) for fold in folds)
    return f"folds {', '.join(first)} and {last}" if first else f"fold {last}"


def _interval(p: NDArray, truth: NDArray, patient: NDArray) -> tuple[float, float]:
    if truth.all() or not truth.any():
        return (np.nan, np.nan)
    return auc_interval(p, truth, patient)
