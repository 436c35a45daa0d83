"""`contrastdiagnosis-train crossfit`: one network a fold, read on the nodules it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder
from contrastdiagnosis.diagnosis.diagnoser import choose_device
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.model.network import NoduleNet

from contrastdiagnosis_training.columns import load_columns, save_columns
from contrastdiagnosis_training.fit import Fit, train
from contrastdiagnosis_training.readings import Readings, read_nodules
from contrastdiagnosis_training.recipe import Recipe, chosen_recipe
from contrastdiagnosis_training.splits import Split, patient_folds, split_by_patient

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class CrossFit:
    """Train a network for every fold and store what it says of its own and the unseen nodules."""

    cases: tuple[Path, ...]
    """Case folders; the first one's nodules are the support set and are reported on."""
    out: Path
    """Folder of the runs: fold0, fold1, ..."""
    recipe: Literal["default", "paper"] = "default"
    """What to train."""
    epochs: int | None = None
    """Instead of the recipe's own number."""
    change: tuple[str, ...] = ()
    """Options of the recipe to change, such as weight_decay=0.1 network.statistics=False."""
    seed: int = 0
    """Fixes weights, order, augmentation and validation patients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    cache: Path = Path("runs/cache")
    """Folder for the resampled patches."""
    folds: tuple[int, ...] | None = None
    """Only these folds."""

    def run(self) -> None:
        """Goes through the folds; what is there already is not made again."""
        crossfit(self, chosen_recipe(self.recipe, self.epochs, self.change))


def crossfit(options: CrossFit, recipe: Recipe) -> None:
    """Trains a recipe for every fold and stores the readings."""
    nodules = [n for folder in options.cases for n in read_case_folder(folder)]
    for fold in options.folds or sorted(set(patient_folds(nodules).values())):
        print(f"fold {fold}")
        fit = Fit(
            cases=options.cases,
            out=options.out / f"fold{fold}",
            fold=fold,
            recipe=options.recipe,
            seed=options.seed,
            device=options.device,
            cache=options.cache,
        )
        network = train(fit, recipe)
        device = choose_device(options.device)
        split = split_by_patient(nodules, fold, options.seed)
        store_readings(network.to(device), nodules, split, fit.out, device)


def store_readings(
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
        save_columns(read_nodules(network, nodules, device), file)


def load_fold(run: Path, fold: int) -> dict[str, Readings]:
    """The stored readings of one fold by role; "other" are unseen nodules of further folders."""
    roles = (*ROLES, "other") if (run / f"fold{fold}" / "other.npz").is_file() else ROLES
    return {role: load_columns(Readings, run / f"fold{fold}" / f"{role}.npz") for role in roles}


def folds_of_run(run: Path) -> list[int]:
    """The folds whose readings a cross-fit run holds.

    Raises:
        InputError: There is none.
    """
    folds = sorted(int(f.parent.name.removeprefix("fold")) for f in run.glob("fold*/test.npz"))
    if not folds:
        raise InputError(f"{run} holds no readings; fill it by contrastdiagnosis-train crossfit")
    return folds
