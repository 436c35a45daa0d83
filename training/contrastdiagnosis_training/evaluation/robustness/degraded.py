"""What the networks of a cross-fit run say of unseen nodules whose scans were made poorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.volume import Volume

from contrastdiagnosis_training.data.columns import load_columns, save_columns
from contrastdiagnosis_training.data.degradations.degrade import degrade, item_seed
from contrastdiagnosis_training.evaluation.shipped_rule import Part
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run, load_fold
from contrastdiagnosis_training.runs.predictions import Change, Predictions, predict_nodules
from contrastdiagnosis_training.runs.run_folder import network_of_run, read_settings

FOLDER = "degraded"
"""In a fold's run folder: predictions by operation and severity."""


class Poorer(NamedTuple):
    """A way to make scans poorer."""

    operation: str
    severity: int


def poorer_scan(operation: str, severity: int) -> Change:
    """What makes a nodule's scan poorer, on its own grid, seeded by the case."""

    def change(nodule: Nodule, volume: Volume) -> Volume:
        seed = item_seed(nodule.case_id, operation, severity)
        hu = torch.from_numpy(volume.hu.astype(np.float32))[None]
        worse = degrade(hu, [operation], torch.tensor([severity]), volume.spacing_mm, [seed])
        return Volume(worse[0].round().numpy().astype(volume.hu.dtype), volume.ijk_to_ras)

    return change


def predict_degraded(
    run: Path, folds: Sequence[int], ways: Sequence[Poorer], device: torch.device
) -> Iterator[tuple[int, Poorer]]:
    """Stores what is not there yet; tells of each fold and way once it is there.

    Args:
        run: Folder that `crossfit` filled.
        folds: Their test nodules are made poorer.
        ways: How.
        device: Where to compute.

    Raises:
        InputError: The run lacks a fold, or its case folder is not at hand.
    """
    missing = sorted(set(folds) - set(folds_of_run(run)))
    if missing:
        raise InputError(f"{run} holds no fold {missing[0]}; it holds {folds_of_run(run)}")
    for fold in folds:
        folder = run / f"fold{fold}"
        network = None
        for way in ways:
            file = _file(folder, way)
            if not file.is_file():
                if network is None:
                    network = network_of_run(folder).to(device)
                    nodules = _tested(folder)
                change = poorer_scan(*way)
                file.parent.mkdir(exist_ok=True)
                save_columns(predict_nodules(network, nodules, device, change=change), file)
            yield fold, way


def degraded_parts(
    run: Path, parts: Sequence[Part], folds: Sequence[int], way: Poorer
) -> list[Part]:
    """The parts of folds, their nodules as they are seen in poorer scans."""
    told = []
    for (support, clean), fold in zip(parts, folds, strict=True):
        poorer = load_columns(Predictions, _file(run / f"fold{fold}", way))
        if poorer.case_id.tolist() != clean.case_id.tolist():
            raise InputError(f"{_file(run / f'fold{fold}', way)} is of other nodules; delete it")
        # Whether a file goes on beyond its nodule is told by what became of it when it was cut.
        told.append((support, replace(poorer, trimmed_dice=clean.trimmed_dice)))
    return told


def _file(folder: Path, way: Poorer) -> Path:
    return folder / FOLDER / f"{way.operation}-{way.severity}.npz"


def _tested(folder: Path) -> list[Nodule]:
    cases = Path(read_settings(folder)["cases"][0])
    if not cases.is_dir():
        raise InputError(f"the case folder {cases} of the run {folder} is not there")
    wanted = load_fold(folder.parent, int(folder.name.removeprefix("fold")))["test"].case_id
    nodules = {nodule.case_id: nodule for nodule in read_case_folder(cases)}
    return [nodules[case_id] for case_id in wanted.tolist()]
