"""The HTML report: one self-contained file that a radiologist reads and files away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.library import Case
from contrastdiagnosis.cases.source import CaseSource
from contrastdiagnosis.diagnosis.diagnoser import Diagnosis, SimilarCase
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.explanation import Explanation
from contrastdiagnosis.protocol.map_variant import SIGNS
from contrastdiagnosis.report.charts import Chart, metric_charts, similarity_chart
from contrastdiagnosis.report.concept_section import concept_section
from contrastdiagnosis.report.pictures import (
    Picture,
    cell_picture,
    evidence_picture,
    overview_picture,
    plane_pictures,
)
from contrastdiagnosis.report.summary import summarise


class MapPoint(NamedTuple):
    """A case on the map of cases."""

    x: float
    y: float
    malignant: bool
    nearest: bool
    label: str


class SignPictures(NamedTuple):
    """One sign of a pair's explanation: the nodule beside the case."""

    sign: str
    query: Picture
    case: Picture | None
    """None where the case has no pixels."""


def render_report(
    diagnosis: Diagnosis,
    volume: Volume,
    bundle: Bundle,
    explanations: Sequence[Explanation],
    overview: Volume | None = None,
) -> str:
    """HTML text of the report; no script, no link to anything outside the file.

    Args:
        diagnosis: What is reported.
        volume: The CT, or a crop of it around the point.
        bundle: The bundle that gave the diagnosis.
        explanations: Of the shown cases, in their order, as `Diagnoser.explain` gives them.
        overview: Where the overview slice is taken from instead of the volume.
    """
    geometry = bundle.info.geometry
    environment = Environment(
        loader=PackageLoader("contrastdiagnosis.report"), autoescape=True, undefined=StrictUndefined
    )
    points, query = case_map(bundle, diagnosis)
    return environment.get_template("report.html.j2").render(
        summary=summarise(diagnosis, volume, bundle.info, explanations),
        diagnosis=diagnosis,
        info=bundle.info,
        created=date.today().isoformat(),
        overview=overview_picture(diagnosis, overview or volume),
        planes=plane_pictures(
            diagnosis.encoding.patch.intensity,
            diagnosis.encoding.probability * diagnosis.nodule,
            geometry,
            diagnosis.diameters.slice_index if diagnosis.found else None,
        ),
        cards=[
            _card(similar, explanation, diagnosis, bundle.info.case_source)
            for similar, explanation in zip(diagnosis.cases, explanations, strict=True)
        ],
        threshold=bundle.indicator.threshold,
        charts=report_charts(diagnosis, bundle),
        map_points=points,
        map_query=query,
        total_cases=len(bundle.library),
        headline=headline_metrics(bundle.info),
        concepts=concept_section(diagnosis, bundle),
        cell_picture=cell_picture,
        scales={scale.name: scale for scale in bundle.info.case_source.scales},
    )


def headline_metrics(info: BundleInfo) -> dict[str, Any] | None:
    """The metrics of the rule `exclude3` if the bundle was measured."""
    return info.metrics.get("exclude3")


def report_charts(diagnosis: Diagnosis, bundle: Bundle) -> list[Chart]:
    """How near the cases are, and what the bundle's answers were worth where that was measured."""
    charts = [similarity_chart(bundle.indicator, [c.distance for c in diagnosis.cases])]
    metrics = headline_metrics(bundle.info) or {}
    shown = diagnosis.probability if diagnosis.judged else None
    return charts + (metric_charts(metrics, shown) if "curves" in metrics else [])


def case_map(bundle: Bundle, diagnosis: Diagnosis) -> tuple[list[MapPoint], tuple[float, float]]:
    """All cases and the query in the plane of the embeddings' first two principal axes."""
    embedding = bundle.library.embedding.astype(np.float64)
    mean = embedding.mean(axis=0)
    _, _, axes = np.linalg.svd(embedding - mean, full_matrices=False)
    placed = (np.vstack([embedding, diagnosis.encoding.embedding]) - mean) @ axes[:2].T
    low, high = placed.min(axis=0), placed.max(axis=0)
    placed = (placed - low) / np.maximum(high - low, 1e-9)
    nearest = {similar.case.case_id for similar in diagnosis.cases}
    points = [
        MapPoint(float(x), float(y), c.malignant, c.case_id in nearest, _case_label(c))
        for (x, y), c in zip(placed[:-1], bundle.library.cases, strict=True)
    ]
    points.sort(key=lambda point: point.nearest)
    return points, (float(placed[-1, 0]), float(placed[-1, 1]))


def sign_pictures(explanation: Explanation, diagnosis: Diagnosis) -> list[SignPictures]:
    """Both signs of a pair as pictures; the two sides of a sign share one scale of colour."""
    nodule = diagnosis.encoding.probability * diagnosis.nodule
    # Without a verdict it is not called a nodule.
    title = "this nodule" if diagnosis.judged else "this place"
    pictures = []
    for sign in SIGNS:
        sides = [explanation.query, *([explanation.case] if explanation.case else [])]
        highest = max(side.of_sign(sign).highest for side in sides) or 1.0
        query = evidence_picture(
            title, diagnosis.encoding.patch.intensity, nodule,
            explanation.query.of_sign(sign), sign, highest,
        )  # fmt: skip
        case = None
        if explanation.case and explanation.pixels:
            pixels = explanation.pixels
            case = evidence_picture(
                "the case", pixels.intensity, pixels.mask.astype(np.float32),
                explanation.case.of_sign(sign), sign, highest,
            )  # fmt: skip
        pictures.append(SignPictures(sign, query, case))
    return pictures


def _case_label(case: Case) -> str:
    kind = "malignant" if case.malignant else "benign"
    return f"{case.case_id}: {kind}, {case.diameter_mm:.1f} mm"


def _card(
    similar: SimilarCase, explanation: Explanation, diagnosis: Diagnosis, case_source: CaseSource
) -> dict[str, Any]:
    case = similar.case
    return {
        "similar": similar,
        "case": case,
        "sign_pictures": sign_pictures(explanation, diagnosis),
        "parts": explanation.parts_sentence,
        "remarks": explanation.remarks,
        "ratings": [
            (scale, case.ratings[scale.name])
            for scale in case_source.scales
            if scale.name in case.ratings
        ],
    }
