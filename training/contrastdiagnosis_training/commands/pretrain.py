"""`contrastdiagnosis-train pretrain`: pre-trains the encoder by contrast (CoMCL)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from contrastdiagnosis import __version__
from contrastdiagnosis.cases.case_folder import read_case_folder, read_case_source
from contrastdiagnosis.files.output import write_file
from lightning.fabric import Fabric
from numpy.typing import NDArray

from contrastdiagnosis_training.data.acquisition import read_acquisitions
from contrastdiagnosis_training.data.healthy_patches import (
    HealthyPatches,
    HealthySources,
    load_healthy_patches,
)
from contrastdiagnosis_training.data.healthy_points import read_healthy_cts
from contrastdiagnosis_training.data.patch_store import (
    STORE_GEOMETRY,
    STORED,
    PatchStore,
    load_patch_store,
)
from contrastdiagnosis_training.data.splits import patient_folds, split_by_patient
from contrastdiagnosis_training.network.recipe import changed_recipe, outputs_for
from contrastdiagnosis_training.pretraining.detector import detected_centers
from contrastdiagnosis_training.pretraining.recipe import RECIPES, SETS, PretrainingRecipe
from contrastdiagnosis_training.pretraining.sets import FourSets, four_sets
from contrastdiagnosis_training.pretraining.trainer import PreTrainer
from contrastdiagnosis_training.progress import Bar, StageBars
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
    acquisitions = read_acquisitions(options.acquisition) if options.acquisition else {}
    centers = _detected(options, settings, fabric.device)
    bar = partial(StageBars(unit="nodule"), "resampling")
    store = load_patch_store((*options.cases, *options.more), options.cache, bar, centers)
    count = len([n for folder in options.cases for n in read_case_folder(folder)])
    split = split_by_patient(store.nodules[:count], options.fold, options.seed)
    folds = patient_folds(store.nodules)
    # Who is of the fold is tested; whom no table gives a fold may be held back elsewhere.
    kept_out = _patients(store, split.validation) | {
        n.patient_id for n in store.nodules if folds.get(n.patient_id, options.fold) == options.fold
    }

    def seen(patient: str) -> bool:
        return patient not in kept_out

    more = [n for n in range(count, len(store)) if seen(store.nodules[n].patient_id)]
    train = np.r_[split.train, np.array(more, dtype=np.int64)]
    if centers is not None:
        found = [store.nodules[n].case_id in centers for n in train.tolist()]
        print(f"the detector found {sum(found)} of {len(train)} lesions")
        train = train[np.array(found, dtype=bool)]
    healthy = _healthy(options, store, split.train)
    told = (healthy, acquisitions, recipe.least_severity)
    sets = four_sets(store, train, *told, seen)
    validation = None
    if len(split.validation):
        validating = _patients(store, split.validation)
        if validating & set(healthy.patient_id):
            validation = four_sets(store, split.validation, *told, validating.__contains__)
    _report(sets, healthy, options)
    return PreTrainer(sets, recipe, fabric, options.seed, validation)


def _detected(
    options: Pretrain, settings: dict[str, Any], device: torch.device
) -> dict[str, NDArray[np.float64]] | None:
    if options.detector is None:
        return None
    network = network_on_same_patients(options.detector, settings).to(device)
    folders = (*options.cases, *options.more)
    nodules = [nodule for folder in folders for nodule in read_case_folder(folder)]
    return detected_centers(network, nodules, options.confidence, device)


def _patients(store: PatchStore, positions: NDArray[np.int64]) -> set[str]:
    return {store.nodules[n].patient_id for n in positions.tolist()}


def _healthy(options: Pretrain, store: PatchStore, train: NDArray[np.int64]) -> HealthyPatches:
    cts = [ct for folder in options.cts for ct in read_healthy_cts(folder)]
    first = store.nodules[0].source
    stacks = [n for n in store.nodules if options.beside and n.source == first]
    extents = [_extent_mm(store, n) for n in train.tolist()]
    sources = HealthySources(cts, stacks, options.per_kind, options.phantom)
    with Bar(desc="healthy tissue", unit="patch", leave=False) as bar:
        return load_healthy_patches(
            sources, np.array(extents), options.cache, options.seed, lambda done: bar.update(1)
        )


def _extent_mm(store: PatchStore, position: int) -> float:
    """How many millimetres of slices a nodule's file holds."""
    slices = (store.coverage[position] == STORED).any(dim=2).any(dim=1)
    return float(slices.sum()) * STORE_GEOMETRY.spacing_mm[0]


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
