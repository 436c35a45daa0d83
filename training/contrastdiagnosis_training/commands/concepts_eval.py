"""`contrastdiagnosis-train concepts-eval`: what concepts, their maps and corrections are worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from contrastdiagnosis.bundle.bundle import load_bundle
from contrastdiagnosis.cases.case_folder import Nodule, read_case_folder, read_scan
from contrastdiagnosis.concepts.head import ConceptHead, readers_shares
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.files.documents import read_json
from contrastdiagnosis.files.output import check_writable, write_file
from contrastdiagnosis.model.device import choose_device
from contrastdiagnosis.protocol.revision import ELSEWHERE, Revision
from numpy.typing import NDArray

from contrastdiagnosis_training.concept_head.run_folder import (
    SETTINGS,
    TEST,
    TRAIN,
    concepts_of_run,
    head_of_run,
)
from contrastdiagnosis_training.concept_head.scores import ConceptScores
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.data.labels import RULES, is_malignant
from contrastdiagnosis_training.evaluation.concepts.metrics import (
    alive_counts,
    calibrate_concepts,
    concept_metrics,
    decision_metrics,
    decision_score,
    mean_logits,
    presence_alone,
    refined_head,
)
from contrastdiagnosis_training.evaluation.concepts.probe import (
    IGNORED,
    ConceptProbe,
    EvaluatedHead,
    probe_concepts,
)
from contrastdiagnosis_training.evaluation.concepts.table import concept_table
from contrastdiagnosis_training.evaluation.fold_groups import (
    RECIPE_FOLDS,
    auc_by_fold_group,
    fold_groups,
)
from contrastdiagnosis_training.evaluation.metrics import calibrated_across, fold_part, strict
from contrastdiagnosis_training.objectives.metrics import BAND_MM, auc, paired_auc
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.crossfit_run import load_fold
from contrastdiagnosis_training.runs.run_folder import network_of_run


@dataclass(frozen=True)
class ConceptsEval:
    """Measure concepts: agreement with readers, malignancy, pointing, simulated users, pruning."""

    cases: Path
    """Case folder; of a cross-fit run, the one that it reports on."""
    crossfit: Path | None = None
    """Folder that `concepts` filled: each head is asked about its test fold."""
    bundle: Path | None = None
    """Bundle folder instead."""
    folds: tuple[int, ...] | None = None
    """Only these folds; thresholds and calibration still come from all others."""
    chose: tuple[int, ...] = RECIPE_FOLDS
    """Folds whose metrics chose the recipe: told apart from those that chose nothing."""
    nodules: int | None = None
    """At most so many of each fold, or of the folder."""
    json: Path | None = None
    """Write the metrics here."""
    mode: Literal["absent_median", "zero"] = "absent_median"
    """What a rejected concept's scores become."""
    elsewhere: float = ELSEWHERE
    """Weight of what lies outside the boxes that users draw."""
    seed: int = 0
    """Fixes patches and the users' mistakes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""

    def run(self) -> None:
        """Measures, prints, writes."""
        check_writable(self.json)
        if bool(self.crossfit) == bool(self.bundle):
            raise InputError("wanted one of --crossfit RUN and --bundle DIR")
        rows = read_case_folder(self.cases)
        metrics = self._of_bundle(rows) if self.bundle else self._of_run(rows)
        print(concept_table(metrics))
        if self.json:
            write_file(self.json, (json.dumps(strict(metrics), indent=1) + "\n").encode())
            print(f"wrote {self.json}")

    def _corrected(self) -> Revision:
        return Revision(mode=self.mode, elsewhere=self.elsewhere)

    def _of_run(self, rows: Sequence[Nodule]) -> dict[str, Any]:
        if self.crossfit is None:
            raise InputError("wanted --crossfit RUN")
        by_id = {n.case_id: n for n in rows}
        names = sorted(f.parent.name for f in self.crossfit.glob(f"fold*/{TEST}"))
        if len(names) < 2:
            raise InputError(
                f"{self.crossfit} holds {len(names)} heads; each is calibrated by the others"
            )
        parts = [
            (
                head_of_run(self.crossfit / name),
                load_columns(ConceptScores, self.crossfit / name / TEST),
            )
            for name in names
        ]
        named = concepts_of_run(self.crossfit / names[0])
        asked: list[tuple[EvaluatedHead, EvaluatedHead | None, list[Nodule]]] = []
        fold: list[int] = []
        alive, removed = [], []
        numbers = [int(name.removeprefix("fold")) for name in names]
        for number, name in enumerate(names):
            if self.folds and numbers[number] not in self.folds:
                continue
            others = [part for n, part in enumerate(parts) if n != number]
            head, scores = parts[number]
            absent = [i for i in scores.case_id if i not in by_id]
            if absent:
                raise InputError(
                    f"{self.cases} lacks {len(absent)} nodules of the run: {absent[0]}"
                )
            train = load_columns(ConceptScores, self.crossfit / name / TRAIN)
            settings = read_json(self.crossfit / name / SETTINGS)
            network = network_of_run(Path(settings["network"])).to(choose_device(self.device))
            concepts, calibration = calibrate_concepts(named, others)
            refined = refined_head(head, train)
            asked.append(
                (
                    EvaluatedHead(network, head, concepts, calibration, self._corrected()),
                    EvaluatedHead(network, refined, concepts, calibration),
                    [by_id[i] for i in scores.case_id[: self.nodules]],
                )
            )
            fold += [numbers[number]] * len(asked[-1][2])
            alive.append(alive_counts(train.scores, train.share))
            removed.append(int((refined.kept == 0).sum()))
        metrics = self._metrics(asked, np.array(fold))
        metrics["prototypes"] = {
            "concepts": len(named),
            "of_each": parts[0][0].config.prototypes,
            "alive": alive,
            "removed_by_rule": removed,
        }
        metrics["printed_by"] = "contrastdiagnosis-train concepts-eval --crossfit"
        metrics["protocol"] = (
            f"concept heads {self.crossfit}, folds {list(self.folds or numbers)}: each"
            " head and network on patients new to both, calibrated on the other folds"
        )
        if not self.folds and self.nodules is None:
            metrics |= beside_the_vote(self.crossfit, numbers, parts)
        return metrics

    def _of_bundle(self, rows: Sequence[Nodule]) -> dict[str, Any]:
        bundle = load_bundle(Path(str(self.bundle)))
        if bundle.head is None:
            raise InputError(f"the bundle {bundle.info.name} has no concepts")
        wanted, got = bundle.info.case_source, rows[0].case_source
        if got != wanted:
            raise InputError(
                f"wanted nodules rated as those of {wanted.name}, got {got.name} in {self.cases}:"
                " their readers say nothing of the bundle's concepts"
            )
        network = bundle.network.to(choose_device(self.device))
        evaluated = EvaluatedHead(
            network, bundle.head, bundle.info.concepts, bundle.info.concept_calibration,
            self._corrected(),
        )  # fmt: skip
        known = {case.patient_id for case in bundle.library.cases}
        metrics = self._metrics([(evaluated, None, list(rows)[: self.nodules])])
        seen = sum(n.patient_id in known for n in list(rows)[: self.nodules])
        metrics["printed_by"] = "contrastdiagnosis-train concepts-eval --bundle"
        metrics["protocol"] = (
            f"bundle {bundle.info.name} {bundle.info.version} on {metrics['n']} nodules of"
            f" {self.cases.name}"
            + (f"; {seen} are of patients it was made from: no held-out figure" if seen else "")
        )
        return metrics

    def _metrics(
        self,
        asked: Sequence[tuple[EvaluatedHead, EvaluatedHead | None, list[Nodule]]],
        fold: NDArray[np.int64] | None = None,
    ) -> dict[str, Any]:
        random = np.random.default_rng(self.seed)
        probes: list[ConceptProbe] = []
        rows: list[Nodule] = []
        shares: list[NDArray[np.float64]] = []
        diameter = []
        for evaluated, refined, nodules in asked:
            for nodule in Bar(nodules, leave=False):
                scan = read_scan(nodule)
                share = np.array(
                    readers_shares(evaluated.concepts, nodule.ratings, scan.diameter_mm)
                )
                probes.append(probe_concepts(evaluated, refined, scan, share, random))
                diameter.append(scan.diameter_mm)
                shares.append(share)
            rows += nodules
        metrics = probe_metrics(asked[0][0], probes, rows, np.stack(shares), np.array(diameter))
        if fold is not None:
            metrics["by_fold_group"] = fold_group_metrics(probes, rows, fold, self.chose)
        return metrics


def probe_metrics(
    evaluated: EvaluatedHead,
    probes: Sequence[ConceptProbe],
    rows: Sequence[Nodule],
    share: NDArray[np.float64],
    diameter_mm: NDArray[np.float64],
) -> dict[str, Any]:
    """The metrics of all probes.

    Args:
        evaluated: Names the concepts.
        probes: One a nodule.
        rows: The nodules.
        share: (N, K) share of the readers who call each concept present.
        diameter_mm: (N,).
    """
    presence = np.array([p.presence for p in probes])
    malignancy = np.array([n.malignancy for n in rows])
    patient = np.array([n.patient_id for n in rows])
    probability = np.array([p.probability for p in probes])
    concepts = concept_metrics(evaluated.concepts, presence, share, rows)
    rated = [concepts[c.name]["auroc"] for c in evaluated.concepts if not c.measured]
    known = [auroc for auroc in rated if np.isfinite(auroc)]
    kept = RULES["exclude3"](malignancy)
    band = kept & (diameter_mm >= BAND_MM[0]) & (diameter_mm < BAND_MM[1])

    def ranks(score: NDArray, among: NDArray[np.bool_]) -> float:
        return auc(score[among], is_malignant(malignancy[among]))

    return {
        "n": len(rows),
        "concepts": concepts,
        "mean_auroc": float(np.mean(known)) if known else None,
        "malignancy": decision_metrics(probability, malignancy, patient),
        "auc_diameter": ranks(diameter_mm, kept),
        "auc_6_12mm": ranks(probability, band),
        "auc_diameter_6_12mm": ranks(diameter_mm, band),
        "explanations_per_decision": len(evaluated.concepts),
        "mean_logits": mean_logits(presence, np.array([p.contribution for p in probes])),
        "pointing": pointing_metrics(probes),
        "users": user_metrics(probes, malignancy, patient),
        "corrections": correction_metrics(probes, malignancy, patient),
        "ignoring": {"boxes": IGNORED * len(probes), "highest_rise": max(p.rise for p in probes)},
    }


def fold_group_metrics(
    probes: Sequence[ConceptProbe],
    rows: Sequence[Nodule],
    fold: NDArray[np.int64],
    chose: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """AUC of malignancy, and the gain by a perfect user's single action, of each group of folds.

    Args:
        probes: One a nodule.
        rows: The nodules.
        fold: (N,) that each was tested in.
        chose: Folds that chose the recipe.
    """
    malignancy = np.array([n.malignancy for n in rows])
    patient = np.array([n.patient_id for n in rows])
    kept = RULES["exclude3"](malignancy)
    metrics = auc_by_fold_group(
        np.array([p.probability for p in probes])[kept], is_malignant(malignancy[kept]),
        patient[kept], fold[kept], chose,
    )  # fmt: skip
    groups = fold_groups(fold, chose)
    for name, group in metrics.items():
        among = groups[name]
        users = user_metrics(
            [probes[n] for n in np.flatnonzero(among).tolist()], malignancy[among], patient[among]
        )
        group |= {"f1": users["nobody"]["f1"], "one_action_gain": users["one action"]["gain"]}
    return metrics


def pointing_metrics(probes: Sequence[ConceptProbe]) -> dict[str, dict[str, dict[str, float]]]:
    """Share of hits by place, region and pointer, and how many there were."""
    hits: dict[tuple[str, str, str], list[float]] = {}
    for probe in probes:
        for key, values in probe.pointing.items():
            hits.setdefault(key, []).extend(values)
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for (where, region, pointer), values in hits.items():
        row = metrics.setdefault(where, {}).setdefault(region, {"n": len(values)})
        row[pointer] = float(np.mean(values))
    return metrics


def user_metrics(
    probes: Sequence[ConceptProbe], malignancy: NDArray, patient: NDArray
) -> dict[str, dict[str, Any]]:
    """F1 after each user's actions, the gain, and the gain per action and 100 nodules."""
    before = np.array([p.probability for p in probes])
    f1_before = decision_metrics(before, malignancy, patient)["f1"]
    kept = RULES["exclude3"](malignancy)
    metrics: dict[str, dict[str, Any]] = {"nobody": {"f1": f1_before}}
    for user in probes[0].revised:
        after = np.array([p.revised[user] for p in probes])
        actions = np.array([p.actions.get(user, 0) for p in probes])[kept]
        told = decision_metrics(after, malignancy, patient)
        gain = told["f1"] - f1_before
        metrics[user] = {
            "f1": told["f1"],
            "auc": told["auc"],
            "gain": gain,
            "actions": float(actions.mean()),
            "nodules_touched": float((actions > 0).mean()),
            "gain_per_action": gain / float(actions.mean()) if actions.any() else None,
        }
    return metrics


def correction_metrics(
    probes: Sequence[ConceptProbe], malignancy: NDArray, patient: NDArray
) -> dict[str, dict[str, float]]:
    """F1 and AUC after all corrections of a perfect user, by the way of taking them."""
    metrics = {}
    for way in probes[0].corrected:
        after = np.array([p.corrected[way] for p in probes])
        told = decision_metrics(after, malignancy, patient)
        metrics[way] = {"f1": told["f1"], "auc": told["auc"]}
    return metrics


def beside_the_vote(
    run: Path, numbers: Sequence[int], parts: Sequence[tuple[ConceptHead, ConceptScores]]
) -> dict[str, Any]:
    """The vote of the cases, the presences alone and the diameter on the same nodules.

    Args:
        run: Folder that `concepts` filled.
        numbers: Of the folds that it holds.
        parts: Heads and their test nodules, fold by fold.
    """
    first = run / f"fold{numbers[0]}"
    source = Path(read_json(first / SETTINGS)["network"]).parent
    folds = [load_fold(source, n) for n in numbers]
    votes: dict[str, float] = {}
    for support, predictions in calibrated_across([fold_part(fold) for fold in folds]):
        p = support.probability(predictions.embedding, predictions.patient_id)
        votes |= dict(zip(predictions.case_id.tolist(), p.tolist(), strict=True))
    ids = np.concatenate([s.case_id for _, s in parts])
    malignancy = np.concatenate([s.malignancy for _, s in parts])
    patient = np.concatenate([s.patient_id for _, s in parts])
    vote = np.array([votes[i] for i in ids.tolist()])
    found, named = [], concepts_of_run(first)
    for n, (head, scored) in enumerate(parts):
        others = [part for m, part in enumerate(parts) if m != n]
        _, calibration = calibrate_concepts(named, others)
        found.append(calibration.probability(decision_score(head, scored.scores)))
    concept = np.concatenate(found)
    kept = RULES["exclude3"](malignancy)
    truth = is_malignant(malignancy[kept])
    alone = presence_alone(parts)
    return {
        "vote": decision_metrics(vote, malignancy, patient),
        "presence_alone": decision_metrics(alone, malignancy, patient),
        "concepts_minus_vote_ci": paired_auc(concept[kept], vote[kept], truth, patient[kept]),
        "agreement_with_vote": float(((vote > 0.5) == (concept > 0.5)).mean()),
    }
