"""`contrastdiagnosis-train robust-eval`: cross-fit runs side by side, in poorer scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_outputs, write_file
from contrastdiagnosis.model.device import choose_device

from contrastdiagnosis_training.data.acquisition import read_acquisitions
from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.metrics import (
    calibrated_across,
    fold_part,
    fold_thresholds,
    strict,
)
from contrastdiagnosis_training.evaluation.robustness.degraded import (
    Poorer,
    degraded_parts,
    predict_degraded,
)
from contrastdiagnosis_training.evaluation.robustness.figures import (
    CHOSEN_SEVERITY,
    Judges,
    as_record,
    fall_of_auc,
    mixed_parts,
    native_strata,
    robust_figures,
    wrong_at_worst,
)
from contrastdiagnosis_training.evaluation.robustness.report import (
    render_robust_report,
    robust_table,
)
from contrastdiagnosis_training.evaluation.shipped_rule import Part, fold_limits
from contrastdiagnosis_training.objectives.metrics import auc, paired_auc
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run, load_fold
from contrastdiagnosis_training.runs.run_folder import read_settings


@dataclass(frozen=True)
class RobustEval:
    """Compare cross-fit runs where the images are poor: figures by degradation and severity."""

    crossfit: tuple[str, ...]
    """Runs as NAME=FOLDER; the first one is what the others are compared with."""
    folds: tuple[int, ...] | None = None
    """Only these folds; all that the first run holds if not given."""
    operations: tuple[str, ...] = DEGRADATIONS
    """Degradations to try."""
    severities: tuple[int, ...] = (1, CHOSEN_SEVERITY, WORST)
    """Of each, 1 to 5."""
    shares: tuple[int, ...] = (33, 70, 100)
    """Percent of the nodules that poor images are drawn for."""
    acquisition: Path | None = None
    """Table that tells how series were scanned; then figures of natively poor images too."""
    json: Path | None = None
    """Write the figures here."""
    html: Path | None = None
    """Write curves and figures here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Looks at what was not looked at yet, prints, writes."""
        check_outputs({"the figures": self.json, "the report": self.html}, [])
        runs = _named(self.crossfit)
        ways = self._ways()
        folds = list(self.folds or folds_of_run(next(iter(runs.values()))))
        if len(folds) < 2:
            raise InputError("votes are calibrated on other folds: wanted at least two folds")
        for name, run in runs.items():
            told = predict_degraded(run, folds, ways, choose_device(self.device))
            for _ in Bar(told, total=len(folds) * len(ways), desc=name, unit="way"):
                pass
        metrics = self._metrics(runs, folds, ways)
        print(robust_table(metrics))
        if self.json:
            write_file(self.json, (json.dumps(strict(metrics), indent=1) + "\n").encode())
        if self.html:
            cases = Path(read_settings(next(iter(runs.values())) / f"fold{folds[0]}")["cases"][0])
            notice = read_case_folder(cases)[0].case_source.notice
            write_file(self.html, render_robust_report(strict(metrics), notice).encode())

    def _ways(self) -> list[Poorer]:
        for operation in self.operations:
            if operation not in DEGRADATIONS:
                raise InputError(f"no degradation is called {operation}; {', '.join(DEGRADATIONS)}")
        if wrong := [s for s in self.severities if not 1 <= s <= WORST]:
            raise InputError(f"severities are 1 to {WORST}, got {wrong[0]}")
        return [Poorer(o, s) for o in self.operations for s in sorted(set(self.severities))]

    def _metrics(
        self, runs: Mapping[str, Path], folds: list[int], ways: Sequence[Poorer]
    ) -> dict[str, Any]:
        told: dict[str, Any] = {}
        first: list[Part] = []
        for name, run in runs.items():
            parts = calibrated_across([fold_part(load_fold(run, fold)) for fold in folds])
            first = first or parts
            told[name] = {**self._run_metrics(run, parts, folds, ways), "gain": _gain(parts, first)}
        base = next(iter(told.values()))["fall"]
        for metrics in told.values():
            metrics["relative_fall"] = metrics["fall"] / base if base > 0 else None
        return {
            "runs": told,
            "operations": list(self.operations),
            "severities": sorted(set(self.severities)),
            "printed_by": "contrastdiagnosis-train robust-eval",
            "protocol": (
                f"patient-wise, folds {', '.join(map(str, folds))}: the cases are in their scans as"
                " they are, the unseen nodules in scans made poorer on their own grid; rule"
                " exclude3, vote calibrated on the other folds"
            ),
        }

    def _run_metrics(
        self, run: Path, parts: list[Part], folds: list[int], ways: Sequence[Poorer]
    ) -> dict[str, Any]:
        limits = [fold_limits(load_fold(run, fold), None) for fold in folds]
        judges = Judges(fold_thresholds(parts), limits)
        poorer = {way: degraded_parts(run, parts, folds, way) for way in ways}
        clean = robust_figures(parts, parts, judges)
        by_way = {way: robust_figures(parts, p, judges) for way, p in poorer.items()}
        mixed = {
            str(share): as_record(
                robust_figures(parts, mixed_parts(parts, poorer, share / 100), judges)
            )
            for share in self.shares
            if any(way.severity >= CHOSEN_SEVERITY for way in ways)
        }
        native = {}
        if self.acquisition:
            cases = Path(read_settings(run / f"fold{folds[0]}")["cases"][0])
            told = read_acquisitions(self.acquisition)
            native = native_strata(parts, read_case_folder(cases), told)
        return {
            "clean": as_record(clean),
            "ways": {f"{w.operation} {w.severity}": as_record(f) for w, f in by_way.items()},
            "mixed": mixed,
            "native": native,
            "fall": fall_of_auc(by_way, clean),
            "wrong_at_worst": wrong_at_worst(by_way),
        }


def _named(texts: Sequence[str]) -> dict[str, Path]:
    """Runs by name, in their order."""
    runs: dict[str, Path] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder or name in runs:
            raise InputError(f"wanted runs as NAME=FOLDER, each name once, got {text!r}")
        runs[name] = Path(folder)
    if not runs:
        raise InputError("wanted at least one run as NAME=FOLDER, got none")
    return runs


def _gain(parts: Sequence[Part], first: Sequence[Part]) -> dict[str, Any]:
    """AUC in the scans as they are, less that of the first run, with its 95 % bootstrap."""

    def scores(told: Sequence[Part]) -> Any:
        return np.concatenate([s.probability(r.embedding, r.patient_id) for s, r in told])

    malignancy = np.concatenate([r.malignancy for _, r in parts])
    kept = RULES["exclude3"](malignancy)
    patient = np.concatenate([r.patient_id for _, r in parts])[kept]
    truth = is_malignant(malignancy)[kept]
    gain, low, high = paired_auc(scores(parts)[kept], scores(first)[kept], truth, patient)
    return {"auc": gain, "auc_ci": [low, high], "auc_alone": auc(scores(parts)[kept], truth)}
