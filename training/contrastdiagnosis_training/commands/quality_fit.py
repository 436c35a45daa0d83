"""`contrastdiagnosis-train quality-fit`: poor images are told, and how sure verdicts are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contrastdiagnosis.bundle.bundle import Bundle, load_bundle, save_bundle
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.files.output import check_writable, write_file
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.poor_image import KINDS, PoorVerdicts

from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST, faults_of
from contrastdiagnosis_training.data.healthy_points import read_healthy_cts
from contrastdiagnosis_training.evaluation.gate import (
    Answers,
    gate_text,
    left_out_table,
    read_answers,
)
from contrastdiagnosis_training.evaluation.image_quality_trial import (
    FITTED_ON,
    auroc_table,
    came_table,
    fit_detector,
    left_out,
    number_table,
    table_text,
    told_table,
)
from contrastdiagnosis_training.evaluation.metrics import (
    calibrated_folds,
    fold_thresholds,
    strict,
)
from contrastdiagnosis_training.evaluation.quality_rows import (
    HELD_OUT,
    PAIRS,
    Place,
    QualityRows,
    ct_places,
    joined_rows,
    measured,
    measured_in_parts,
    nodule_places,
)
from contrastdiagnosis_training.evaluation.robustness.comparison import ROBUST_EVAL
from contrastdiagnosis_training.evaluation.robustness.degraded import (
    Poorer,
    degraded_parts,
    predict_degraded,
)
from contrastdiagnosis_training.evaluation.robustness.figures import (
    CHOSEN_SEVERITY,
)
from contrastdiagnosis_training.evaluation.robustness.poor_image_trial import PoorImageTrial
from contrastdiagnosis_training.evaluation.robustness.poor_verdicts import (
    band_table,
    fit_poor_verdicts,
    recalibration_table,
    verdict_table,
    verdicts_by_kind,
)
from contrastdiagnosis_training.evaluation.shipped_rule import (
    confidence_metrics,
    fold_limits,
    rule_in_words,
    with_size_factors,
)
from contrastdiagnosis_training.evaluation.table import confidence_table
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run

SEVERITIES = (1, CHOSEN_SEVERITY, WORST)

PRINTED_BY = "contrastdiagnosis-train quality-fit"

AWARE = " Poor images are told by the detectors that ship."

NO_FOLD = "wanted a case folder with a fold of each nodule, got none"


@dataclass(frozen=True)
class QualityFit:
    """Fit what tells poor images and how sure verdicts are there; write the bundle with it."""

    bundle: Path
    """Bundle folder."""
    cases: tuple[Path, ...]
    """Case folders whose images are made poorer for it; detectors are fitted to those with folds,
    the others are asked about alone."""
    crossfit: Path
    """Folder that `crossfit` filled: what its networks say of unseen nodules in poorer images."""
    out: Path
    """Bundle folder to write; may be the same."""
    cts: tuple[Path, ...] = ()
    """Folders of CTs with normal tissue, like ct_lungs or ct_click, that are asked about too."""
    concepts: Path | None = None
    """Folder that `concepts` filled for that run; confidence is then told by the concepts of size
    too, as shipped."""
    gate: Path | None = None
    """What `gate-fit --answers` kept: what is judged in poorer images is then told by limits and
    gate as shipped, fitted for each fold without its patients."""
    robust_json: Path | None = None
    """What `robust-eval --json` wrote, for bundle.json and the model card."""
    rows: Path | None = None
    """Keep what was measured of the images in this folder; what is there is not measured again,
    such as after the command was stopped."""
    version: str | None = None
    """Of the new bundle; as before if not given."""
    points: int = 12
    """Of each kind of tissue, drawn in each CT."""
    json: Path | None = None
    """Write the tables here."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""

    def run(self) -> None:
        """Measures, fits, tries it on patients that were left out, prints, writes."""
        check_writable(self.out.with_name(f".{self.out.name}.json"))
        check_writable(self.json)
        bundle = load_bundle(self.bundle)
        folds, answers = self._folds(), read_answers(self.gate)
        robustness = read_robustness(self.robust_json) if self.robust_json else {}
        rows = self._rows()
        detector = fit_detector(learnt_from(rows))
        metrics = detector_metrics(rows)
        trial = self._trial(bundle.info, rows, folds, answers)
        verdicts = fit_poor_verdicts(trial.told)
        metrics |= verdict_metrics(trial, verdicts)
        metrics["protocol"] += f"; verdicts are those of the networks of {self.crossfit.name}"
        worth = self._confidence(trial, folds, answers, bundle.info.split_vote)
        print(image_quality_text(metrics) + "\n\n" + confidence_table(worth))
        limits = replace(bundle.info.limits, detector=detector, poor_verdicts=verdicts)
        told = {"printed_by": PRINTED_BY, **metrics}
        gate = self._gate(bundle, answers, limits)
        info = replace(
            bundle.info,
            limits=limits,
            version=self.version or bundle.info.version,
            metrics={
                **bundle.info.metrics,
                "confidence": {"printed_by": PRINTED_BY, **strict(worth)},
                "image_quality": strict(told),
                **robustness,
                **gate,
            },
        )
        save_bundle(
            self.out, info, bundle.network, bundle.library, bundle.indicator.matched,
            bundle.concepts,
        )  # fmt: skip
        if self.json:
            write_file(self.json, (json.dumps(strict(told), indent=1) + "\n").encode())
        print(f"wrote {self.out}")

    def _gate(self, bundle: Bundle, answers: Answers | None, limits: CaseLimits) -> dict[str, Any]:
        """The table of `gate-fit` again: who is told that the image is poor is less often sure."""
        told = bundle.info.metrics.get("gate")
        if answers is None or not told:
            return {}
        rows = left_out_table(bundle, answers, limits)
        print("\n" + gate_text(rows))
        protocol = f"{told['protocol'].split(AWARE)[0]}{AWARE}"
        return {"gate": {"printed_by": PRINTED_BY, "protocol": protocol, "table": strict(rows)}}

    def _rows(self) -> QualityRows:
        nodules = [nodule for folder in self.cases for nodule in read_case_folder(folder)]
        with_fold = [nodule for nodule in nodules if nodule.fold is not None]
        if not with_fold:
            raise InputError(NO_FOLD)
        cts = (ct for folder in self.cts for ct in read_healthy_cts(folder))
        everywhere = chain(nodule_places(nodules), ct_places(cts, self.points))
        learnt = [operation for group in FITTED_ON.values() for operation in group]
        operations = tuple(dict.fromkeys([*DEGRADATIONS, *learnt]))
        single = self._measured(everywhere, operations, SEVERITIES)
        pairs = self._measured(nodule_places(with_fold), PAIRS, SEVERITIES[1:])
        other = self._measured(nodule_places(with_fold), HELD_OUT, SEVERITIES[1:])
        return joined_rows([single, pairs[~pairs.clean], other[~other.clean]])

    def _measured(
        self, places: Iterable[Place], operations: Sequence[str], severities: Sequence[int]
    ) -> QualityRows:
        places = Bar(places, unit="place", leave=False)
        if self.rows is None:
            return measured(places, operations, severities)
        return measured_in_parts(places, operations, severities, self.rows)

    def _folds(self) -> list[int]:
        folds = folds_of_run(self.crossfit)
        if len(folds) < 2:
            raise InputError(f"{self.crossfit}: wanted at least two folds, got {folds}")
        return folds

    def _trial(
        self, info: BundleInfo, rows: QualityRows, folds: Sequence[int], answers: Answers | None
    ) -> PoorImageTrial:
        """Looks at the scans that were not looked at yet."""
        # Pairs on the scan's own grid, as all that networks are asked about.
        pairs = [pair for pair in PAIRS if set(faults_of(pair)) <= set(DEGRADATIONS)]
        ways = [Poorer(o, s) for o in (*DEGRADATIONS, *pairs) for s in SEVERITIES[1:]]
        done = predict_degraded(self.crossfit, folds, ways, choose_device(self.device))
        for _ in Bar(done, total=len(folds) * len(ways), unit="way", leave=False):
            pass
        predictions, parts = calibrated_folds(self.crossfit, info.vote.form)
        poorer = {way: degraded_parts(self.crossfit, parts, folds, way) for way in ways}
        limits = [fold_limits(fold, answers) for fold in predictions]
        detectors = [
            fit_detector(learnt_from(rows[~np.isin(rows.patient_id, nodules.patient_id)]))
            for _, nodules in parts
        ]
        told = verdicts_by_kind(poorer, detectors, folds, limits)
        aware = [
            replace(limit, detector=detector, poor_verdicts=fit_poor_verdicts(told, without=fold))
            for limit, detector, fold in zip(limits, detectors, folds, strict=True)
        ]
        thresholds = fold_thresholds(parts, info.similarity_interval)
        return PoorImageTrial(parts, poorer, told, thresholds, limits, aware)

    def _confidence(
        self,
        trial: PoorImageTrial,
        folds: Sequence[int],
        answers: Answers | None,
        split_vote: tuple[float, float],
    ) -> dict[str, Any]:
        """What confidence is worth in the scans as they are, as of `crossfit_confidence`."""
        parts = trial.parts
        if self.concepts:
            parts = with_size_factors(parts, self.concepts, folds)
        worth = confidence_metrics(parts, trial.thresholds, split_vote, trial.aware)
        return {"rule": rule_in_words(answers, self.concepts, poor_images=True), **worth}


def verdict_metrics(trial: PoorImageTrial, verdicts: Sequence[PoorVerdicts]) -> dict[str, Any]:
    """Tables of what verdicts in poor images are worth."""
    return {
        "verdicts": verdict_table(trial.told, verdicts),
        "bands": band_table(verdicts),
        "confident": trial.confident_table(),
        "recalibration": recalibration_table(trial.told),
    }


def read_robustness(file: Path) -> dict[str, Any]:
    """What `robust-eval --json` wrote, as a part of a bundle's metrics.

    Raises:
        InputError: It is something else.
    """
    told = read_json(file)
    if not isinstance(told, dict) or told.get("printed_by") != ROBUST_EVAL:
        raise InputError(f"{file}: wanted what {ROBUST_EVAL} --json wrote")
    return {"robustness": told}


def learnt_from(rows: QualityRows) -> QualityRows:
    """The rows that detectors are fitted to: those of case folders with folds.

    The others may be as thickly sliced or as much interpolated as they like: they are no good
    images to be told from poor ones, and are asked about alone.

    Raises:
        InputError: There is none.
    """
    learnt = rows[rows.fold >= 0]
    if not len(learnt):
        raise InputError(NO_FOLD)
    return learnt


def detector_metrics(rows: QualityRows) -> dict[str, Any]:
    """Tables of a trial in which each patient's images are asked of detectors fitted to others."""
    odds, told = left_out(rows)
    learnt, known = learnt_from(rows), rows.fold >= 0
    return {
        "protocol": (
            f"{int(learnt.clean.sum())} nodules of {len(set(learnt.patient_id.tolist()))} patients,"
            " in their images as they are and made poorer; each fold is asked of detectors that"
            " were fitted to the other folds, and so are places without a fold of those fitted to"
            f" all; none is fitted to {' and '.join(HELD_OUT).replace('_', ' ')}"
        ),
        "kinds": list(KINDS),
        "auroc": auroc_table(learnt, odds[known]),
        "told": told_table(learnt, told[known]),
        "came": came_table(rows, told),
        "numbers": number_table(learnt),
    }


def image_quality_text(metrics: Mapping[str, Any]) -> str:
    """The tables as text."""
    titles = {
        "auroc": "AUROC against clean images (severity 0: all from 3 on)",
        "told": "share of the images that are told, severity 3 and worse",
        "came": "share of the images that are told as they came",
        "numbers": "what is measured against what was added",
        "confident": "confident answers and those of them that are wrong, before and now",
        "verdicts": "from where on a verdict in a poor image is sure",
        "bands": "verdicts in poor images that were wrong, by their probability",
        "recalibration": "probabilities in poor images, as they are and calibrated anew",
    }
    lines = [str(metrics["protocol"])]
    for name, title in titles.items():
        lines += ["", title, table_text(list(metrics[name]))]
    return "\n".join(lines)
