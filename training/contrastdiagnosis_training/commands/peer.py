"""`contrastdiagnosis-train peer`: a supervised classifier of MONAI a fold, to compare with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from contrastdiagnosis import __version__
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder
from contrastdiagnosis.files.output import write_file
from contrastdiagnosis.model.device import choose_device

from contrastdiagnosis_training.data.columns import save_columns
from contrastdiagnosis_training.data.patch_store import load_patch_store
from contrastdiagnosis_training.data.splits import patient_folds, split_by_patient
from contrastdiagnosis_training.network.recipe import changed_recipe
from contrastdiagnosis_training.peers.predictions import peer_of_run, predict_peer
from contrastdiagnosis_training.peers.recipe import PeerRecipe
from contrastdiagnosis_training.peers.trainer import PeerTrainer
from contrastdiagnosis_training.progress import StageBars
from contrastdiagnosis_training.runs.fabric import make_fabric
from contrastdiagnosis_training.runs.loop import run_epochs
from contrastdiagnosis_training.runs.run_folder import (
    MODEL,
    PEER,
    SETTINGS,
    check_same_run,
    code_commit,
)

IDENTITY = ("kind", "cases", "fold", "seed", "recipe")
"""Settings that make it another run if they differ."""


@dataclass(frozen=True)
class Peer:
    """Train a supervised classifier of MONAI for every fold, for `robust-eval --peers`."""

    cases: tuple[Path, ...]
    """Case folders; the first one's nodules are reported on."""
    out: Path
    """Folder of the runs: fold0, fold1, ..."""
    architecture: Literal["densenet121", "resnet18"] = "densenet121"
    """Which one."""
    epochs: int | None = None
    """Instead of the recipe's own number."""
    change: tuple[str, ...] = ()
    """Options of the recipe to change, such as augmentation.degraded=0.5."""
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
        recipe = changed_recipe(PeerRecipe(), self.change)
        recipe = replace(
            recipe, architecture=self.architecture, epochs=self.epochs or recipe.epochs
        )
        nodules = [n for folder in self.cases for n in read_case_folder(folder)]
        for fold in self.folds or sorted(set(patient_folds(nodules).values())):
            print(f"fold {fold}")
            self._train(recipe, fold)
            self._store(nodules, fold)

    def _train(self, recipe: PeerRecipe, fold: int) -> None:
        out, settings = self.out / f"fold{fold}", self._settings(recipe, fold)
        check_same_run(out, settings, IDENTITY)
        if (out / MODEL).is_file():
            print(f"{out / MODEL} is there already")
            return
        fabric = make_fabric(self.device, 1, out)
        fabric.launch()
        bar = partial(StageBars(unit="nodule"), "resampling")
        store = load_patch_store(self.cases, self.cache, bar)
        split = split_by_patient(store.nodules, fold, self.seed)
        trainer = PeerTrainer(store, split, recipe, fabric, self.seed)
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
        run_epochs(trainer, out)

    def _store(self, nodules: list[Nodule], fold: int) -> None:
        out = self.out / f"fold{fold}"
        if (out / "test.npz").is_file():
            return
        device = choose_device(self.device)
        split = split_by_patient(nodules, fold, self.seed)
        tested = [nodules[n] for n in split.test.tolist()]
        reported = [n for n in tested if n.source == nodules[0].source]
        save_columns(predict_peer(peer_of_run(out).to(device), reported, device), out / "test.npz")

    def _settings(self, recipe: PeerRecipe, fold: int) -> dict[str, Any]:
        return {
            "kind": PEER,
            "cases": [str(folder) for folder in self.cases],
            "fold": fold,
            "seed": self.seed,
            "recipe": json.loads(json.dumps(asdict(recipe))),
            "engine": __version__,
            "commit": code_commit(),
        }
