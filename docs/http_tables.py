"""A hook of MkDocs: tables of the engine's routes and documents, made of its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PLACE = "<!-- Routes and documents: made of the OpenAPI document by `make docs`. -->"
"""Where the tables come in a page."""

HEADER = "x-safetensors-header"
METADATA = "__metadata__"
ABSENT = " (may be absent)"


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with the tables in their place, if it has one."""
    return (
        markdown.replace(PLACE, http_tables(openapi_document())) if PLACE in markdown else markdown
    )


def openapi_document() -> dict[str, Any]:
    """What a server with the shipped bundle tells at /openapi.json."""
    from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
    from contrastdiagnosis.service.app import make_app
    from contrastdiagnosis.service.clients import OneToken
    from contrastdiagnosis.service.engine_queue import Engine, EngineQueue

    queue = EngineQueue(Engine(load_bundle(default_bundle_folder()), "cpu"))
    try:
        return make_app(queue, OneToken("")).openapi()
    finally:
        queue.close()


def http_tables(document: dict[str, Any]) -> str:
    """Markdown: the routes, their tensors, and every document with its fields."""
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = document["components"]["schemas"]
    parts = [
        "## Routes\n",
        *_table(("route", "what", "request", "answer"), map(_route, operations)),
        "\n## Tensors\n",
        *_table(
            ("route", "of", "tensor", "type", "axes", "what"),
            (row for operation in operations for row in _tensors(*operation)),
        ),
        "\n## Documents\n",
        *(line for name in sorted(schemas) for line in _document(name, schemas[name])),
    ]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def _route(named: tuple[str, dict[str, Any]]) -> tuple[str, str, str, str]:
    route, operation = named
    asked = [
        f"`{p['name']}`: {_kind(p['schema'])}"
        for p in operation.get("parameters", ())
        if p["in"] == "query"
    ]
    asked += [_content(content) for content in _contents(operation, "request")]
    answered = [_content(content) for content in _contents(operation, "answer")]
    return f"`{route}`", operation["description"], "; ".join(asked), "; ".join(answered)


def _contents(operation: dict[str, Any], of: str) -> list[tuple[str, dict[str, Any]]]:
    """Media types of a request or of an answer that is no refusal."""
    told = operation.get("requestBody", {}) if of == "request" else operation["responses"]["200"]
    return list(told.get("content", {}).items())


def _content(named: tuple[str, dict[str, Any]]) -> str:
    kind, content = named
    if HEADER in content:
        json = content[HEADER]["properties"][METADATA]["properties"]["json"]["contentSchema"]
        return f"tensors, {_kind(json)}"
    return _kind(content["schema"]) if kind == "application/json" else f"`{kind}`"


def _tensors(route: str, operation: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for of in ("request", "answer"):
        for _, content in _contents(operation, of):
            header = content.get(HEADER, {"properties": {}, "patternProperties": {}})
            for name, entry in (header["properties"] | header["patternProperties"]).items():
                if name != METADATA:
                    parts = entry["properties"]
                    types = " or ".join(parts["dtype"]["enum"])
                    axes = ", ".join(side["title"] for side in parts["shape"]["prefixItems"])
                    told = f"`{name}`" + ("" if name in header["required"] else ABSENT)
                    yield f"`{route}`", of, told, types, axes, entry["description"]


def _document(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n\n{schema['description']}\n"
    required = schema.get("required", ())
    yield from _table(
        ("field", "type", "what"),
        (
            (
                f"`{field}`" + ("" if field in required else ABSENT),
                _kind(told),
                told.get("description", ""),
            )
            for field, told in schema["properties"].items()
        ),
    )
    yield ""


def _kind(schema: dict[str, Any]) -> str:
    """What a value is, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return _array(schema)
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    if schema["type"] == "object":
        return "empty object"
    return schema["type"]


def _array(schema: dict[str, Any]) -> str:
    items = schema.get("items") or schema["prefixItems"][0]
    count = f"{schema['maxItems']} of " if "maxItems" in schema else ""
    return f"list of {count}{_kind(items)}"
