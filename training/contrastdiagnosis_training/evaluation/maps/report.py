"""The table and the HTML report of `explain-eval`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.maps.explanation import EvidenceMap
from contrastdiagnosis.report.charts import Chart, Series
from contrastdiagnosis.report.pictures import Picture, evidence_picture
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from contrastdiagnosis_training.evaluation.maps.faithfulness import SHARES
from contrastdiagnosis_training.evaluation.maps.pair_parts import parts_lines
from contrastdiagnosis_training.evaluation.maps.probe import Probe
from contrastdiagnosis_training.evaluation.table import confidence_table

SHOWN = 6
"""Pictures of each kind: the first ones drawn, and those where the map misses most."""

COLOURS = {
    "map": ("Local-CAM, similar", "#b5392b"),
    "different": ("Local-CAM, different", "#8e4fa8"),
    "gaussian": ("centre Gaussian", "#1f6f8b"),
    "mask": ("segmentation alone", "#8a5a00"),
    "random": ("random", "#98a2b0"),
}


class Row(NamedTuple):
    """One line of the target table; `holds` is None where nothing was measured."""

    name: str
    value: str
    must: str
    aim: str
    holds: bool | None
    reached: bool | None
    """The aim."""


def target_rows(figures: dict[str, Any]) -> list[Row]:
    """The targets, with the controls that each must be read beside."""
    maps, against = figures["maps"], figures["against"]
    rows = []
    for place, where in (("", "centred on the readers' mask"), ("off_centre_", "off-centre")):
        kind = f"{place}deletion_distance"
        gaussian, mask = (against.get(f"{kind}_over_{name}") for name in ("gaussian", "mask"))
        if gaussian and mask:
            rows.append(
                Row(
                    f"deletion AUC on the distance, {where}",
                    f"{maps[f'{kind}_map']:.3f}, Gaussian {maps[f'{kind}_gaussian']:.3f}"
                    f" (p {gaussian['p']:.3f})",
                    "lower than the centre Gaussian, p < .05",
                    f"20 % lower, and lower than the mask alone ({maps[f'{kind}_mask']:.3f})",
                    gaussian["gain"] > 0 and gaussian["p"] < 0.05,
                    (gaussian["relative"] or 0) >= 0.2 and mask["gain"] > 0,
                )
            )
    rows += [
        _at_least(
            "energy inside the mask, off-centre", maps["energy_off_centre_map"], 0.5, 0.7,
            f"random {maps['energy_off_centre_random']:.3f},"
            f" centre {maps['energy_off_centre_gaussian']:.3f}",
        ),
        _at_least(
            "pointing game, off-centre", maps["pointing_off_centre_map"], 0.75, 0.9,
            f"random {maps['pointing_off_centre_random']:.3f},"
            f" centre {maps['pointing_off_centre_gaussian']:.3f}",
        ),
    ]  # fmt: skip
    for name, title in (("random_weights", "weights"), ("random_labels", "labels")):
        value = maps.get(f"spearman_{name}")
        if value is not None:
            text = f"{value:.3f}"
            rows.append(
                Row(
                    f"Spearman with a network of random {title}", text, "<= 0.5", "<= 0.3",
                    value <= 0.5, value <= 0.3,
                )
            )  # fmt: skip
    trust = figures["confidence"]
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
    ratings = figures["ratings"].values()
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


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [figures["protocol"], f"map: {figures['variant']}", ""]
    for row in target_rows(figures):
        verdict = "aim" if row.reached else "holds" if row.holds else "MISSED"
        lines.append(f"{row.name:76} {row.value:42} {verdict:7} must {row.must}; aim {row.aim}")
    lines += ["", confidence_table(figures["confidence"])]
    lines += [
        "",
        f"{'mean absolute difference of ratings':36}{'top 6':>8}{'label':>8}{'readers':>8}",
    ]
    for name, r in figures["ratings"].items():
        readers = f"{r['readers']:8.3f}" if _known(r["readers"]) else f"{'-':>8}"
        lines.append(f"  {name:34}{r['neighbours']:8.3f}{r['same_label']:8.3f}{readers}")
    lines += ["", f"{'':36}" + "".join(f"{name:>12}" for name in COLOURS)]
    for kind in (
        "deletion_distance", "insertion_distance", "deletion_vote", "insertion_vote",
        "deletion_raw_distance", "off_centre_deletion_distance",
        "off_centre_insertion_distance", "off_centre_deletion_vote",
        "off_centre_deletion_raw_distance", "energy_centred", "pointing_centred",
        "energy_off_centre", "pointing_off_centre",
    ):  # fmt: skip
        values = [figures["maps"].get(f"{kind}_{name}") for name in COLOURS]
        texts = [f"{v:.3f}" if v is not None else "-" for v in values]
        lines.append(f"{kind.replace('_', ' '):36}" + "".join(f"{t:>12}" for t in texts))
    for name in ("stability_shift", "stability_noise"):
        lines.append(f"{name.replace('_', ' '):36}{figures['maps'][name]:12.3f}")
    return "\n".join([*lines, "", *parts_lines(figures["parts"])])


def charts(figures: dict[str, Any]) -> list[Chart]:
    """Deletion and insertion curves, on the distance and on the vote."""
    return [
        *_curve_charts(figures, ""),
        *(c for c in _curve_charts(figures, "off_centre_") if "pair" in c.title),
    ]


def _curve_charts(figures: dict[str, Any], place: str) -> list[Chart]:
    where = ", off-centre" if place else ""
    drawn = []
    for score, title in (("distance", "closeness of the pair"), ("vote", "diagnosis given")):
        for way, text in (("deletion", "deleted"), ("insertion", "put back")):
            series = []
            for name, (label, colour) in COLOURS.items():
                values = figures["curves"][f"{place}{way}_{score}_{name}"]
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
    order = np.argsort([p.figures["energy_off_centre_map"] for p in probes], kind="stable")
    return {
        "As drawn": [_picture(p) for p in probes[:SHOWN]],
        "Where the map misses the nodule most": [_picture(probes[n]) for n in order[:SHOWN]],
    }


def _picture(probe: Probe) -> Picture:
    intensity, mask, values = probe.picture
    evidence = EvidenceMap(values, float(values.max()))
    return evidence_picture(
        f"energy inside {probe.figures['energy_off_centre_map']:.2f}",
        intensity,
        mask.astype(np.float32),
        evidence,
        "similar",
        evidence.highest or 1.0,
    )


def render_explain_report(figures: dict[str, Any], probes: Sequence[Probe]) -> str:
    """HTML text of the report; no script, no link to anything outside the file."""
    own = PackageLoader("contrastdiagnosis_training.evaluation.maps")
    environment = Environment(
        loader=ChoiceLoader([own, PackageLoader("contrastdiagnosis.report")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("explain.html.j2").render(
        figures=figures,
        rows=target_rows(figures),
        charts=charts(figures),
        parts=parts_lines(figures["parts"]),
        examples=example_pictures(probes),
        created=date.today().isoformat(),
        notice=RESEARCH_USE_NOTICE,
    )
