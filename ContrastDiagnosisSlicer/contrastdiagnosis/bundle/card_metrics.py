"""Which metrics of the vote and the gate a card tells, rounded; older bundles lack some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastdiagnosis.cases.library import CaseLibrary

Metrics = Mapping[str, Any]
"""A part of `BundleInfo.metrics`, as a command printed it."""

RULE_METRICS = {
    "n": "nodules",
    "auc": "AUC",
    "auc_ci": "AUC, 95 % patient bootstrap",
    "auc_6_12mm": "AUC, 6-12 mm",
    "auc_diameter": "AUC of the diameter alone",
    "auc_diameter_6_12mm": "AUC of the diameter alone, 6-12 mm",
    "auc_forest": "AUC of a random forest on size, shape and HU under the readers' masks",
    "auc_forest_ci": "its 95 % patient bootstrap",
    "auc_forest_6_12mm": "AUC of that forest, 6-12 mm",
    "accuracy": "accuracy",
    "f1": "F1",
    "ece": "calibration error (ECE)",
    "ece_expected": "ECE to be expected if the calibration were perfect",
    "precision_at_1": "retrieval P@1",
    "map": "retrieval mAP",
}
"""Keys of a label rule's metrics and how the card names them."""

OWN_SECTIONS = ("concepts", "confidence", "gate", "image_quality", "robustness")
"""Metrics that are no label rule's."""

GATE_COLUMNS = {
    "outlined": "outlined",
    "no_nodule": "held for no nodule",
    "verdict": "with a verdict",
    "confident": "confident",
    "confident_before": "confident before there was a gate",
    "confident_but_for_slices": "confident but for thick slices",
}
"""Shares of the points and how the card names them."""


@dataclass(frozen=True)
class Table:
    """What a table of the card says, each cell as it is written."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class CaseCounts:
    """How many cases there are, and of which sizes."""

    nodules: int
    patients: int
    malignant: int
    smallest_mm: float
    largest_mm: float


@dataclass(frozen=True)
class ConfidenceMetrics:
    """What confident and doubtful diagnoses are worth."""

    rule: str
    source: str
    table: Table


@dataclass(frozen=True)
class VoteMetrics:
    """What the vote is worth by each label rule."""

    source: str
    table: Table
    numbers: tuple[str, ...]
    """Metrics that no label rule changes, each "name: value"."""
    confidence: ConfidenceMetrics | None


@dataclass(frozen=True)
class GateMetrics:
    """At which points there is a verdict."""

    source: str
    table: Table


def case_counts(library: CaseLibrary) -> CaseCounts:
    """What the card counts of the cases."""
    diameters_mm = [case.diameter_mm for case in library.cases]
    return CaseCounts(
        nodules=len(library),
        patients=len({case.patient_id for case in library.cases}),
        malignant=int(library.malignant.sum()),
        smallest_mm=min(diameters_mm),
        largest_mm=max(diameters_mm),
    )


def vote_metrics(metrics: Metrics) -> VoteMetrics | None:
    """What the vote is worth; None for a bundle that was not measured."""
    rules = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, Mapping) and name not in OWN_SECTIONS
    }
    if not rules:
        return None
    rows = [
        (title, *(rounded(rule.get(key)) for rule in rules.values()))
        for key, title in RULE_METRICS.items()
        if any(key in rule for rule in rules.values())
    ]
    return VoteMetrics(
        source=source_of(metrics),
        table=Table(("figure", *rules), (*rows, *_fold_rows(list(rules.values())))),
        numbers=tuple(
            f"{name.replace('_', ' ')}: {rounded(value)}"
            for name, value in metrics.items()
            if isinstance(value, int | float)
        ),
        confidence=_confidence(metrics.get("confidence")),
    )


def source_of(metrics: Metrics) -> str:
    """Which command printed metrics, and how they were made; older bundles know less."""
    command, protocol = metrics.get("printed_by"), str(metrics.get("protocol", ""))
    if not command:
        return protocol
    return f"Printed by `{command}`: {protocol}" if protocol else f"Printed by `{command}`."


def _fold_rows(rules: Sequence[Metrics]) -> Iterator[tuple[str, ...]]:
    """Rows of the folds that chose the recipe, and of those that chose nothing."""
    apart = [rule.get("by_folds") or {} for rule in rules]
    for name in dict.fromkeys(name for groups in apart for name in groups):
        yield f"AUC, {name}", *(_fold_cell(groups.get(name)) for groups in apart)


def _fold_cell(group: Metrics | None) -> str:
    if group is None:
        return "-"
    beside = [
        f"{title} {rounded(group[key])}"
        for key, title in (("auc_diameter", "diameter"), ("auc_forest", "forest"))
        if key in group
    ]
    interval = f" ({rounded(group['auc_ci'])})" if "auc_ci" in group else ""
    return "; ".join([f"{rounded(group['auc'])}{interval}", *beside, f"n {group['n']}"])


def _confidence(metrics: Metrics | None) -> ConfidenceMetrics | None:
    if not metrics or "n" not in metrics:
        return None
    rows = [
        (
            name.replace("_", " "),
            str(metrics[name]["n"]),
            *(rounded(metrics[name].get(key)) for key in ("share", "auc", "accuracy")),
        )
        for name in ("confident", "doubtful", "no_verdict")
    ]
    return ConfidenceMetrics(
        rule=metrics.get("rule", ""),
        source=source_of({**metrics, "protocol": ""}),
        table=Table(("diagnosis, rule exclude3", "n", "share", "AUC", "accuracy"), tuple(rows)),
    )


def gate_metrics(metrics: Metrics) -> GateMetrics | None:
    """How often there is no verdict, and how often that is right; None without a gate's metrics."""
    gate = metrics.get("gate")
    if not gate:
        return None
    rows = [
        (row["points"], str(row["n"]), *(rounded(row[name]) for name in GATE_COLUMNS))
        for row in gate["table"]
    ]
    return GateMetrics(source_of(gate), Table(("points", "n", *GATE_COLUMNS.values()), tuple(rows)))


def rounded(value: Any) -> str:
    """A figure as the card writes it: three decimals, an interval with a hyphen, "-" for None."""
    if isinstance(value, list | tuple):
        return "-".join(rounded(v) for v in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value) if value is not None else "-"
