"""`make bench`: every section runs to its end, at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("one_thread")  # A second one only waits.

TESTING = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [str(TESTING), *sys.path])
        patched.setenv("OMP_NUM_THREADS", "1")
        import benchmark

        patched.setenv("OMP_NUM_THREADS", "1")  # The import took another number, for its figures.
        yield benchmark


@pytest.fixture(scope="module")
def effort(bench):
    return bench.Effort(
        threads=1, warm_up=0, clicks=1, repeats=1, pairs=2, revisions=1, epochs=1, starts=1,
        slow_starts=1,
        large_shape=(60, 80, 96), library_sizes=(2000,), nodules=2, clients=1, requests=4,
        bodies=10, documented=8,
    )  # fmt: skip


COUNTS = {
    "click": 6, "process": 3, "search": 3, "explain": 4, "concepts": 3, "server": 12, "panel": 3,
    "fuzz": 8, "training": 3,
}  # fmt: skip
"""Figures of each section on the CPU."""


@pytest.mark.parametrize("name", COUNTS)
def test_the_section_runs(bench, effort, name, monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    figures = list(bench.SECTIONS[name](effort))
    assert len(figures) == COUNTS[name]
    for figure in figures:
        assert figure.value >= 0 and bench._line(figure)


def test_no_section_is_left_out(bench):
    assert set(COUNTS) == set(bench.SECTIONS)


def test_a_search_that_finds_others_stops_the_bench(bench, effort, monkeypatch):
    """So that "same results" cannot be printed of others."""
    whole = bench.CaseLibrary.nearest
    monkeypatch.setattr(
        bench.CaseLibrary, "nearest", lambda self, query, count: whole(self, -query, count)
    )
    with pytest.raises(AssertionError, match="other neighbours than"):
        list(bench.search(effort))
