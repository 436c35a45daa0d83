"""What `crossfit` leaves: a folder a fold, with the predictions of nodules by role."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNet

from contrastdiagnosis_training.data.columns import load_columns, save_columns
from contrastdiagnosis_training.data.splits import Split
from contrastdiagnosis_training.runs.predictions import Predictions, predict_nodules

ROLES = ("train", "validation", "test")


def store_predictions(
    network: NoduleNet, nodules: list[Nodule], split: Split, out: Path, device: torch.device
) -> None:
    """Reads the first folder's nodules by role, and the unseen ones of further folders."""
    main = nodules[0].source
    for role in ROLES:
        rows = [nodules[n] for n in getattr(split, role).tolist()]
        _store(network, [n for n in rows if n.source == main], out / f"{role}.npz", device)
    seen = {nodules[n].patient_id for n in np.r_[split.train, split.validation].tolist()}
    unseen = [n for n in nodules if n.source != main and n.patient_id not in seen]
    if unseen:
        _store(network, unseen, out / "other.npz", device)


def _store(network: NoduleNet, nodules: list[Nodule], file: Path, device: torch.device) -> None:
    if not file.is_file():
        save_columns(predict_nodules(network, nodules, device), file)


def load_fold(run: Path, fold: int) -> dict[str, Predictions]:
    """The stored predictions of one fold by role; "other" are unseen nodules of further folders."""
    roles = (*ROLES, "other") if (run / f"fold{fold}" / "other.npz").is_file() else ROLES
    return {role: load_columns(Predictions, run / f"fold{fold}" / f"{role}.npz") for role in roles}


def folds_of_run(run: Path) -> list[int]:
    """The folds whose predictions a cross-fit run holds.

    Raises:
        InputError: There is none.
    """
    folds = sorted(int(f.parent.name.removeprefix("fold")) for f in run.glob("fold*/test.npz"))
    if not folds:
        raise InputError(f"{run} holds no predictions; fill it by contrastdiagnosis-train crossfit")
    return folds
