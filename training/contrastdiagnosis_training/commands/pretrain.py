"""`contrastdiagnosis-train pretrain`: pre-trains the encoder by contrast (CoMCL)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from contrastdiagnosis import __version__
from contrastdiagnosis.cases.case_folder import read_case_folder, read_case_source
from contrastdiagnosis.files.output import write_file
from lightning.fabric import Fabric
from numpy.typing import NDArray

from contrastdiagnosis_training.data.healthy_patches import HealthyPatches
from contrastdiagnosis_training.network.recipe import changed_recipe, outputs_for
from contrastdiagnosis_training.pretraining.detector import detected_centers
from contrastdiagnosis_training.pretraining.recipe import RECIPES, SETS, PretrainingRecipe
from contrastdiagnosis_training.pretraining.sets import FourSets
from contrastdiagnosis_training.pretraining.sources import SetSources, load_sets
from contrastdiagnosis_training.pretraining.trainer import PreTrainer
from contrastdiagnosis_training.runs.fabric import make_fabric
from contrastdiagnosis_training.runs.loop import run_epochs
from contrastdiagnosis_training.runs.run_folder import (
    MODEL,
    PRETRAINING,
    SETTINGS,
    check_same_run,
    code_commit,
    network_on_same_patients,
)

IDENTITY = (
    "kind", "cases", "more", "cts", "acquisition", "detector", "healthy", "fold", "seed", "recipe",
)  # fmt: skip
"""Settings that make it another run if they differ."""


@dataclass(frozen=True)
class Pretrain:
    """Pre-train the encoder; the same command goes on where an interrupted one stopped.

    `fit --init OUT` and `crossfit --init OUT` start from it.
    """

    cases: tuple[Path, ...]
    """Case folders: the same as those of the `fit` that will start from it, so that both keep the
    same patients for tests and validation."""
    out: Path
    """Folder of the run: settings, checkpoint, weights, logs."""
    more: tuple[Path, ...] = ()
    """Further case folders whose lesions are seen, of patients that neither test nor validate."""
    cts: tuple[Path, ...] = ()
    """Folders of CTs with healthy lung, as `gate-fit` takes them."""
    acquisition: Path | None = None
    """Table that tells of series how they were scanned (series_uid, slice_thickness_mm,
    tube_current_ma, kernel); without it quality is judged by slices and noise as measured."""
    fold: int | None = None
    """Patients of this fold are kept for testing; none if not given."""
    recipe: Literal["default", "published"] = "default"
    """What to do: within an hour on two cores, or with the publication's numbers."""
    epochs: int | None = None
    """Instead of the recipe's own number."""
    batch: int | None = None
    """Anchors of each set in a step, instead of the recipe's own number."""
    change: tuple[str, ...] = ()
    """Options of the recipe to change, such as terms=L/H pacing=off."""
    detector: Path | None = None
    """Folder of a finished `fit` run on the same patients: its masks tell where the lesions are,
    instead of the readers' marks."""
    confidence: float = 0.5
    """Mask probability that a lesion of the detector must exceed."""
    phantom: bool = True
    """Take healthy tissue of the phantom too."""
    beside: bool = True
    """Take healthy tissue beside the nodules of the first case folder too."""
    per_kind: int = 16
    """Points of each kind of healthy tissue a CT."""
    seed: int = 0
    """Fixes weights, order, augmentation and validation patients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    cache: Path = Path("runs/cache")
    """Folder for the resampled patches."""

    @property
    def sources(self) -> SetSources:
        """Where the four sets come from."""
        return SetSources(
            self.cases, self.more, self.cts, self.acquisition, self.beside, self.phantom,
            self.per_kind, self.fold, self.seed, self.cache,
        )  # fmt: skip

    def run(self) -> None:
        """Trains to the end, or to the interruption."""
        recipe = changed_recipe(RECIPES[self.recipe], self.change)
        recipe = replace(
            recipe, epochs=self.epochs or recipe.epochs, batch=self.batch or recipe.batch
        )
        pretrain(self, recipe)


def pretrain(options: Pretrain, recipe: PretrainingRecipe) -> None:
    """Pre-trains by a recipe, resuming from the run folder's checkpoint.

    Raises:
        InputError: The run folder belongs to another run, or one of the four sets is empty.
        KeyboardInterrupt: The user stopped it; the last whole epoch is kept.
    """
    if recipe.network.ratings:  # As in `recipe_for`: the network must fit that of `fit`.
        outputs = outputs_for(read_case_source(options.cases[0]))
        recipe = replace(recipe, network=replace(recipe.network, ratings=outputs))
    settings = _settings(options, recipe)
    check_same_run(options.out, settings, IDENTITY)
    if (options.out / MODEL).is_file():
        print(f"{options.out / MODEL} is there already")
        return
    fabric = make_fabric(options.device, 1, options.out)
    fabric.launch()
    trainer = _trainer(options, recipe, fabric, settings)
    options.out.mkdir(parents=True, exist_ok=True)
    write_file(options.out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    run_epochs(trainer, options.out)


def _trainer(
    options: Pretrain, recipe: PretrainingRecipe, fabric: Fabric, settings: dict[str, Any]
) -> PreTrainer:
    centers = _detected(options, settings, fabric.device)
    sets = load_sets(options.sources, recipe.least_severity, centers)
    _report(sets.train, sets.healthy, options)
    return PreTrainer(sets.train, recipe, fabric, options.seed, sets.validation)


def _detected(
    options: Pretrain, settings: dict[str, Any], device: torch.device
) -> dict[str, NDArray[np.float64]] | None:
    if options.detector is None:
        return None
    network = network_on_same_patients(options.detector, settings).to(device)
    folders = (*options.cases, *options.more)
    nodules = [nodule for folder in folders for nodule in read_case_folder(folder)]
    return detected_centers(network, nodules, options.confidence, device)


def _report(sets: FourSets, healthy: HealthyPatches, options: Pretrain) -> None:
    for name in SETS:
        tissue, members = sets.tissue(name), sets.members(name)
        native = int(tissue.poor[members].sum())
        patients = len(set(tissue.patient[members].tolist()))
        print(f"{name}: {len(members)} patches of {patients} patients, {native} poor as scanned")
    shares = {s: healthy.source.count(s) for s in ("ct", "stack", "phantom")}
    print("healthy tissue: " + ", ".join(f"{n} of a {s}" for s, n in shares.items()))
    if options.acquisition is None:
        print("without --acquisition, quality is told by slices and noise as measured")


def _settings(options: Pretrain, recipe: PretrainingRecipe) -> dict[str, Any]:
    """What identifies a run, and where its code stood."""
    return {
        "kind": PRETRAINING,
        "cases": [str(folder) for folder in options.cases],
        "more": [str(folder) for folder in options.more],
        "cts": [str(folder) for folder in options.cts],
        "acquisition": str(options.acquisition) if options.acquisition else None,
        "detector": [str(options.detector), options.confidence] if options.detector else None,
        "healthy": [options.per_kind, options.beside, options.phantom],
        "fold": options.fold,
        "seed": options.seed,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "engine": __version__,
        "commit": code_commit(),
    }
