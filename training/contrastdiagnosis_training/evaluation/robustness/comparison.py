"""`Comparison`: cross-fit runs and peers side by side, in poorer scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder
from contrastdiagnosis.errors import InputError
from numpy.typing import NDArray

from contrastdiagnosis_training.data.acquisition import read_acquisitions
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.metrics import (
    calibrated_across,
    fold_part,
    fold_thresholds,
)
from contrastdiagnosis_training.evaluation.robustness.degraded import (
    Poorer,
    degraded_parts,
    degraded_rows,
    network_reader,
    peer_reader,
    predict_degraded,
)
from contrastdiagnosis_training.evaluation.robustness.figures import (
    CHOSEN_SEVERITY,
    Judges,
    RobustFigures,
    Said,
    as_record,
    diameter_scores,
    fall_interval,
    fall_of_auc,
    mixed_parts,
    mixed_rows,
    native_strata,
    poor_as_scanned,
    robust_figures,
    voted,
    wrong_at_worst,
)
from contrastdiagnosis_training.evaluation.robustness.map_stability import (
    MapPair,
    drawn_nodules,
    map_pairs,
)
from contrastdiagnosis_training.evaluation.robustness.peer_figures import peer_figures, read
from contrastdiagnosis_training.evaluation.shipped_rule import Part, fold_limits
from contrastdiagnosis_training.objectives.metrics import auc, paired_auc
from contrastdiagnosis_training.peers.predictions import PeerPredictions
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.crossfit_run import load_fold
from contrastdiagnosis_training.runs.predictions import Predictions
from contrastdiagnosis_training.runs.run_folder import read_settings

ROBUST_EVAL = "contrastdiagnosis-train robust-eval"
"""What prints the figures."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs on the same nodules; the first one is what the others are compared with.

    Attributes:
        runs: Folders that `crossfit` filled, by name.
        peers: Folders that `peer` filled, by name.
        folds: At least two, because votes are calibrated on other folds.
        ways: How scans are made poorer.
        device: Where to compute.
    """

    runs: Mapping[str, Path]
    peers: Mapping[str, Path]
    folds: list[int]
    ways: Sequence[Poorer]
    device: torch.device

    def __post_init__(self) -> None:
        if len(self.folds) < 2:
            raise InputError("votes are calibrated on other folds: wanted at least two folds")
        for run in self.peers.values():
            for fold in self.folds:
                _peer_file(run, fold)

    @property
    def first(self) -> str:
        """Name of the first run."""
        return next(iter(self.runs))

    @cached_property
    def parts(self) -> dict[str, list[Part]]:
        """Support set and unseen nodules of each fold, by run; the nodules are the same.

        Raises:
            InputError: A run is of other nodules than the first one.
        """
        told: dict[str, list[Part]] = {}
        for name, run in self.runs.items():
            told[name] = calibrated_across([fold_part(load_fold(run, f)) for f in self.folds])
            asked, first = (_asked(told[n]) for n in (name, self.first))
            if asked != first:
                raise InputError(f"{run} is of other nodules than the first run")
        return told

    @cached_property
    def cases(self) -> list[Nodule]:
        """The case folder whose nodules the first run reports on."""
        run = self.runs[self.first] / f"fold{self.folds[0]}"
        return read_case_folder(Path(read_settings(run)["cases"][0]))

    def predict(self) -> None:
        """Looks at the scans that were not looked at yet; what is said of them is kept."""
        for name, run in {**self.runs, **self.peers}.items():
            reader = peer_reader if name in self.peers else network_reader
            told = predict_degraded(run, self.folds, self.ways, self.device, reader)
            for _ in Bar(told, total=len(self.folds) * len(self.ways), desc=name, unit="way"):
                pass

    def map_pairs(self, count: int) -> dict[str, list[MapPair]]:
        """Maps of every run of the same drawn nodules, as they are and at `CHOSEN_SEVERITY`."""
        operations = dict.fromkeys(way.operation for way in self.ways)
        ways = [Poorer(operation, CHOSEN_SEVERITY) for operation in operations]
        drawn = drawn_nodules(self.parts[self.first], self.cases, count)
        return {
            name: list(map_pairs(run, self.parts[name], self.folds, drawn, ways, self.device))
            for name, run in self.runs.items()
        }

    def metrics(self, shares: Sequence[int], acquisition: Path | None) -> dict[str, Any]:
        """Figures of every run and peer.

        Args:
            shares: Percent of the nodules that poor images are drawn for.
            acquisition: Table that tells how series were scanned, for natively poor images.
        """
        told: dict[str, Any] = {}
        said: dict[str, Said] = {}
        first = self.parts[self.first]
        poor = None
        if acquisition is not None:
            poor = poor_as_scanned(first, self.cases, read_acquisitions(acquisition))
        for name, run in self.runs.items():
            parts = self.parts[name]
            limits = [fold_limits(load_fold(run, fold), None) for fold in self.folds]
            judged = partial(robust_figures, parts, judges=Judges(fold_thresholds(parts), limits))
            poorer = {way: degraded_parts(run, parts, self.folds, way) for way in self.ways}
            told[name] = _by_way_and_share(parts, poorer, judged, mixed_parts, shares)
            told[name] |= _against(first, voted(parts), voted(first), poor)
            said[name] = Said(voted(parts), [voted(p) for w, p in poorer.items() if _chosen(w)])
        for name, run in self.peers.items():
            rows = [
                _peer_rows(run, fold, nodules)
                for fold, (_, nodules) in zip(self.folds, first, strict=True)
            ]
            figures = partial(peer_figures, rows, diameter=diameter_scores(first))
            poor_rows = {way: degraded_rows(run, rows, self.folds, way) for way in self.ways}
            told[name] = _by_way_and_share(rows, poor_rows, figures, mixed_rows, shares)
            told[name] |= _against(first, read(rows), voted(first), poor)
            said[name] = Said(read(rows), [read(p) for w, p in poor_rows.items() if _chosen(w)])
        for name, answers in said.items():
            told[name] |= _falls(first, answers, said[self.first])
        base = told[self.first]["fall"]
        for metrics in told.values():
            metrics["relative_fall"] = metrics["fall"] / base if base > 0 else None
        return {
            "runs": told,
            "operations": list(dict.fromkeys(way.operation for way in self.ways)),
            "severities": sorted({way.severity for way in self.ways}),
            "protocol": (
                f"patient-wise, folds {', '.join(map(str, self.folds))}: the cases are in their"
                " scans as they are, the unseen nodules in scans made poorer on their own grid;"
                " rule exclude3, vote calibrated on the other folds"
                + ("; peers by their own probability" if self.peers else "")
            ),
        }


def _by_way_and_share(
    clean: list[Any],
    poorer: Mapping[Poorer, list[Any]],
    figures: Callable[[list[Any]], RobustFigures],
    mixed: Callable[[list[Any], Mapping[Poorer, list[Any]], float], list[Any]],
    shares: Sequence[int],
) -> dict[str, Any]:
    """What is told of a run and of a peer alike; `clean` and `poorer` have one item a fold."""
    by_way = {way: figures(images) for way, images in poorer.items()}
    as_it_is = figures(clean)
    return {
        "clean": as_record(as_it_is),
        "ways": {f"{w.operation} {w.severity}": as_record(f) for w, f in by_way.items()},
        "mixed": {
            str(share): as_record(figures(mixed(clean, poorer, share / 100)))
            for share in shares
            if any(way.severity >= CHOSEN_SEVERITY for way in poorer)
        },
        "fall": fall_of_auc(by_way, as_it_is),
        "wrong_at_worst": wrong_at_worst(by_way),
    }


def _asked(parts: Sequence[Part]) -> list[str]:
    """The cases that a run was asked about, in their order."""
    return [case_id for _, nodules in parts for case_id in nodules.case_id.tolist()]


def _peer_file(run: Path, fold: int) -> Path:
    """What a peer says of a fold's nodules."""
    file = run / f"fold{fold}" / "test.npz"
    if not file.is_file():
        raise InputError(f"{run} holds no fold {fold}; fill it by contrastdiagnosis-train peer")
    return file


def _peer_rows(run: Path, fold: int, nodules: Predictions) -> PeerPredictions:
    """What a peer says of a fold's nodules, which must be those of the first run."""
    file = _peer_file(run, fold)
    rows = load_columns(PeerPredictions, file)
    if rows.case_id.tolist() != nodules.case_id.tolist():
        raise InputError(f"{file} is of other nodules than the first run")
    return rows


def _chosen(way: Poorer) -> bool:
    return way.severity == CHOSEN_SEVERITY


def _falls(first: Sequence[Part], said: Said, firsts: Said) -> dict[str, Any]:
    """95 % of the fall of the AUC, and of the fall less that of the first run."""
    if not said.poorer:
        return {}
    malignancy = np.concatenate([r.malignancy for _, r in first])
    patient = np.concatenate([r.patient_id for _, r in first])
    kept, truth = RULES["exclude3"](malignancy), is_malignant(malignancy)
    kept_of = (truth[kept], patient[kept])
    return {
        "fall_ci": list(fall_interval(said.only(kept), None, *kept_of)),
        "fall_less_first_ci": list(fall_interval(said.only(kept), firsts.only(kept), *kept_of)),
    }


def _against(
    first: Sequence[Part],
    probability: NDArray[np.float64],
    firsts: NDArray[np.float64],
    poor: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """AUC in the scans as they are, less that of the first run, with its 95 % bootstrap; strata.

    Args:
        first: The first run's parts.
        probability: (N,) of their nodules.
        firsts: (N,) what the first run says.
        poor: (N,) whose scans were poor as they came.
    """
    malignancy = np.concatenate([r.malignancy for _, r in first])
    patient = np.concatenate([r.patient_id for _, r in first])
    kept, truth = RULES["exclude3"](malignancy), is_malignant(malignancy)
    gain, low, high = paired_auc(probability[kept], firsts[kept], truth[kept], patient[kept])
    alone = auc(probability[kept], truth[kept])
    return {
        "gain": {"auc": gain, "auc_ci": [low, high], "auc_alone": alone},
        "native": {} if poor is None else native_strata(probability, malignancy, poor),
    }
