"""`contrastdiagnosis-train fit`: trains one network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from contrastdiagnosis import __version__
from contrastdiagnosis.cases.case_folder import read_case_source
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import write_file
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.weights import load_network
from torch import Tensor

from contrastdiagnosis_training.data.patch_store import PatchStore, load_patch_store
from contrastdiagnosis_training.data.splits import Split, split_by_patient
from contrastdiagnosis_training.network.recipe import Recipe, chosen_recipe, recipe_for
from contrastdiagnosis_training.network.trainer import Trainer
from contrastdiagnosis_training.pretraining.encoder import encoder_weights
from contrastdiagnosis_training.progress import StageBars
from contrastdiagnosis_training.runs.fabric import make_fabric
from contrastdiagnosis_training.runs.loop import run_epochs
from contrastdiagnosis_training.runs.run_folder import (
    MODEL,
    PRETRAINING,
    SETTINGS,
    check_same_run,
    code_commit,
    network_on_same_patients,
    read_settings,
)

IDENTITY = ("cases", "fold", "seed", "start", "init", "recipe")
"""Settings that make it another run if they differ."""


@dataclass(frozen=True)
class Fit:
    """Train one network; the same command goes on where an interrupted one stopped."""

    cases: tuple[Path, ...]
    """Case folders (nodules.csv, image/, votes/ or mask/)."""
    out: Path
    """Folder of the run: settings, checkpoint, weights, logs."""
    fold: int | None = None
    """Patients of this fold are kept for testing; none if not given."""
    recipe: Literal["default", "paper"] = "default"
    """What to train."""
    epochs: int | None = None
    """Instead of the recipe's own number."""
    change: tuple[str, ...] = ()
    """Options of the recipe to change, such as weight_decay=0.1 network.statistics=False."""
    start: Path | None = None
    """Folder of a finished run on the same patients whose weights this one starts from."""
    init: Path | None = None
    """Folder of a finished `pretrain` run on the same patients whose encoder this one starts
    from."""
    seed: int = 0
    """Fixes weights, order, augmentation and validation patients."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    processes: int = 1
    """Training processes (DDP); one per GPU."""
    cache: Path = Path("runs/cache")
    """Folder for the resampled patches."""

    def run(self) -> None:
        """Trains to the end, or to the interruption."""
        train(self, chosen_recipe(self.recipe, self.epochs, self.change))


def train(options: Fit, recipe: Recipe) -> NoduleNet:
    """Trains a recipe, resuming from the run folder's checkpoint.

    The network predicts the ratings that the first case folder's source has.

    Raises:
        InputError: The run folder belongs to another run, or the one to start from saw others.
        KeyboardInterrupt: The user stopped it; the last whole epoch is kept.
    """
    recipe = recipe_for(recipe, read_case_source(options.cases[0]))
    settings = _settings(options, recipe)
    start = _start(options, settings)
    model_file = options.out / MODEL
    check_same_run(options.out, settings, IDENTITY)
    if model_file.is_file():
        print(f"{model_file} is there already")
        return load_network(model_file, recipe.network)
    fabric = make_fabric(options.device, options.processes, options.out)
    fabric.launch()
    bar = partial(StageBars(unit="nodule"), "resampling")
    with fabric.rank_zero_first():
        store = load_patch_store(options.cases, options.cache, bar)
    split = split_by_patient(store.nodules, options.fold, options.seed)
    trainer = Trainer(store, split, recipe, fabric, options.seed, start)
    if fabric.is_global_zero:
        options.out.mkdir(parents=True, exist_ok=True)
        write_file(options.out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
        _report(split, store)
    run_epochs(trainer, options.out)
    return load_network(model_file, recipe.network)


def _start(options: Fit, settings: dict[str, Any]) -> Mapping[str, Tensor]:
    """The weights to start from: those of a run of the same kind, or a pre-trained encoder."""
    if options.start and options.init:
        raise InputError("wanted either --start or --init, got both")
    if options.start:
        trained = network_on_same_patients(options.start, settings)
        _check_shape(options.start, settings)
        return trained.state_dict()
    if options.init:
        trained = network_on_same_patients(options.init, settings, PRETRAINING)
        _check_encoder(options.init, settings)
        return encoder_weights(trained)
    return {}


def _check_shape(folder: Path, settings: dict[str, Any]) -> None:
    if read_settings(folder)["recipe"]["network"] != settings["recipe"]["network"]:
        raise InputError(f"{folder} holds a network of another shape; it cannot be started from")


def _check_encoder(folder: Path, settings: dict[str, Any]) -> None:
    """Whether stem and encoder fit: all that is taken over."""
    theirs, wanted = (s["recipe"]["network"]["channels"] for s in (read_settings(folder), settings))
    if theirs != wanted:
        raise InputError(
            f"{folder} holds an encoder with {theirs} channels, wanted {wanted}; it cannot be"
            " started from"
        )


def _settings(options: Fit, recipe: Recipe) -> dict[str, Any]:
    """What identifies a run, and where its code stood."""
    return {
        "cases": [str(folder) for folder in options.cases],
        "fold": options.fold,
        "seed": options.seed,
        "start": str(options.start) if options.start else None,
        "init": str(options.init) if options.init else None,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "engine": __version__,
        "commit": code_commit(),
    }


def _report(split: Split, store: PatchStore) -> None:
    roles = {"train": split.train, "validation": split.validation, "test": split.test}
    for role, positions in roles.items():
        patients = {store.nodules[n].patient_id for n in positions.tolist()}
        print(f"{role}: {len(positions)} nodules of {len(patients)} patients")
