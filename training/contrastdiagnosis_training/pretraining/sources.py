"""The four sets by who sees them: from case folders and CTs on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.errors import InputError
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
from contrastdiagnosis_training.pretraining.sets import FourSets, four_sets
from contrastdiagnosis_training.progress import Bar, StageBars


@dataclass(frozen=True)
class SetSources:
    """Where lesions and healthy tissue come from, and who is kept out.

    Attributes:
        cases: Case folders of the later `fit`.
        more: Further ones, of patients that neither test nor validate.
        cts: Folders of CTs with healthy lung.
        acquisition: Table that tells how series were scanned.
        beside: Whether healthy tissue is taken beside the nodules of the first case folder.
        phantom: Whether it is taken of the phantom.
        per_kind: Points of each kind of healthy tissue a CT.
        fold: Its patients are tested; none if None.
        seed: Draws the validation patients and the healthy tissue.
        cache: Folder for resampled patches.
    """

    cases: tuple[Path, ...]
    more: tuple[Path, ...]
    cts: tuple[Path, ...]
    acquisition: Path | None
    beside: bool
    phantom: bool
    per_kind: int
    fold: int | None
    seed: int
    cache: Path


@dataclass(frozen=True, eq=False)
class SetsByRole:
    """The four sets of the patients of each role.

    Attributes:
        train: Of those that pre-training sees.
        healthy: Where all healthy tissue comes from.
        validation: None where their patients cannot fill all four sets.
        test: Likewise; only where it was asked for.
    """

    train: FourSets
    healthy: HealthyPatches
    validation: FourSets | None
    test: FourSets | None = None


def load_sets(
    sources: SetSources,
    least_severity: int,
    centers: Mapping[str, NDArray[np.float64]] | None = None,
    tested: bool = False,
) -> SetsByRole:
    """Resamples what is not cached yet.

    Args:
        sources: Where from.
        least_severity: Of what makes a good image poor.
        centers: Of the lesions that a detector found, by case; the readers' marks if None.
        tested: Make the sets of the tested patients too.

    Raises:
        InputError: One of the sets that train would be empty.
    """
    acquisitions = read_acquisitions(sources.acquisition) if sources.acquisition else {}
    bar = partial(StageBars(unit="nodule"), "resampling")
    store = load_patch_store((*sources.cases, *sources.more), sources.cache, bar, centers)
    count = len([n for folder in sources.cases for n in read_case_folder(folder)])
    split = split_by_patient(store.nodules[:count], sources.fold, sources.seed)
    folds = patient_folds(store.nodules)
    # Who is of the fold is tested; whom no table gives a fold may be held back elsewhere.
    kept_out = _patients(store, split.validation) | {
        n.patient_id for n in store.nodules if folds.get(n.patient_id, sources.fold) == sources.fold
    }

    def seen(patient: str) -> bool:
        return patient not in kept_out

    more = [n for n in range(count, len(store)) if seen(store.nodules[n].patient_id)]
    train = np.r_[split.train, np.array(more, dtype=np.int64)]
    if centers is not None:
        found = [store.nodules[n].case_id in centers for n in train.tolist()]
        print(f"the detector found {sum(found)} of {len(train)} lesions")
        train = train[np.array(found, dtype=bool)]
    healthy = _healthy(sources, store, split.train)
    told = (healthy, acquisitions, least_severity)

    def unseen(name: str, positions: NDArray[np.int64]) -> FourSets | None:
        patients = _patients(store, positions)
        try:
            return four_sets(store, positions, *told, patients.__contains__)
        except InputError as error:
            print(f"without {name} patients: {error}")
            return None

    return SetsByRole(
        four_sets(store, train, *told, seen),
        healthy,
        unseen("validation", split.validation) if len(split.validation) else None,
        unseen("tested", split.test) if tested and len(split.test) else None,
    )


def _patients(store: PatchStore, positions: NDArray[np.int64]) -> set[str]:
    return {store.nodules[n].patient_id for n in positions.tolist()}


def _healthy(sources: SetSources, store: PatchStore, train: NDArray[np.int64]) -> HealthyPatches:
    cts = [ct for folder in sources.cts for ct in read_healthy_cts(folder)]
    first = store.nodules[0].source
    stacks = [n for n in store.nodules if sources.beside and n.source == first]
    extents = [_extent_mm(store, n) for n in train.tolist()]
    found = HealthySources(cts, stacks, sources.per_kind, sources.phantom)
    with Bar(desc="healthy tissue", unit="patch", leave=False) as bar:
        return load_healthy_patches(
            found, np.array(extents), sources.cache, sources.seed, lambda done: bar.update(1)
        )


def _extent_mm(store: PatchStore, position: int) -> float:
    """How many millimetres of slices a nodule's file holds."""
    slices = (store.coverage[position] == STORED).any(dim=2).any(dim=1)
    return float(slices.sum()) * STORE_GEOMETRY.spacing_mm[0]
