"""`contrastdiagnosis-train export`: from trained networks to the bundle that the engine loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from contrastdiagnosis.bundle.bundle import save_bundle
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.case_folder import (
    Nodule,
    case_pixels,
    read_case_folder,
    read_case_source,
    read_scan,
)
from contrastdiagnosis.cases.library import Case, CaseLibrary
from contrastdiagnosis.cases.source import CaseSource
from contrastdiagnosis.cases.vote import VoteForm
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_writable
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.maps.distance_parts import patch_statistics
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.weights import load_network, round_weights
from contrastdiagnosis.trust.confidence import IntervalForm
from contrastdiagnosis.trust.confidence_rule import CaseLimits

from contrastdiagnosis_training.bundle_export.concept_part import concept_part, read_concept_run
from contrastdiagnosis_training.data.concept_list import with_agreement
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.data.splits import patient_folds
from contrastdiagnosis_training.evaluation.confidences import limits_of
from contrastdiagnosis_training.evaluation.fold_groups import RECIPE_FOLDS
from contrastdiagnosis_training.evaluation.metrics import (
    calibrated_across,
    evaluate_crossfit,
    fold_part,
)
from contrastdiagnosis_training.evaluation.support_vote import (
    calibrate,
    choose_vote,
    embedding_scale,
    scaled_matched_distances,
    support_of_predictions,
)
from contrastdiagnosis_training.evaluation.table import table
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run, load_fold
from contrastdiagnosis_training.runs.predictions import predict_nodules
from contrastdiagnosis_training.runs.run_folder import MODEL, network_config, read_settings


@dataclass(frozen=True)
class Export:
    """Write a bundle: weights of one run on all patients, thresholds of a cross-fit run."""

    cases: tuple[Path, ...]
    """Case folders; the first one's nodules become the cases, the others may tell where they lie
    in their series."""
    weights: Path
    """Folder of a `fit` without --fold."""
    crossfit: Path
    """Folder that `crossfit` filled, for k, calibration, similarity and the measured metrics."""
    out: Path
    """Bundle folder."""
    concepts: Path | None = None
    """Folder that `concepts` filled, for these networks; without it the bundle has no concepts."""
    concepts_json: Path | None = None
    """What `concepts-eval --json` wrote about it, for bundle.json and the model card."""
    concepts_ablations: tuple[Path, ...] = ()
    """What `concepts-ablate --json` wrote of each fold, for bundle.json and the model card."""
    chose: tuple[int, ...] = RECIPE_FOLDS
    """Folds of the cross-fit run whose metrics chose the recipe; the card tells them apart."""
    name: str | None = None
    """Of the bundle; that of the cases' source if not given."""
    version: str = "1"
    vote: VoteForm = "distance-weighted"
    """How the cases vote: weighted by distance, or one vote each as published (majority)."""
    interval: IntervalForm = "quantile"
    """Where the 95 % interval of matched distances ends: at their empirical quantile, or at mean +
    1.96 standard deviations (normal)."""
    training_data: str = ""
    """A sentence for report and model card; counts are added."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the cases are embedded."""

    def run(self) -> None:
        """Embeds the cases, fits the thresholds, writes."""
        settings = checked_settings(self.weights, self.crossfit)
        case_source = self._case_source(settings)
        check_writable(self.out.with_name(f".{self.out.name}.json"))
        concepts = self.concepts and read_concept_run(
            self.concepts, self.weights, self.crossfit, self.concepts_json, self.concepts_ablations
        )
        network = load_network(self.weights / MODEL, network_config(settings))
        # As the bundle stores them: cases and queries meet the same network.
        round_weights(network, torch.float16)
        library, rows, limits = self._library(network)
        scale = embedding_scale(library.embedding)
        folds = [load_fold(self.crossfit, fold) for fold in folds_of_run(self.crossfit)]
        choice = choose_vote(
            [(support_of_predictions(fold["train"]), fold["validation"]) for fold in folds],
            self.vote,
        )
        parts = [fold_part(fold, choice) for fold in folds]
        metrics = evaluate_crossfit(
            self.crossfit, self.vote, self.interval, concepts=self.concepts, chose=self.chose
        )
        info = BundleInfo(
            name=self.name or case_source.short_name.lower(),
            version=self.version,
            vote=choice.scaled(scale),
            calibration=calibrate(parts),
            similarity_interval=self.interval,
            limits=limits,
            created=date.today().isoformat(),
            training_data=self.training_data,
            recipe={
                "commit": settings["commit"],
                "seed": settings["seed"],
                "cases": [Path(folder).name for folder in settings["cases"]],
                **settings["recipe"],
            },
            metrics=metrics,
            citation=case_source.citation,
            case_source=case_source,
            intended_use=case_source.notice,
        )
        part = None
        if concepts:
            rated = with_agreement(concepts.concepts, read_case_folder(self.cases[0]))
            info = replace(
                info,
                concepts=rated,
                concept_calibration=concepts.calibration,
                metrics={**metrics, "concepts": concepts.metrics, **concepts.note},
            )
            part = concept_part(concepts, network, rows, choose_device(self.device))
        matched = scale * scaled_matched_distances(calibrated_across(parts))
        save_bundle(self.out, info, network, library, matched, part)
        print(table(metrics))
        size = sum(f.stat().st_size for f in self.out.iterdir() if f.is_file()) / 1e6
        print(f"\nwrote {self.out}: {len(library)} cases, {choice.text}, {size:.1f} MB")

    def _case_source(self, settings: dict[str, Any]) -> CaseSource:
        """Of the cases, which must be that of the run's first folder: its concepts were learnt."""
        here = read_case_source(self.cases[0])
        learnt = Path(settings["cases"][0])
        if read_case_source(learnt) != here:
            raise InputError(
                f"wanted cases that were rated as those of {learnt}, which {self.weights} was"
                f" trained on, got {self.cases[0]} with cases of {here.name}"
            )
        return here

    def _library(self, network: NoduleNet) -> tuple[CaseLibrary, list[Nodule], CaseLimits]:
        device = choose_device(self.device)
        folders = [read_case_folder(folder) for folder in self.cases]
        rated = [n for n in folders[0] if RULES["paper"](np.array(n.malignancy))]
        predictions = predict_nodules(network.to(device), rated, device)
        places = known_places([n for folder in folders for n in folder])
        cases = [
            Case(
                case_id=nodule.case_id,
                patient_id=nodule.patient_id,
                malignant=bool(is_malignant(np.array(nodule.malignancy))),
                diameter_mm=float(diameter),
                ratings={name: nodule.mean_rating(name) for name in nodule.ratings},
                series_uid=nodule.series_uid,
                center_ras_mm=places.get(nodule.case_id),
                source=nodule.source,
            )
            for nodule, diameter in zip(rated, predictions.diameter_mm, strict=True)
        ]
        patches = (case_pixels(nodule, DEFAULT_GEOMETRY).intensity for nodule in rated)
        statistics = [patch_statistics(network, patch[None], device) for patch in patches]
        network.to("cpu")
        library = CaseLibrary(cases, predictions.embedding, np.concatenate(statistics))
        return library, rated, limits_of(predictions.facts)


def checked_settings(weights: Path, crossfit: Path) -> dict[str, Any]:
    """The settings of the run on all patients, after a look at whether both runs belong together.

    Raises:
        InputError: A run is missing or unfinished, or they differ in recipe or cases.
    """
    if not (weights / MODEL).is_file():
        raise InputError(f"{weights} holds no finished run; make it by contrastdiagnosis-train fit")
    settings = read_settings(weights)
    if settings["fold"] is not None:
        raise InputError(f"{weights} left fold {settings['fold']} out; fit without --fold")
    folds = folds_of_run(crossfit)
    wanted = sorted(set(patient_folds(read_rows(settings["cases"])).values()))
    if folds != wanted:
        raise InputError(f"{crossfit} holds the folds {folds}, the cases have {wanted}")
    for fold in folds:
        other = read_settings(crossfit / f"fold{fold}")
        for name in ("recipe", "cases"):
            if other[name] != settings[name]:
                raise InputError(
                    f"{weights} and {crossfit}/fold{fold} differ in their {name}:"
                    f" {settings[name]} and {other[name]}"
                )
    return settings


def read_rows(folders: Sequence[str]) -> list[Nodule]:
    """The nodules of all folders."""
    return [nodule for folder in folders for nodule in read_case_folder(Path(folder))]


def known_places(nodules: Sequence[Nodule]) -> dict[str, tuple[float, float, float]]:
    """Centres in RAS millimetres of the nodules whose file kept its place in the series.

    A file whose corner voxel lies exactly at the origin has lost it.
    """
    places = {}
    for nodule in nodules:
        scan = read_scan(nodule)
        if scan.volume.ijk_to_ras[:3, 3].any():
            r, a, s = scan.center_ras_mm.round(1).tolist()
            places[nodule.case_id] = (r, a, s)
    return places
