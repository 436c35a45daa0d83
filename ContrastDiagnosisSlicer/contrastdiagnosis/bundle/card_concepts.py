"""Which metrics of the concepts a card tells; older bundles lack some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from contrastdiagnosis.bundle.card_metrics import Metrics, Table, rounded, source_of

if TYPE_CHECKING:
    from contrastdiagnosis.bundle.info import BundleInfo

ABLATION_PLACES = {
    "mean AUROC": ("centred", "auroc"),
    "mean AUROC, off centre": ("off_centre", "auroc"),
    "malignancy, AUC": ("centred", "malignancy"),
    "malignancy, off centre": ("off_centre", "malignancy"),
    "pointing, off centre": ("off_centre", "pointing"),
}
"""What is told of each recipe, and where it stands in a row of `concepts-ablate`."""


@dataclass(frozen=True)
class FoldGroup:
    """The concepts on the folds that chose the recipe, or on those that chose nothing."""

    name: str
    auc: str
    auc_ci: str
    gain: str


@dataclass(frozen=True)
class Leakage:
    """Logits that concepts add or take, by whether readers would see them."""

    hardly_seen: str
    seen: str


@dataclass(frozen=True)
class Ignoring:
    """By how much a box to ignore raised a presence at most."""

    boxes: int
    highest_rise: str


@dataclass(frozen=True)
class SmallNodules:
    """AUC between 6 and 12 mm, where the diameter tells least."""

    auc: str
    auc_diameter: str


@dataclass(frozen=True)
class MalignancyMetrics:
    """What the concepts say of malignancy; None for what an older bundle did not measure."""

    auc: str
    auc_ci: str
    auc_diameter: str
    small: SmallNodules | None
    folds: tuple[FoldGroup, ...]
    pointing: float
    pointing_mask: float
    pointing_random: float
    auc_presence_alone: str
    leakage: Leakage | None
    ignoring: Ignoring | None
    source: str


@dataclass(frozen=True)
class ConceptMetrics:
    """What the concepts are, how well they are told, and what they say of malignancy."""

    table: Table
    malignancy: MalignancyMetrics | None
    note: str
    recipes: Table | None


def concept_metrics(info: BundleInfo) -> ConceptMetrics | None:
    """What the concepts are and what they are worth; None for a bundle without them."""
    if not info.concepts:
        return None
    metrics = info.metrics.get("concepts") or {}
    rows = [(c.name, c.criterion, rounded(c.auroc), rounded(c.reader_kappa)) for c in info.concepts]
    columns = ("concept", "present where most readers rate", "AUROC", "readers' kappa")
    return ConceptMetrics(
        table=Table(columns, tuple(rows)),
        malignancy=_malignancy(metrics) if "malignancy" in metrics else None,
        note=str(info.metrics.get("concepts_note") or ""),
        recipes=_recipes(metrics.get("ablations") or []),
    )


def _malignancy(metrics: Metrics) -> MalignancyMetrics:
    through, pointing = metrics["malignancy"], metrics["pointing"]["off centre"]["nodule"]
    logits, ignoring = metrics.get("mean_logits"), metrics.get("ignoring")
    return MalignancyMetrics(
        auc=rounded(through["auc"]),
        auc_ci=rounded(through["auc_ci"]),
        auc_diameter=rounded(metrics["auc_diameter"]),
        small=SmallNodules(rounded(metrics["auc_6_12mm"]), rounded(metrics["auc_diameter_6_12mm"]))
        if "auc_6_12mm" in metrics
        else None,
        folds=tuple(
            FoldGroup(
                f"{name[:1].upper()}{name[1:]}",
                rounded(group["auc"]),
                rounded(group["auc_ci"]),
                f"{group['one_action_gain']:+.4f}",
            )
            for name, group in (metrics.get("by_fold_group") or {}).items()
        ),
        pointing=pointing["map"],
        pointing_mask=pointing["mask"],
        pointing_random=pointing["random"],
        auc_presence_alone=rounded((metrics.get("presence_alone") or {}).get("auc")),
        leakage=logits and Leakage(rounded(logits["hardly_seen"]), rounded(logits["seen"])),
        ignoring=ignoring
        and Ignoring(ignoring["boxes"], f"{max(ignoring['highest_rise'], 0):.1e}"),
        source=source_of(metrics),
    )


def _recipes(ablations: Any) -> Table | None:
    """What other recipes for the concepts gave on the folds that chose, averaged over these."""
    files = [ablations] if isinstance(ablations, Mapping) else ablations
    recipes: dict[str, list[tuple[int, Metrics]]] = {}
    for told in files:
        own = PurePosixPath(told["rows"][0]["network"]).parent
        for row in told["rows"]:
            network = PurePosixPath(row["network"])
            name = row["recipe"] + ("" if network.parent == own else f" on {network}")
            recipes.setdefault(name, []).append((told["fold"], row))
    if not recipes:
        return None
    concepts = dict.fromkeys(
        concept
        for rows in recipes.values()
        for _, row in rows
        for concept in row["centred"].get("concepts") or {}
    )
    places: dict[str, tuple[str, ...]] = dict(ABLATION_PLACES)
    places |= {concept: ("centred", "concepts", concept) for concept in concepts}
    rows = []
    for name, found in recipes.items():
        folds = ", ".join(str(fold) for fold in sorted({fold for fold, _ in found}))
        means = (_mean([row for _, row in found], place) for place in places.values())
        rows.append((f"`{name}`", folds, *means))
    return Table(("recipe", "folds", *places), tuple(rows))


def _mean(rows: Sequence[Metrics], place: Sequence[str]) -> str:
    found = []
    for row in rows:
        value: Any = row
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found.append(float(value))
    return rounded(sum(found) / len(found)) if found else "-"
