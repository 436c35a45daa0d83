"""`contrastdiagnosis-train concepts`: a concept head for every network of a cross-fit run."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contrastdiagnosis.bundle.bundle import sha256
from contrastdiagnosis.bundle.pruning import read_pruning
from contrastdiagnosis.cases.case_folder import read_case_source
from contrastdiagnosis.concepts.head import Concept, load_head, save_head
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import replacing, write_file
from contrastdiagnosis.model.device import choose_device
from numpy.typing import NDArray

from contrastdiagnosis_training.concept_head.cell_views import encode_views
from contrastdiagnosis_training.concept_head.recipe import ConceptRecipe, chosen_concept_recipe
from contrastdiagnosis_training.concept_head.run_folder import (
    ALL,
    HEAD,
    SETTINGS,
    TEST,
    TRAIN,
    WHOLE,
    concepts_of_run,
    fit_to_cases,
    head_of_run,
    is_made,
    name_of,
    read_head_settings,
    shown_to_head,
)
from contrastdiagnosis_training.concept_head.scores import ConceptScores, make_atlas, score_nodules
from contrastdiagnosis_training.concept_head.trainer import (
    PRESENT,
    ConceptTargets,
    keep_alive,
    train_head,
)
from contrastdiagnosis_training.data.columns import load_columns, save_columns
from contrastdiagnosis_training.data.concept_list import concept_shares, concepts_of
from contrastdiagnosis_training.data.patch_store import PatchStore, load_patch_store
from contrastdiagnosis_training.data.splits import split_by_patient
from contrastdiagnosis_training.progress import StageBars
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run
from contrastdiagnosis_training.runs.run_folder import network_of_run

REFITTED = ("dropout", "penalty", "absent_penalty")
"""Options of a recipe that presence and decision alone depend on."""


@dataclass(frozen=True)
class Concepts:
    """Train concept heads: one a fold of a cross-fit run, and one on all patients' network."""

    cases: tuple[Path, ...]
    """Case folders of the run; the first one's nodules are reported on."""
    crossfit: Path
    """Folder that `crossfit` filled."""
    out: Path
    """Folder of the heads: fold0, fold1, ..., all."""
    weights: Path | None = None
    """Folder of a `fit` without --fold, for the head that `export --concepts` takes."""
    start: Path | None = None
    """Folder that `concepts` filled with the same networks: its prototypes stay, presence and
    decision alone are fitted anew, by another dropout or other penalties."""
    prune: Path | None = None
    """Pruning file made for a bundle with this run's head of all patients: that head's presence and
    decision are fitted anew without the prototypes that it removes."""
    folds: tuple[int, ...] | None = None
    """Only these folds."""
    recipe: Literal["default", "paper"] = "default"
    """What to train: the shipped recipe, or CSR as published."""
    change: tuple[str, ...] = ()
    """Options of the recipe to change, such as prototypes=50 margin_sign=1."""
    seed: int = 0
    """Fixes views, weights and order."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the frozen networks run; the heads are trained on the CPU."""
    cache: Path = Path("runs/cache")
    """Folder for the resampled patches."""

    def run(self) -> None:
        """Goes through the folds; what is there already is not made again."""
        recipe = chosen_concept_recipe(self.recipe, self.change)
        folds = folds_of_run(self.crossfit)
        if self.folds and not set(self.folds) <= set(folds):
            raise InputError(f"{self.crossfit} holds the folds {folds}, got {self.folds}")
        wanted: list[int | None] = [*(self.folds or folds), *([None] if self.weights else [])]
        if self.start:
            if self.start.resolve() == self.out.resolve():
                raise InputError(f"--start and --out are both {self.out}; name another --out")
            for fold in wanted:
                refit_one(self, self.start, recipe, fold)
        else:
            store = load_patch_store(self.cases, self.cache)
            for fold in wanted:
                train_one(self, recipe, store, fold)
        if self.prune:
            prune_head(self.out / ALL, self.prune, recipe, self.seed)


def train_one(
    options: Concepts, recipe: ConceptRecipe, store: PatchStore, fold: int | None
) -> None:
    """Trains the head of one fold, or of the network of all patients, and scores its nodules."""
    out, settings = options.out / name_of(fold), settings_of(options, recipe, fold)
    if is_made(out, settings):
        return
    device = choose_device(options.device)
    network = network_of_run(Path(settings["network"])).to(device)
    split = split_by_patient(store.nodules, fold, options.seed)
    # A head has no hyper-parameter that validation patients choose: these train too.
    trained = np.r_[split.train, split.validation]
    shares = concept_shares(store.nodules, store.diameter_mm, store.case_source)
    targets = ConceptTargets(shares[trained], store.malignancy[trained])
    concepts = concepts_of(store.case_source)
    check_targets(concepts, targets, trained)
    print(f"{out}: {len(trained)} nodules, {recipe.views} views of each")
    augmentation = shown_to_head(Path(settings["network"]))
    views = encode_views(
        network, store, trained, concepts, augmentation, recipe.views, options.seed, device
    )
    bars = StageBars(unit="epoch", leave=False)
    head = train_head(views, targets, recipe, options.seed, bars)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    for positions, file in ((split.test, TEST), (trained, TRAIN)):
        rows = [store.nodules[n] for n in positions.tolist()]
        main = [n for n in rows if n.source == store.nodules[0].source]
        if main:
            save_columns(score_nodules(network, head, concepts, main, device), out / file)
    cases = load_columns(ConceptScores, out / TRAIN)
    if recipe.alive_only:
        keep_alive(head, cases.scores, cases.share)
    fit_to_cases(head, cases, recipe, options.seed)
    with replacing(out / HEAD) as draft:
        save_head(draft, head)


def refit_one(options: Concepts, start: Path, recipe: ConceptRecipe, fold: int | None) -> None:
    """Fits presence and decision of one head anew, to what it said of its nodules.

    Raises:
        InputError: There is no such head, it was pruned, or it was trained otherwise than by the
            options that this fit has.
    """
    source, out = start / name_of(fold), options.out / name_of(fold)
    head, settings = head_of_run(source), settings_of(options, recipe, fold)
    if (source / WHOLE).is_file():
        raise InputError(f"{source} was pruned; start from the head before that")
    before = read_head_settings(source / SETTINGS)
    same = {**before, "recipe": before["recipe"] | {n: settings["recipe"][n] for n in REFITTED}}
    if same != json.loads(json.dumps(settings)):
        raise InputError(
            f"{source} was trained otherwise; another fit may differ in {', '.join(REFITTED)} alone"
        )
    if is_made(out, settings):
        return
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / SETTINGS, (json.dumps(settings, indent=1) + "\n").encode())
    for file in (TRAIN, TEST):
        if (source / file).is_file():
            write_file(out / file, (source / file).read_bytes())
    fit_to_cases(head, load_columns(ConceptScores, out / TRAIN), recipe, options.seed)
    with replacing(out / HEAD) as draft:
        save_head(draft, head)
    print(f"{out}: presence and decision fitted anew")


def settings_of(options: Concepts, recipe: ConceptRecipe, fold: int | None) -> dict[str, Any]:
    """What settings.json holds of a head."""
    concepts = concepts_of(read_case_source(options.cases[0]))
    source = options.crossfit / name_of(fold)
    if fold is None and options.weights:
        source = options.weights
    return {
        "cases": [str(folder) for folder in options.cases],
        "network": str(source),
        "fold": fold,
        "seed": options.seed,
        "recipe": asdict(recipe),
        "augmentation": asdict(shown_to_head(source)),
        "concepts": [asdict(concept) for concept in concepts],
    }


def prune_head(folder: Path, file: Path, recipe: ConceptRecipe, seed: int) -> None:
    """Fits the head of a folder anew without the prototypes that a pruning file removes.

    The whole head stays beside it: files are made for that one, and another one may follow.

    Raises:
        InputError: The folder has no head, or the file was not made for it.
    """
    whole = head_of_run(folder)
    source = folder / WHOLE if (folder / WHOLE).is_file() else folder / HEAD
    whole = load_head(source, whole.config)
    scores = load_columns(ConceptScores, folder / TRAIN)
    concepts = concepts_of_run(folder)
    pruning = read_pruning(file, sha256(source), make_atlas(concepts, whole, scores))
    names = [concept.name for concept in concepts]
    head = copy.deepcopy(whole)
    for concept, number in pruning.removed:
        head.kept[names.index(concept), number] = 0
    fit_to_cases(head, scores, recipe, seed)
    if source.name == HEAD:
        write_file(folder / WHOLE, source.read_bytes())
    with replacing(folder / HEAD) as draft:
        save_head(draft, head)
    left, count = int(head.kept.sum()), head.kept.numel()
    print(f"{folder / HEAD}: {left} of {count} prototypes are kept")


def check_targets(
    concepts: Sequence[Concept], targets: ConceptTargets, trained: NDArray[np.int64]
) -> None:
    """Refuses nodules that cannot teach every concept.

    Raises:
        InputError: A concept is never rated, never present or always present.
    """
    for concept, share in zip(concepts, targets.share.T, strict=True):
        known = share[share.isfinite()]
        present = int((known >= PRESENT).sum())
        if present in (0, len(known)):
            raise InputError(
                f"wanted nodules with and without {concept.name!r} (rating {concept.rating}), got"
                f" {present} with it of {len(known)} that are rated among {len(trained)}"
            )
