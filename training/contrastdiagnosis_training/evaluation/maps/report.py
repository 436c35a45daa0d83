"""The table and the HTML report of `explain-eval`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from contrastdiagnosis.maps.explanation import EvidenceMap
from contrastdiagnosis.report.charts import Chart, Series
from contrastdiagnosis.report.pictures import Picture, evidence_picture

from contrastdiagnosis_training.evaluation.maps.faithfulness import SHARES
from contrastdiagnosis_training.evaluation.maps.measure import (
    CONTROLS,
    Measure,
    Place,
    Score,
    What,
    of_records,
)
from contrastdiagnosis_training.evaluation.maps.pair_parts import parts_lines
from contrastdiagnosis_training.evaluation.maps.probe import Probe
from contrastdiagnosis_training.evaluation.page import render_page
from contrastdiagnosis_training.evaluation.table import confidence_table

SEEN = Measure("energy", place="off-centre")
SHOWN = 6
"""Pictures of each kind: the first ones drawn, and those where the map misses most."""

COLOURS = {
    "map": ("Local-CAM, similar", "#b5392b"),
    "different": ("Local-CAM, different", "#8e4fa8"),
    "gaussian": ("centre Gaussian", "#1f6f8b"),
    "mask": ("segmentation alone", "#8a5a00"),
    "random": ("random", "#98a2b0"),
}


TOLD = (
    Measure("deletion", score="distance"),
    Measure("insertion", score="distance"),
    Measure("deletion", score="vote"),
    Measure("insertion", score="vote"),
    Measure("deletion", score="raw distance"),
    Measure("deletion", place="off-centre", score="distance"),
    Measure("insertion", place="off-centre", score="distance"),
    Measure("deletion", place="off-centre", score="vote"),
    Measure("deletion", place="off-centre", score="raw distance"),
    Measure("energy"),
    Measure("pointing"),
    Measure("energy", place="off-centre"),
    Measure("pointing", place="off-centre"),
)
"""Lines of the table, each of the map and its controls."""


class Row(NamedTuple):
    """One line of the target table; `holds` is None where nothing was measured."""

    name: str
    value: str
    must: str
    aim: str
    holds: bool | None
    reached: bool | None
    """The aim."""


def target_rows(metrics: dict[str, Any]) -> list[Row]:
    """The targets, with the controls that each must be read beside."""
    maps = of_records(metrics["maps"])
    against = {(row["over"], row["place"]): row for row in metrics["against"] if _is_main(row)}
    rows = []
    places: dict[Place, str] = {
        "centred": "centred on the readers' mask",
        "off-centre": "off-centre",
    }
    for place, where in places.items():
        gaussian, mask = (against.get((name, place)) for name in ("gaussian", "mask"))
        if gaussian and mask:
            value = {n: maps[Measure("deletion", n, place, "distance")] for n in COLOURS}
            rows.append(
                Row(
                    f"deletion AUC on the distance, {where}",
                    f"{value['map']:.3f}, Gaussian {value['gaussian']:.3f} (p {gaussian['p']:.3f})",
                    "lower than the centre Gaussian, p < .05",
                    f"20 % lower, and lower than the mask alone ({value['mask']:.3f})",
                    gaussian["gain"] > 0 and gaussian["p"] < 0.05,
                    (gaussian["relative"] or 0) >= 0.2 and mask["gain"] > 0,
                )
            )
    asked: tuple[tuple[What, str, float, float], ...] = (
        ("energy", "energy inside the mask, off-centre", 0.5, 0.7),
        ("pointing", "pointing game, off-centre", 0.75, 0.9),
    )
    for what, title, must, aim in asked:
        value = {n: maps[Measure(what, n, "off-centre")] for n in ("map", *CONTROLS)}
        beside = f"random {value['random']:.3f}, centre {value['gaussian']:.3f}"
        rows.append(_at_least(title, value["map"], must, aim, beside))
    for name in ("random weights", "random labels"):
        correlation = maps.get(Measure("correlation", name))
        if correlation is not None:
            rows.append(
                Row(
                    f"Spearman with a network of {name}", f"{correlation:.3f}", "<= 0.5", "<= 0.3",
                    correlation <= 0.5, correlation <= 0.3,
                )
            )  # fmt: skip
    trust = metrics["confidence"]
    if trust.get("coverage") is not None:
        value = trust["coverage"]
        rows.append(
            Row(
                "coverage of the 95 % threshold", f"{value:.3f}", "0.92-0.98", "0.94-0.96",
                0.92 <= value <= 0.98, 0.94 <= value <= 0.96,
            )
        )  # fmt: skip
    if _known(trust.get("auc_gap")):
        rows.append(
            Row(
                "AUC of the confident minus AUC of the doubtful",
                f"{trust['auc_gap']:.3f}"
                f" ({_worth(trust, 'confident')}; {_worth(trust, 'doubtful')})",
                ">= 0.10",
                ">= 0.25, 70 % confident",
                trust["auc_gap"] >= 0.1,
                trust["auc_gap"] >= 0.25 and trust["confident"]["share"] >= 0.7,
            )
        )
    ratings = metrics["ratings"].values()
    if ratings:
        lower = sum(r["neighbours"] < r["same_label"] for r in ratings)
        known = [r for r in ratings if _known(r["readers"])]
        level = sum(r["neighbours"] <= r["readers"] for r in known)
        rows.append(
            Row(
                "ratings nearer to the top 6 than to random cases of the label",
                f"{lower} of {len(ratings)}; {level} of {len(known)} at the readers' own"
                " disagreement",
                "all", "all at the readers'", lower == len(ratings), 0 < level == len(ratings),
            )
        )  # fmt: skip
    return rows


def _is_main(row: dict[str, Any]) -> bool:
    return (row["what"], row["score"]) == ("deletion", "distance")


def _worth(trust: dict[str, Any], group: str) -> str:
    told = trust[group]
    return (
        f"{group}: AUC {told['auc']:.3f}, accuracy {told['accuracy']:.3f},"
        f" {told['share']:.0%}, n {told['n']}"
    )


def _known(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _at_least(name: str, value: float, must: float, aim: float, beside: str) -> Row:
    return Row(
        f"{name} ({beside})", f"{value:.3f}", f">= {must}", f">= {aim}", value >= must, value >= aim
    )


def table(metrics: dict[str, Any]) -> str:
    """The metrics as text."""
    lines = [metrics["protocol"], f"map: {metrics['variant']}", ""]
    for row in target_rows(metrics):
        verdict = "aim" if row.reached else "holds" if row.holds else "MISSED"
        lines.append(f"{row.name:76} {row.value:42} {verdict:7} must {row.must}; aim {row.aim}")
    lines += ["", confidence_table(metrics["confidence"])]
    lines += [
        "",
        f"{'mean absolute difference of ratings':36}{'top 6':>8}{'label':>8}{'readers':>8}",
    ]
    for name, r in metrics["ratings"].items():
        readers = f"{r['readers']:8.3f}" if _known(r["readers"]) else f"{'-':>8}"
        lines.append(f"  {name:34}{r['neighbours']:8.3f}{r['same_label']:8.3f}{readers}")
    lines += ["", f"{'':36}" + "".join(f"{name:>12}" for name in COLOURS)]
    maps = of_records(metrics["maps"])
    for measure in TOLD:
        values = [maps.get(measure._replace(of=name)) for name in COLOURS]
        texts = [f"{v:.3f}" if v is not None else "-" for v in values]
        lines.append(f"{measure.words:36}" + "".join(f"{t:>12}" for t in texts))
    for change in ("shift", "noise"):
        lines.append(f"{f'stability under {change}':36}{maps[Measure('stability', change)]:12.3f}")
    return "\n".join([*lines, "", *parts_lines(metrics["parts"])])


def charts(metrics: dict[str, Any]) -> list[Chart]:
    """Deletion and insertion curves, on the distance and on the vote."""
    curves = of_records(metrics["curves"], "values")
    return [
        *_curve_charts(curves, "centred", ("distance", "vote")),
        *_curve_charts(curves, "off-centre", ("distance",)),
    ]


def _curve_charts(
    curves: dict[Measure, list[float | None]], place: Place, scores: Sequence[Score]
) -> list[Chart]:
    where = ", off-centre" if place == "off-centre" else ""
    titles = {"distance": "closeness of the pair", "vote": "diagnosis given"}
    ways: tuple[tuple[What, str], ...] = (("deletion", "deleted"), ("insertion", "put back"))
    drawn = []
    for score in scores:
        title = titles[score]
        for way, text in ways:
            series = []
            for name, (label, colour) in COLOURS.items():
                values = curves[Measure(way, name, place, score)]
                points = [(x, y) for x, y in zip(SHARES, values, strict=True) if y is not None]
                series.append(Series(label, "line", colour, points))
            drawn.append(
                Chart(
                    f"{way.title()}: what is left of the {title}{where}",
                    f"share of the patch that was {text}",
                    "closeness" if score == "distance" else "probability of the diagnosis",
                    tuple(series),
                    x_range=(0.0, SHARES[-1]),
                )
            )
    return drawn


def example_pictures(probes: Sequence[Probe]) -> dict[str, list[Picture]]:
    """Off-centre patches with their maps: the first ones drawn, and the worst."""
    order = np.argsort([p.metrics[SEEN] for p in probes], kind="stable")
    return {
        "As drawn": [_picture(p) for p in probes[:SHOWN]],
        "Where the map misses the nodule most": [_picture(probes[n]) for n in order[:SHOWN]],
    }


def _picture(probe: Probe) -> Picture:
    intensity, mask, values = probe.picture
    evidence = EvidenceMap(values, float(values.max()))
    return evidence_picture(
        f"energy inside {probe.metrics[SEEN]:.2f}",
        intensity,
        mask.astype(np.float32),
        evidence,
        "similar",
        evidence.highest or 1.0,
    )


def render_explain_report(metrics: dict[str, Any], probes: Sequence[Probe], notice: str) -> str:
    """HTML text of the report; no script, no link to anything outside the file.

    Args:
        metrics: What `explain-eval` writes.
        probes: Of the nodules that maps were made for.
        notice: Of the nodules' source: what the maps must not be used for.
    """
    return render_page(
        "maps",
        "explain.html.j2",
        metrics=metrics,
        rows=target_rows(metrics),
        charts=charts(metrics),
        parts=parts_lines(metrics["parts"]),
        examples=example_pictures(probes),
        notice=notice,
    )
