"""`contrastdiagnosis-train fit`: trains one network."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from contrastdiagnosis import __version__
from contrastdiagnosis.cases.case_folder import read_case_source
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import write_file
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.weights import load_network
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger

from contrastdiagnosis_training.data.patch_store import PatchStore, load_patch_store
from contrastdiagnosis_training.data.splits import Split, split_by_patient
from contrastdiagnosis_training.network.recipe import Recipe, chosen_recipe, recipe_for
from contrastdiagnosis_training.network.trainer import Trainer
from contrastdiagnosis_training.progress import StageBars
from contrastdiagnosis_training.runs.loop import run_epochs
from contrastdiagnosis_training.runs.run_folder import (
    MODEL,
    SETTINGS,
    network_of_run,
    read_settings,
)


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
    start = _start(options.start, settings) if options.start else None
    model_file = options.out / MODEL
    _check_same_run(options.out, settings)
    if model_file.is_file():
        print(f"{model_file} is there already")
        return load_network(model_file, recipe.network)
    fabric = _fabric(options)
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


def _start(folder: Path, settings: dict[str, Any]) -> NoduleNet:
    """The network to start from: of the same patients, or tests would be on ones it has seen."""
    network = network_of_run(folder)
    theirs = read_settings(folder)
    for name in ("cases", "fold", "seed"):
        if theirs[name] != settings[name]:
            raise InputError(
                f"wanted a run with {name} {settings[name]} to start from, got {theirs[name]} in"
                f" {folder}"
            )
    if theirs["recipe"]["network"] != settings["recipe"]["network"]:
        raise InputError(f"{folder} holds a network of another shape; it cannot be started from")
    return network


def _fabric(options: Fit) -> Fabric:
    device = str(choose_device(options.device))
    return Fabric(
        accelerator=device,
        devices=options.processes,
        strategy="ddp" if options.processes > 1 else "auto",
        precision="bf16-mixed" if has_bfloat16(device) else "32-true",
        loggers=[TensorBoardLogger(options.out, name="", version="tensorboard")],
    )


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _settings(options: Fit, recipe: Recipe) -> dict[str, Any]:
    """What identifies a run, and where its code stood."""
    return {
        "cases": [str(folder) for folder in options.cases],
        "fold": options.fold,
        "seed": options.seed,
        "start": str(options.start) if options.start else None,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "engine": __version__,
        "commit": code_commit(),
    }


def code_commit() -> str:
    """The commit of the source tree, "-dirty" behind it where files differ; empty without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _check_same_run(folder: Path, settings: dict[str, Any]) -> None:
    if not (folder / SETTINGS).is_file():
        return
    before = read_settings(folder)
    for name in ("cases", "fold", "seed", "start", "recipe"):
        if before.get(name) != settings[name]:
            raise InputError(
                f"{folder} holds a run with another {name}: {before.get(name)} instead of"
                f" {settings[name]}; choose another --out, or delete that folder"
            )


def _report(split: Split, store: PatchStore) -> None:
    roles = {"train": split.train, "validation": split.validation, "test": split.test}
    for role, positions in roles.items():
        patients = {store.nodules[n].patient_id for n in positions.tolist()}
        print(f"{role}: {len(positions)} nodules of {len(patients)} patients")
