"""The gate between nodules and normal tissue: fitted, and measured by leaving patients out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.cases.case_folder import Nodule, read_scan
from contrastdiagnosis.concepts.encoding import encode
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.trust.confidence import Confidence, vote_doubts
from contrastdiagnosis.trust.confidence_rule import TOO_FAR_APART, CaseLimits, NoduleGate
from contrastdiagnosis.trust.cues import CUE_NAMES
from contrastdiagnosis.trust.facts import FACT_NAMES, facts_of_row
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from contrastdiagnosis_training.data.batches import batched
from contrastdiagnosis_training.data.columns import load_columns
from contrastdiagnosis_training.data.healthy_points import HealthyCt, draw_points
from contrastdiagnosis_training.evaluation.confidences import limits_of
from contrastdiagnosis_training.progress import Bar
from contrastdiagnosis_training.runs.predictions import nodule_slices

LOST = 0.03
"""Share of the nodules of any case folder that the gate may hold for normal tissue."""

LIKE_NODULES = ("vessel", "hilum", "pleura", "fissure")
"""Tissue that the gate learns from; the rest is hardly ever outlined."""

BESIDE_MM = 2.5
"""Clicks are not exact: nodules with all their surroundings are asked about here too."""

FOLDS = 5
"""Parts that the patients of the nodules are left out in."""

BATCH = 8
"""Patches that go through the network at once."""

INVERSE_PENALTY = 0.3
"""C of the logistic regression."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a bundle says at N points.

    Attributes:
        source: (N,) text, the case folder or the CT.
        kind: (N,) text, "nodule" or one of `KINDS`.
        patient_id: (N,) text.
        whole: (N,) bool, whether the file shows the point's surroundings.
        facts: (N, F) `NoduleFacts.row`.
        nearest: (N,) distance of the nearest case.
        probability: (N,) of the vote.
    """

    source: NDArray
    kind: NDArray
    patient_id: NDArray
    whole: NDArray[np.bool_]
    facts: NDArray[np.float64]
    nearest: NDArray[np.float64]
    probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, positions: NDArray) -> Answers:
        """The chosen rows."""
        return Answers(*(getattr(self, f.name)[positions] for f in fields(self)))

    @property
    def cues(self) -> NDArray[np.float64]:
        """(N, len(CUE_NAMES)), NaN where nothing was outlined."""
        return self.facts[:, [FACT_NAMES.index(name) for name in CUE_NAMES]]

    @property
    def outlined(self) -> NDArray[np.bool_]:
        """(N,) whether something was."""
        return np.asarray(np.isfinite(self.cues).all(axis=1))

    @property
    def is_nodule(self) -> NDArray[np.bool_]:
        """(N,)."""
        return np.asarray(self.kind == "nodule")


def joined(parts: Sequence[Answers]) -> Answers:
    """All rows of several tables.

    Raises:
        InputError: There is none.
    """
    if not any(len(part) for part in parts):
        raise InputError("there is no point to ask about")
    columns = ([getattr(p, f.name) for p in parts if len(p)] for f in fields(Answers))
    return Answers(*(np.concatenate(column) for column in columns))


class Asked(NamedTuple):
    """A point that a bundle is asked about; fields as in `Answers`."""

    source: str
    kind: str
    patient_id: str
    whole: bool
    volume: Volume
    point_ras_mm: NDArray[np.float64]


def nodule_answers(diagnoser: Diagnoser, nodules: Sequence[Nodule], seed: int = 0) -> Answers:
    """What is said of nodules, clicked at their middle; those with surroundings also beside it."""

    def asked() -> Iterable[Asked]:
        random = np.random.default_rng(seed)
        for nodule in Bar(nodules, unit="nodule", leave=False):
            scan = read_scan(nodule)
            whole = nodule_slices(scan) is not None
            row = (nodule.source, "nodule", nodule.patient_id, whole, scan.volume)
            yield Asked(*row, scan.center_ras_mm)
            if whole:
                aside = random.normal(size=3)
                aside *= BESIDE_MM / np.linalg.norm(aside)
                yield Asked(*row, scan.center_ras_mm + aside)

    return _answers(diagnoser, asked())


def tissue_answers(
    diagnoser: Diagnoser, cts: Iterable[HealthyCt], count: int, seed: int = 0
) -> Answers:
    """What is said at `count` points of each kind of tissue in CTs."""

    def asked() -> Iterable[Asked]:
        for ct in cts:
            for point in Bar(draw_points(ct, count, seed), desc=ct.name, leave=False):
                place = np.array(point.ras_mm)
                yield Asked(ct.name, point.kind, ct.patient_id, True, ct.volume, place)

    return _answers(diagnoser, asked())


def _answers(diagnoser: Diagnoser, asked: Iterable[Asked]) -> Answers:
    rows: list[tuple] = []
    for points in batched(asked, BATCH):
        # Files of fewer slices than the product takes are nodules too.
        patches = [crop_patch(p.volume, p.point_ras_mm, diagnoser.geometry) for p in points]
        encodings = encode(diagnoser.network, patches, diagnoser.device, diagnoser.head)
        for p, encoding in zip(points, encodings, strict=True):
            d = diagnoser.diagnosis_of(encoding, p.volume, p.point_ras_mm, p.patient_id)
            told = (d.facts.row, d.cases[0].distance, d.probability)
            rows.append((p.source, p.kind, p.patient_id, p.whole, *told))
    if not rows:
        nothing: Any = np.zeros(0)
        return Answers(*(nothing for _ in fields(Answers)))
    return Answers(*(np.array(column) for column in zip(*rows, strict=True)))


def fit_gate(nodules: Answers, tissue: Answers) -> NoduleGate:
    """The gate that lets all but `LOST` of the nodules of every source through.

    Every source of nodules weighs the same, so does tissue in all.
    """
    nodules, tissue = nodules[nodules.outlined], tissue[tissue.outlined]
    tissue = tissue[np.isin(tissue.kind, LIKE_NODULES)]
    if not (len(nodules) and len(tissue)):
        raise InputError("a gate needs outlined nodules and outlined normal tissue")
    sources, source = np.unique(nodules.source, return_inverse=True)
    weight = 1 / np.bincount(source)[source] / len(sources)
    cues = np.vstack([nodules.cues, tissue.cues])
    label = np.repeat([1, 0], [len(nodules), len(tissue)])
    weight = np.concatenate([weight, np.full(len(tissue), 1 / len(tissue))]) * len(label) / 2
    model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY))
    model.fit(cues, label, logisticregression__sample_weight=weight)
    scaler, regression = model[0], model[1]
    weights = regression.coef_[0] / scaler.scale_
    intercept = float(regression.intercept_[0] - weights @ scaler.mean_)
    scores = nodules.cues @ weights + intercept
    threshold = min(float(np.quantile(scores[source == n], LOST)) for n in range(len(sources)))
    typical = np.median(nodules.cues, axis=0)
    return NoduleGate(
        tuple(round(float(w), 5) for w in weights), round(intercept, 5), round(threshold, 5),
        tuple(round(float(t), 5) for t in typical),
    )  # fmt: skip


def read_answers(file: Path | None) -> Answers | None:
    """What `gate-fit --answers` kept; None without a file.

    Raises:
        InputError: There is no such file.
    """
    if file is None:
        return None
    if not file.is_file():
        raise InputError(f"{file} is missing; contrastdiagnosis-train gate-fit --answers keeps it")
    return load_columns(Answers, file)


def fitted_limits(answers: Answers, without: ArrayLike = ()) -> CaseLimits:
    """The limits and gate that a bundle ships, fitted to all answers but those of some patients.

    Args:
        answers: At nodules and at normal tissue.
        without: Patients that have no say.
    """
    rest = answers[~np.isin(answers.patient_id, without)]
    nodules = rest[rest.is_nodule]
    limits = limits_of(*(nodules.facts[nodules.source == s] for s in np.unique(nodules.source)))
    return replace(limits, gate=fit_gate(nodules, rest[~rest.is_nodule]))


def left_out_confidences(
    answers: Answers, limits: CaseLimits, threshold: float, split_vote: tuple[float, float]
) -> list[Confidence]:
    """The confidence of each point by a gate that was fitted without its patient."""
    told: list[Confidence | None] = [None] * len(answers)
    tissue = np.flatnonzero(~answers.is_nodule)
    for patient in np.unique(answers.patient_id[tissue]):
        mine = tissue[answers.patient_id[tissue] == patient]
        _fill_in(told, answers, mine, np.isin(answers.patient_id, [patient]), limits, threshold,
               split_vote)  # fmt: skip
    nodules = np.flatnonzero(answers.is_nodule)
    parts = GroupKFold(FOLDS).split(nodules, groups=answers.patient_id[nodules])
    for _, held in parts:
        mine = nodules[held]
        away = np.isin(answers.patient_id, answers.patient_id[mine])
        _fill_in(told, answers, mine, away, limits, threshold, split_vote)
    return [c for c in told if c is not None]


def _fill_in(
    told: list[Confidence | None],
    answers: Answers,
    asked: NDArray[np.int64],
    away: NDArray[np.bool_],
    limits: CaseLimits,
    threshold: float,
    split_vote: tuple[float, float],
) -> None:
    """Fills in the confidence of some points by a gate of all that are not away."""
    rest = answers[~away]
    gate = fit_gate(rest[rest.is_nodule], rest[~rest.is_nodule])
    judged = confidences(answers[asked], replace(limits, gate=gate), threshold, split_vote)
    for position, confidence in zip(asked.tolist(), judged, strict=True):
        told[position] = confidence


def confidences(
    answers: Answers, limits: CaseLimits, threshold: float, split_vote: tuple[float, float]
) -> list[Confidence]:
    """The confidence of each point under some limits."""
    return [
        limits.confidence(
            facts_of_row(row), vote_doubts(nearest, threshold, p, split_vote), bool(whole), p
        )
        for row, nearest, p, whole in zip(
            answers.facts, answers.nearest.tolist(), answers.probability.tolist(), answers.whole,
            strict=True,
        )
    ]  # fmt: skip


def before_the_gate(
    answers: Answers, limits: CaseLimits, threshold: float, split_vote: tuple[float, float]
) -> list[Confidence]:
    """The judgement by the rule of bundles up to lidc 9: a mask, lung, noise, slices, the vote.

    There was a verdict on everything then. Lung is measured as now, without the air outside the
    body: in that air a few more were confident.
    """
    old = CaseLimits(limits.min_lung_share, limits.max_noise_hu, limits.max_slice_mm)
    cut = replace(answers, whole=np.zeros(len(answers), bool))
    return [Confidence(doubts=c.reasons) for c in confidences(cut, old, threshold, split_vote)]


def gate_table(
    answers: Answers, before: Sequence[Confidence], after: Sequence[Confidence]
) -> list[dict[str, Any]]:
    """Shares of the points by source of nodules and kind of tissue.

    Outlined at all; held for no nodule; with a verdict; confident before and now; confident but for
    the distance of the slices.
    """
    group = np.where(answers.is_nodule, "nodules of " + answers.source.astype(object), answers.kind)
    thin = answers.facts[:, FACT_NAMES.index("slice_mm")] <= THIN_MM
    rows = []
    for name in dict.fromkeys(group.tolist()):
        for which, chosen in (("", group == name), (", thin slices", (group == name) & thin)):
            mine = np.flatnonzero(chosen).tolist()
            if which and (not len(mine) or len(mine) == (group == name).sum()):
                continue
            rows.append(
                {
                    "points": f"{name}{which}",
                    "n": len(mine),
                    "outlined": float(answers.outlined[mine].mean()),
                    "no_nodule": _share([bool(after[n].nothing_there) for n in mine]),
                    "verdict": _share([after[n].judged for n in mine]),
                    "confident_before": _share([before[n].confident for n in mine]),
                    "confident": _share([after[n].confident for n in mine]),
                    "confident_but_for_slices": _share(
                        [_sure_but_for_slices(after[n]) for n in mine]
                    ),
                }
            )
    return rows


def left_out_table(bundle: Bundle, answers: Answers, limits: CaseLimits) -> list[dict[str, Any]]:
    """Every point judged by a gate that was fitted without its patient."""
    rule = (bundle.indicator.threshold, bundle.info.split_vote)
    before = before_the_gate(answers, bundle.info.limits, *rule)
    return gate_table(answers, before, left_out_confidences(answers, limits, *rule))


THIN_MM = 2.5
"""Scans with slices further apart are never confident, whatever they show."""


def _sure_but_for_slices(confidence: Confidence) -> bool:
    return all(reason.startswith(TOO_FAR_APART) for reason in confidence.reasons)


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def gate_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table as text."""
    head = (
        f"{'points':36}{'n':>6}{'outlined':>10}{'no nodule':>11}{'verdict':>9}{'confident':>11}"
        f"{'before':>8}{'slices aside':>14}"
    )
    lines = [head]
    for row in rows:
        lines.append(
            f"{row['points']:36}{row['n']:6d}{row['outlined']:10.3f}{row['no_nodule']:11.3f}"
            f"{row['verdict']:9.3f}{row['confident']:11.3f}{row['confident_before']:8.3f}"
            f"{row['confident_but_for_slices']:14.3f}"
        )
    return "\n".join(lines)
