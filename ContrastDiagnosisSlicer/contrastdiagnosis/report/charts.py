"""Charts of a report: what to draw in units of the data; the template turns it into SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from contrastdiagnosis.trust.confidence import SimilarityIndicator

HISTOGRAM_BINS = 40
WIDTH, HEIGHT = 300.0, 210.0
"""Plotting area in SVG units."""


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        label: For the legend; empty for none.
        kind: How they are drawn; bars reach from one x to the next.
        colour: CSS colour.
        points: (N, 2) in units of the data.
    """

    label: str
    kind: Literal["line", "dashed", "dots", "bars"]
    colour: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A vertical line with a label."""

    label: str
    colour: str
    x: float


@dataclass(frozen=True)
class Chart:
    """A chart with its ranges."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    marks: tuple[Mark, ...] = ()

    def x(self, value: float) -> float:
        """Place of a value across the plotting area; beyond the range it stays at the edge."""
        low, high = self.x_range
        return WIDTH * float(np.clip((value - low) / (high - low), 0, 1))

    def y(self, value: float) -> float:
        """Place of a value down the plotting area."""
        low, high = self.y_range
        return HEIGHT * (1 - float(np.clip((value - low) / (high - low), 0, 1)))

    def path(self, series: Series) -> str:
        """SVG path through the points."""
        return "M" + "L".join(f"{self.x(a):.1f} {self.y(b):.1f}" for a, b in series.points)

    @staticmethod
    def ticks(span: tuple[float, float]) -> list[tuple[float, str]]:
        """About five round values within a range, and how they are written."""
        low, high = span
        step = 10 ** np.floor(np.log10((high - low) / 4))
        step *= min((1, 2, 2.5, 5, 10), key=lambda f: abs((high - low) / (f * step) - 4))
        first = np.ceil(low / step - 1e-9)
        count = int(np.floor(high / step + 1e-9) - first) + 1
        values = [float(step * (first + n)) + 0.0 for n in range(count)]
        return [(value, f"{value:.4g}") for value in values]


DIAGONAL = Series("", "dashed", "#98a2b0", ((0, 0), (1, 1)))


def similarity_chart(indicator: SimilarityIndicator, distances: ArrayLike) -> Chart:
    """Distances of correctly matched pairs, with the threshold and this nodule's own cases."""
    matched, threshold = indicator.matched, indicator.threshold
    shown = np.asarray(distances, dtype=np.float64)
    end = float(max(np.quantile(matched, 0.99), threshold * 1.15, shown.max() * 1.05))
    count, edges = np.histogram(matched, HISTOGRAM_BINS, (0, end))
    bars = [(float(e), float(c / len(matched))) for e, c in zip(edges, [*count, 0], strict=True)]
    highest = 1.15 * max(share for _, share in bars)
    # Just above the axis: their height means nothing.
    dots = [(float(d), 0.045 * highest) for d in shown]
    return Chart(
        "How near the cases are",
        "distance",
        "share of matched pairs",
        (
            Series("correctly matched pairs, unseen in training", "bars", "#aebccd", bars),
            Series("the six cases", "dots", "#1c2430", dots),
        ),
        (0.0, end),
        (0.0, highest),
        (Mark(indicator.threshold_name, "#8a5a00", threshold),),
    )


def metric_charts(metrics: dict[str, Any], this_probability: float | None = None) -> list[Chart]:
    """Reliability, ROC and risk-coverage of a bundle that was measured on unseen patients.

    Args:
        metrics: Of one label rule, as `contrastdiagnosis-train evaluate` stores them.
        this_probability: Marked on the reliability diagram.
    """
    marks = () if this_probability is None else (Mark("this nodule", "#8a5a00", this_probability),)
    curves = metrics["curves"]
    vote, diameter = (f", AUC {metrics[name]:.3f}" for name in ("auc", "auc_diameter"))
    reliability = [(p, observed) for p, observed, _ in curves["reliability"]]
    highest = max(0.05, 1.1 * max(risk for _, risk in curves["risk_coverage"]))
    return [
        Chart(
            "What a probability has meant", "probability given", "share rated malignant",
            (DIAGONAL, Series("tenths of the unseen nodules", "dots", "#1f6f8b", reliability)),
            marks=marks,
        ),
        Chart(
            "Telling malignant from benign", "1 - specificity", "sensitivity",
            (
                DIAGONAL,
                Series("vote of the cases" + vote, "line", "#b5392b", curves["roc"]),
                Series("diameter alone" + diameter, "line", "#1f6f8b", curves["roc_diameter"]),
            ),
        ),
        Chart(
            "Errors when unsure nodules are left out", "share that is diagnosed", "share of errors",
            (Series("surest first", "line", "#b5392b", curves["risk_coverage"]),),
            y_range=(0.0, highest),
        ),
    ]  # fmt: skip
