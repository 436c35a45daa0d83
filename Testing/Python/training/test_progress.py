"""Bars on a terminal, none in a log."""

from __future__ import annotations

import io

import pytest
from contrastdiagnosis_training.progress import StageBars


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_each_stage_has_a_bar_of_its_own_on_a_terminal_alone(stream, shown):
    bars = StageBars(unit="epoch", file=stream, mininterval=0)
    assert stream.getvalue() == ""
    for done in (1, 2, 3):
        bars("concepts", done, 3)
    for done in (1, 2):
        bars("prototypes", done, 2)
    told = stream.getvalue()
    assert all(text in told for text in ("concepts: 100%", "3/3", "prototypes: 100%")) == shown
    assert bool(told) == shown
