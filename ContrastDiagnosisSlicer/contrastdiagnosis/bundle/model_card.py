"""MODEL_CARD.md, made from what a bundle knows about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from contrastdiagnosis.trust.case_limits import CUT_THROUGH, MOST_UNMEASURED, NODULE_MM
from contrastdiagnosis.trust.confidence import normal_factor

if TYPE_CHECKING:
    from contrastdiagnosis.bundle.info import BundleInfo
    from contrastdiagnosis.cases.library import CaseLibrary
    from contrastdiagnosis.trust.case_limits import CaseLimits

FIGURES = {
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
"""Keys of a rule's metrics and how the card names them; older bundles lack some."""


OWN_SECTIONS = ("concepts", "confidence", "gate")
"""Metrics that are no label rule's."""


def model_card(info: BundleInfo, library: CaseLibrary) -> str:
    """Markdown text of the card."""
    patients = len({case.patient_id for case in library.cases})
    malignant = int(library.malignant.sum())
    parts = [
        f"# {info.name} {info.version}",
        f"**{info.intended_use}**",
        "A bundle of ContrastDiagnosis: weights of `NoduleNet`, the cases that vote, and what is"
        " needed to judge how far a vote can be trusted. It holds no images.",
        "## Intended use",
        "Research on interpretable diagnosis of lung nodules on chest CT. Input: a CT in Hounsfield"
        " units and a point in a nodule. Output: segmentation, the most similar cases, their vote,"
        " a calibrated probability that radiologists would suspect malignancy, and reasons to"
        " distrust it.",
        "## Cases",
        f"{len(library)} nodules of {patients} patients, {malignant} malignant (mean rating of the"
        f" readers above 3). {info.training_data}",
        "## Vote",
        _vote(info),
        "## Measured",
        *_metrics(info.metrics),
        *_concepts(info),
        *_not_judged(info),
        "## Limits",
        "- The label is the readers' opinion, not pathology.\n- Size is a strong cue: read every"
        " figure beside those of the diameter alone and of the forest.\n- The cases are"
        f" {_range(library)} mm large. Findings that are neither nodules nor the normal tissue"
        " named above, such as scars, consolidation or lymph nodes, may get a verdict.",
        "## Training",
        "\n".join(f"- {name}: {value}" for name, value in info.recipe.items()) or "not recorded",
        "## Licence and citation",
        f"{info.licence}. {info.citation}".strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _vote(info: BundleInfo) -> str:
    """How the cases vote, and which are too far away to rely on."""
    rule, share = info.vote, info.similarity_quantile
    weighing = "each counts alike" if rule.majority else "the nearer, the more a case counts"
    end = (
        f"mean + {normal_factor(share):.2f} standard deviations"
        if info.similarity_interval == "normal"
        else f"the empirical {share:g} quantile"
    )
    return (
        f"{rule.text.capitalize()}: {weighing}. A case is too far away beyond {end} of"
        " the distances of correctly matched pairs."
    )


def _range(library: CaseLibrary) -> str:
    diameters_mm = [case.diameter_mm for case in library.cases]
    return f"{min(diameters_mm):.0f}-{max(diameters_mm):.0f}"


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    rules = [n for n, v in metrics.items() if isinstance(v, Mapping) and n not in OWN_SECTIONS]
    if not rules:
        return ["Not measured."]
    header = "| figure | " + " | ".join(rules) + " |\n|---" * 1 + "|---" * len(rules) + "|"
    rows = [
        f"| {title} | " + " | ".join(_figure(metrics[rule].get(key)) for rule in rules) + " |"
        for key, title in FIGURES.items()
        if any(key in metrics[rule] for rule in rules)
    ]
    rows += _folds_apart([metrics[rule] for rule in rules])
    extra = [
        f"{name.replace('_', ' ')}: {_figure(value)}"
        for name, value in metrics.items()
        if isinstance(value, int | float)
    ]
    parts = (_source(metrics), "\n".join([header, *rows]), "; ".join(extra))
    return [*(part for part in parts if part), *_confidence(metrics.get("confidence"))]


def _source(figures: Mapping[str, Any]) -> str:
    """Which command printed figures, and how they were made; older bundles know less."""
    command, protocol = figures.get("printed_by"), str(figures.get("protocol", ""))
    if not command:
        return protocol
    return f"Printed by `{command}`: {protocol}" if protocol else f"Printed by `{command}`."


def _folds_apart(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of the folds that chose the recipe, and of those that chose nothing."""
    apart = [rule.get("by_folds") or {} for rule in rules]
    names = dict.fromkeys(name for groups in apart for name in groups)
    return [
        f"| AUC, {name} | " + " | ".join(_group(groups.get(name)) for groups in apart) + " |"
        for name in names
    ]


def _group(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "-"
    beside = [
        f"{title} {_figure(told[key])}"
        for key, title in (("auc_diameter", "diameter"), ("auc_forest", "forest"))
        if key in told
    ]
    interval = f" ({_figure(told['auc_ci'])})" if "auc_ci" in told else ""
    return "; ".join([f"{_figure(told['auc'])}{interval}", *beside, f"n {told['n']}"])


def _confidence(told: Mapping[str, Any] | None) -> list[str]:
    """What confident and doubtful diagnoses are worth."""
    if not told or "n" not in told:
        return []
    rows = [
        f"| {name.replace('_', ' ')} | {told[name]['n']} | "
        + " | ".join(_figure(told[name].get(key)) for key in ("share", "auc", "accuracy"))
        + " |"
        for name in ("confident", "doubtful", "no_verdict")
    ]
    head = "| diagnosis, rule exclude3 | n | share | AUC | accuracy |\n|---|---|---|---|---|"
    source = _source({**told, "protocol": ""})
    return [f"Confidence by: {told.get('rule', '')}. {source}".strip(), "\n".join([head, *rows])]


def _not_judged(info: BundleInfo) -> list[str]:
    """When there is no verdict, and how often that is right."""
    limits = info.limits
    none, doubts = _limits_in_words(limits)
    parts = [
        "## What is not judged",
        f"No verdict: {'; '.join(none)}. A verdict, but not confident: {'; '.join(doubts)}.",
    ]
    gate = info.metrics.get("gate")
    if gate:
        rows = [
            f"| {row['points']} | {row['n']} | "
            + " | ".join(_figure(row[name]) for name in GATE_COLUMNS)
            + " |"
            for row in gate["table"]
        ]
        head = "| points | n | " + " | ".join(GATE_COLUMNS.values()) + " |"
        table = "\n".join([head, "|---" * (2 + len(GATE_COLUMNS)) + "|", *rows])
        parts += [_source(gate), table]
    return parts


def _limits_in_words(limits: CaseLimits) -> tuple[list[str], list[str]]:
    """What there is no verdict on, and what takes the confidence; limits that are not known out."""
    none = [
        "nothing outlined",
        f"a mask of which {CUT_THROUGH:.0%} of the largest cross-section lies at both ends of the"
        " scan (a slab)",
        f"a mask of which {MOST_UNMEASURED:.0%} lies where the scan measured nothing",
    ]
    if limits.min_lung_share:
        none.append(f"lung-dense tissue around the point below {limits.min_lung_share:.0%}")
    if limits.min_volume_mm3:
        none.append(f"volume below {limits.min_volume_mm3:g} mm3")
    if limits.min_covered_share:
        none.append(f"less than {limits.min_covered_share:.0%} of the patch in the scan")
    doubts = ["a split vote", "no near case", "the scan's edge or padding next to the nodule"]
    if limits.max_diameter_mm is not None:
        none.append(f"longest diameter above {limits.max_diameter_mm:g} mm, or beyond the patch")
        doubts.append(f"longest diameter above {NODULE_MM:g} mm")
    if limits.gate:
        none.append("cues of vessels and other normal tissue (gate)")
    if limits.max_noise_hu is not None:
        doubts.append(f"noise above {limits.max_noise_hu:g} HU")
    if limits.max_slice_mm is not None:
        doubts.append(f"slices further apart than {limits.max_slice_mm:g} mm")
    if limits.sure_covered_share:
        doubts.append(f"less than {limits.sure_covered_share:.0%} of the patch in the scan")
    if limits.max_size_factor is not None:
        doubts.append(
            f"concepts that contradict the measured size by a factor of {limits.max_size_factor:g}"
            " in diameter"
        )
    return none, doubts


GATE_COLUMNS = {
    "outlined": "outlined",
    "no_nodule": "held for no nodule",
    "verdict": "with a verdict",
    "confident": "confident",
    "confident_before": "confident before there was a gate",
    "confident_but_for_slices": "confident but for thick slices",
}
"""Shares of the points and how the card names them."""


def _concepts(info: BundleInfo) -> list[str]:
    """What the concepts are, how well they are told, and what they say of malignancy."""
    if not info.concepts:
        return []
    measured = info.metrics.get("concepts") or {}
    rows = [
        "| concept | present where most readers rate | AUROC | readers' kappa |\n|---|---|---|---|",
        *(
            f"| {c.name} | {c.criterion} | {_figure(c.auroc)} | {_figure(c.reader_kappa)} |"
            for c in info.concepts
        ),
    ]
    parts = ["## Concepts", "\n".join(rows)]
    if "malignancy" in measured:
        through, pointing = measured["malignancy"], measured["pointing"]["off centre"]["nodule"]
        parts.append(
            f"Malignancy through the concepts: AUC {_figure(through['auc'])}"
            f" ({_figure(through['auc_ci'])}), diameter alone {_figure(measured['auc_diameter'])}"
            f"{_band(measured)}.{_concept_folds(measured)}"
            f" The strongest cell lies in the nodule in {pointing['map']:.0%} of off-centre patches"
            f" (any cell of the predicted mask {pointing['mask']:.0%}, any cell"
            f" {pointing['random']:.0%}). What the prototypes say beyond the presences is not"
            f" named: these alone reach AUC {_figure(_alone(measured))}."
            f"{_leakage(measured)}{_ignoring(measured)} {_source(measured)}."
        )
    if note := info.metrics.get("concepts_note"):
        parts.append(str(note))
    return parts + _recipes(measured.get("ablations") or [])


ABLATION_PLACES = {
    "mean AUROC": ("centred", "auroc"),
    "mean AUROC, off centre": ("off_centre", "auroc"),
    "malignancy, AUC": ("centred", "malignancy"),
    "malignancy, off centre": ("off_centre", "malignancy"),
    "pointing, off centre": ("off_centre", "pointing"),
}
"""What is told of each recipe, and where it stands in a row of `concepts-ablate`."""


def _recipes(ablations: Any) -> list[str]:
    """What other recipes for the concepts gave on the folds that chose, averaged over these."""
    files = [ablations] if isinstance(ablations, Mapping) else ablations
    recipes: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for told in files:
        own = PurePosixPath(told["rows"][0]["network"]).parent
        for row in told["rows"]:
            network = PurePosixPath(row["network"])
            name = row["recipe"] + ("" if network.parent == own else f" on {network}")
            recipes.setdefault(name, []).append((told["fold"], row))
    if not recipes:
        return []
    concepts = dict.fromkeys(
        concept
        for rows in recipes.values()
        for _, row in rows
        for concept in row["centred"].get("concepts") or {}
    )
    places = {title: list(place) for title, place in ABLATION_PLACES.items()}
    places |= {concept: ["centred", "concepts", concept] for concept in concepts}
    lines = [f"| recipe | folds | {' | '.join(places)} |", "|---" * (2 + len(places)) + "|"]
    for name, rows in recipes.items():
        folds = ", ".join(str(fold) for fold in sorted({fold for fold, _ in rows}))
        means = " | ".join(_mean(rows, place) for place in places.values())
        lines.append(f"| `{name}` | {folds} | {means} |")
    return [
        "Heads by other recipes (`contrastdiagnosis-train concepts-ablate`), each on the fold's"
        " test patients; `default` is the recipe of `concepts`, the cells of `whole=False`"
        " know nothing of the nodule as a whole; under the name of a concept its AUROC:",
        "\n".join(lines),
    ]


def _mean(rows: Sequence[tuple[int, Mapping[str, Any]]], place: Sequence[str]) -> str:
    found = []
    for _, row in rows:
        value: Any = row
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(float(value))
    return _figure(sum(found) / len(found)) if found else "-"


def _alone(measured: Mapping[str, Any]) -> Any:
    return (measured.get("presence_alone") or {}).get("auc")


def _band(measured: Mapping[str, Any]) -> str:
    if "auc_6_12mm" not in measured:
        return ""
    return (
        f"; between 6 and 12 mm {_figure(measured['auc_6_12mm'])} and"
        f" {_figure(measured['auc_diameter_6_12mm'])}"
    )


def _leakage(measured: Mapping[str, Any]) -> str:
    logits = measured.get("mean_logits")
    if not logits:
        return ""
    return (
        " A concept that fewer than 5 % of the readers would see adds or takes"
        f" {_figure(logits['hardly_seen'])} logits on average, one that most would see"
        f" {_figure(logits['seen'])}."
    )


def _concept_folds(measured: Mapping[str, Any]) -> str:
    """Folds that chose the recipe, and those that chose nothing."""
    return "".join(
        f" {name[:1].upper()}{name[1:]}: AUC {_figure(group['auc'])} ({_figure(group['auc_ci'])}),"
        f" gain in F1 by one correction {group['one_action_gain']:+.4f}."
        for name, group in (measured.get("by_fold_group") or {}).items()
    )


def _ignoring(measured: Mapping[str, Any]) -> str:
    told = measured.get("ignoring")
    if not told:
        return ""
    return (
        f" Of {told['boxes']} random boxes to ignore, none raised a presence by more than"
        f" {max(told['highest_rise'], 0):.1e}."
    )


def _figure(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(_figure(v) for v in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value) if value is not None else "-"
