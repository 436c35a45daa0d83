"""The app: every route, every error a problem document, nothing told that should not be."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from contrastdiagnosis import RESEARCH_USE_NOTICE
from contrastdiagnosis.bundle.bundle import CONCEPTS_FILE, sha256
from contrastdiagnosis.cases.lidc import LIDC
from contrastdiagnosis.cases.pixels import PixelStore
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.protocol.tensors import CONTENT_TYPE, pack, unpack
from contrastdiagnosis.report.summary import concept_summary
from contrastdiagnosis.service.app import make_app
from contrastdiagnosis.service.clients import OneToken
from contrastdiagnosis.service.engine_queue import OUT_OF_MEMORY, Engine, EngineQueue, Limits
from contrastdiagnosis.service.problems import PROBLEM_TYPE
from contrastdiagnosis.service.requests import read_request, request_body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.asking import TOKEN, ask, ask_in_loop, one_thread  # noqa: F401
from engine.conftest import CONCEPTS, NODULE, PROTOTYPES
from engine.mutations import allowed, make_body, mutated, revisions
from engine.test_answers import made_pixels

POSTS = ("/diagnose", "/maps", "/concepts", "/report")
GETS = ("/health", "/bundle", "/cases", "/cases/P0_0/picture", "/cases/P0_0/pixels", "/atlas")


@pytest.fixture(scope="module")
def body(phantom):
    return request_body(phantom.volume, NODULE.center_ras_mm)


@pytest.fixture(scope="module")
def engine(bundle, tmp_path_factory):
    store = PixelStore(tmp_path_factory.mktemp("pixels"))
    store.write("P0_0", made_pixels())
    return Engine(replace(bundle, pixels=store), "cpu")


@pytest.fixture(scope="module")
def app(engine):
    queue = EngineQueue(engine)
    yield make_app(queue, OneToken(TOKEN))
    queue.close()


@pytest.fixture
def limited(engine):
    """Makes apps with limits."""
    queues = []

    def make(**limits):
        queues.append(EngineQueue(engine, Limits(**limits)))
        return make_app(queues[-1], OneToken(TOKEN))

    yield make
    for queue in queues:
        queue.close()


def check_problem(answer, status, text):
    assert answer.status == status
    assert answer.kind == PROBLEM_TYPE
    assert set(answer.json) == {"type", "title", "status", "detail"}
    assert answer.json["status"] == status
    assert answer.json["type"] == "about:blank"
    assert text in answer.json["detail"]


def test_health(app):
    answer = ask(app, "GET", "/health")
    assert answer.json["status"] == "ok"
    assert answer.json["device"] == "cpu"
    assert answer.json["waiting"] == 0
    assert answer.json["notice"] == RESEARCH_USE_NOTICE


def test_whose_opinion_is_imitated_is_told_by_the_bundle(engine):
    info = replace(engine.bundle.info, case_source=replace(LIDC, name="Elsewhere"))
    queue = EngineQueue(Engine(replace(engine.bundle, info=info), "cpu"))
    app = make_app(queue, OneToken(TOKEN))
    told = (ask(app, "GET", "/health").json["notice"], app.openapi()["info"]["description"])
    queue.close()
    for notice in told:
        assert "Research use only" in notice and "who read Elsewhere;" in notice


def test_facts_of_the_bundle(app):
    assert ask(app, "GET", "/bundle").json["name"] == "tiny"


def test_the_case_table_a_part_at_a_time(app):
    whole = ask(app, "GET", "/cases").json
    assert (whole["total"], whole["start"], len(whole["cases"])) == (40, 0, 40)
    part = ask(app, "GET", "/cases?start=38&count=7").json
    assert part["cases"] == whole["cases"][38:]
    assert ask(app, "GET", "/cases?start=40").json["cases"] == []
    assert [c["case_id"] for c in whole["cases"] if c["has_pixels"]] == ["P0_0"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("start=-1", "query.start: Input should be greater than or equal to 0"),
        ("count=0", "query.count"),
        ("count=1001", "query.count"),
        ("start=x&count=" + "9" * 5000, "query.start"),
    ],
)
def test_odd_parameters_are_refused(app, query, message):
    check_problem(ask(app, "GET", f"/cases?{query}"), 422, message)


def test_a_cases_picture_and_pixels(app):
    answer = ask(app, "GET", "/cases/P0_0/picture")
    assert (answer.status, answer.kind) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.body)).size == (256, 256)
    answer = ask(app, "GET", "/cases/P0_0/pixels")
    assert (answer.status, answer.kind) == (200, CONTENT_TYPE)
    np.testing.assert_array_equal(unpack(answer.body)[0]["mask"], made_pixels().mask)


@pytest.mark.parametrize("part", ["picture", "pixels"])
@pytest.mark.parametrize(
    ("case_id", "message"),
    [
        ("P1_0", "the bundle has no picture of this case"),
        ("nobody", "the bundle has no such case"),
        ("..", "the bundle has no such case"),
        ("\x00é", "the bundle has no such case"),
    ],
)
def test_a_picture_that_is_not_there(app, case_id, message, part):
    check_problem(ask(app, "GET", f"/cases/{case_id}/{part}"), 404, message)


def test_a_damaged_picture_is_told_without_its_path(engine, tmp_path, bundle):
    store = PixelStore(tmp_path / "secret")
    store.write("P0_0", made_pixels())
    (tmp_path / "secret" / "P0_0.safetensors").write_bytes(b"no")
    queue = EngineQueue(Engine(replace(bundle, pixels=store), "cpu"))
    answer = ask(make_app(queue, OneToken(TOKEN)), "GET", "/cases/P0_0/picture")
    check_problem(answer, 500, "the stored picture of this case is damaged")
    assert b"secret" not in answer.body
    queue.close()


def test_a_diagnosis(app, body):
    answer = ask(app, "POST", "/diagnose", body)
    assert (answer.status, answer.kind) == (200, CONTENT_TYPE)
    assert len(answer.json["cases"]) == 6


def test_an_answer_tells_how_long_the_engine_took(app, body):
    told = ask(app, "POST", "/diagnose", body).headers["server-timing"]
    assert float(re.fullmatch(r"engine;dur=(\d+\.\d)", told)[1]) > 0


def test_maps(app, body):
    shown = [c["case_id"] for c in ask(app, "POST", "/diagnose", body).json["cases"]]
    assert [p["case_id"] for p in ask(app, "POST", "/maps", body).json["pairs"]] == shown
    tensors, document = unpack(body)
    some = pack(tensors, document | {"case_ids": shown[2:4]})
    assert [p["case_id"] for p in ask(app, "POST", "/maps", some).json["pairs"]] == shown[2:4]
    strange = pack(tensors, document | {"case_ids": ["x\ud800"]})
    check_problem(ask(app, "POST", "/maps", strange), 422, "got x?")


def test_a_report(app, body):
    answer = ask(app, "POST", "/report", body, {"content-type": "application/octet-stream"})
    assert (answer.status, answer.kind) == (200, "text/html")
    assert b"</html>" in answer.body


def test_a_report_for_print(app, body):
    """It differs from the one for the screen."""
    printed = ask(app, "POST", "/report?form=print", body)
    assert (printed.status, printed.kind) == (200, "text/html")
    assert printed.body != ask(app, "POST", "/report", body).body
    check_problem(ask(app, "POST", "/report?form=x", body), 422, "query.form")


@pytest.mark.parametrize("path", [*GETS, *POSTS, "/openapi.json", "/nowhere"])
@pytest.mark.parametrize("token", [None, "", "x", TOKEN + "x", TOKEN[:-1], "é"])
def test_nothing_is_told_without_the_token(app, path, token):
    answer = ask(app, "POST" if path in POSTS else "GET", path, token=token)
    check_problem(answer, 401, "wanted the server's token")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN.encode() not in answer.body


def test_the_token_alone_is_not_enough(app):
    for value in (TOKEN, f"Basic {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN}"):
        assert ask(app, "GET", "/health", headers={"authorization": value}).status == 401


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/docs"), ("POST", "/health/"), ("GET", "//")]
)
def test_there_is_nothing_elsewhere(app, method, path):
    check_problem(ask(app, method, path), 404, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed_"),
    [
        ("POST", "/health", "GET"),
        ("DELETE", "/cases", "GET"),
        ("GET", "/diagnose", "POST"),
        ("OPTIONS", "/diagnose", "POST"),
        ("TRACE", "/maps", "POST"),
    ],
)
def test_other_methods_are_refused(app, method, path, allowed_):
    answer = ask(app, method, path)
    check_problem(answer, 405, "Method Not Allowed")
    assert answer.headers["allow"] == allowed_


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["application/json", "", "multipart/form-data", "text/plain"])
def test_other_types_are_refused(app, path, kind, body):
    answer = ask(app, "POST", path, body, {"content-type": kind})
    check_problem(answer, 415, f"wanted a body of type {CONTENT_TYPE}")


@pytest.mark.parametrize("path", POSTS)
def test_a_damaged_body_is_refused(app, path):
    check_problem(ask(app, "POST", path, b"x" * 20), 422, "wanted a safetensors body")


def test_a_point_outside_is_told(app, phantom, body):
    tensors, document = unpack(body)
    far = pack(tensors, document | {"point_ras_mm": [0, 0, 9000]})
    check_problem(ask(app, "POST", "/diagnose", far), 422, "lies outside the volume")


@pytest.mark.parametrize("told", ["1000001", None, "5"])
def test_a_large_body_is_refused(limited, told):
    """Also where the client does not say how large it is, or lies."""
    app = limited(body_mb=1)
    headers = {"content-length": told or "0"}
    answer = ask(app, "POST", "/diagnose", b"x" * 1_000_001, headers)
    check_problem(answer, 413, "wanted a body of at most 1 MB")
    assert ask(app, "POST", "/diagnose", b"x" * 1_000_000).status == 422


def test_a_large_body_that_is_announced_is_not_waited_for(limited):
    """`Expect: 100-continue`: nothing is sent before the server asks for it."""

    async def main():
        return await asyncio.wait_for(
            ask_in_loop(limited(body_mb=1), "POST", "/maps", b"", {"content-length": "1000001"}), 5
        )

    check_problem(asyncio.run(main()), 413, "at most 1 MB")


class Slow(Engine):
    """An engine that waits until it is let go."""

    def __init__(self, bundle):
        super().__init__(bundle, "cpu")
        self.go, self.asked = threading.Event(), []

    def diagnose(self, request):
        self.asked.append(request.key)
        assert self.go.wait(20)
        return super().diagnose(request)


@pytest.fixture
def slow(engine):
    made = Slow(engine.bundle)
    yield made
    made.go.set()


def test_a_full_queue_says_when_to_try_again(slow, body):
    queue = EngineQueue(slow, Limits(waiting=2))
    app = make_app(queue, OneToken(TOKEN))

    async def main():
        running = [asyncio.ensure_future(ask_in_loop(app, "POST", p, body)) for p in POSTS[:2]]
        await asyncio.sleep(0.05)
        assert (await ask_in_loop(app, "GET", "/health")).json["waiting"] == 2
        refused = await ask_in_loop(app, "POST", "/report", body)
        slow.go.set()
        return refused, await asyncio.gather(*running)

    refused, answered = asyncio.run(main())
    check_problem(refused, 429, "2 requests are under way already; try again later")
    assert int(refused.headers["retry-after"]) > 0
    assert [a.status for a in answered] == [200, 200]
    queue.close()


def test_what_takes_too_long_is_told(slow, body):
    queue = EngineQueue(slow, Limits(time_s=0.2))
    answer = ask(make_app(queue, OneToken(TOKEN)), "POST", "/diagnose", body)
    check_problem(answer, 429, "no answer within 0.2 s")
    assert "retry-after" in answer.headers
    queue.close()


def test_a_server_that_ends_says_so(slow, body):
    """What uvicorn does to requests that take longer than it waits for them."""
    queue = EngineQueue(slow)

    async def main():
        task = asyncio.ensure_future(
            ask_in_loop(make_app(queue, OneToken(TOKEN)), "POST", "/maps", body)
        )
        await asyncio.sleep(0.05)
        task.cancel()
        return await task

    check_problem(asyncio.run(main()), 503, "the server is ending")
    assert queue.waiting == 0
    queue.close()


def test_the_work_of_who_leaves_is_dropped(slow, phantom, caplog):
    queue = EngineQueue(slow)
    app = make_app(queue, OneToken(TOKEN))
    first, second, third = (
        request_body(phantom.volume, np.add(NODULE.center_ras_mm, n)) for n in range(3)
    )

    async def main():
        leaving = asyncio.Event()
        stays = asyncio.ensure_future(ask_in_loop(app, "POST", "/diagnose", first))
        await asyncio.sleep(0.05)
        leaves = asyncio.ensure_future(
            ask_in_loop(app, "POST", "/diagnose", second, leaving=leaving)
        )
        also = asyncio.ensure_future(ask_in_loop(app, "POST", "/diagnose", third))
        await asyncio.sleep(0.05)
        leaving.set()
        assert (await leaves).status == 499
        assert queue.waiting == 2
        slow.go.set()
        return await asyncio.gather(stays, also)

    with caplog.at_level(logging.INFO):
        answers = asyncio.run(main())
    assert [a.status for a in answers] == [200, 200]
    assert len(slow.asked) == 2
    assert sorted(r.fields["status"] for r in caplog.records) == [200, 200, 499]
    queue.close()


def test_who_leaves_during_the_upload_is_no_error(app):
    async def main():
        gone = [{"type": "http.disconnect"}]
        sent = []
        scope = {
            "type": "http", "method": "POST", "path": "/diagnose", "query_string": b"",
            "headers": [
                (b"authorization", f"Bearer {TOKEN}".encode()),
                (b"content-type", CONTENT_TYPE.encode()),
            ],
        }  # fmt: skip

        async def receive():
            return gone.pop()

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(main()) == 499


def test_the_gpus_end_is_told(engine, body, monkeypatch):
    gone = replace(engine.diagnose(read_request(body)), notices=(OUT_OF_MEMORY,))
    monkeypatch.setattr(Engine, "diagnose", lambda *_: gone)
    queue = EngineQueue(engine)
    app = make_app(queue, OneToken(TOKEN))
    for path in POSTS[:2]:
        assert ask(app, "POST", path, body).json["notices"] == [OUT_OF_MEMORY]
    assert OUT_OF_MEMORY.encode() in ask(app, "POST", "/report", body).body
    queue.close()


@pytest.mark.parametrize("path", POSTS)
def test_an_unexpected_error_tells_nothing(engine, body, monkeypatch, caplog, path):
    def fails(*_):
        raise KeyError("of patient P0 in /home/secret")

    monkeypatch.setattr(Engine, "diagnose", fails)
    queue = EngineQueue(engine)
    with caplog.at_level(logging.DEBUG):
        answer = ask(make_app(queue, OneToken(TOKEN)), "POST", path, body)
    check_problem(answer, 500, "the server failed; its log says where")
    fields = [getattr(r, "fields", {}) for r in caplog.records]
    for text in (answer.body.decode(), caplog.text, json.dumps(fields)):
        assert "secret" not in text
    failed = next(r for r in caplog.records if r.levelname == "ERROR")
    assert failed.fields["error"] == "KeyError"
    assert any("engine_queue.py" in place for place in failed.fields["at"])
    queue.close()


def test_an_error_in_a_route_without_the_engine_is_told_alike(app, monkeypatch):
    monkeypatch.setattr("contrastdiagnosis.service.app.bundle_facts", lambda _: 1 / 0)
    check_problem(ask(app, "GET", "/bundle"), 500, "the server failed")


def test_the_log_tells_no_one_from_another(app, body, caplog):
    tensors, document = unpack(body)
    named = pack(tensors, document | {"patient_id": "Doe^Jane"})
    with caplog.at_level(logging.DEBUG):
        ask(app, "POST", "/diagnose", named)
        ask(app, "POST", "/diagnose", b"Doe^Jane" * 9)
        ask(app, "GET", "/cases/P0_0/picture?x=Doe^Jane")
        ask(app, "GET", "/Doe^Jane")
        ask(app, "GET", "/health", token="Doe^Jane")
    ours = [r for r in caplog.records if r.name.startswith("contrastdiagnosis")]
    assert [(r.fields["route"], r.fields["status"]) for r in ours] == [
        ("/diagnose", 200),
        ("/diagnose", 422),
        ("/cases/{case_id}/picture", 200),
        (None, 404),
        (None, 401),
    ]
    told = caplog.text + json.dumps([r.fields for r in ours])
    for secret in ("Doe", "P0_0", "192.0.2.7", TOKEN):
        assert secret not in told
    allowed = {"client", "route", "status", "duration_s", "not_logged"}
    assert all(set(r.fields) <= allowed for r in ours)


def test_the_document_describes_every_route(app):
    document = ask(app, "GET", "/openapi.json").json
    assert set(document["paths"]) == {
        "/health", "/bundle", "/cases", "/cases/{case_id}/picture", "/cases/{case_id}/pixels",
        "/atlas", "/atlas/{concept}/{number}/picture",
        *POSTS,
    }  # fmt: skip
    assert document["info"]["description"] == RESEARCH_USE_NOTICE
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["security"] == [{"HTTPBearer": []}]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [PROBLEM_TYPE]


@given(path=st.sampled_from(POSTS[:3]), body=mutated(make_body()))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_body_makes_the_server_fail(app, path, body):
    answer = ask(app, "POST", path, body)
    assert answer.status in (200, 422), answer.body
    assert answer.json


@given(body=allowed())
@settings(max_examples=8, deadline=None)
def test_no_sound_body_makes_the_report_fail(app, body):
    answer = ask(app, "POST", "/report", body)
    assert answer.status in (200, 422), answer.body


BOX = {"center_ras_mm": list(NODULE.center_ras_mm), "size_mm": [14, 13, 12], "look": True}
TURN = [[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]]
CELL = {**BOX, "look": False, "concept": "ill-defined margin", "size_mm": [20, 20, 20]}


def with_revision(body, revision):
    tensors, document = unpack(body)
    return pack(tensors, document | {"revision": revision})


@pytest.mark.parametrize(
    "revision",
    [
        {},
        {"mode": "zero"},
        {"rejected": ["calcified"]},
        {"rejected": [c.name for c in CONCEPTS], "mode": "zero"},
        {"boxes": [BOX]},
        {"boxes": [{**BOX, "axes": TURN}, CELL], "elsewhere": 0.5},
        {"boxes": [CELL], "rejected": ["spiculated", "calcified"], "mode": "zero"},
        {"boxes": [{**BOX, "look": False, "size_mm": [2, 2, 2]}]},
    ],
)
def test_concepts_under_a_revision_are_the_diagnosers(app, body, bundle, phantom, revision):
    """Of the whole CT, of which the server sees the part around the point."""
    sent = with_revision(body, revision)
    answer = ask(app, "POST", "/concepts", sent)
    assert (answer.status, answer.kind) == (200, CONTENT_TYPE)
    diagnoser = Diagnoser(bundle, "cpu")
    diagnosis = diagnoser.diagnose(phantom.volume, NODULE.center_ras_mm)
    revised = diagnoser.revise(diagnosis, phantom.volume, read_request(sent).revision)
    expected = json.loads(json.dumps(concept_summary(revised.concepts)))
    assert {name: answer.json[name] for name in expected} == expected
    np.testing.assert_array_equal(unpack(answer.body)[0]["maps"], revised.concepts.maps)
    assert answer.json["disagreement"] == revised.disagreement
    assert answer.json["notice"] == RESEARCH_USE_NOTICE


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        (7, "wanted a JSON object for revision, got 7"),
        ({"box": []}, "the revision holds unknown fields: ['box']"),
        ({"rejected": ["spiky"]}, "no concept is called spiky; there are spiculated, ill-defined"),
        ({"boxes": [{**BOX, "concept": "spiky"}]}, "no concept is called spiky"),
        ({"boxes": [{**BOX, "concept": ""}]}, "no concept is called ;"),
        ({"boxes": [{**BOX, "concept": 7}]}, "concept must be a text"),
        ({"boxes": [{**BOX, "center_ras_mm": [0, 0]}]}, "center_ras_mm must be 3 numbers"),
        ({"boxes": [{**BOX, "size_mm": [9, 9, 0]}]}, "a box must have positive sides"),
        ({"boxes": [{**BOX, "look": "yes"}]}, "look must be true or false"),
        ({"boxes": [{**BOX, "axes": [[1, 0, 0]] * 3}]}, "a box must have right angles"),
        ({"boxes": [{**BOX, "colour": "red"}]}, "the box holds unknown fields"),
        ({"boxes": BOX}, "boxes must be a list of at most 100"),
        ({"rejected": "calcified"}, "rejected must be a list of texts"),
        ({"mode": "median"}, "mode must be absent_median or zero, got median"),
        ({"elsewhere": 2}, "elsewhere must lie between 0 and 1"),
    ],
)
def test_an_odd_revision_is_refused(app, body, revision, message):
    for path in ("/concepts", "/maps", "/report"):
        check_problem(ask(app, "POST", path, with_revision(body, revision)), 422, message)


def test_a_box_beyond_the_crop_is_told_and_changes_nothing(app, body):
    far = {"boxes": [{**BOX, "center_ras_mm": [0, 0, 9000]}]}
    told = ask(app, "POST", "/concepts", with_revision(body, far)).json
    assert "lies beside the patch around the nodule and changes nothing" in told["remarks"][0]
    assert told["logit"] == ask(app, "POST", "/concepts", body).json["logit"]


@pytest.fixture
def plain(engine):
    """An app over a bundle without concepts."""
    queue = EngineQueue(Engine(replace(engine.bundle, concepts=None), "cpu"))
    yield make_app(queue, OneToken(TOKEN))
    queue.close()


def test_a_bundle_without_concepts_diagnoses_all_the_same(plain, body):
    for revision in ({}, {"rejected": ["calcified"]}):
        answer = ask(plain, "POST", "/concepts", with_revision(body, revision))
        check_problem(answer, 422, "the bundle tiny has no concepts")
    answer = ask(plain, "POST", "/diagnose", body)
    assert answer.status == 200
    assert answer.json["concepts"] is None
    assert ask(plain, "POST", "/maps", body).status == 200
    assert ask(plain, "GET", "/atlas").json == {"head_sha256": "", "prototypes": []}
    check_problem(ask(plain, "GET", "/atlas/spiculated/0/picture"), 404, "no such prototype")


def test_another_revision_takes_no_other_pass_through_the_network(bundle, body):
    engine = Engine(bundle, "cpu")
    passes = []
    engine.diagnoser.network.register_forward_hook(lambda *_: passes.append(1))
    queue = EngineQueue(engine)
    app = make_app(queue, OneToken(TOKEN))
    logits = []
    everything = {**CELL, "concept": None}
    for revision in (
        {}, {"boxes": [BOX]}, {"rejected": ["calcified"]}, {"boxes": [everything]}, {},
    ):  # fmt: skip
        logits.append(ask(app, "POST", "/concepts", with_revision(body, revision)).json["logit"])
        assert len(passes) == 1
    assert len(set(logits)) == 4 and logits[0] == logits[-1]
    # What was corrected is no part of what is remembered.
    assert ask(app, "POST", "/diagnose", body).json["concepts"]["logit"] == logits[0]
    assert len(passes) == 1
    queue.close()


def test_the_atlas(app, bundle):
    document = ask(app, "GET", "/atlas").json
    assert document["head_sha256"] == sha256(bundle.folder / CONCEPTS_FILE)
    assert [(row["concept"], row["number"]) for row in document["prototypes"]] == [
        (c.name, m) for c in CONCEPTS for m in range(PROTOTYPES)
    ]
    shown = [row["case_id"] for row in document["prototypes"] if row["has_pixels"]]
    assert set(shown) == {"P0_0"}
    first = document["prototypes"][0]
    assert (first["case_id"], first["label"], first["diameter_mm"]) == ("P0_0", "malignant", 4.0)
    assert len(first["ratings"]) == len(LIDC.scales)


def test_a_prototypes_picture(app, bundle):
    p = next(p for p in bundle.concepts.atlas if p.case_id == "P0_0")
    answer = ask(app, "GET", f"/atlas/{p.concept}/{p.number}/picture")
    assert (answer.status, answer.kind) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.body)).size == (256, 256)


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("spiculated/1", 404, "the bundle has no picture of this case"),
        ("spiculated/4", 404, "the bundle has no such prototype"),
        ("spiky/0", 404, "the bundle has no such prototype"),
        ("\x00é/0", 404, "the bundle has no such prototype"),
        ("spiculated/-1", 422, "path.number"),
        ("spiculated/x", 422, "path.number"),
        ("spiculated/" + "9" * 5000, 422, "path.number"),
        ("x" * 201 + "/0", 422, "path.concept"),
    ],
)
def test_a_prototypes_picture_that_is_not_there(app, place, status, message):
    check_problem(ask(app, "GET", f"/atlas/{place}/picture"), status, message)


def test_a_prototype_of_a_case_that_is_not_in_the_bundle_has_no_picture(engine, bundle):
    atlas = tuple(replace(p, case_id="nobody") for p in bundle.concepts.atlas)
    strange = replace(engine.bundle, concepts=replace(bundle.concepts, atlas=atlas))
    queue = EngineQueue(Engine(strange, "cpu"))
    answer = ask(make_app(queue, OneToken(TOKEN)), "GET", "/atlas/spiculated/0/picture")
    check_problem(answer, 404, "the bundle has no such case")
    queue.close()


SMALL = make_body()


@given(path=st.sampled_from(["/concepts", "/concepts", "/maps"]), revision=revisions())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_revision_makes_the_server_fail(app, path, revision):
    answer = ask(app, "POST", path, with_revision(SMALL, revision))
    assert answer.status in (200, 422), answer.body
    assert answer.json


@pytest.mark.parametrize("shift", [False, True])
def test_a_crop_of_swapped_or_shifted_bytes_is_refused_as_a_file_is(app, body, shift):
    """Slicer may have read what the engine's own readers refuse."""
    tensors, document = unpack(body)
    hu = tensors["hu"].astype(np.int16)
    data = b"\n" + hu.tobytes()[:-1] if shift else hu.byteswap().tobytes()
    damaged = pack({"hu": np.frombuffer(data, np.int16).reshape(hu.shape)}, document)
    for path in ("/diagnose", "/maps", "/report"):
        check_problem(ask(app, "POST", path, damaged), 422, "byte order is told wrongly")
