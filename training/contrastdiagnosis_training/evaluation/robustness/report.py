"""The table and the HTML report of `robust-eval`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from contrastdiagnosis.report.charts import Chart, Series
from contrastdiagnosis.report.pictures import Picture

from contrastdiagnosis_training.evaluation.page import render_page
from contrastdiagnosis_training.evaluation.robustness.figures import CHOSEN_SEVERITY

COLOURS = (
    "#5b6675", "#b5392b", "#1f6f8b", "#8a5a00", "#8e4fa8", "#2f7d4f", "#c2185b",
    "#7cb342", "#00a5c8", "#e8890c", "#111111", "#9c7b6b",
)  # fmt: skip
CURVES = {
    "auc": ("AUC of the vote", (0.7, 1.0)),
    "accuracy": ("accuracy", (0.6, 1.0)),
    "overlap": ("share of the ten nearest cases that stay", (0.0, 1.0)),
    "dice": ("Dice", (0.3, 1.0)),
    "change": ("mean absolute change of the probability", (0.0, 0.4)),
    "confident_wrong": ("confident and wrong, by the limits alone", (0.0, 0.5)),
}
"""What is drawn against severity, and its range."""

WIDTH = 44


def robust_table(metrics: dict[str, Any]) -> str:
    """The figures of every run as text: as scanned, shares of poor images, operations."""
    runs: Mapping[str, dict[str, Any]] = metrics["runs"]
    lines = [str(metrics["protocol"]), "", f"{'':{WIDTH}}" + "".join(f"{n:>16}" for n in runs)]

    def line(name: str, values: list[float | None]) -> None:
        told = "".join(f"{_figure(v):>16}" for v in values)
        lines.append(f"{name:{WIDTH}}{told}")

    for key in ("auc", "auc_diameter", "accuracy", "kappa", "dice", "confident"):
        line(f"as scanned: {key}", [r["clean"][key] for r in runs.values()])
    line("  AUC less that of the first run", [r["gain"]["auc"] for r in runs.values()])
    for share in next(iter(runs.values()))["mixed"]:
        for key in ("auc", "accuracy", "kappa"):
            line(f"{share} % poor images: {key}", [r["mixed"][share][key] for r in runs.values()])
    line(f"fall of the AUC at severity {CHOSEN_SEVERITY}", [r["fall"] for r in runs.values()])
    for name, ends in _interval_lines(runs):
        line(name, ends)
    line("  over that of the first run", [r["relative_fall"] for r in runs.values()])
    line("confident and wrong at severity 5", [r["wrong_at_worst"] for r in runs.values()])
    for way in next(iter(runs.values()))["ways"]:
        for key in ("auc", "shift", "overlap", "dice"):
            line(f"{way}: {key}", [r["ways"][way][key] for r in runs.values()])
    for stratum in next(iter(runs.values()))["native"]:
        line(f"native, {stratum}: AUC", [r["native"][stratum]["auc"] for r in runs.values()])
    for name, told in _map_lines(runs):
        line(name, told)
    return "\n".join(lines)


def _map_lines(runs: Mapping[str, dict[str, Any]]) -> list[tuple[str, list[float | None]]]:
    return [
        (
            f"maps, {operation} {CHOSEN_SEVERITY}: {name}",
            [r.get("maps", {}).get(operation, {}).get(key) for r in runs.values()],
        )
        for operation in next(iter(runs.values())).get("maps", {})
        for key, name in (("overlap", "overlap"), ("correlation", "rank correlation"))
    ]


def _interval_lines(runs: Mapping[str, dict[str, Any]]) -> list[tuple[str, list[float | None]]]:
    """Both ends of the intervals of the fall; none where nothing of that severity was looked at."""
    nothing = (None, None)
    return [
        (f"  {name}, 95 % {end}", [run.get(key, nothing)[n] for run in runs.values()])
        for key, name in (("fall_ci", "it"), ("fall_less_first_ci", "less that of the first run"))
        for n, end in enumerate(("from", "to"))
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def robust_charts(metrics: dict[str, Any]) -> dict[str, list[Chart]]:
    """Curves against severity by operation: for each figure of `CURVES` a line a run."""
    runs: Mapping[str, dict[str, Any]] = metrics["runs"]
    severities = metrics["severities"]
    return {
        operation: [
            _chart(
                key, {name: _curve(run, operation, key, severities) for name, run in runs.items()}
            )
            for key in CURVES
        ]
        for operation in metrics["operations"]
    }


def overview_charts(metrics: dict[str, Any]) -> dict[str, list[Chart]]:
    """Curves against severity by run: for each figure of `CURVES` a line an operation."""
    severities = metrics["severities"]
    return {
        name: [
            _chart(
                key,
                {
                    operation.replace("_", " "): _curve(run, operation, key, severities)
                    for operation in metrics["operations"]
                },
            )
            for key in CURVES
        ]
        for name, run in metrics["runs"].items()
    }


def _curve(
    run: Mapping[str, Any], operation: str, key: str, severities: Sequence[int]
) -> list[tuple[float, float]]:
    """A figure of a run from the scans as they are on; empty where a peer has no such figure."""
    if run["clean"].get(key, 0.0) is None:
        return []
    first = {"overlap": 1.0, "change": 0.0}.get(key, run["clean"].get(key))
    points = [(0.0, first)] + [(float(s), run["ways"][f"{operation} {s}"][key]) for s in severities]
    return [(x, y) for x, y in points if y is not None]


def _chart(key: str, curves: Mapping[str, list[tuple[float, float]]]) -> Chart:
    """A line each, dashed where the colours come round again."""
    title, span = CURVES[key]
    series = []
    for n, (name, points) in enumerate(curves.items()):
        again = n >= len(COLOURS)
        kind: Literal["line", "dashed"] = "dashed" if again else "line"
        label = f"{name} (dashed)" if again else name
        if points:
            series.append(Series(label, kind, COLOURS[n % len(COLOURS)], points))
    return Chart(title, "severity", title, tuple(series), (0.0, 5.0), span)


def render_robust_report(
    metrics: dict[str, Any], examples: Mapping[str, Sequence[Picture]], notice: str
) -> str:
    """HTML text of the report; no script, no link to anything outside the file.

    Args:
        metrics: What `robust-eval` writes.
        examples: Nodules with their maps, by title.
        notice: Of the nodules' source.
    """
    return render_page(
        "robustness",
        "robust.html.j2",
        metrics=metrics,
        charts=robust_charts(metrics),
        overview=overview_charts(metrics),
        examples=examples,
        table=robust_table(metrics),
        notice=notice,
    )
