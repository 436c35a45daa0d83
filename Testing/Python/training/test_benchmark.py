"""`make bench`: its training section runs to its end, at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTING = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(TESTING), *sys.path])
    import benchmark

    return benchmark


def test_the_training_section_runs(bench):
    figures = list(bench.training(count=8, repeats=1))
    assert [f.unit for f in figures] == ["nodules/s", "nodules/s", "ratio"]
    assert all(f.value > 0 for f in figures)
