"""What `make slicer-test` runs in Slicer counts only what was tested."""

from __future__ import annotations

import pytest
import slicer
import slicer.testing
from ContrastDiagnosisLib.Engine.Settings import readSettings
from ContrastDiagnosisLib.SelfTest import ENGINE_VARIABLE

from slicer_side.conftest import ENGINE_PYTHON, MODULES, of_stand_ins

NAMES = ("ContrastDiagnosis", "ContrastDiagnosisAtlas")


@pytest.fixture
def modules(load_module):
    """Both modules, loaded as Slicer does."""
    return [load_module(MODULES / f"{name}.py") for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_which_everything_skips_fails(modules, monkeypatch, capfd, name):
    """Slicer's own Python lacks the packages, and no engine is named."""
    from ContrastDiagnosisLib.Engine.Installer import Installer

    monkeypatch.setattr(Installer, "missing", lambda _self: ["torch>=2.4"])
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    # Slicer raises a bare one.
    with pytest.raises(Exception):  # noqa: B017, PT011
        slicer.testing.runUnitTest([], name)
    told = capfd.readouterr().err
    assert "nothing was tested" in told and "make slicer-test ENGINE=" in told


@pytest.mark.parametrize("name", NAMES)
def test_the_base_class_of_slicer_is_not_counted(modules, name):
    import unittest

    def ids(suite):
        for test in suite:
            yield from ids(test) if isinstance(test, unittest.TestSuite) else [test.id()]

    found = list(ids(unittest.TestLoader().loadTestsFromName(name)))
    assert found and all(f"{name}Test.test_" in one for one in found)


def test_the_engine_that_is_named_is_used(modules, monkeypatch, capfd):
    monkeypatch.setenv(ENGINE_VARIABLE, ENGINE_PYTHON)
    assert readSettings().python == ""
    slicer.testing.runUnitTest([], "ContrastDiagnosisAtlas")
    assert readSettings().python == ENGINE_PYTHON
    told = capfd.readouterr().err
    assert "Ran 2 tests" in told and "skipped" not in told


@of_stand_ins
def test_outside_of_testing_the_users_settings_stay(modules, monkeypatch):
    from ContrastDiagnosisLib import SelfTest

    monkeypatch.setenv(ENGINE_VARIABLE, ENGINE_PYTHON)
    slicer.app.setTestingEnabled(False)
    from ContrastDiagnosisLib.Engine.Installer import Installer

    monkeypatch.setattr(Installer, "missing", lambda _self: [])
    SelfTest.diagnosisWidget()
    assert readSettings().python == ""
