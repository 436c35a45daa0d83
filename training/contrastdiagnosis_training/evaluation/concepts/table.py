"""The metrics of `concepts-eval` as text."""

from __future__ import annotations

from typing import Any

POINTERS = ("map", "mask", "centre", "random")


def concept_table(metrics: dict[str, Any]) -> str:
    """Protocol, concepts, malignancy, pointing and users, each with its targets."""
    return "\n".join(
        [
            str(metrics.get("protocol", "")),
            "",
            *_concepts(metrics),
            "",
            *_malignancy(metrics),
            "",
            *_pointing(metrics["pointing"]),
            "",
            *_users(metrics["users"]),
            "",
            *_corrections(metrics["corrections"]),
            "",
            f"{metrics['ignoring']['boxes']} random boxes to ignore: largest rise of a presence"
            f" {metrics['ignoring']['highest_rise']:+.1e} (must 1e-6)",
        ]
    )


def _concepts(metrics: dict[str, Any]) -> list[str]:
    head = f"{'concept':20}{'present':>8}{'AUROC':>8}{'bal. acc':>9}{'accuracy':>9}{'constant':>9}"
    lines = [head + f"{'kappa':>8}{'readers':>9}"]
    for name, c in metrics["concepts"].items():
        values = (
            (c["prevalence"], 8), (c["auroc"], 8), (c["balanced_accuracy"], 9),
            (c["accuracy"], 9), (c["accuracy_majority_constant"], 9), (c["kappa"], 8),
            (c["kappa_readers"], 9),
        )  # fmt: skip
        lines.append(f"{name:20}" + "".join(f"{_text(v):>{width}}" for v, width in values))
    lines.append(f"{'mean AUROC, rated':28}{_text(metrics['mean_auroc']):>8}   must 0.80, aim 0.88")
    return lines


def _malignancy(metrics: dict[str, Any]) -> list[str]:
    lines = [f"malignancy, rule exclude3{'AUC':>13}{'accuracy':>10}{'F1':>8}{'macro-F1':>10}"]
    rows = [("through the concepts", metrics["malignancy"])]
    rows += [("presences alone", metrics["presence_alone"])] if "presence_alone" in metrics else []
    rows += [("vote of the cases", metrics["vote"])] if "vote" in metrics else []
    for name, m in rows:
        low, high = m["auc_ci"]
        lines.append(
            f"{name:30}{m['auc']:8.3f}{m['accuracy']:10.3f}{m['f1']:8.3f}{m['macro_f1']:10.3f}"
            f"   95 % {low:.3f}-{high:.3f}"
        )
    lines.append(f"{'diameter alone':30}{metrics['auc_diameter']:8.3f}   must 0.92, aim: the vote")
    lines.append(
        f"6-12 mm: through the concepts {_text(metrics['auc_6_12mm'])}, diameter alone"
        f" {_text(metrics['auc_diameter_6_12mm'])}"
    )
    if "concepts_minus_vote_ci" in metrics:
        gap, low, high = metrics["concepts_minus_vote_ci"]
        lines.append(f"concepts less vote {gap:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(f"same diagnosis as the vote {metrics['agreement_with_vote']:.3f}")
    for name, group in (metrics.get("by_fold_group") or {}).items():
        lines.append(
            f"{name}: AUC {group['auc']:.3f} ({group['n']} nodules), gain in F1 by one action"
            f" {group['one_action_gain']:+.4f}"
        )
    logits = metrics["mean_logits"]
    lines.append(
        f"mean logits of a concept that hardly anybody would see {_text(logits['hardly_seen'])}, of"
        f" one that most would see {_text(logits['seen'])}"
    )
    if "prototypes" in metrics:
        p = metrics["prototypes"]
        lines.append(
            f"prototypes {p['concepts']} x {p['of_each']}, alive {p['alive']}, removed by rule"
            f" {p['removed_by_rule']}; explanations per decision"
            f" {metrics['explanations_per_decision']}"
        )
    return lines


def _pointing(metrics: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = [f"{'pointing game':44}{'n':>6}" + "".join(f"{p:>8}" for p in POINTERS)]
    for where, regions in metrics.items():
        for region, hits in regions.items():
            values = "".join(f"{_text(hits[p]):>8}" for p in POINTERS)
            lines.append(f"{where + ': ' + region:44}{hits['n']:6}{values}")
    lines.append(
        "must off centre: nodule 0.609 (aim 0.90); refined, by concept, above all controls"
    )
    return lines


def _users(metrics: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"{'simulated user':24}{'F1':>8}{'gain':>9}{'actions':>9}{'gain/action':>13}"]
    for name, u in metrics.items():
        rest = f"{u['gain']:+9.4f}{u['actions']:9.3f}" if "gain" in u else ""
        each = u.get("gain_per_action")
        lines.append(f"{name:24}{u['f1']:8.4f}{rest}" + (f"{each:+13.4f}" if each else ""))
    lines.append("must: one action above 0 (aim +0.02); noisy at least -0.005 (aim 0)")
    return lines


def _corrections(metrics: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{'perfect user, taken as':34}{'F1':>8}{'AUC':>8}"]
    lines += [f"{way:34}{told['f1']:8.4f}{told['auc']:8.4f}" for way, told in metrics.items()]
    return lines


def _text(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
