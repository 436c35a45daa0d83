"""What the server answers: diagnoses, maps and cases as bodies and tables."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from contrastdiagnosis import __version__
from contrastdiagnosis.bundle.bundle import CONCEPTS_FILE, Bundle, sha256
from contrastdiagnosis.cases.library import Case
from contrastdiagnosis.cases.pixels import CasePixels
from contrastdiagnosis.concepts.atlas import Prototype
from contrastdiagnosis.concepts.cells import CELL_VOXELS
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.maps.explanation import SideExplanation
from contrastdiagnosis.protocol.map_variant import Sign, variant_summary
from contrastdiagnosis.protocol.tensors import pack
from contrastdiagnosis.report.paper import render_print_report
from contrastdiagnosis.report.pictures import middle_slice, thumbnail
from contrastdiagnosis.report.screen import render_report
from contrastdiagnosis.report.summary import (
    case_summary,
    concept_summary,
    parts_summary,
    remarks_of,
    summarise,
)
from contrastdiagnosis.service.documents import (
    Atlas,
    BundleFacts,
    CaseRow,
    Figures,
    PrototypeRow,
)
from contrastdiagnosis.service.engine_queue import DamagedError, Engine
from contrastdiagnosis.service.requests import NoduleRequest


def diagnosis_body(engine: Engine, request: NoduleRequest) -> bytes:
    """Tensor `mask` (d, h, w) uint8, a box of the crop's own grid; JSON of `summarise`.

    The JSON also says where the box begins (`mask_start_kji`), beyond which distance a case is too
    far (`threshold`) and which cases have pictures (`has_pixels`).
    """
    diagnosis, bundle = engine.diagnose(request), engine.bundle
    summary = summarise(diagnosis, request.volume, bundle.info)
    for row in summary["cases"]:
        row["has_pixels"] = bundle.pixels.has(row["case_id"])
    summary["mask_start_kji"] = list(diagnosis.mask.start)
    summary["threshold"] = bundle.indicator.threshold
    return pack({"mask": diagnosis.mask.values.astype(np.uint8)}, summary)


def maps_body(engine: Engine, request: NoduleRequest) -> bytes:
    """Maps on patch grids, (D, H, W) float16 in [0, 1]; pictures of the cases where there are any.

    Tensors `N.query.similar`, `N.query.different` and, of cases with pixels, `N.case.similar`,
    `N.case.different`, `N.case.intensity` and `N.case.mask`, N being the place in the JSON's
    `pairs`. `patch_ijk_to_ras` places the query's maps in the patient; a case has the same grid
    around its own centre. `notices` are those of the diagnosis and of the maps. Signs that are not
    asked for are left out; `map_variant` tells how the maps were made, null if as usual.
    """
    diagnosis, explanations = engine.explain(request)
    tensors: dict[str, NDArray] = {}
    pairs = []
    for n, explanation in enumerate(explanations):
        pair: dict[str, Any] = {
            "case_id": explanation.case_id,
            "distance": explanation.distance,
            "parts": parts_summary(explanation),
            "remarks": remarks_of(explanation),
            "query": _side(tensors, f"{n}.query", explanation.query, request.signs),
            "case": None,
        }
        if explanation.case and explanation.pixels:
            pair["case"] = _side(tensors, f"{n}.case", explanation.case, request.signs)
            tensors[f"{n}.case.intensity"] = explanation.pixels.intensity.astype(np.float16)
            tensors[f"{n}.case.mask"] = explanation.pixels.mask.astype(np.uint8)
        pairs.append(pair)
    document = {
        "patch_ijk_to_ras": diagnosis.encoding.patch.ijk_to_ras.tolist(),
        "pairs": pairs,
        "map_variant": variant_summary(request.map),
        "notices": list(diagnosis.notices),
    }
    return pack(tensors, document)


def concepts_body(engine: Engine, request: NoduleRequest) -> bytes:
    """Tensor `maps` (K, d, h, w) float32 in [0, 1]: where each concept is seen, cell by cell.

    The JSON is `summarise`'s "concepts", with `cells_ijk_to_ras` (4x4, cells' centres to RAS),
    `examples` (`prototype_row` of the prototype that is shown of a concept, for those that have
    one, with the `usual_score` of nodules without the concept), `disagreement` and `notice`.
    """
    diagnosis, bundle = engine.revised(request), engine.bundle
    prediction, part = diagnosis.concepts, bundle.concepts
    if not diagnosis.judged:
        raise InputError(f"no concepts are read: {diagnosis.confidence.obstacles[0]}")
    if prediction is None or part is None:
        raise InputError(f"the bundle {bundle.info.name} has no concepts")
    atlas = {(p.concept, p.number): p for p in part.atlas}
    shown = zip(prediction.concepts, part.head.absent, prediction.shown.tolist(), strict=True)
    examples = [
        prototype_row(bundle, atlas[c.name, m]).model_dump() | {"usual_score": float(absent[m])}
        for c, absent, m in shown
        if m >= 0
    ]
    document = {
        **concept_summary(prediction),
        "cells_ijk_to_ras": diagnosis.encoding.grid.to_ras.tolist(),
        "examples": examples,
        "disagreement": diagnosis.disagreement,
        "notice": bundle.info.case_source.notice,
    }
    return pack({"maps": prediction.maps}, document)


def prototype_row(bundle: Bundle, prototype: Prototype) -> PrototypeRow:
    """One line of the atlas, with what is known of the prototype's case."""
    cases = bundle.library.cases
    case = next((case for case in cases if case.case_id == prototype.case_id), None)
    known = case_summary(case) if case else {}
    return PrototypeRow(
        **{**asdict(prototype), "cell_kji": list(prototype.cell_kji)},
        has_pixels=bundle.pixels.has(prototype.case_id),
        label=known.get("label"),
        diameter_mm=known.get("diameter_mm"),
        ratings=known.get("ratings"),
    )


def atlas_document(bundle: Bundle) -> Atlas:
    """The atlas, and the SHA-256 that a pruning file must name."""
    if bundle.concepts is None or bundle.folder is None:
        return Atlas(head_sha256="", prototypes=[])
    rows = [prototype_row(bundle, p) for p in bundle.concepts.atlas]
    return Atlas(head_sha256=sha256(bundle.folder / CONCEPTS_FILE), prototypes=rows)


def prototype_png(pixels: CasePixels, prototype: Prototype) -> bytes:
    """The slice of a case through a prototype's cell, nodule outlined and cell framed."""
    depth, height, width = CELL_VOXELS
    k, j, i = (c * n for c, n in zip(prototype.cell_kji, CELL_VOXELS, strict=True))
    middle = k + depth // 2
    picture = thumbnail(pixels.intensity[middle], pixels.mask[middle])
    scale = picture.width // pixels.intensity.shape[2]
    corners = np.array([i, j, i + width, j + height]) * scale
    ImageDraw.Draw(picture).rectangle((corners - [0, 0, 1, 1]).tolist(), outline="cyan", width=3)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _side(
    tensors: dict[str, NDArray], name: str, side: SideExplanation, signs: Sequence[Sign]
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for sign in signs:
        evidence = side.of_sign(sign)
        tensors[f"{name}.{sign}"] = evidence.values.astype(np.float16)
        facts[sign] = {
            "highest": evidence.highest,
            "contour_level": evidence.contour_level,
            "slice_index": evidence.slice_index,
        }
    return facts


def report_html(engine: Engine, request: NoduleRequest) -> str:
    """The report with the maps of all shown cases, whichever the request names."""
    diagnosis, explanations = engine.explain(replace(request, case_ids=()))
    with _blaming_the_bundle():
        return render_report(
            diagnosis, request.volume, engine.bundle, explanations, overview=request.overview
        )


def print_report_html(engine: Engine, request: NoduleRequest) -> str:
    """The same for paper."""
    diagnosis, explanations = engine.explain(replace(request, case_ids=()))
    with _blaming_the_bundle():
        return render_print_report(diagnosis, request.volume, engine.bundle, explanations)


@contextmanager
def _blaming_the_bundle() -> Iterator[None]:
    """The request is sound by now: what cannot be read is a picture of the bundle's cases."""
    try:
        yield
    except InputError as error:
        raise DamagedError("a stored picture of a prototype's case is damaged") from error


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """What a user should know of the bundle before trusting it."""
    info, library = bundle.info, bundle.library
    metrics = info.metrics.get("exclude3") or {}
    told = {name: metrics[name] for name in Figures.__annotations__ if name in metrics}
    return BundleFacts(
        name=info.name,
        version=info.version,
        engine_version=__version__,
        created=info.created,
        cases=len(library),
        malignant_cases=int(library.malignant.sum()),
        cases_with_pixels=sum(bundle.pixels.has(case.case_id) for case in library.cases),
        voters=info.vote.k,
        vote=info.vote.form,
        training_data=info.training_data,
        citation=info.citation,
        licence=info.licence,
        intended_use=info.intended_use,
        concepts=[concept.name for concept in info.concepts],
        figures=cast(Figures, told),
        protocol=info.metrics.get("protocol", ""),
        notice=info.case_source.notice,
    )


def case_row(bundle: Bundle, case: Case) -> CaseRow:
    """One line of the case table."""
    return CaseRow(**case_summary(case), has_pixels=bundle.pixels.has(case.case_id))


def pixels_body(pixels: CasePixels) -> bytes:
    """Tensors `intensity` (D, H, W) float16, `valid` and `mask` uint8."""
    return pack(
        {
            "intensity": pixels.intensity.astype(np.float16),
            "valid": pixels.valid.astype(np.uint8),
            "mask": pixels.mask.astype(np.uint8),
        },
        {},
    )


def picture_png(pixels: CasePixels) -> bytes:
    """The case's largest cross-section, its outline drawn, 4 screen pixels a voxel."""
    k = middle_slice(pixels.mask)
    stream = io.BytesIO()
    thumbnail(pixels.intensity[k], pixels.mask[k]).save(stream, format="PNG")
    return stream.getvalue()
