"""`contrastdiagnosis-train quality-fit`: poor images are told, and how sure verdicts are there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from contrastdiagnosis.bundle.bundle import load_bundle, save_bundle
from contrastdiagnosis.cases.case_folder import read_case_folder
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.files.output import check_writable, write_file
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.trust.confidence_rule import CaseLimits
from contrastdiagnosis.trust.poor_image import KINDS, QualityDetector

from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST
from contrastdiagnosis_training.data.healthy_points import read_healthy_cts
from contrastdiagnosis_training.evaluation.gate import Answers, read_answers
from contrastdiagnosis_training.evaluation.image_quality_trial import (
    FITTED_ON,
    auroc_table,
    fit_detector,
    left_out,
    number_table,
    table_text,
    told_table,
)
from contrastdiagnosis_training.evaluation.metrics import (
    calibrated_across,
    fold_part,
    fold_thresholds,
    strict,
)
from contrastdiagnosis_training.evaluation.quality_rows import (
    QualityRows,
    ct_places,
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
    Judges,
    robust_figures,
)
from contrastdiagnosis_training.evaluation.robustness.poor_verdicts import (
    Verdicts,
    fit_poor_verdicts,
    recalibration_table,
    verdicts_by_kind,
)
from contrastdiagnosis_training.evaluation.shipped_rule import Part, fold_limits
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.crossfit_run import folds_of_run, load_fold

SEVERITIES = (1, CHOSEN_SEVERITY, WORST)


@dataclass(frozen=True)
class QualityFit:
    """Fit what tells poor images and how sure verdicts are there; write the bundle with it."""

    bundle: Path
    """Bundle folder."""
    cases: tuple[Path, ...]
    """Case folders whose images are made poorer for it."""
    crossfit: Path
    """Folder that `crossfit` filled: what its networks say of unseen nodules in poorer images."""
    out: Path
    """Bundle folder to write; may be the same."""
    cts: tuple[Path, ...] = ()
    """Folders of CTs with normal tissue, like ct_lungs or ct_click: whole scans."""
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
        detector = fit_detector(rows)
        metrics = detector_metrics(rows)
        verdicts, worth = self._verdicts(detector, folds, answers)
        metrics |= worth
        print(image_quality_text(metrics))
        limits = replace(bundle.info.limits, detector=detector, poor_verdicts=verdicts)
        told = {"printed_by": "contrastdiagnosis-train quality-fit", **metrics}
        info = replace(
            bundle.info,
            limits=limits,
            version=self.version or bundle.info.version,
            metrics={**bundle.info.metrics, "image_quality": strict(told), **robustness},
        )
        save_bundle(
            self.out, info, bundle.network, bundle.library, bundle.indicator.matched,
            bundle.concepts,
        )  # fmt: skip
        if self.json:
            write_file(self.json, (json.dumps(strict(told), indent=1) + "\n").encode())
        print(f"wrote {self.out}")

    def _rows(self) -> QualityRows:
        learnt = [operation for group in FITTED_ON.values() for operation in group]
        operations = tuple(dict.fromkeys([*DEGRADATIONS, *learnt]))
        places = [nodule_places(read_case_folder(folder)) for folder in self.cases]
        cts = (ct for folder in self.cts for ct in read_healthy_cts(folder))
        places += [ct_places(cts, self.points)] if self.cts else []
        all_places = Bar(chain(*places), unit="place", leave=False)
        if self.rows is None:
            return measured(all_places, operations, SEVERITIES)
        return measured_in_parts(all_places, operations, SEVERITIES, self.rows)

    def _folds(self) -> list[int]:
        folds = folds_of_run(self.crossfit)
        if len(folds) < 2:
            raise InputError(f"{self.crossfit}: wanted at least two folds, got {folds}")
        return folds

    def _verdicts(
        self, detector: QualityDetector, folds: Sequence[int], answers: Answers | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How sure verdicts are in poor images, and the trial of it, each fold left out."""
        ways = [Poorer(o, s) for o in DEGRADATIONS for s in SEVERITIES[1:]]
        done = predict_degraded(self.crossfit, folds, ways, choose_device(self.device))
        for _ in Bar(done, total=len(folds) * len(ways), unit="way", leave=False):
            pass
        parts = calibrated_across([fold_part(load_fold(self.crossfit, fold)) for fold in folds])
        poorer = {way: degraded_parts(self.crossfit, parts, folds, way) for way in ways}
        limits = [fold_limits(load_fold(self.crossfit, fold), answers) for fold in folds]
        told = verdicts_by_kind(poorer, detector, folds, limits)
        table = _confident_table(parts, poorer, folds, limits, (detector, told))
        verdicts = fit_poor_verdicts(told)
        return verdicts, {
            "verdicts": [asdict(v) for v in verdicts],
            "confident": table,
            "recalibration": recalibration_table(told),
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


def detector_metrics(rows: QualityRows) -> dict[str, Any]:
    """Tables of a trial in which each patient's images are asked of detectors fitted to others."""
    odds, told = left_out(rows)
    return {
        "protocol": (
            f"{int(rows.clean.sum())} places in {len(set(rows.patient_id.tolist()))} patients'"
            " images as they are and made poorer; each fold is asked of detectors that were fitted"
            " to the other folds"
        ),
        "kinds": list(KINDS),
        "auroc": auroc_table(rows, odds),
        "told": told_table(rows, told),
        "numbers": number_table(rows),
    }


def _confident_table(
    parts: Sequence[Part],
    poorer: Mapping[Poorer, Sequence[Part]],
    folds: Sequence[int],
    limits: Sequence[CaseLimits],
    known: tuple[QualityDetector, Mapping[str, Sequence[tuple[int, Verdicts]]]],
) -> list[dict[str, Any]]:
    """Confident answers in poorer images, and those that are wrong, without and with the detector.

    How sure verdicts are is fitted to the other folds.
    """
    detector, told = known
    thresholds = fold_thresholds(parts)
    blind = Judges(thresholds, limits)
    aware = Judges(
        thresholds,
        [
            replace(limit, detector=detector, poor_verdicts=fit_poor_verdicts(told, without=fold))
            for limit, fold in zip(limits, folds, strict=True)
        ],
    )
    table = []
    seen: list[tuple[Poorer | None, Sequence[Part]]] = [(None, parts), *poorer.items()]
    for way, images in seen:
        before = robust_figures(parts, images, blind)
        after = robust_figures(parts, images, aware)
        table.append(
            {
                "operation": way.operation if way else "clean",
                "severity": way.severity if way else 0,
                "auc": before.auc,
                "confident_before": before.confident,
                "wrong_before": before.confident_wrong,
                "confident": after.confident,
                "wrong": after.confident_wrong,
            }
        )
    return table


def image_quality_text(metrics: Mapping[str, Any]) -> str:
    """The tables as text."""
    titles = {
        "auroc": "AUROC against clean images (severity 0: all from 3 on)",
        "told": "share of the images that are told, severity 3 and worse",
        "numbers": "what is measured against what was added",
        "confident": "confident answers and those of them that are wrong, before and now",
        "verdicts": "from where on a verdict in a poor image is sure",
        "recalibration": "probabilities in poor images, as they are and calibrated anew",
    }
    lines = [str(metrics["protocol"])]
    for name, title in titles.items():
        lines += ["", title, table_text(list(metrics[name]))]
    return "\n".join(lines)
