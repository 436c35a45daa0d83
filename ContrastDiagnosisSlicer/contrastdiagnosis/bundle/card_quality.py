"""Which metrics of poor images a card tells; bundles without a detector lack them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrastdiagnosis.bundle.card_metrics import Metrics, Table, rounded, source_of
from contrastdiagnosis.trust.poor_image import KINDS, SEVERAL

if TYPE_CHECKING:
    from contrastdiagnosis.trust.poor_image import PoorVerdicts

ROBUST_COLUMNS = {
    "auc": "AUC",
    "auc_diameter": "AUC of the diameter alone",
    "accuracy": "accuracy",
    "shift": "mean change of the probability",
    "overlap": "ten nearest cases that stay",
    "dice": "Dice",
}
"""Figures of one kind of poorer scan and how the card names them."""


@dataclass(frozen=True)
class QualityMetrics:
    """How well poor images are told, and what they do to a diagnosis.

    Attributes:
        source: Which command printed it, and how.
        auroc: How well each kind is told, by what made images poorer.
        told: Share of the images that each kind is told of.
        came: The same of images as they came, by where they are from.
        verdicts: What verdicts in poor images are worth.
        robustness: The same nodules in poorer scans; None where it was not measured.
        robustness_source: Which command printed that.
    """

    source: str
    auroc: Table
    told: Table
    came: Table
    verdicts: Table
    robustness: Table | None
    robustness_source: str


def quality_metrics(metrics: Metrics, worth: tuple[PoorVerdicts, ...]) -> QualityMetrics | None:
    """What the card tells of poor images; None where they are not told.

    Args:
        metrics: `BundleInfo.metrics`.
        worth: `CaseLimits.poor_verdicts`.
    """
    measured = metrics.get("image_quality")
    if not measured:
        return None
    robustness = metrics.get("robustness")
    return QualityMetrics(
        source=source_of(measured),
        auroc=Table(
            ("made poorer by, severity 3 to 5", "n", *KINDS),
            tuple(
                (_spoken(row["operation"]), str(row["n"]), *(rounded(row[k]) for k in KINDS))
                for row in measured["auroc"]
                if row["severity"] == 0
            ),
        ),
        told=Table(
            ("images", "n", *KINDS, "any"),
            tuple(
                (
                    _spoken(row["operation"]),
                    str(row["n"]),
                    *(rounded(row[k]) for k in (*KINDS, "any")),
                )
                for row in measured["told"]
            ),
        ),
        came=Table(
            ("images as they came", "n", "slices, mm", *KINDS),
            tuple(
                (
                    row["source"], str(row["n"]), f"{row['slice_mm']:g}",
                    *(rounded(row[k]) for k in KINDS),
                )
                for row in measured.get("came", ())
            ),
        ),
        verdicts=Table(
            (
                "told", "benign is sure up to", "malignant is sure from", "wrong of the sure",
                "wrong of the others", "nodules missed",
            ),
            tuple(_verdict_row(verdicts) for verdicts in worth),
        ),
        robustness=_robustness(robustness) if robustness else None,
        robustness_source=source_of(robustness) if robustness else "",
    )  # fmt: skip


def _verdict_row(verdicts: PoorVerdicts) -> tuple[str, ...]:
    return (
        "several of these" if verdicts.kind == SEVERAL else verdicts.kind,
        rounded(verdicts.low) if verdicts.low > 0 else "-",
        rounded(verdicts.high) if verdicts.high < 1 else "-",
        rounded(verdicts.wrong_beyond),
        rounded(verdicts.wrong_between),
        rounded(verdicts.missed),
    )


def _robustness(metrics: Metrics) -> Table:
    """Rows of every run, as scanned and in poorer scans."""
    rows = [
        (name, _spoken(way), *(rounded(figures[key]) for key in ROBUST_COLUMNS))
        for name, run in metrics["runs"].items()
        for way, figures in [("as scanned", run["clean"]), *run["ways"].items()]
    ]
    return Table(("network", "scans, severity", *ROBUST_COLUMNS.values()), tuple(rows))


def _spoken(operation: str) -> str:
    return operation.replace("_", " ").replace("+", " and ")
