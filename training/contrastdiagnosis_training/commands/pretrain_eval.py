"""`contrastdiagnosis-train pretrain-eval`: what encoders know of the four sets, unseen patients."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contrastdiagnosis.cases.case_folder import read_case_source
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_outputs, write_file
from contrastdiagnosis.model.device import choose_device

from contrastdiagnosis_training.evaluation.metrics import strict
from contrastdiagnosis_training.evaluation.page import render_page
from contrastdiagnosis_training.evaluation.robustness.four_sets import (
    figures_text,
    set_features,
    set_figures,
    tsne_chart,
)
from contrastdiagnosis_training.pretraining.recipe import SETS
from contrastdiagnosis_training.pretraining.sets import FourSets
from contrastdiagnosis_training.pretraining.sources import SetSources, load_sets
from contrastdiagnosis_training.runs.named import named_runs
from contrastdiagnosis_training.runs.run_folder import (
    PRETRAINING,
    network_of_run,
    network_on_same_patients,
    read_settings,
)


@dataclass(frozen=True)
class PretrainEval:
    """Ask encoders what they know of lesions, healthy tissue and quality, on unseen patients."""

    runs: tuple[str, ...]
    """Runs as NAME=FOLDER; the first one is of `pretrain`, of one fold, and tells where the four
    sets come from; the others are of `pretrain` or `fit` on the same patients."""
    json: Path | None = None
    """Write the figures here."""
    html: Path | None = None
    """Write the figures and t-SNE pictures of the four sets here."""
    seed: int = 0
    """Draws how images are made poorer."""
    cache: Path = Path("runs/cache")
    """Folder for the resampled patches."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""

    def run(self) -> None:
        """Measures, prints, writes."""
        check_outputs({"the figures": self.json, "the report": self.html}, [])
        runs = named_runs(self.runs)
        if not runs:
            raise InputError("wanted at least one run as NAME=FOLDER, got none")
        settings = self._settings(next(iter(runs.values())))
        networks = {name: _network(folder, settings) for name, folder in runs.items()}
        sets = self._tested(settings)
        device = choose_device(self.device)
        told = {
            name: set_features(network.to(device), sets, self.seed)
            for name, network in networks.items()
        }
        figures = {name: set_figures(features) for name, features in told.items()}
        metrics = {
            "printed_by": "contrastdiagnosis-train pretrain-eval",
            "protocol": (
                f"patients of fold {settings['fold']}, "
                + ", ".join(f"{len(sets.members(s))} of {s}" for s in SETS)
                + "; linear probes on other patients"
            ),
            "runs": figures,
        }
        print(metrics["protocol"], figures_text(figures), sep="\n\n")
        if self.json:
            write_file(self.json, (json.dumps(strict(metrics), indent=1) + "\n").encode())
        if self.html:
            page = render_page(
                "robustness",
                "four_sets.html.j2",
                metrics=metrics,
                charts=[tsne_chart(name, features) for name, features in told.items()],
                table=figures_text(figures),
                notice=read_case_source(Path(settings["cases"][0])).notice,
            )
            write_file(self.html, page.encode())

    def _settings(self, folder: Path) -> Mapping[str, Any]:
        network_of_run(folder)
        settings = read_settings(folder)
        if settings.get("kind") != PRETRAINING:
            raise InputError(f"wanted a `pretrain` run first, got a whole network in {folder}")
        if settings["fold"] is None:
            raise InputError(f"{folder} saw all patients; wanted a run of one --fold")
        return settings

    def _tested(self, settings: Mapping[str, Any]) -> FourSets:
        per_kind, beside, phantom = settings["healthy"]
        acquisition = settings["acquisition"]
        sources = SetSources(
            tuple(map(Path, settings["cases"])), tuple(map(Path, settings["more"])),
            tuple(map(Path, settings["cts"])), Path(acquisition) if acquisition else None,
            beside, phantom, per_kind, settings["fold"], settings["seed"], self.cache,
        )  # fmt: skip
        sets = load_sets(sources, settings["recipe"]["least_severity"], tested=True).test
        if sets is None:
            raise InputError(f"the patients of fold {settings['fold']} cannot fill the four sets")
        return sets


def _network(folder: Path, settings: Mapping[str, Any]) -> Any:
    kind = read_settings(folder).get("kind") if (folder / "settings.json").is_file() else None
    return network_on_same_patients(folder, settings, kind)
