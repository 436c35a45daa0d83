"""What the networks of a cross-fit run say of unseen nodules whose scans were made poorer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from contrastdiagnosis.bundle.bundle import sha256
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import write_file
from contrastdiagnosis.imaging.volume import Volume

from contrastdiagnosis_training.data.columns import load_columns, save_columns
from contrastdiagnosis_training.data.degradations.degrade import item_seed
from contrastdiagnosis_training.data.degradations.volume import degraded_hu
from contrastdiagnosis_training.evaluation.shipped_rule import Part
from contrastdiagnosis_training.peers.predictions import (
    PeerPredictions,
    peer_of_run,
    predict_peer,
)
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run
from contrastdiagnosis_training.runs.predictions import Change, Predictions, predict_nodules
from contrastdiagnosis_training.runs.run_folder import MODEL, network_of_run, read_settings

T = TypeVar("T", Predictions, PeerPredictions)

FOLDER = "degraded-2"
"""In a fold's run folder: predictions by operation and severity. The number is raised when scans
are made poorer otherwise, so that old predictions are made anew."""


class Poorer(NamedTuple):
    """A way to make scans poorer."""

    operation: str
    severity: int


def poorer_scan(operation: str, severity: int) -> Change:
    """What makes a nodule's scan poorer, on its own grid, seeded by the case."""

    def change(nodule: Nodule, volume: Volume) -> Volume:
        seed = item_seed(nodule.case_id, operation, severity)
        return Volume(degraded_hu(volume, operation, severity, seed), volume.ijk_to_ras)

    return change


Reader = Callable[[Sequence[Nodule], Change], Any]
"""Predictions of nodules, as a dataclass of columns, in changed scans."""


def network_reader(folder: Path, device: torch.device) -> Reader:
    """What reads nodules by the network of a fold's run folder."""
    network = network_of_run(folder).to(device)
    return lambda nodules, change: predict_nodules(network, nodules, device, change=change)


def peer_reader(folder: Path, device: torch.device) -> Reader:
    """What reads nodules by the peer of a fold's run folder."""
    peer = peer_of_run(folder).to(device)
    return lambda nodules, change: predict_peer(peer, nodules, device, change)


def predict_degraded(
    run: Path,
    folds: Sequence[int],
    ways: Sequence[Poorer],
    device: torch.device,
    reader_of: Callable[[Path, torch.device], Reader] = network_reader,
) -> Iterator[tuple[int, Poorer]]:
    """Stores what is not there yet; tells of each fold and way once it is there.

    Args:
        run: Folder that `crossfit` or `peer` filled.
        folds: Their test nodules are made poorer.
        ways: How.
        device: Where to compute.
        reader_of: Opens a fold's run folder.

    Raises:
        InputError: The run lacks a fold, its case folder is not at hand, or what is stored is of
            other weights.
    """
    missing = sorted(set(folds) - set(folds_of_run(run)))
    if missing:
        raise InputError(f"{run} holds no fold {missing[0]}; it holds {folds_of_run(run)}")
    for fold in folds:
        folder = run / f"fold{fold}"
        _check_weights(folder)
        reader = None
        for way in ways:
            file = _file(folder, way)
            if not file.is_file():
                if reader is None:
                    reader, nodules = reader_of(folder, device), _tested(folder)
                file.parent.mkdir(exist_ok=True)
                save_columns(reader(nodules, poorer_scan(*way)), file)
            yield fold, way


def degraded_parts(
    run: Path, parts: Sequence[Part], folds: Sequence[int], way: Poorer
) -> list[Part]:
    """The parts of folds, their nodules as they are seen in poorer scans."""
    told = []
    poor = degraded_rows(run, [nodules for _, nodules in parts], folds, way)
    for (support, clean), poorer in zip(parts, poor, strict=True):
        # Whether a file goes on beyond its nodule is told by what became of it when it was cut.
        told.append((support, replace(poorer, trimmed_dice=clean.trimmed_dice)))
    return told


def degraded_rows(run: Path, clean: Sequence[T], folds: Sequence[int], way: Poorer) -> list[T]:
    """The nodules of folds as they are seen in poorer scans, in the same order.

    Args:
        run: Folder that `predict_degraded` filled.
        clean: What is said of them in their scans as they are, one table a fold.
        folds: The numbers.
        way: How the scans were made poorer.

    Raises:
        InputError: What is stored is of other nodules.
    """
    told = []
    for rows, fold in zip(clean, folds, strict=True):
        file = _file(run / f"fold{fold}", way)
        poorer = load_columns(type(rows), file)
        if poorer.case_id.tolist() != rows.case_id.tolist():
            raise InputError(f"{file} is of other nodules; delete it")
        told.append(poorer)
    return told


def _check_weights(folder: Path) -> None:
    """What is stored of poorer scans must be what these weights said, not those before them."""
    if not (folder / MODEL).is_file():
        return
    told, weights = folder / FOLDER / "model.sha256", sha256(folder / MODEL)
    if told.is_file() and told.read_text().strip() != weights:
        raise InputError(f"{told.parent} is of other weights than {folder / MODEL}; delete it")
    if not told.is_file():
        told.parent.mkdir(exist_ok=True)
        write_file(told, f"{weights}\n".encode())


def _file(folder: Path, way: Poorer) -> Path:
    return folder / FOLDER / f"{way.operation}-{way.severity}.npz"


def _tested(folder: Path) -> list[Nodule]:
    cases = Path(read_settings(folder)["cases"][0])
    if not cases.is_dir():
        raise InputError(f"the case folder {cases} of the run {folder} is not there")
    with np.load(folder / "test.npz", allow_pickle=False) as columns:
        wanted = columns["case_id"]
    nodules = {nodule.case_id: nodule for nodule in read_case_folder(cases)}
    return [nodules[case_id] for case_id in wanted.tolist()]
