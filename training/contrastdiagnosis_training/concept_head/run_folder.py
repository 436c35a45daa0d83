"""What `concepts` leaves: a folder a head, and what is read of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from contrastdiagnosis.concepts.head import (
    Concept,
    ConceptHead,
    concept_from_document,
    load_head,
    read_config,
)
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json

from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe
from contrastdiagnosis_training.concept_head.scores import ConceptScores
from contrastdiagnosis_training.concept_head.trainer import ConceptTargets, fit_decisions
from contrastdiagnosis_training.data.augment import Augmentation
from contrastdiagnosis_training.network.recipe import Recipe
from contrastdiagnosis_training.runs.run_folder import augmentation_of_run

HEAD, SETTINGS, TRAIN, TEST = "concepts.safetensors", "settings.json", "train.npz", "test.npz"
WHOLE = "unpruned.safetensors"
"""The head before prototypes were removed: the one that pruning files speak of."""

ALL = "all"
"""Folder of the head that is trained on every patient."""


def name_of(fold: int | None) -> str:
    """Of a head's folder."""
    return ALL if fold is None else f"fold{fold}"


def is_made(out: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds the finished head, which is said.

    Raises:
        InputError: It belongs to another run.
    """
    check_same(out / SETTINGS, settings)
    made = (out / HEAD).is_file()
    if made:
        print(f"{out} is there already")
    return made


def fit_to_cases(head: ConceptHead, cases: ConceptScores, recipe: ConceptRecipe, seed: int) -> None:
    """Fits presence and decision anew to what the engine itself says of the training nodules.

    So a bundle's own scores of its cases are all that a later fit without some prototypes needs.
    """
    targets = ConceptTargets(torch.from_numpy(cases.share), torch.from_numpy(cases.malignancy))
    fit_decisions(head, torch.from_numpy(cases.scores)[None], targets, recipe, seed)


def check_same(file: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder of another run.

    Raises:
        InputError: Its settings differ.
    """
    if file.is_file() and read_head_settings(file) != json.loads(json.dumps(settings)):
        raise InputError(f"{file.parent} belongs to another run; name another --out")


def shown_to_head(network: Path) -> Augmentation:
    """What a head is shown: what its network was, in scans as they are.

    Poorer scans made heads worse: malignancy through the concepts .925 instead of .940 on folds 0
    and 2 (training/LOG.md, 2026-11-30).

    Args:
        network: Run folder of the network.

    Raises:
        InputError: There is no finished network.
    """
    return replace(augmentation_of_run(network), degraded=0.0)


def read_head_settings(file: Path) -> dict[str, Any]:
    """The settings of a head; older ones were shown the default recipe's views, all as scanned."""
    views = json.loads(json.dumps(asdict(replace(Recipe().augmentation, degraded=0.0))))
    return {"augmentation": views, **read_json(file)}


def concepts_of_run(folder: Path) -> tuple[Concept, ...]:
    """What the concepts of a head are, in its order, as its settings say; not calibrated."""
    return tuple(concept_from_document(c) for c in read_json(folder / SETTINGS)["concepts"])


def head_of_run(folder: Path) -> ConceptHead:
    """The head that `train_one` left in a folder.

    Raises:
        InputError: There is none.
    """
    if not ((folder / HEAD).is_file() and (folder / SETTINGS).is_file()):
        raise InputError(
            f"{folder} holds no concept head; make it by contrastdiagnosis-train concepts"
        )
    return load_head(folder / HEAD, read_config(folder / HEAD))
