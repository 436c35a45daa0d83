"""Slicer without Slicer for the tests of the Slicer side (Testing/headless).

This folder cannot be named `slicer`: pytest puts its parent on the path, where it would
shadow the real package.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "headless"))
import headless

try:
    slicer = headless.start()
except ImportError:
    # Qt's system libraries or slicer-core are absent: test_there.py says so.
    collect_ignore_glob = ["test_[!t]*.py", "test_t[!h]*.py"]


@pytest.fixture(autouse=True)
def no_error_in_slots(monkeypatch):
    """An exception in a slot or an observer is only printed by Qt and VTK: it fails the test.

    A test that expects some clears the list.
    """
    errors = []
    monkeypatch.setattr(
        sys, "excepthook", lambda *error: errors.append("".join(traceback.format_exception(*error)))
    )
    yield errors
    assert not errors, "\n".join(errors)


@pytest.fixture
def scene():
    """The application's scene; before and after the test it is empty, and all is as at first."""
    headless.reset()
    yield slicer.mrmlScene
    headless.reset()


@pytest.fixture
def wait_until():
    """`wait_until(condition, timeout_s)`: runs the event loop until the condition holds."""
    return headless.wait_until


@pytest.fixture
def load_module(scene):
    """`load_module(path)`: a scripted module as Slicer loads it; unloaded afterwards."""
    loaded = []

    def load(path):
        loaded.append(headless.load_module(path))
        return loaded[-1]

    yield load
    for module in reversed(loaded):
        module.unload()
