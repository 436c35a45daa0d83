"""The report for paper: tables and pictures alone, which every program that prints HTML draws."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.cases.source import CaseSource
from contrastdiagnosis.diagnosis.diagnoser import Diagnosis, SimilarCase
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.explanation import EvidenceMap, Explanation
from contrastdiagnosis.protocol.map_variant import SIGNS
from contrastdiagnosis.report.concept_section import ConceptSection, concept_section
from contrastdiagnosis.report.pictures import (
    bar_image,
    cell_thumbnail,
    data_uri,
    middle_slice,
    thumbnail,
)
from contrastdiagnosis.report.screen import headline_metrics
from contrastdiagnosis.report.summary import remarks_of, summarise


def render_print_report(
    diagnosis: Diagnosis, volume: Volume, bundle: Bundle, explanations: Sequence[Explanation]
) -> str:
    """HTML without style sheets, vector drawings or controls, as Qt's text document prints it.

    Args:
        diagnosis: What is reported.
        volume: The CT.
        bundle: The bundle that gave the diagnosis.
        explanations: Of the shown cases, in their order.
    """
    environment = Environment(
        loader=PackageLoader("contrastdiagnosis.report"), autoescape=True, undefined=StrictUndefined
    )
    nodule = diagnosis.encoding.probability * diagnosis.nodule
    k = middle_slice(nodule)
    section = concept_section(diagnosis, bundle)
    return environment.get_template("print.html.j2").render(
        summary=summarise(diagnosis, volume, bundle.info, explanations),
        created=date.today().isoformat(),
        picture=data_uri(thumbnail(diagnosis.encoding.patch.intensity[k], nodule[k] >= 0.5)),
        cases=[
            _case(similar, explanation, diagnosis, bundle.info.case_source)
            for similar, explanation in zip(diagnosis.cases, explanations, strict=True)
        ],
        metrics=headline_metrics(bundle.info),
        protocol=bundle.info.metrics.get("protocol", ""),
        info=bundle.info,
        section=section,
        concepts=_concepts(section) if section else [],
    )


def _concepts(section: ConceptSection) -> list[dict[str, Any]]:
    """The concepts with bars and pictures: the nodule's, and the example's if it has one."""
    rows = []
    for row in section.rows:
        shown = [("this nodule", row.shown)]
        if row.example and row.example.shown:
            how = "is like" if row.score >= row.usual else "is hardly like"
            shown.append((f"{how} this part of a case", row.example.shown))
        share = 0.5 + row.contribution / section.highest / 2
        colour = "#b5392b" if row.contribution > 0 else "#1f6f8b"
        rows.append(
            {
                "row": row,
                "was": section.before.get(row.concept.name),
                "presence": data_uri(bar_image(row.presence or 0.0)),
                "contribution": data_uri(bar_image(share, colour, start=0.5)),
                "pictures": [(name, data_uri(cell_thumbnail(s))) for name, s in shown],
            }
        )
    return rows


def _case(
    similar: SimilarCase, explanation: Explanation, diagnosis: Diagnosis, case_source: CaseSource
) -> dict[str, Any]:
    """A case with the nodule's map of each sign, and its own where it has pixels."""
    patch = diagnosis.encoding.patch
    nodule = diagnosis.encoding.probability * diagnosis.nodule
    pictures = []
    for sign in SIGNS:
        sides = [explanation.query, *([explanation.case] if explanation.case else [])]
        highest = max(side.of_sign(sign).highest for side in sides) or 1.0
        query = explanation.query.of_sign(sign)
        pictures.append((f"nodule, {sign}", _mapped(patch.intensity, nodule, query, sign, highest)))
        if explanation.case and explanation.pixels:
            pixels, evidence = explanation.pixels, explanation.case.of_sign(sign)
            mask = pixels.mask.astype(np.float32)
            drawn = _mapped(pixels.intensity, mask, evidence, sign, highest)
            pictures.append((f"case, {sign}", drawn))
    ratings = [
        (scale.title, similar.case.ratings[scale.name], f"{scale.highest:g}")
        for scale in case_source.scales
        if scale.name in similar.case.ratings
    ]
    return {
        "similar": similar,
        "pictures": pictures,
        "ratings": ratings,
        "parts": explanation.parts_sentence,
        "remarks": remarks_of(explanation),
    }


def _mapped(
    intensity: np.ndarray, mask: np.ndarray, evidence: EvidenceMap, sign: str, highest: float
) -> str:
    k = middle_slice(mask) if evidence.empty else evidence.slice_index
    strength = None if evidence.empty else evidence.values[k] * (evidence.highest / highest)
    return data_uri(thumbnail(intensity[k], mask[k] >= 0.5, strength, sign))
