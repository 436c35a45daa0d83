"""A diagnosis in plain words and numbers: what goes into JSON, reports and panels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from contrastdiagnosis import __version__
from contrastdiagnosis.bundle.info import BundleInfo
from contrastdiagnosis.cases.library import Case
from contrastdiagnosis.cases.vote import VoteRule
from contrastdiagnosis.concepts.concept_prediction import ConceptPrediction
from contrastdiagnosis.diagnosis.diagnoser import Diagnosis, SimilarCase
from contrastdiagnosis.imaging.image_quality import ImageQuality
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.explanation import NO_PICTURE, Explanation
from contrastdiagnosis.protocol.map_variant import SIGNS, variant_summary
from contrastdiagnosis.trust.poor_image import QualityDetector


def summarise(
    diagnosis: Diagnosis,
    volume: Volume,
    info: BundleInfo,
    explanations: Sequence[Explanation] = (),
) -> dict[str, Any]:
    """Everything but voxels, ready for JSON; millimetres are RAS, ratings the readers' means.

    Where there is nothing to judge, `verdict`, `probability`, `vote` and `concepts` are None,
    `finding` is "no nodule" or "not judged", and `reasons` say why. The similar cases stay. `vote`
    holds the `share` of malignant cases in a majority vote, else their `weighted_share`.

    Args:
        diagnosis: What is told.
        volume: The CT.
        info: Of the bundle.
        explanations: Of some of the shown cases; what their maps came to is told with the case,
            and how they were made in `map_variant`, None if as usual.
    """
    explained = {e.case_id: e for e in explanations}
    spacing_k, spacing_j, spacing_i = volume.spacing_mm
    return {
        "notice": info.case_source.notice,
        "engine_version": __version__,
        "bundle": {"name": info.name, "version": info.version},
        "scan": {
            "name": volume.name,
            "series_uid": volume.series_uid,
            "size_ijk": list(volume.hu.shape[::-1]),
            "spacing_ijk_mm": [round(s, 4) for s in (spacing_i, spacing_j, spacing_k)],
        },
        "point_ras_mm": [round(x, 2) for x in diagnosis.point_ras_mm],
        "nodule": {
            "found": diagnosis.found,
            "volume_mm3": round(diagnosis.volume_mm3, 1),
            "long_axis_mm": round(diagnosis.diameters.long_mm, 1),
            "short_axis_mm": round(diagnosis.diameters.short_mm, 1),
        },
        "image": _image(diagnosis.facts.quality, info.limits.detector),
        "finding": diagnosis.finding,
        "verdict": diagnosis.verdict,
        "probability": round(diagnosis.probability, 4) if diagnosis.judged else None,
        "vote": _vote(diagnosis, info.vote) if diagnosis.judged else None,
        "confident": diagnosis.confidence.confident,
        "reasons": list(diagnosis.confidence.reasons),
        "notices": list(diagnosis.notices),
        "concepts": concept_summary(diagnosis.concepts) if diagnosis.concepts else None,
        "disagreement": diagnosis.disagreement,
        "map_variant": variant_summary(explanations[0].variant) if explanations else None,
        "cases": [_case(c, explained.get(c.case.case_id)) for c in diagnosis.cases],
    }


def _image(quality: ImageQuality, detector: QualityDetector | None) -> dict[str, Any]:
    """What was measured of the image around the point, and in which ways it is told to be poor."""
    measured = {
        "slice_mm": quality.slice_mm,
        "noise_hu": quality.noise_hu,
        "detail_mm": quality.in_plane_mm,
        "thickness_mm": quality.thickness_mm,
    }
    told = {name: round(x, 2) if np.isfinite(x) else None for name, x in measured.items()}
    return {**told, "poor": list(detector.told(quality)) if detector else []}


def _vote(diagnosis: Diagnosis, rule: VoteRule) -> dict[str, Any]:
    return {
        "form": rule.form,
        "malignant": diagnosis.malignant_voters,
        "cases": diagnosis.voters,
        "share" if rule.majority else "weighted_share": round(diagnosis.score, 4),
    }


def concept_summary(prediction: ConceptPrediction) -> dict[str, Any]:
    """What the concepts say and why: `baseline` plus all contributions is `logit`.

    `prototype` and its `score` are None where no prototype is evidence.
    """
    shown = prediction.shown
    rows = [
        {
            "name": concept.name,
            "rejected": concept.name in prediction.revision.rejected,
            "presence": None if np.isnan(presence) else round(float(presence), 4),
            "contribution": float(contribution),
            "prototype": int(shown[k]) if shown[k] >= 0 else None,
            "score": round(float(prediction.scores[k, shown[k]]), 4) if shown[k] >= 0 else None,
            "criterion": concept.criterion,
            "reader_kappa": concept.reader_kappa,
            "auroc": concept.auroc,
        }
        for k, (concept, presence, contribution) in enumerate(
            zip(prediction.concepts, prediction.presence, prediction.contribution, strict=True)
        )
    ]
    return {
        "verdict": "malignant" if prediction.malignant else "benign",
        "probability": prediction.probability,
        "baseline": prediction.baseline,
        "logit": prediction.logit,
        "sentence": evidence_sentence(prediction),
        "concepts": rows,
        "revision": json.loads(json.dumps(asdict(prediction.revision))),
        "remarks": list(prediction.remarks),
    }


def evidence_sentence(prediction: ConceptPrediction) -> str:
    """Which concepts drive the score, the strongest first: "spiculated 0.82, +1.3 logits; ..."."""
    order = np.argsort(-np.abs(prediction.contribution), kind="stable")
    parts = []
    for k in order:
        presence, name = prediction.presence[k], prediction.concepts[k].name
        told = "rejected" if np.isnan(presence) else f"{presence:.2f}"
        parts.append(f"{name} {told}, {prediction.contribution[k]:+.1f} logits")
    without, together = f"{prediction.baseline:+.1f}", f"{prediction.logit:+.1f}"
    return f"{'; '.join(parts)}; without any {without}: together {together}"


def case_summary(case: Case) -> dict[str, Any]:
    """What is known of a case."""
    return {
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "label": "malignant" if case.malignant else "benign",
        "diameter_mm": round(case.diameter_mm, 1),
        "ratings": {name: round(value, 2) for name, value in case.ratings.items()},
        "series_uid": case.series_uid,
        "center_ras_mm": list(case.center_ras_mm) if case.center_ras_mm else None,
        "source": case.source,
    }


def _case(similar: SimilarCase, explanation: Explanation | None) -> dict[str, Any]:
    maps = {"maps": _maps(explanation)} if explanation else {}
    return {
        **case_summary(similar.case),
        "distance": round(similar.distance, 4),
        "similarity": round(similar.similarity, 4),
        **maps,
    }


def _maps(explanation: Explanation) -> dict[str, Any]:
    """Distance and its parts, raw maxima and remarks; a side that cannot be explained is null."""
    sides = {"query": explanation.query, "case": explanation.case}
    return {
        "distance": explanation.distance,
        "parts": parts_summary(explanation),
        "highest": {
            name: {sign: side.of_sign(sign).highest for sign in SIGNS} if side else None
            for name, side in sides.items()
        },
        "remarks": remarks_of(explanation),
    }


def parts_summary(explanation: Explanation) -> dict[str, Any] | None:
    """What of the distance no map can show and what they show: `statistics` + `features` is it."""
    parts = explanation.parts
    return {**parts, "sentence": explanation.parts_sentence} if parts else None


def remarks_of(explanation: Explanation) -> list[str]:
    """Sentences about what there is no evidence of, or no picture."""
    return [*explanation.remarks, *([] if explanation.case else [NO_PICTURE])]


def _concept_lines(summary: Mapping[str, Any]) -> list[str]:
    concepts = summary["concepts"]
    if concepts is None:
        return []
    return [
        f"concepts: {concepts['verdict']}, probability {concepts['probability']:.2f}:"
        f" {concepts['sentence']}",
        *(f"note: {remark}" for remark in concepts["remarks"]),
        *([summary["disagreement"]] if summary["disagreement"] else []),
    ]


def _verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    reasons = "; ".join(summary["reasons"])
    if summary["verdict"] is None:
        return [f"no verdict, {summary['finding']}: {reasons}"]
    vote = summary["vote"]
    return [
        f"{summary['verdict']}: probability {summary['probability']:.2f};"
        f" {vote['malignant']} of {vote['cases']} nearest cases are malignant",
        f"not confident: {reasons}" if reasons else "confident",
    ]


def summary_text(summary: Mapping[str, Any]) -> str:
    """What `summarise` gave, in a few lines for the terminal."""
    nodule = summary["nodule"]
    lines = [
        *_verdict_lines(summary),
        f"axial diameters {nodule['long_axis_mm']} x {nodule['short_axis_mm']} mm,"
        f" volume {nodule['volume_mm3']:.0f} mm3"
        if nodule["found"]
        else "nothing was outlined that may be a nodule",
        *(f"note: {notice}" for notice in summary["notices"]),
        *_concept_lines(summary),
        "nearest cases:" if summary["verdict"] else "nearest cases, for what they are worth:",
    ]
    for case in summary["cases"]:
        lines.append(
            f"  {case['case_id']:24} {case['label']:10} {case['diameter_mm']:5.1f} mm"
            f"  distance {case['distance']:.3f}  similarity {case['similarity']:.2f}"
        )
    return "\n".join([*lines, summary["notice"]])
