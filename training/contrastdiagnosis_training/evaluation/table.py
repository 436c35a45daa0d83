"""The metrics of `evaluate` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contrastdiagnosis_training.data.labels import RULES

TARGETS: dict[str, tuple[float, float]] = {
    "auc": (0.93, 0.962),
    "auc_6_12mm": (0.85, 0.93),
    "accuracy": (0.86, 0.893),
    "f1": (0.84, 0.88),
    "precision_at_1": (0.82, 0.87),
    "map": (0.78, 0.85),
    "ece": (0.05, 0.03),
}
"""Must and aim, all under the rule exclude3."""

ROWS = {
    "n": "nodules",
    "auc": "AUC",
    "auc_ci": "  95 % patient bootstrap",
    "auc_diameter": "  diameter alone",
    "auc_forest": "  forest on readers' masks",
    "auc_forest_ci": "    95 %",
    "auc_6_12mm": "AUC 6-12 mm",
    "auc_diameter_6_12mm": "  diameter alone",
    "auc_forest_6_12mm": "  forest on readers' masks",
    "accuracy": "accuracy",
    "f1": "F1",
    "precision_at_1": "retrieval P@1",
    "map": "retrieval mAP",
    "ece": "ECE",
    "ece_expected": "  if perfectly calibrated",
}
"""Keys of a rule's metrics and how the table names them."""

WIDTH = 27


def table(metrics: dict[str, Any]) -> str:
    """The metrics as text: the rules side by side, folds apart, then masks, confidence, context."""
    lines = [str(metrics.get("protocol", "")), ""]
    lines.append(
        f"{'':{WIDTH}}" + "".join(f"{rule:>14}" for rule in RULES) + f"{'must':>8}{'aim':>8}"
    )
    for key, name in ROWS.items():
        values = "".join(f"{_text(metrics[rule].get(key)):>14}" for rule in RULES)
        goals = "".join(f"{goal:>8}" for goal in TARGETS.get(key, ()))
        lines.append(f"{name:{WIDTH}}{values}{goals}")
    lines += _folds_apart(metrics)
    lines.append("")
    for key, name, goal in (
        ("dice", "Dice to the consensus", "0.80 / 0.85"),
        ("dice_inter_reader", "  between readers", ""),
        ("dice_reader_consensus", "  readers to consensus", ""),
        ("context_same_diagnosis", "same without context", "0.93 / 0.97"),
        ("context_shift", "  higher with context", "0.03 / 0.01"),
        ("context_dice", "  Dice of both masks", "0.85 / 0.92"),
    ):
        if metrics.get(key) is not None:
            lines.append(f"{name:{WIDTH}}{metrics[key]:14.3f}   {goal}")
    if metrics.get("confidence"):
        lines += ["", confidence_table(metrics["confidence"])]
    return "\n".join(lines)


def _folds_apart(metrics: Mapping[str, Any]) -> list[str]:
    groups = dict.fromkeys(group for rule in RULES for group in metrics[rule].get("by_folds") or ())
    lines = []
    for group in groups:
        lines.append(group)
        for key in ("n", "auc", "auc_ci", "auc_diameter", "auc_forest"):
            told = [(metrics[rule].get("by_folds") or {}).get(group, {}).get(key) for rule in RULES]
            lines.append(
                f"  {ROWS[key].strip():{WIDTH - 2}}" + "".join(f"{_text(v):>14}" for v in told)
            )
    return lines


def confidence_table(confidence: Mapping[str, Any]) -> str:
    """Shares and worth of confident and doubtful diagnoses, and the rule that told them apart."""
    lines = [f"confidence by: {confidence['rule']}"] if confidence.get("rule") else []
    if "n" not in confidence:
        return "\n".join(lines)
    lines.append(f"{'rule exclude3':{WIDTH}}{'n':>6}{'share':>8}{'AUC':>8}{'accuracy':>10}")
    for name in ("confident", "doubtful", "no_verdict"):
        told = confidence[name]
        lines.append(
            f"{name.replace('_', ' '):{WIDTH}}{told['n']:6}{told['share']:8.3f}"
            f"{_text(told.get('auc')):>8}{_text(told.get('accuracy')):>10}"
        )
    return "\n".join(lines)


def _text(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, list | tuple):
        return "-".join(_text(v) for v in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
