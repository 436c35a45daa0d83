"""`contrastdiagnosis-train crossfit`: one network a fold, read on the nodules it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.model.device import choose_device

from contrastdiagnosis_training.commands.fit import Fit, train
from contrastdiagnosis_training.data.splits import patient_folds, split_by_patient
from contrastdiagnosis_training.network.recipe import Recipe, chosen_recipe
from contrastdiagnosis_training.runs.crossfit_run import store_predictions


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
    init: Path | None = None
    """Folder of `pretrain` runs, fold0, fold1, ..., whose encoders the networks start from."""
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
    """Trains a recipe for every fold and stores the predictions."""
    nodules = [n for folder in options.cases for n in read_case_folder(folder)]
    for fold in options.folds or sorted(set(patient_folds(nodules).values())):
        print(f"fold {fold}")
        fit = Fit(
            cases=options.cases,
            out=options.out / f"fold{fold}",
            fold=fold,
            recipe=options.recipe,
            init=options.init / f"fold{fold}" if options.init else None,
            seed=options.seed,
            device=options.device,
            cache=options.cache,
        )
        network = train(fit, recipe)
        device = choose_device(options.device)
        split = split_by_patient(nodules, fold, options.seed)
        store_predictions(network.to(device), nodules, split, fit.out, device)
