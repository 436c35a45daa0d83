"""Which metrics of poor images a card tells; bundles without a detector lack them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contrastdiagnosis.bundle.card_metrics import Metrics, Table, rounded, source_of
from contrastdiagnosis.trust.poor_image import KINDS, SEVERAL

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
        numbers: What is measured of poorer images against what it should be, at the severities
            that are told.
        recalibration: Whether probabilities would gain by a calibration of their own there.
        verdicts: What verdicts in poor images are worth.
        bands: How many were wrong, by their probability.
        robustness: The same nodules in poorer scans; None where it was not measured.
        robustness_source: Which command printed that.
    """

    source: str
    auroc: Table
    told: Table
    came: Table
    numbers: Table
    recalibration: Table
    verdicts: Table
    bands: Table
    robustness: Table | None
    robustness_source: str


def quality_metrics(metrics: Metrics) -> QualityMetrics | None:
    """What the card tells of poor images, by `BundleInfo.metrics`; None where they are not told."""
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
        numbers=_numbers(measured.get("numbers", ())),
        recalibration=_recalibration(measured.get("recalibration", ())),
        verdicts=Table(
            (
                "told", "benign is sure up to", "malignant is sure from", "wrong of the sure",
                "wrong of the others", "nodules missed",
            ),
            tuple(_verdict_row(row) for row in measured["verdicts"]),
        ),
        bands=Table(
            ("told", "probability", "wrong"),
            tuple(
                (_kind(row["kind"]), f"{row['low']:.0%}-{row['high']:.0%}", rounded(row["wrong"]))
                for row in measured.get("bands", ())
            ),
        ),
        robustness=_robustness(robustness) if robustness else None,
        robustness_source=source_of(robustness) if robustness else "",
    )  # fmt: skip


def _verdict_row(row: Metrics) -> tuple[str, ...]:
    """Bundles of lidc 12's form hold shares by their own borders: these are not told."""
    return (
        _kind(row["kind"]),
        rounded(row["low"]) if row["low"] > 0 else "-",
        rounded(row["high"]) if row["high"] < 1 else "-",
        rounded(row.get("wrong_sure")),
        rounded(row.get("wrong_unsure")),
        rounded(row["missed"]),
    )


def _numbers(rows: Sequence[Metrics]) -> Table:
    """Of the severities that are told."""
    head = ("made poorer by", "severity", "should be", "is measured", "9 of 10 within, times it")
    return Table(
        head,
        tuple(
            (
                _spoken(row["operation"]),
                str(row["severity"]),
                f"{row['wanted']:.1f} {'HU' if row['measure'] == 'noise_hu' else 'mm'}",
                f"{row['measured']:.1f}",
                f"{rounded(row['ratio_5'])}-{rounded(row['ratio_95'])}",
            )
            for row in rows
            if row["severity"] >= 3
        ),
    )


def _recalibration(rows: Sequence[Metrics]) -> Table:
    head = ("told", "n", "Brier score", "anew", "ECE", "anew", "to be expected")
    return Table(
        head,
        tuple(
            (
                _kind(row["kind"]),
                str(row["n"]),
                *(rounded(row[key]) for key in ("brier", "brier_own", "ece", "ece_own")),
                rounded(row["ece_expected"]),
            )
            for row in rows
        ),
    )


def _kind(name: str) -> str:
    return "several of these" if name == SEVERAL else name


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
