"""From a run of `concepts` to the part of a bundle that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contrastdiagnosis.bundle.bundle import ConceptPart
from contrastdiagnosis.bundle.pruning import removed_note
from contrastdiagnosis.cases.case_folder import Nodule
from contrastdiagnosis.cases.vote import Calibration
from contrastdiagnosis.concepts.head import Concept, ConceptHead, load_head
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.model.network import NoduleNet

from contrastdiagnosis_training.concept_head.run_folder import (
    ALL,
    SETTINGS,
    TEST,
    WHOLE,
    concepts_of_run,
    head_of_run,
)
from contrastdiagnosis_training.concept_head.scores import ConceptScores, make_atlas, score_nodules
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.evaluation.concepts.metrics import calibrate_concepts


@dataclass(frozen=True, eq=False)
class ConceptRun:
    """A finished run of `concepts`.

    Attributes:
        head: Trained on all patients.
        concepts: Calibrated on the test folds of the other heads.
        calibration: Of the decision, likewise.
        metrics: What `concepts-eval` measured, None if that is not given.
        removed: Prototypes that a pruning file took out of it.
    """

    head: ConceptHead
    concepts: tuple[Concept, ...]
    calibration: Calibration
    metrics: dict[str, Any] | None
    removed: int = 0

    @property
    def note(self) -> dict[str, str]:
        """What `concepts-eval` does not know, for the bundle's metrics."""
        gone = self.removed
        return {"concepts_note": removed_note(gone, "a pruning file")} if gone else {}


def read_concept_run(
    run: Path, weights: Path, crossfit: Path, measured: Path | None, ablations: Sequence[Path] = ()
) -> ConceptRun:
    """The heads of a run, after a look at whether they belong to these networks.

    Args:
        run: Folder that `concepts` filled.
        weights: Folder of the network of all patients.
        crossfit: Folder of the others.
        measured: What `concepts-eval --json` wrote.
        ablations: What `concepts-ablate --json` wrote of each fold.

    Raises:
        InputError: Heads are missing, or were trained on other networks or differently.
    """
    tests = sorted(run.glob(f"fold*/{TEST}"))
    if len(tests) < 2 or not (run / ALL / SETTINGS).is_file():
        raise InputError(
            f"{run} holds no finished run; make it by contrastdiagnosis-train concepts --weights"
        )
    everyone = read_json(run / ALL / SETTINGS)
    for folder in (run / ALL, *(test.parent for test in tests)):
        settings = read_json(folder / SETTINGS)
        network = weights if folder.name == ALL else crossfit / folder.name
        if Path(settings["network"]) != network:
            raise InputError(f"{folder} was trained on {settings['network']}, not on {network}")
        for name in ("recipe", "concepts"):
            if settings[name] != everyone[name]:
                raise InputError(f"{folder} and {run / ALL} differ in their {name}")
    scored = [(head_of_run(test.parent), load_columns(ConceptScores, test)) for test in tests]
    concepts, calibration = calibrate_concepts(concepts_of_run(run / ALL), scored)
    metrics = None
    if measured:
        metrics = read_json(measured)
        concepts = tuple(
            replace(c, auroc=round(metrics["concepts"][c.name]["auroc"], 3)) for c in concepts
        )
    if ablations:
        metrics = {**(metrics or {}), "ablations": [read_json(file) for file in ablations]}
    head, whole = head_of_run(run / ALL), run / ALL / WHOLE
    removed = 0
    if whole.is_file():
        removed = int((load_head(whole, head.config).kept - head.kept).sum())
    return ConceptRun(head, concepts, calibration, metrics, removed)


def concept_part(
    run: ConceptRun, network: NoduleNet, rows: Sequence[Nodule], device: torch.device
) -> ConceptPart:
    """Head, atlas and scores of the bundle's cases.

    Args:
        run: The head and its concepts.
        network: As the bundle stores it.
        rows: The cases' nodules, in the library's order.
        device: Where they are encoded.
    """
    scored = score_nodules(network.to(device), run.head, run.concepts, rows, device)
    network.to("cpu")
    atlas, share = make_atlas(run.concepts, run.head, scored), scored.share.astype(np.float32)
    return ConceptPart(run.head, atlas, scored.scores, share)
