"""`contrastdiagnosis-train robust-eval`: cross-fit runs side by side, in poorer scans."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_outputs, write_file
from contrastdiagnosis.model.device import choose_device

from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST
from contrastdiagnosis_training.evaluation.metrics import strict
from contrastdiagnosis_training.evaluation.robustness.comparison import ROBUST_EVAL, Comparison
from contrastdiagnosis_training.evaluation.robustness.degraded import Poorer
from contrastdiagnosis_training.evaluation.robustness.figures import CHOSEN_SEVERITY
from contrastdiagnosis_training.evaluation.robustness.map_stability import (
    example_pictures,
    stability_by_operation,
)
from contrastdiagnosis_training.evaluation.robustness.report import (
    render_robust_report,
    robust_table,
)
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run
from contrastdiagnosis_training.runs.named import named_runs


@dataclass(frozen=True)
class RobustEval:
    """Compare cross-fit runs where the images are poor: figures by degradation and severity."""

    crossfit: tuple[str, ...]
    """Runs as NAME=FOLDER; the first one is what the others are compared with."""
    peers: tuple[str, ...] = ()
    """Folders that `peer` filled for the same folds, as NAME=FOLDER."""
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
    maps: int = 0
    """Nodules whose maps are compared with those in poorer scans of severity 3, drawn at random;
    about a second for each run, nodule and degradation."""
    json: Path | None = None
    """Write the figures here."""
    html: Path | None = None
    """Write curves and figures here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Looks at what was not looked at yet, prints, writes."""
        check_outputs({"the figures": self.json, "the report": self.html}, [])
        compared = self._comparison()
        compared.predict()
        metrics = compared.metrics(self.shares, self.acquisition)
        metrics["printed_by"] = ROBUST_EVAL
        pairs = compared.map_pairs(self.maps) if self.maps else {}
        for name, own in pairs.items():
            metrics["runs"][name]["maps"] = stability_by_operation(own)
        print(robust_table(metrics))
        if self.json:
            write_file(self.json, (json.dumps(strict(metrics), indent=1) + "\n").encode())
        if self.html:
            shown = example_pictures(pairs) if pairs else {}
            notice = compared.cases[0].case_source.notice
            write_file(self.html, render_robust_report(strict(metrics), shown, notice).encode())

    def _comparison(self) -> Comparison:
        runs, peers = named_runs(self.crossfit), named_runs(self.peers)
        if not runs:
            raise InputError("wanted at least one run as NAME=FOLDER, got none")
        if both := sorted(set(runs) & set(peers)):
            raise InputError(f"wanted each name once, got {both[0]} for a run and for a peer")
        if self.maps < 0:
            raise InputError(f"--maps must not be negative, got {self.maps}")
        ways = self._ways()
        folds = list(self.folds or folds_of_run(next(iter(runs.values()))))
        return Comparison(runs, peers, folds, ways, choose_device(self.device))

    def _ways(self) -> list[Poorer]:
        for operation in self.operations:
            if operation not in DEGRADATIONS:
                raise InputError(f"no degradation is called {operation}; {', '.join(DEGRADATIONS)}")
        if wrong := [s for s in self.severities if not 1 <= s <= WORST]:
            raise InputError(f"severities are 1 to {WORST}, got {wrong[0]}")
        return [Poorer(o, s) for o in self.operations for s in sorted(set(self.severities))]
