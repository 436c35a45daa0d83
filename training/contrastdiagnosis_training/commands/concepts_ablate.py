"""`contrastdiagnosis-train concepts-ablate`: what each choice of a concept head is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from contrastdiagnosis.concepts.head import Concept, ConceptHead
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.files.output import check_writable, write_file
from contrastdiagnosis.model.device import choose_device
from numpy.typing import NDArray

from contrastdiagnosis_training.concept_head.cell_views import CellViews, encode_views
from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe, chosen_concept_recipe
from contrastdiagnosis_training.concept_head.run_folder import shown_to_head
from contrastdiagnosis_training.concept_head.trainer import (
    PRESENT,
    ConceptTargets,
    fit_decisions,
    keep_alive,
    train_head,
    views_scores,
)
from contrastdiagnosis_training.data.augment import Augmentation
from contrastdiagnosis_training.data.concept_list import concept_shares, concepts_of
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.data.patch_store import PatchStore, load_patch_store
from contrastdiagnosis_training.data.splits import split_by_patient
from contrastdiagnosis_training.evaluation.concepts.metrics import alive_counts
from contrastdiagnosis_training.evaluation.metrics import strict
from contrastdiagnosis_training.objectives.metrics import auc
from contrastdiagnosis_training.runs.run_folder import SETTINGS, network_of_run

CENTRED = Augmentation(probability=0, shift_mm=0)
OFF_CENTRE = Augmentation(probability=0, shift_mm=0, far=1.0)

VARIANTS = (
    "",
    "margin_sign=1",
    "prototypes=1",
    "prototypes=5",
    "prototypes=50",
    "prototypes=100",
    "width=256",
    "gamma=(10.0,1000.0)",
    "gamma=(1000.0,1000.0)",
    "gamma=(10.0,1000.0) reseed=True",
    "contrast_shown=True",
    "absent_penalty=0",
    "absent_penalty=0.3",
    "absent_penalty=3",
    "outside_weight=1",
    "presence_weight=0 outside_weight=0 cell_weight=0",
    "places=False",
    "soft_labels=False",
    "mask_prior=False",
    "rectified=False",
    "whole=False",
    "alive_only=True",
    "paper",
)
"""Changes of the recipe, separated by spaces; the first is the recipe itself."""


def recipe_of(variant: str) -> ConceptRecipe:
    """The recipe of a variant.

    Raises:
        InputError: There is no such option, or the value is not of its kind.
    """
    changes = variant.split()
    if changes[:1] == ["paper"]:
        return chosen_concept_recipe("paper", changes[1:])
    return chosen_concept_recipe("default", changes)


@dataclass(frozen=True)
class ConceptsAblate:
    """Train heads by changed recipes on one fold, and measure each on the fold's test patients."""

    cases: tuple[Path, ...]
    """Case folders of the run; the first one's nodules are reported on."""
    crossfit: Path
    """Folder that `crossfit` filled."""
    fold: int = 0
    """Which fold; what is chosen by its metrics must be reported on the others."""
    variants: tuple[str, ...] = VARIANTS
    """Recipes, each as changes separated by spaces, or "paper" for CSR as published, which changes
    may follow."""
    joint: tuple[Path, ...] = ()
    """Folders of further `fit` runs of this fold, such as with concept_weight=1: the first recipe
    is measured on each of these networks too."""
    seeds: tuple[int, ...] = (0,)
    """Each recipe is trained with each seed."""
    json: Path | None = None
    """Write the metrics here, for `export --concepts-ablations`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the frozen networks run; the heads are trained on the CPU."""
    cache: Path = Path("runs/cache")
    """Folder for the resampled patches."""

    def run(self) -> None:
        """Trains, measures, prints and writes after every head."""
        check_writable(self.json)
        if not self.variants:
            raise InputError("wanted at least one recipe, got none")
        for text in self.variants:
            recipe_of(text)
        store = load_patch_store(self.cases, self.cache)
        networks = (self.crossfit / f"fold{self.fold}", *self.joint)
        for folder in networks:
            self._check_fold(folder)
        rows: list[dict[str, Any]] = []
        print(HEADING)
        for number, folder in enumerate(networks):
            bench = self._bench(folder, store)
            for text in self.variants if number == 0 else self.variants[:1]:
                for seed in self.seeds:
                    recipe = recipe_of(text)
                    row = {"recipe": text or "default", "network": str(folder), "seed": seed}
                    rows.append(row | bench.metrics(recipe, seed))
                    print(ablation_line(rows[-1]), flush=True)
                    self._write(rows)

    def _check_fold(self, folder: Path) -> None:
        network_of_run(folder)
        fold = read_json(folder / SETTINGS)["fold"]
        if fold != self.fold:
            raise InputError(
                f"wanted a network that left fold {self.fold} out, got {fold}: {folder}"
            )

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if self.json:
            told = {"fold": self.fold, "seeds": list(self.seeds), "rows": rows}
            write_file(self.json, (json.dumps(strict(told), indent=1) + "\n").encode())

    def _bench(self, folder: Path, store: PatchStore) -> Bench:
        device = choose_device(self.device)
        network = network_of_run(folder).to(device)
        split = split_by_patient(store.nodules, self.fold, 0)
        trained = np.r_[split.train, split.validation]
        main = np.array([n.source == store.nodules[0].source for n in store.nodules])
        shares = concept_shares(store.nodules, store.diameter_mm, store.case_source)
        concepts = concepts_of(store.case_source)

        def views(positions: NDArray, augmentation: Augmentation, count: int) -> CellViews:
            return encode_views(network, store, positions, concepts, augmentation, count, 0, device)

        def targets(positions: NDArray) -> ConceptTargets:
            return ConceptTargets(shares[positions], store.malignancy[positions])

        fitted, test = trained[main[trained]], split.test[main[split.test]]
        return Bench(
            views(trained, shown_to_head(folder), ConceptRecipe().views), targets(trained),
            views(fitted, CENTRED, 1), targets(fitted),
            {"centred": views(test, CENTRED, 1), "off_centre": views(test, OFF_CENTRE, 2)},
            targets(test), concepts,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bench:
    """What heads of one network are trained and measured on.

    Attributes:
        views: Augmented, of the training nodules.
        targets: Theirs.
        centred: One view of each training nodule of the folder that is reported on; presence and
            decision are fitted to these.
        centred_targets: Theirs.
        test: Views of the test nodules by how they lie.
        test_targets: Theirs.
        concepts: In the order of all targets.
    """

    views: CellViews
    targets: ConceptTargets
    centred: CellViews
    centred_targets: ConceptTargets
    test: dict[str, CellViews]
    test_targets: ConceptTargets
    concepts: Sequence[Concept]

    def metrics(self, recipe: ConceptRecipe, seed: int) -> dict[str, Any]:
        """Of a head of this recipe: AUROC of the concepts, malignancy, pointing, alive ones."""
        head = train_head(self.views, self.targets, recipe, seed)
        scores = views_scores(head, self.centred)
        if recipe.alive_only:
            keep_alive(head, scores[0].numpy(), self.centred_targets.share.numpy())
        fit_decisions(head, scores, self.centred_targets, recipe, seed)
        metrics: dict[str, Any] = {
            name: heldout_metrics(head, views, self.test_targets, self.concepts)
            for name, views in self.test.items()
        }
        return metrics | {
            "alive": alive_counts(scores[0].numpy(), self.centred_targets.share.numpy())
        }


def heldout_metrics(
    head: ConceptHead, views: CellViews, targets: ConceptTargets, concepts: Sequence[Concept]
) -> dict[str, Any]:
    """Means over the views of mean AUROC, AUC of malignancy under `exclude3`, and pointing.

    `concepts` has the AUROC of each concept, `auroc` is the mean of those that readers rate.

    A pointer hits where the concept may be seen: `concept_places`.
    """
    share, malignancy = targets.share.numpy(), targets.malignancy.numpy()
    kept = RULES["exclude3"](malignancy)
    truth = is_malignant(malignancy[kept])
    auroc, malignant, hits = [], [], []
    for view, seen in zip(views.cells, views.seen, strict=True):
        similarity = torch.cat([head.similarity(head.standardised(p)) for p in view.split(64)])
        scores = head.scores(similarity)
        presence = head.presence(scores).numpy()
        auroc.append(_aurocs(presence, share))
        malignant.append(auc(head.decide(scores).numpy()[kept], truth))
        place = similarity.amax(dim=2).flatten(2).argmax(dim=-1)
        hit = seen.flatten(2).gather(2, place[..., None])[..., 0] > 0
        hits.append(hit.numpy()[share >= PRESENT].mean())
    each = np.mean(auroc, axis=0)
    rated = [not concept.measured for concept in concepts]
    return {
        "auroc": float(np.nanmean(each[rated])),
        "concepts": {c.name: float(x) for c, x in zip(concepts, each, strict=True)},
        "malignancy": float(np.mean(malignant)),
        "pointing": float(np.mean(hits)),
    }


def _aurocs(presence: NDArray, share: NDArray) -> list[float]:
    """Of each concept; NaN where readers see it in all nodules or in none."""
    found = []
    for score, told in zip(presence.T, share.T, strict=True):
        known = np.isfinite(told)
        found.append(auc(score[known], told[known] >= PRESENT))
    return found


HEADING = (
    f"{'recipe':48}{'network':>16}{'seed':>5}   AUROC, malignancy, pointing: centred · off centre"
)


def ablation_line(row: dict[str, Any]) -> str:
    """One head as a line of text."""
    metrics = " · ".join(
        " ".join(f"{row[where][name]:.3f}" for name in ("auroc", "malignancy", "pointing"))
        for where in ("centred", "off_centre")
    )
    network = "/".join(Path(row["network"]).parts[-2:])
    return f"{row['recipe']:48}{network:>16}{row['seed']:5}   {metrics}   alive {row['alive']}"
