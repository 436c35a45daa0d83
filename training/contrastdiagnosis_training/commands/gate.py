"""`contrastdiagnosis-train gate-fit` and `gate-eval`: no verdict on normal tissue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from contrastdiagnosis.bundle.bundle import INFO_FILE, Bundle, load_bundle, save_bundle, sha256
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.output import check_writable, write_file

from contrastdiagnosis_training.data.columns import kept_columns, save_columns
from contrastdiagnosis_training.data.healthy_points import read_healthy_cts
from contrastdiagnosis_training.evaluation.gate import (
    Answers,
    before_the_gate,
    confidences,
    fitted_limits,
    gate_table,
    gate_text,
    joined,
    left_out_table,
    nodule_answers,
    tissue_answers,
)
from contrastdiagnosis_training.evaluation.metrics import crossfit_confidence, strict
from contrastdiagnosis_training.evaluation.table import confidence_table


@dataclass(frozen=True)
class GateFit:
    """Fit what tells nodules from normal tissue, and write the bundle with it."""

    bundle: Path
    """Bundle folder."""
    nodules: tuple[Path, ...]
    """Case folders with nodules like the bundle's cases; they give its limits too."""
    cts: tuple[Path, ...]
    """Folders of CTs with normal tissue, like ct_lungs or ct_click."""
    out: Path
    """Bundle folder to write; may be the same."""
    crossfit: Path | None = None
    """Folder that `crossfit` filled: the card tells what confidence by these limits and this gate
    is worth on the run's unseen nodules."""
    concepts: Path | None = None
    """Folder that `concepts` filled for that run; goes with --crossfit."""
    answers: Path | None = None
    """Keep what was said at every point here, for --gate of evaluate and explain-eval."""
    version: str | None = None
    """Of the new bundle; as before if not given."""
    points: int = 40
    """Of each kind of tissue, drawn in each CT."""
    seed: int = 0
    """Draws points and clicks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs."""

    def run(self) -> None:
        """Asks, fits, measures by leaving patients out, prints, writes."""
        check_writable(self.out.with_name(f".{self.out.name}.json"))
        check_writable(self.answers)
        if self.concepts and not self.crossfit:
            raise InputError("--concepts goes with --crossfit")
        bundle = load_bundle(self.bundle)
        diagnoser = Diagnoser(bundle, self.device)
        answers = joined(list(self._answers(diagnoser)))
        known = bundle.info.limits
        limits = replace(
            fitted_limits(answers), detector=known.detector, poor_verdicts=known.poor_verdicts
        )
        rows = left_out_table(bundle, answers, limits)
        print(gate_text(rows))
        metrics: dict[str, Any] = {
            "gate": {
                "printed_by": "contrastdiagnosis-train gate-fit",
                "protocol": protocol(answers, self),
                "table": strict(rows),
            }
        }
        if self.crossfit:
            info = bundle.info
            worth = crossfit_confidence(
                self.crossfit, info.vote.form, info.similarity_interval, answers, self.concepts
            )
            source = "contrastdiagnosis-train gate-fit --crossfit"
            metrics["confidence"] = {"printed_by": source, **strict(worth)}
            print("\n" + confidence_table(worth))
        if self.answers:
            save_columns(answers, self.answers)
        if self._parts:
            rmtree(self._parts, ignore_errors=True)
        info = replace(
            bundle.info,
            limits=limits,
            version=self.version or bundle.info.version,
            metrics={**_still_true(bundle.info.metrics), **metrics},
        )
        save_bundle(
            self.out, info, bundle.network, bundle.library, bundle.indicator.matched,
            bundle.concepts,
        )  # fmt: skip
        print(f"\n{limits}\nwrote {self.out}")

    @property
    def _parts(self) -> Path | None:
        """What is kept until all is asked, so that a command that was stopped can go on."""
        return self.answers and self.answers.with_name(f"{self.answers.name}.parts")

    def _answers(self, diagnoser: Diagnoser) -> Iterator[Answers]:
        """Of each case folder and each CT."""
        for folder in self.nodules:
            nodules = read_case_folder(folder)
            asked: list[object] = [str(folder), [str(nodule) for nodule in nodules]]
            yield self._kept(asked, partial(nodule_answers, diagnoser, nodules, self.seed))
        for folder in self.cts:
            for ct in read_healthy_cts(folder):
                asked = [ct.name, hashlib.sha256(ct.volume.hu.tobytes()).hexdigest(), self.points]
                yield self._kept(
                    asked, partial(tissue_answers, diagnoser, [ct], self.points, self.seed)
                )

    def _kept(self, asked: object, make: Callable[[], Answers]) -> Answers:
        if self._parts is None:
            return make()
        made_from = [sha256(self.bundle / INFO_FILE), self.seed, asked]
        return kept_columns(Answers, self._parts, made_from, make)


@dataclass(frozen=True)
class GateEval:
    """Print how often a bundle gives a verdict on nodules and on normal tissue."""

    bundle: Path
    """Bundle folder."""
    nodules: tuple[Path, ...] = ()
    """Case folders with nodules."""
    cts: tuple[Path, ...] = ()
    """Folders of CTs with normal tissue, like ct_lungs or ct_click. Those that the gate was fitted
    to are told too well: gate-fit leaves each of them out in turn."""
    unseen: bool = False
    """Leave out nodules of patients whose cases the bundle holds."""
    readers: int = 1
    """Leave out nodules that fewer readers marked."""
    json: Path | None = None
    """Write the metrics here."""
    points: int = 40
    """Of each kind of tissue, drawn in each CT."""
    seed: int = 0
    """Draws points and clicks; gate-fit drew with 0."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs."""

    def run(self) -> None:
        """Asks, prints, writes."""
        check_writable(self.json)
        bundle = load_bundle(self.bundle)
        diagnoser = Diagnoser(bundle, self.device)
        known = {case.patient_id for case in bundle.library.cases}
        parts = []
        for folder in self.nodules:
            rows = [n for n in read_case_folder(folder) if n.readers >= self.readers]
            asked = [n for n in rows if not (self.unseen and n.patient_id in known)]
            parts.append(nodule_answers(diagnoser, asked, self.seed))
        if self.cts:
            cts = (ct for folder in self.cts for ct in read_healthy_cts(folder))
            parts.append(tissue_answers(diagnoser, cts, self.points, self.seed))
        answers = joined(parts)
        table = bundle_table(bundle, answers)
        print(gate_text(table))
        if self.json:
            write_file(self.json, (json.dumps(strict({"table": table}), indent=1) + "\n").encode())
            print(f"wrote {self.json}")


def _still_true(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without those of confidence: other limits judge now."""
    flat = ("verdict_share", "confident_share", "confident_accuracy", "unsure_accuracy")
    gone = ("confidence", *flat)  # Bundles up to lidc 9 have them flat.
    return {name: value for name, value in metrics.items() if name not in gone}


def bundle_table(bundle: Bundle, answers: Answers) -> list[dict[str, Any]]:
    """Every point judged by the bundle's own limits."""
    rule = (bundle.indicator.threshold, bundle.info.split_vote)
    before = before_the_gate(answers, bundle.info.limits, *rule)
    return gate_table(answers, before, confidences(answers, bundle.info.limits, *rule))


def protocol(answers: Answers, options: GateFit) -> str:
    """How the table was made."""
    nodules = answers[answers.is_nodule]
    return (
        f"gate fitted to {len(nodules)} clicks on nodules of {_names(options.nodules)} and"
        f" {len(answers) - len(nodules)} points of normal tissue in {_names(options.cts)},"
        f" {options.points} of each kind a CT at most; each point judged by a gate that was fitted"
        " without its patient. The network has seen the nodules, not the tissue."
    )


def _names(folders: Sequence[Path]) -> str:
    return " and ".join(folder.name for folder in folders)
