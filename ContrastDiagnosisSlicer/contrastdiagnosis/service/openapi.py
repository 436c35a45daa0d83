"""What the OpenAPI document tells of bodies of tensors and JSON, and of their JSON's schemas.

A body's media type has `x-safetensors-header`: JSON Schema of the header that the body begins with,
where each tensor has its dtype, its shape with the axes as titles, and what it is. The JSON is a
string in the header's metadata, so its schema is a `contentSchema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.protocol.map_variant import SIGNS
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE, JSON_KEY

Answers = dict[int | str, dict[str, Any]]
"""Of OpenAPI: what is told of each status."""

HEADER = "x-safetensors-header"
PLACE = "#/components/schemas/"

VOXELS = ("D along k", "H along j", "W along i")
PATCH = " x ".join(map(str, DEFAULT_GEOMETRY.shape))


def reference(name: str) -> dict[str, str]:
    """The schema of this name."""
    return {"$ref": PLACE + name}


def tensor(types: Sequence[str], axes: Sequence[str], text: str) -> dict[str, Any]:
    """JSON Schema of a tensor's entry in a header.

    Args:
        types: Names of the format, any of which it may be of.
        axes: What lies along each.
        text: What it is, with its unit.
    """
    sides = [{"title": axis, "type": "integer", "minimum": 0} for axis in axes]
    offset = {"type": "integer", "minimum": 0}
    places = {"type": "array", "items": offset, "minItems": 2, "maxItems": 2}
    n = len(axes)
    return {
        "description": text,
        "type": "object",
        "properties": {
            "dtype": {"enum": list(types)},
            "shape": {"type": "array", "prefixItems": sides, "minItems": n, "maxItems": n},
            "data_offsets": places,
        },
        "required": ["dtype", "shape", "data_offsets"],
        "additionalProperties": False,
    }


def body_content(
    document: Mapping[str, Any],
    tensors: Mapping[str, Any],
    optional: Mapping[str, Any] | None = None,
    patterns: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """OpenAPI's `content` of a body.

    Args:
        document: Schema of the JSON.
        tensors: Those that are always there, by name.
        optional: Those that may be there, by name.
        patterns: Those of which there may be several, by a pattern of their names.
    """
    told = {"type": "string", "contentMediaType": "application/json", "contentSchema": document}
    metadata = {"type": "object", "properties": {JSON_KEY: told}, "required": [JSON_KEY]}
    header = {
        "type": "object",
        "properties": {"__metadata__": metadata, **tensors, **(optional or {})},
        "patternProperties": dict(patterns or {}),
        "required": ["__metadata__", *tensors],
        "additionalProperties": False,
    }
    return {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}, HEADER: header}}


def _answer(text: str, content: dict[str, Any]) -> Answers:
    return {200: {"description": text, "content": content}}


REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Voxels of the CT around the point, and JSON that says what is asked.",
        "content": body_content(
            reference("RequestDocument"),
            {"hu": tensor(["I16", "F32"], VOXELS, "The CT around the point, Hounsfield units.")},
            {"overview_hu": tensor(["I16", "F32"], VOXELS, "A thin slab of it, for the report.")},
        ),
    }
}

DIAGNOSIS = _answer(
    "The outline, and all that is told of the nodule.",
    body_content(
        reference("DiagnosisDocument"),
        {
            "mask": tensor(
                ["U8"], VOXELS, "1 in the nodule, in a box of `hu`'s own grid; 0 x 0 x 0 if none."
            )
        },
    ),
)

_SIGNS = "|".join(SIGNS)
MAPS = _answer(
    "Maps of the nodule, and of the cases that have a picture; N is the place in `pairs`.",
    body_content(
        reference("MapsDocument"),
        tensors={},
        patterns={
            rf"^\d+\.(query|case)\.({_SIGNS})$": tensor(
                ["F16"], VOXELS, f"A map, 0 to 1, on a patch grid of {PATCH} voxels."
            ),
            r"^\d+\.case\.intensity$": tensor(
                ["F16"], VOXELS, "The case's patch, 0 to 1 for -1000 to 400 HU."
            ),
            r"^\d+\.case\.mask$": tensor(["U8"], VOXELS, "1 in the case's nodule."),
        },
    ),
)

CONCEPTS = _answer(
    "Where each concept is seen, and what follows.",
    body_content(
        reference("ConceptsDocument"),
        {
            "maps": tensor(
                ["F32"],
                ("K concepts", "d along k", "h along j", "w along i"),
                "Cosine of each cell with the prototype that is shown; negative ones are 0.",
            )
        },
    ),
)

PIXELS = _answer(
    "The case's patch and mask.",
    body_content(
        {"type": "object", "additionalProperties": False},
        {
            "intensity": tensor(
                ["F16"], VOXELS, f"0 to 1 for -1000 to 400 HU, {PATCH} voxels around the nodule."
            ),
            "valid": tensor(["U8"], VOXELS, "1 where the scan measured something."),
            "mask": tensor(["U8"], VOXELS, "1 in the nodule."),
        },
    ),
)


def add_schemas(app: FastAPI) -> None:
    """Puts what the routes refer to into the app's OpenAPI document, once somebody asks for it."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            plain()["components"]["schemas"] |= _schemas()
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas() -> dict[str, Any]:
    # Building these models takes time that nobody waits for who only asks for diagnoses.
    from pydantic.json_schema import models_json_schema

    from contrastdiagnosis.service import documents
    from contrastdiagnosis.service import nodule_documents as of_nodules

    models = (
        documents.Problem,
        of_nodules.RequestDocument,
        of_nodules.DiagnosisDocument,
        of_nodules.MapsDocument,
        of_nodules.ConceptsDocument,
    )
    _, made = models_json_schema(
        [(model, "validation") for model in models], ref_template=PLACE + "{model}"
    )
    return made["$defs"]
