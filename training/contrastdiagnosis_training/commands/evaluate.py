"""`contrastdiagnosis-train evaluate`: the target table, of a cross-fit run or of a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.vote import VoteForm
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_outputs, write_file
from contrastdiagnosis.trust.confidence import IntervalForm

from contrastdiagnosis_training.evaluation.fold_groups import RECIPE_FOLDS
from contrastdiagnosis_training.evaluation.gate import read_answers
from contrastdiagnosis_training.evaluation.metrics import evaluate_bundle, evaluate_crossfit, strict
from contrastdiagnosis_training.evaluation.table import table


@dataclass(frozen=True)
class Evaluate:
    """Print the target table of the cross-fitted folds, or of a bundle on a case folder."""

    crossfit: Path | None = None
    """Folder that `crossfit` filled."""
    bundle: Path | None = None
    """Bundle folder; goes with --cases."""
    cases: Path | None = None
    """Case folder that the bundle is judged on."""
    vote: VoteForm | None = None
    """How the cases of a cross-fit run vote: weighted by distance, or one vote each as published;
    distance-weighted if not given. A bundle votes by its own rule."""
    interval: IntervalForm | None = None
    """Where the 95 % interval of a cross-fit run's matched distances ends: at their empirical
    quantile, or at mean + 1.96 standard deviations (normal); quantile if not given. A bundle has
    its own."""
    gate: Path | None = None
    """What `gate-fit --answers` kept: confidence of a cross-fit run is then judged by limits and
    gate as shipped, fitted for each fold without its patients."""
    concepts: Path | None = None
    """Folder that `concepts` filled for the cross-fit run: its concepts of size may contradict the
    measured one, as shipped."""
    chose: tuple[int, ...] = RECIPE_FOLDS
    """Folds of a cross-fit run whose metrics chose the recipe; they are told apart."""
    json: Path | None = None
    """Write the metrics here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the bundle's network runs."""

    def run(self) -> None:
        """Measures, prints, writes."""
        check_outputs({"the metrics": self.json}, [self.gate])
        if self.crossfit and not (self.bundle or self.cases):
            metrics = evaluate_crossfit(
                self.crossfit, self.vote or "distance-weighted", self.interval or "quantile",
                read_answers(self.gate), self.concepts, self.chose,
            )  # fmt: skip
        elif self.bundle and self.cases and not self.crossfit:
            if self.vote or self.interval:
                raise InputError(
                    "a bundle has its own vote and interval: --vote and --interval go"
                    " with --crossfit"
                )
            if self.gate or self.concepts:
                raise InputError(
                    "a bundle has its own limits, gate and concepts: --gate and --concepts go with"
                    " --crossfit"
                )
            metrics = evaluate_bundle(load_bundle(self.bundle), self.cases, self.device)
        else:
            raise InputError("wanted either --crossfit RUN, or --bundle DIR with --cases FOLDER")
        print(table(metrics))
        if self.json:
            write_file(self.json, (json.dumps(strict(metrics), indent=1) + "\n").encode())
            print(f"wrote {self.json}")
