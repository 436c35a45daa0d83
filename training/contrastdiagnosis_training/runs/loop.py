"""Epoch by epoch to the end: checkpoints, the best weights, the log; also after an interruption."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from contrastdiagnosis.files.output import replacing, write_file
from contrastdiagnosis.model.weights import save_network
from lightning.fabric import Fabric
from torch import nn

from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.run_folder import CHECKPOINT, DRAFT, LOG, MODEL


class EpochRecipe(Protocol):
    """How long a run is."""

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        ...

    @property
    def validate_every(self) -> int:
        """Epochs between two looks at the validation patients."""
        ...


class EpochTrainer(Protocol):
    """What trains epoch by epoch: `Trainer`, or another with its own recipe."""

    epoch: int
    fabric: Fabric

    @property
    def recipe(self) -> EpochRecipe:
        """Its length."""
        ...

    @property
    def trained(self) -> nn.Module:
        """The weights to keep."""
        ...

    @property
    def at_cycle_end(self) -> bool:
        """Whether they are worth keeping now."""
        ...

    def run_epoch(self) -> dict[str, float]:
        """Trains for one epoch; what is to be logged."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures of the validation patients; the weights with the best "val_auc" are kept."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        ...


def run_epochs(trainer: EpochTrainer, folder: Path) -> None:
    """Trains to the recipe's end; goes on from the folder's checkpoint if there is one.

    Raises:
        KeyboardInterrupt: The user stopped it; the last whole epoch is kept.
    """
    checkpoint, best = folder / CHECKPOINT, -np.inf
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=trainer.fabric.device, weights_only=True)
        trainer.restore(state)
        best = state["best"]
        print(f"resuming after epoch {trainer.epoch}")
    recipe, rank_zero = trainer.recipe, trainer.fabric.is_global_zero
    kept = trainer.epoch
    bar = Bar(
        total=recipe.epochs, initial=trainer.epoch, unit="epoch", disable=not rank_zero or None
    )
    try:
        while trainer.epoch < recipe.epochs:
            metrics = trainer.run_epoch()
            if trainer.at_cycle_end or trainer.epoch % recipe.validate_every == 0:
                metrics |= trainer.validate()
            # Without validation patients of both classes the last cycle counts.
            score = metrics.get("val_auc", np.nan)
            score = score if np.isfinite(score) else trainer.epoch
            if rank_zero:
                trainer.fabric.log_dict(metrics, step=trainer.epoch)
                append_epoch(folder / LOG, {"step": trainer.epoch} | metrics)
                if trainer.at_cycle_end and score > best:
                    best = score
                    with replacing(folder / DRAFT) as draft:
                        save_network(draft, trainer.trained)
                save_checkpoint(checkpoint, trainer.state() | {"best": best})
            kept = trainer.epoch
            trainer.fabric.barrier()
            bar.update()
            shown = {name: f"{value:.3f}" for name, value in metrics.items()}
            bar.set_postfix(shown)
            if bar.disable and rank_zero:  # In a log: a line an epoch.
                told = ", ".join(f"{name} {value}" for name, value in shown.items())
                print(f"epoch {trainer.epoch} of {recipe.epochs}: {told}", flush=True)
    except KeyboardInterrupt:
        print(
            f"\nstopped; {kept} of {recipe.epochs} epochs are kept in {checkpoint}."
            " The same command goes on from there."
        )
        raise
    finally:
        bar.close()
        for logger in trainer.fabric.loggers:
            logger.finalize("stopped")
    if rank_zero:
        (folder / DRAFT).replace(folder / MODEL)
        checkpoint.unlink()
    trainer.fabric.barrier()


def append_epoch(file: Path, row: dict[str, float]) -> None:
    """Adds an epoch to the CSV log; a resumed run goes on in the same file."""
    rows: list[dict[str, Any]] = []
    if file.is_file():
        with file.open(newline="") as stream:
            rows = [r for r in csv.DictReader(stream) if int(r["step"]) < row["step"]]
    rows.append(row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, sorted(set().union(*rows)))
    writer.writeheader()
    writer.writerows(rows)
    write_file(file, text.getvalue().encode())


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint only when the new one is whole."""
    stream = io.BytesIO()  # torch.save tells of a full disk by a RuntimeError.
    torch.save(state, stream)
    write_file(file, stream.getvalue())
