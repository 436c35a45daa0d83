"""`EngineQueue`: one engine, many askers, one answer at a time."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from contrastdiagnosis.bundle.bundle import Bundle
from contrastdiagnosis.diagnosis.diagnoser import Diagnoser, Diagnosis
from contrastdiagnosis.errors import InputError
from contrastdiagnosis.maps.explanation import Explanation
from contrastdiagnosis.service.requests import NoduleRequest

OUT_OF_MEMORY = "the GPU ran out of memory, so this was computed on the CPU"

REMEMBERED = 16
"""Diagnoses kept for repeats: maps and a report after a diagnosis need no second pass. One takes
about 2 MB."""

POLL_S = 0.1
"""How often a waiting request looks whether its asker is still there."""

T = TypeVar("T")


class BusyError(Exception):
    """Too many wait, or it takes too long; the message says which."""


class GoneError(Exception):
    """Whoever asked has left before the answer."""


class DamagedError(Exception):
    """What the bundle holds cannot be read; the message may be shown."""


@dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    waiting: int = 64
    """Requests that may be under way at once; all but one of them wait. An upload is not yet one of
    them: who is slow takes nobody's place."""
    of_client: int = 64
    """Uploads and requests of one client that may be under way at once."""
    held_mb: float = 1000.0
    """Bodies that may be held in memory at once, of all clients together."""
    time_s: float = 120.0
    """How long an upload may take, and how long a request, waiting included."""
    body_mb: float = 64.0
    """Largest body of a request. A crop at 0.2 mm takes 20 MB."""


class Engine:
    """A diagnoser that remembers, and goes on on the CPU where the GPU's memory ends.

    For one thread at a time.
    """

    def __init__(self, bundle: Bundle, device: str) -> None:
        self.bundle = bundle
        self._known: OrderedDict[str, Diagnosis] = OrderedDict()
        self._on_cpu: Diagnoser | None = None
        self._notices: tuple[str, ...] = ()
        try:
            self.diagnoser = Diagnoser(bundle, device)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            self.diagnoser = Diagnoser(bundle, "cpu")
            self._notices = (OUT_OF_MEMORY,)

    def diagnose(self, request: NoduleRequest) -> Diagnosis:
        """The diagnosis, from memory where the same was asked before.

        Raises:
            InputError: The point or the volume cannot be used.
        """
        if request.key not in self._known:
            library = self.bundle.library
            patient = request.patient_id or library.patient_of_hashed_series(request.series_sha256)
            diagnosis, notices = self._run(
                lambda d: d.diagnose(request.volume, request.point_ras_mm, patient)
            )
            self._known[request.key] = _noted(diagnosis, notices)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(request.key)
        return self._known[request.key]

    def revised(self, request: NoduleRequest) -> Diagnosis:
        """The diagnosis with the request's corrections of its concepts.

        Raises:
            InputError: The bundle has no concepts, one is unknown, or a box lies elsewhere.
        """
        diagnosis = self.diagnose(request)
        if not diagnosis.judged or (request.revision.empty and diagnosis.concepts is None):
            return diagnosis
        # The request holds the voxels around the point alone: a box beyond these is told as beside.
        return self.diagnoser.revise(diagnosis, None, request.revision)

    def explain(self, request: NoduleRequest) -> tuple[Diagnosis, tuple[Explanation, ...]]:
        """The diagnosis, and the maps against the cases that were asked for.

        Raises:
            InputError: A case is none of those that are shown; else as `diagnose`.
            DamagedError: A stored picture of a case cannot be read.
        """
        diagnosis = self.revised(request)
        shown = {similar.case.case_id: similar for similar in diagnosis.cases}
        wanted = dict.fromkeys(request.case_ids) or shown
        absent = [case_id for case_id in wanted if case_id not in shown]
        if absent:
            raise InputError(
                f"maps are made against the cases that are shown, {', '.join(shown)}; got"
                f" {', '.join(absent)[:200]}"
            )
        asked = replace(diagnosis, cases=tuple(shown[case_id] for case_id in wanted))
        try:
            explanations, notices = self._run(lambda d: d.explain(asked, request.map))
        except InputError as error:
            # All that was asked for is known by now, so only a file of the bundle is left to blame.
            raise DamagedError("a stored picture of the shown cases is damaged") from error
        return _noted(diagnosis, notices), explanations

    def _run(self, work: Callable[[Diagnoser], T]) -> tuple[T, tuple[str, ...]]:
        """The result on the GPU or, where its memory does not suffice, on the CPU; notices."""
        try:
            return work(self.diagnoser), self._notices
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Not before the exception and the tensors that its traceback holds are gone.
        torch.cuda.empty_cache()
        if self._on_cpu is None:
            self._on_cpu = Diagnoser(self.bundle, "cpu")
        return work(self._on_cpu), (OUT_OF_MEMORY,)


class EngineQueue:
    """Runs an engine in a thread of its own, one call after the other.

    A call uses all cores, or the whole GPU: two at a time would only be slower.
    """

    def __init__(self, engine: Engine, limits: Limits = Limits()) -> None:
        self.engine = engine
        self.limits = limits
        self.waiting = 0
        """Requests under way."""
        self.held_bytes = 0
        """Of bodies that are being uploaded or answered."""
        self._of_client: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @asynccontextmanager
    async def visit(self, client: str) -> AsyncIterator[Callable[[int], None]]:
        """Counts a client's upload and what follows from it; yields what takes note of its bytes.

        Args:
            client: Its name.

        Raises:
            BusyError: The client has too many under way already, or memory is held by too much.
        """
        if self._of_client[client] >= self.limits.of_client:
            raise BusyError(
                f"{self._of_client[client]} of this client's requests are under way already; try"
                " again later"
            )
        held = 0

        def note(count: int) -> None:
            nonlocal held
            if self.held_bytes + count > self.limits.held_mb * 1e6:
                raise BusyError("too much is being uploaded at once; try again later")
            held += count
            self.held_bytes += count

        self._of_client[client] += 1
        try:
            yield note
        finally:
            self.held_bytes -= held
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Ends a block that takes longer than a request may.

        Raises:
            BusyError: The time is over.
        """
        try:
            async with asyncio.timeout(self.limits.time_s):
                yield
        except TimeoutError as error:
            raise BusyError(
                f"no answer within {self.limits.time_s:g} s; try again later"
            ) from error

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Holds a place among the requests under way, for the time that one may take.

        Raises:
            BusyError: There are too many already, or the time is over.
        """
        if self.waiting >= self.limits.waiting:
            raise BusyError(f"{self.waiting} requests are under way already; try again later")
        self.waiting += 1
        try:
            async with self.in_time():
                yield
        finally:
            self.waiting -= 1

    async def call(self, work: Callable[[Engine], T], gone: Callable[[], Awaitable[bool]]) -> T:
        """What `work` returns, run in the engine's thread when its turn comes.

        Args:
            work: Must not touch the event loop.
            gone: Whether the asker has left; work that has not begun is then dropped.

        Raises:
            GoneError: The asker left.
        """
        future = self._thread.submit(work, self.engine)
        answer = asyncio.wrap_future(future)
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=POLL_S)
                if not answer.done() and await gone():
                    raise GoneError
            return answer.result()
        finally:
            # The first drops what has not begun; the second forgets what comes of what has.
            future.cancel()
            answer.cancel()

    def close(self) -> None:
        """Drops what waits; what runs still ends."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _noted(diagnosis: Diagnosis, notices: tuple[str, ...]) -> Diagnosis:
    return replace(diagnosis, notices=tuple(dict.fromkeys((*diagnosis.notices, *notices))))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ended, as PyTorch, CUDA, cuBLAS or cuDNN say it."""
    return bool(re.search(r"CUDA.*out of memory|CU\w+_STATUS_ALLOC_FAILED", str(error)))
