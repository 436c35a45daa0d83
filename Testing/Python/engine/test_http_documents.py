"""What /openapi.json says is what the server answers, key by key, and what it lets itself be asked.

Schemas are those that are published; jsonschema-rs comes with schemathesis.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema_rs
import numpy as np
import pytest
from contrastdiagnosis.bundle.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.cases.pixels import PixelStore
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom
from contrastdiagnosis.protocol.map_variant import WIDEST_WINDOW
from contrastdiagnosis.protocol.request import FIELDS, TENSORS
from contrastdiagnosis.protocol.revision import MOST_BOXES
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE, pack, unpack
from contrastdiagnosis.service import documents, nodule_documents
from contrastdiagnosis.service.app import make_app
from contrastdiagnosis.service.clients import OneToken
from contrastdiagnosis.service.engine_queue import Engine, EngineQueue
from contrastdiagnosis.service.openapi import HEADER, PLACE
from contrastdiagnosis.service.requests import read_request, request_body
from hypothesis import HealthCheck, given, settings

from engine.asking import TOKEN, ask, one_thread  # noqa: F401
from engine.conftest import NODULE
from engine.mutations import make_body, mutated, revisions
from engine.test_answers import made_pixels

SOUND = make_body()
MADE_OF = {**vars(documents), **vars(nodule_documents)}


@pytest.fixture(scope="module")
def app(bundle, phantom, tmp_path_factory):
    """One whose bundle has pictures of some of the cases that are shown."""
    store = PixelStore(tmp_path_factory.mktemp("pixels"))
    asked = read_request(request_body(phantom.volume, NODULE.center_ras_mm))
    shown = [similar.case.case_id for similar in Engine(bundle, "cpu").diagnose(asked).cases]
    for case_id in ("P0_0", *shown[:2]):
        store.write(case_id, made_pixels())
    queue = EngineQueue(Engine(replace(bundle, pixels=store), "cpu"))
    yield make_app(queue, OneToken(TOKEN))
    queue.close()


@pytest.fixture(scope="module")
def told(app):
    return ask(app, "GET", "/openapi.json").json


@pytest.fixture(scope="module")
def body(phantom):
    return request_body(phantom.volume, NODULE.center_ras_mm)


def complaints(told, schema, value):
    """Of a schema that refers to others of the document."""
    whole = {**schema, "components": told["components"]}
    return [e.message for e in jsonschema_rs.Draft202012Validator(whole).iter_errors(value)]


def content_of(told, method, path, answer):
    """What the document says of an answer."""
    route = next(r for r in told["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", r), path))
    return told["paths"][route][method.lower()]["responses"][str(answer.status)]["content"]


def header_of(body):
    return json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])


def schema_of(content):
    """Of the JSON that an answer is, or that is beside its tensors."""
    if HEADER in content:
        metadata = content[HEADER]["properties"]["__metadata__"]
        return metadata["properties"]["json"]["contentSchema"]
    return content["schema"]


def check_answer(told, method, path, answer):
    """Header, JSON and its model say the same; returns the schema of the JSON."""
    content = content_of(told, method, path, answer)[answer.kind]
    if answer.kind == CONTENT_TYPE:
        assert not complaints(told, content[HEADER], header_of(answer.body))
    schema = schema_of(content)
    assert not complaints(told, schema, answer.json)
    if "$ref" in schema:
        model = MADE_OF[schema["$ref"].removeprefix(PLACE)]
        model.model_validate_json(json.dumps(answer.json))
    return schema


def without_air(body):
    """Nothing to judge."""
    tensors, document = unpack(body)
    hu = np.full_like(tensors["hu"], -900)
    hu[0, 0, 0] = -901
    return pack({"hu": hu}, document)


BOX = {"center_ras_mm": list(NODULE.center_ras_mm), "size_mm": [14, 13, 12], "look": True}
REVISION = {"boxes": [BOX], "rejected": ["calcified"], "mode": "zero", "elsewhere": 0}
MAP = {"levels": [4], "window_cells": None, "rectified": False, "outside": 0}
GETS = (
    "/health", "/bundle", "/cases", "/cases?start=39", "/cases?count=0", "/atlas",
    "/cases/P0_0/pixels", "/cases/nobody/pixels", "/cases/nobody/picture",
    "/atlas/spiculated/99/picture",
)  # fmt: skip
ASKED = [
    {},
    {"revision": REVISION},
    {"map": MAP, "signs": ["similar"]},
    {"revision": {"rejected": ["spiky"]}},
    {"point_ras_mm": [0, 0, 9000]},
]
POSTS = ("/diagnose", "/maps", "/concepts")


@pytest.mark.parametrize("path", GETS)
def test_what_is_asked_for_is_as_the_document_says(app, told, path):
    answer = ask(app, "GET", path)
    check_answer(told, "GET", path.partition("?")[0], answer)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: "-".join(asked) or "plain")
@pytest.mark.parametrize("path", [*POSTS, "/report?form=x"])
def test_what_is_told_of_a_nodule_is_as_the_document_says(app, told, body, path, asked):
    tensors, document = unpack(body)
    answer = ask(app, "POST", path, pack(tensors, document | asked))
    check_answer(told, "POST", path.partition("?")[0], answer)


@pytest.mark.parametrize("path", POSTS)
def test_so_is_what_is_told_where_there_is_nothing(app, told, body, path):
    answer = ask(app, "POST", path, without_air(body))
    check_answer(told, "POST", path, answer)


def test_so_are_refusals_of_the_doorkeeper(app, told):
    for method, path in (("GET", "/health"), ("POST", "/maps")):
        check_answer(told, method, path, ask(app, method, path, token="x"))


def test_every_route_is_asked(told):
    """A new one needs a line here."""
    asked = {*GETS, *POSTS, "/report"}
    for route in told["paths"]:
        shape = re.sub(r"{\w+}", "[^/?]+", route)
        assert any(re.fullmatch(shape, path) for path in asked), route


@pytest.mark.parametrize("form", ["distance-weighted", "majority"])
def test_the_shipped_bundle_answers_as_the_document_says(form):
    bundle = load_bundle(default_bundle_folder())
    vote = replace(bundle.info.vote, form=form)
    bundle = replace(bundle, info=replace(bundle.info, vote=vote))
    queue = EngineQueue(Engine(bundle, "cpu"))
    app = make_app(queue, OneToken(TOKEN))
    told = ask(app, "GET", "/openapi.json").json
    body = request_body(make_phantom().volume, DEMO_NODULES[0].center_ras_mm)
    posts = ("/diagnose",) if form == "majority" else POSTS
    for path in ("/bundle", "/cases", "/atlas"):
        check_answer(told, "GET", path, ask(app, "GET", path))
    for path in posts:
        answer = ask(app, "POST", path, body)
        assert answer.status == 200
        check_answer(told, "POST", path, answer)
    queue.close()


def with_a_key_more(value):
    """Copies of JSON, in each of which one object has one key more."""
    if isinstance(value, dict):
        yield {**value, "new": "key"}
        for name, part in value.items():
            for changed in with_a_key_more(part):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for place, part in enumerate(value[:2]):
            for changed in with_a_key_more(part):
                yield [*value[:place], changed, *value[place + 1 :]]


def with_a_key_less(value):
    return [{k: v for k, v in value.items() if k != name} for name in value]


@pytest.mark.parametrize("path", [*(p for p in GETS if "?" not in p), *POSTS])
def test_a_key_that_the_document_does_not_know_is_seen(app, told, body, path):
    """At any depth, so that none is added without being described."""
    method = "POST" if path in POSTS else "GET"
    tensors, document = unpack(body)
    sent = pack(tensors, document | {"revision": REVISION, "map": MAP}) if path in POSTS else None
    answer = ask(app, method, path, sent)
    schema = check_answer(told, method, path, answer)
    changed = [*with_a_key_more(answer.json), *with_a_key_less(answer.json)]
    assert changed
    for other in changed:
        assert complaints(told, schema, other), other


def test_a_tensor_that_the_document_does_not_know_is_seen(app, told, body):
    for path in POSTS:
        answer = ask(app, "POST", path, body)
        schema = content_of(told, "POST", path, answer)[CONTENT_TYPE][HEADER]
        header = header_of(answer.body)
        name = next(name for name in header if name != "__metadata__")
        assert complaints(told, schema, header | {"new": header[name]})
        flat = header[name] | {"shape": header[name]["shape"][1:]}
        assert complaints(told, schema, header | {name: flat})
        assert complaints(told, schema, header | {name: header[name] | {"dtype": "F64"}})


def test_every_field_of_the_document_is_described(told):
    for name, schema in told["components"]["schemas"].items():
        assert schema["description"], name
        for field, told_of in schema["properties"].items():
            assert told_of.get("description"), f"{name}.{field}"
            if field.endswith(("_mm", "_mm3")) and "12mm" not in field:
                assert "mm" in told_of["description"], f"{name}.{field}"


# --- Requests --------------------------------------------------------------------------------


def request_schema(told):
    return told["components"]["schemas"]["RequestDocument"]


def test_the_document_names_what_a_request_may_hold(told):
    assert set(request_schema(told)["properties"]) == FIELDS
    content = told["paths"]["/maps"]["post"]["requestBody"]["content"][CONTENT_TYPE]
    assert set(content[HEADER]["properties"]) == TENSORS | {"__metadata__"}
    assert not content[HEADER]["patternProperties"]
    assert schema_of(content) == {"$ref": PLACE + "RequestDocument"}


def refused(changes):
    """The sound request's JSON with these changes, and whether the parser refuses it.

    `...` takes a field away.
    """
    tensors, document = unpack(SOUND)
    document = {k: v for k, v in (document | changes).items() if v is not ...}
    try:
        read_request(pack(tensors, document))
    except InputError:
        return document, True
    return document, False


TRIPLE = {"center_ras_mm": [1, 2, 3], "size_mm": [4, 5, 6], "look": True}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patient_id": None},
        {"patient_id": "P", "series_sha256": "aB" * 32, "case_ids": ["x", "y"]},
        {"series_sha256": "", "case_ids": [], "part_of_ct": True},
        {"revision": {}, "map": {}},
        {"revision": {"boxes": [TRIPLE, {**TRIPLE, "concept": None}], "elsewhere": 1}},
        {"revision": {"boxes": [{**TRIPLE, "axes": np.eye(3).tolist(), "concept": "x"}]}},
        {"revision": {"rejected": ["x"], "mode": "zero", "elsewhere": 0.5}},
        {"map": {"levels": [4, 3, 2, 1], "window_cells": None, "rectified": False}},
        {"map": {"window_cells": WIDEST_WINDOW, "through_mask": True, "outside": 0}},
        {"signs": ["different"]},
        {"signs": ["different", "similar"]},
    ],
)
def test_what_is_read_is_as_the_document_says(told, changes):
    document, wrong = refused(changes)
    assert not wrong
    assert not complaints(told, request_schema(told), document)


@pytest.mark.parametrize(
    "changes",
    [
        {"point_ras_mm": ...},
        {"ijk_to_ras": ...},
        {"colour": 1},
        {"point_ras_mm": [1, 2]},
        {"point_ras_mm": [1, 2, "3"]},
        {"point_ras_mm": [1, 2, True]},
        {"ijk_to_ras": [[1, 0, 0, 0]] * 3},
        {"ijk_to_ras": None},
        {"patient_id": 7},
        {"series_sha256": "a" * 63},
        {"series_sha256": "g" * 64},
        {"series_sha256": None},
        {"case_ids": "x"},
        {"case_ids": [None]},
        {"part_of_ct": 1},
        {"revision": None},
        {"revision": {"box": []}},
        {"revision": {"boxes": {}}},
        {"revision": {"boxes": [{**TRIPLE, "colour": 1}]}},
        {"revision": {"boxes": [{**TRIPLE, "look": 1}]}},
        {"revision": {"boxes": [{**TRIPLE, "concept": 3}]}},
        {"revision": {"boxes": [{**TRIPLE, "size_mm": [1, 2]}]}},
        {"revision": {"boxes": [{"size_mm": [1, 2, 3], "look": True}]}},
        {"revision": {"rejected": "x"}},
        {"revision": {"mode": "median"}},
        {"revision": {"elsewhere": "0.2"}},
        {"revision": {"elsewhere": True}},
        {"map": 7},
        {"map": {"level": [3]}},
        {"map": {"levels": 3}},
        {"map": {"levels": ["3"]}},
        {"map": {"window_cells": "3"}},
        {"map": {"rectified": 1}},
        {"map": {"outside": None}},
        {"signs": []},
        {"signs": ["alike"]},
        {"signs": "similar"},
    ],
    ids=str,
)
def test_what_the_document_forbids_is_refused(told, changes):
    document, wrong = refused(changes)
    assert wrong
    assert complaints(told, request_schema(told), document)


@pytest.mark.parametrize(
    "changes",
    [
        {"point_ras_mm": [0, 0, 1e6]},
        {"ijk_to_ras": np.eye(4)[::-1].tolist()},
        {"revision": {"boxes": [TRIPLE] * (MOST_BOXES + 1)}},
        {"revision": {"boxes": [{**TRIPLE, "size_mm": [1, 0, 1]}]}},
        {"revision": {"boxes": [{**TRIPLE, "axes": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}]}},
        {"revision": {"elsewhere": 2}},
        {"map": {"levels": [2, 3]}},
        {"map": {"window_cells": 4}},
        {"map": {"outside": 1.5}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_rules_beyond_the_kinds_of_fields_are_the_parsers_alone(told, changes):
    """They stand in `contrastdiagnosis.protocol`, once."""
    document, wrong = refused(changes)
    assert wrong
    assert not complaints(told, request_schema(told), document)


def writable(document):
    """Whether others than Python can hold its texts: not halves of surrogate pairs."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(revision=revisions())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_revision_that_is_read_is_as_the_document_says(told, revision):
    try:
        document, wrong = refused({"revision": revision})
    except ValueError:  # An integer of too many digits for JSON.
        return
    if not wrong and writable(document):
        assert not complaints(told, request_schema(told), document)


@given(body=mutated(SOUND))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_body_that_is_read_is_as_the_document_says(told, body):
    try:
        read_request(body)
    except InputError:
        return
    _, document = unpack(body)
    if "overview_hu" not in header_of(body):
        document.pop("overview_ijk_to_ras", None)  # Nobody reads it.
    if writable(document):
        assert not complaints(told, request_schema(told), document)
        content = told["paths"]["/maps"]["post"]["requestBody"]["content"][CONTENT_TYPE]
        assert not complaints(told, content[HEADER], header_of(body))
