"""One engine, many askers: order, limits, leaving, memory, the GPU's end."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from contrastdiagnosis.cases.pixels import PixelStore
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.protocol.revision import Box, Revision
from contrastdiagnosis.service import engine_queue
from contrastdiagnosis.service.engine_queue import (
    OUT_OF_MEMORY,
    REMEMBERED,
    BusyError,
    DamagedError,
    Engine,
    EngineQueue,
    GoneError,
    Limits,
)
from contrastdiagnosis.service.requests import read_request, request_body

from engine.asking import one_thread  # noqa: F401
from engine.conftest import NODULE
from engine.test_diagnoser import DenseIsNodule


@pytest.fixture(scope="module")
def request_(phantom):
    return read_request(request_body(phantom.volume, NODULE.center_ras_mm))


@pytest.fixture
def engine(bundle):
    return Engine(bundle, "cpu")


@pytest.fixture
def queue(engine):
    made = EngineQueue(engine, Limits(waiting=3, time_s=30))
    yield made
    made.close()


@pytest.fixture
def counted(monkeypatch):
    """How often the network looked at a nodule."""
    calls = []
    diagnose = Diagnoser.diagnose

    def counting(self, *arguments):
        calls.append(str(self.device))
        return diagnose(self, *arguments)

    monkeypatch.setattr(Diagnoser, "diagnose", counting)
    return calls


async def stays():
    return False


@pytest.mark.parametrize("dense_is_nodule", [True, False])
def test_the_crops_diagnosis_is_the_whole_cts_bit_for_bit(
    request_, bundle, phantom, dense_is_nodule
):
    if dense_is_nodule:
        bundle = replace(bundle, network=DenseIsNodule(bundle.network))
    whole = Diagnoser(bundle, "cpu").diagnose(phantom.volume, NODULE.center_ras_mm)
    ours = Engine(bundle, "cpu").diagnose(request_)
    for name in (
        "point_ras_mm", "volume_mm3", "diameters", "cases", "voters", "malignant_voters", "score",
        "probability", "confidence", "notices",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(whole, name), name
    np.testing.assert_array_equal(ours.encoding.embedding, whole.encoding.embedding)
    np.testing.assert_array_equal(ours.mask.values, whole.mask.values)
    assert ours.mask.values.any()
    start = phantom.volume.ijk_from_ras(request_.volume.ras_from_ijk([0, 0, 0]))[::-1]
    np.testing.assert_allclose(start + ours.mask.start, whole.mask.start, atol=1e-9)


def test_the_same_question_is_answered_from_memory(engine, request_, counted):
    first = engine.diagnose(request_)
    assert engine.diagnose(replace(request_, case_ids=("P0_0",))) is first
    diagnosis, explanations = engine.explain(request_)
    assert diagnosis.cases == first.cases
    assert [e.case_id for e in explanations] == [c.case.case_id for c in first.cases]
    assert len(counted) == 1


def test_little_is_remembered_and_the_oldest_goes_first(engine, request_, counted):
    for n in range(REMEMBERED):
        engine.diagnose(replace(request_, key=str(n)))
    engine.diagnose(replace(request_, key="0"))
    engine.diagnose(replace(request_, key="new"))
    assert len(counted) == REMEMBERED + 1
    engine.diagnose(replace(request_, key="0"))
    assert len(counted) == REMEMBERED + 1
    engine.diagnose(replace(request_, key="1"))
    assert len(counted) == REMEMBERED + 2


def test_a_refused_question_is_not_remembered(engine, request_):
    far = replace(request_, point_ras_mm=(0.0, 0.0, 9000.0))
    for _ in range(2):
        with pytest.raises(InputError, match="lies outside the volume"):
            engine.diagnose(far)


def test_a_case_of_the_bundles_own_scan_leaves_its_patient_out(engine, request_):
    from hashlib import sha256

    own = engine.diagnose(request_).cases[0].case
    hashed = sha256(own.series_uid.encode()).hexdigest().upper()
    diagnosis = engine.diagnose(replace(request_, series_sha256=hashed, key="x"))
    assert own.patient_id not in {c.case.patient_id for c in diagnosis.cases}
    assert diagnosis.notices == ("2 cases of this patient were left out",)
    strange = replace(request_, series_sha256="0" * 64, key="y")
    assert engine.diagnose(strange).notices == ()


def test_maps_are_made_of_the_cases_that_are_asked_for(engine, request_):
    shown = [c.case.case_id for c in engine.diagnose(request_).cases]
    wanted = (shown[3], shown[1], shown[3])
    _, explanations = engine.explain(replace(request_, case_ids=wanted))
    assert [e.case_id for e in explanations] == [shown[3], shown[1]]
    with pytest.raises(InputError, match=r"cases that are shown, .*; got nobody"):
        engine.explain(replace(request_, case_ids=("nobody",)))


def test_a_damaged_picture_is_not_the_askers_fault(bundle, request_, tmp_path):
    engine = Engine(replace(bundle, pixels=PixelStore(tmp_path)), "cpu")
    case_id = engine.diagnose(request_).cases[0].case.case_id
    (tmp_path / f"{case_id}.safetensors").write_bytes(b"no")
    with pytest.raises(DamagedError, match="^a stored picture of the shown cases is damaged$"):
        engine.explain(request_)


class FullGpu(Diagnoser):
    """A diagnoser whose GPU has no memory left; its "cpu" works."""

    full = True
    error: Exception = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def __init__(self, bundle, device="auto"):
        super().__init__(bundle, "cpu")
        self.on_gpu = device == "cuda"

    def encode(self, *arguments):
        if self.on_gpu and self.full:
            raise self.error
        return super().encode(*arguments)

    def explain(self, *arguments):
        if self.on_gpu:
            raise self.error
        return super().explain(*arguments)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(engine_queue, "Diagnoser", FullGpu)
    return FullGpu


@pytest.mark.parametrize(
    "error",
    [
        FullGpu.error,
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_where_the_gpus_memory_ends_the_cpu_goes_on(gpu, bundle, request_, monkeypatch, error):
    monkeypatch.setattr(gpu, "error", error)
    engine = Engine(bundle, "cuda")
    diagnosis = engine.diagnose(request_)
    assert diagnosis.notices == (OUT_OF_MEMORY,)
    assert diagnosis.probability == Engine(bundle, "cpu").diagnose(request_).probability
    explained, explanations = engine.explain(request_)
    assert explained.notices == (OUT_OF_MEMORY,)
    assert len(explanations) == 6


def test_maps_that_do_not_fit_say_so(gpu, bundle, request_, monkeypatch):
    monkeypatch.setattr(gpu, "full", False)
    engine = Engine(bundle, "cuda")
    assert engine.diagnose(request_).notices == ()
    assert engine.explain(request_)[0].notices == (OUT_OF_MEMORY,)
    assert engine.diagnose(request_).notices == ()


def test_a_network_that_does_not_fit_starts_on_the_cpu(bundle, request_, monkeypatch):
    class NoRoom(Diagnoser):
        def __init__(self, bundle, device="auto"):
            if device == "cuda":
                raise FullGpu.error
            super().__init__(bundle, device)

    monkeypatch.setattr(engine_queue, "Diagnoser", NoRoom)
    engine = Engine(bundle, "cuda")
    assert str(engine.diagnoser.device) == "cpu"
    assert engine.diagnose(request_).notices == (OUT_OF_MEMORY,)


def test_other_errors_of_the_gpu_are_not_hidden(gpu, bundle, request_, monkeypatch):
    monkeypatch.setattr(gpu, "error", RuntimeError("CUDA error: device-side assert triggered"))
    engine = Engine(bundle, "cuda")
    with pytest.raises(RuntimeError, match="device-side assert"):
        engine.diagnose(request_)


def test_cuda_that_is_absent_is_told_at_the_start(bundle):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(InputError, match="finds no CUDA device"):
        Engine(bundle, "cuda")


def test_calls_run_one_at_a_time_in_their_order(queue):
    order, running = [], []

    def work(n):
        def run(engine):
            running.append(n)
            assert running == [n]
            assert threading.current_thread().name.startswith("engine")
            order.append(n)
            running.remove(n)
            return n

        return run

    async def main():
        return await asyncio.gather(*(queue.call(work(n), stays) for n in range(20)))

    assert asyncio.run(main()) == order == list(range(20))


def test_an_error_reaches_the_asker(queue):
    def work(engine):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        asyncio.run(queue.call(work, stays))


class Gate:
    """Work that holds the engine until it is opened."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, engine):
        self.entered.set()
        assert self.opened.wait(20)


def test_a_full_queue_refuses(queue):
    async def main():
        async with queue.place(), queue.place(), queue.place():
            assert queue.waiting == 3
            with pytest.raises(BusyError, match="3 requests are under way already"):
                async with queue.place():
                    pass
        async with queue.place():
            assert queue.waiting == 1

    asyncio.run(main())
    assert queue.waiting == 0


def test_what_takes_too_long_is_given_up(engine):
    queue, gate = EngineQueue(engine, Limits(time_s=0.2)), Gate()

    async def main():
        with pytest.raises(BusyError, match=r"no answer within 0\.2 s; try again later"):
            async with queue.place():
                await queue.call(gate, stays)
        assert queue.waiting == 0
        gate.opened.set()
        async with queue.place():
            assert await queue.call(lambda engine: "next", stays) == "next"

    asyncio.run(main())
    queue.close()


def test_who_leaves_is_not_worked_for(queue, caplog):
    """What runs ends unheard, what waits never begins, and nothing of it is logged."""
    gate, begun = Gate(), []

    async def leaves():
        return gate.entered.is_set()

    def fails(engine):
        gate(engine)
        raise RuntimeError("of patient P0")

    async def main():
        first = asyncio.ensure_future(queue.call(fails, leaves))
        second = asyncio.ensure_future(queue.call(lambda engine: begun.append(1), leaves))
        for task in (first, second):
            with pytest.raises(GoneError):
                await task
        gate.opened.set()
        assert await queue.call(lambda engine: "next", stays) == "next"

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert not begun
    assert "P0" not in caplog.text and "never retrieved" not in caplog.text


def test_a_closed_queue_drops_what_waits(queue):
    gate, begun = Gate(), []

    async def main():
        first = asyncio.ensure_future(queue.call(gate, stays))
        second = asyncio.ensure_future(queue.call(lambda engine: begun.append(1), stays))
        await asyncio.to_thread(gate.entered.wait)
        queue.close()
        gate.opened.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(main())
    assert not begun


LOOK = Revision(boxes=(Box(NODULE.center_ras_mm, (12.0, 12.0, 12.0), True),))


def test_revisions_are_answered_from_memory(engine, request_, counted):
    first = engine.revised(request_)
    assert first.concepts.revision.empty
    for revision in (LOOK, Revision(rejected=("calcified",)), Revision(mode="zero")):
        revised = engine.revised(replace(request_, revision=revision))
        assert revised.concepts.revision == revision
        assert revised.encoding is first.encoding
    assert engine.diagnose(request_).concepts.logit == first.concepts.logit
    assert len(counted) == 1


def test_a_revision_reaches_maps_and_report(engine, request_):
    diagnosis, explanations = engine.explain(replace(request_, revision=LOOK))
    assert diagnosis.concepts.revision == LOOK
    assert len(explanations) == 6


def test_a_refused_revision_leaves_the_diagnosis_known(engine, request_, counted):
    for revision, message in (
        (Revision(rejected=("spiky",)), "no concept is called spiky"),
        (Revision(boxes=(Box((0, 0, 0), (9, 9, 9), True, "odd"),)), "no concept is called odd"),
    ):
        with pytest.raises(InputError, match=message):
            engine.revised(replace(request_, revision=revision))
        with pytest.raises(InputError, match=message):
            engine.explain(replace(request_, revision=revision))
    assert engine.revised(request_).concepts.revision.empty
    assert len(counted) == 1


def test_a_bundle_without_concepts_is_revised_by_nothing_only(bundle, request_):
    engine = Engine(replace(bundle, concepts=None), "cpu")
    assert engine.revised(request_).concepts is None
    assert len(engine.explain(request_)[1]) == 6
    with pytest.raises(InputError, match="the bundle tiny has no concepts to revise"):
        engine.revised(replace(request_, revision=LOOK))


def test_revisions_go_on_where_the_gpus_memory_ended(gpu, bundle, request_):
    engine = Engine(bundle, "cuda")
    revised = engine.revised(replace(request_, revision=LOOK))
    assert revised.notices == (OUT_OF_MEMORY,)
    alone = Engine(bundle, "cpu").revised(replace(request_, revision=LOOK))
    assert revised.concepts.logit == alone.concepts.logit
