"""What the self tests of the modules share; they run in Slicer itself, and headless."""

from __future__ import annotations

import os
import time
import unittest
from collections.abc import Callable
from typing import Any

import slicer

from ContrastDiagnosisLib.SamplePhantom import NODULE_CENTERS_RAS, loadPhantom
from ContrastDiagnosisLib.Scene import NoduleScene

ANSWER_LIMIT_S = 180
"""The first answer waits for the engine to start."""

HEART_RAS = (-30.0, 28.0, -28.0)
"""In the phantom; no nodule is there."""

ENGINE_VARIABLE = "CONTRASTDIAGNOSIS_ENGINE"
"""Names the Python that has the engine's packages: `--testing` has settings of its own."""


class SelfTestSuite(unittest.TestSuite):
    """The tests of one module; a run in which all of them skip is no success."""

    def run(self, result: Any, debug: bool = False) -> Any:
        """Runs the tests, and one that fails if none of them ran."""
        super().run(result, debug)
        if result.testsRun == len(result.skipped):
            unittest.FunctionTestCase(_nothingRan).run(result)
        return result


def suiteOf(testClass: type[unittest.TestCase]) -> SelfTestSuite:
    """The tests of a class alone.

    A module's `load_tests` gives them: unittest would also run, and count, the base class that
    the module imports, whose `runTest` tests nothing.
    """
    return SelfTestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(testClass))


def _nothingRan() -> None:
    raise AssertionError(
        "every test was skipped: nothing was tested. Name the Python that has the engine's"
        f" packages in the environment variable {ENGINE_VARIABLE} (make slicer-test ENGINE=...)"
    )


def diagnosisWidget() -> Any:
    """The widget of the module ContrastDiagnosis.

    Raises:
        SkipTest: The engine's packages are not installed.
    """
    widget = slicer.util.getModuleWidget("ContrastDiagnosis")
    engine = os.environ.get(ENGINE_VARIABLE)
    if engine and slicer.app.testingEnabled():
        widget.panel.setup.selectPython(engine)
    settings, missing = widget.panel.setup.settings(), widget.panel.setup.missingPackages()
    if settings.location == "local" and not settings.python and missing:
        raise unittest.SkipTest(f"not installed in Slicer's Python: {', '.join(missing)}")
    return widget


def panelWithPhantom() -> Any:
    """The panel of the module ContrastDiagnosis with the phantom CT selected."""
    widget = diagnosisWidget()
    volume = loadPhantom()
    widget.initializeParameterNode()
    widget.logic.getParameterNode().inputVolume = volume
    return widget.panel


def click(pointRas: Any = None) -> tuple[Any, str]:
    """Places a point, as a click does; gives the parameter node and the point's ID."""
    logic = diagnosisWidget().logic
    return logic.getParameterNode(), logic.addNodule(pointRas or NODULE_CENTERS_RAS[0])


def waitForDiagnosis(panel: Any, node: Any, pointId: str) -> dict[str, Any]:
    """What the engine says of a nodule."""
    return waitFor(panel, lambda: NoduleScene.documentOf(node, pointId))


def waitFor(panel: Any, condition: Callable[[], Any]) -> Any:
    """What the condition gives when it holds; the panel stays alive meanwhile."""
    end = time.monotonic() + ANSWER_LIMIT_S
    while time.monotonic() < end:
        slicer.app.processEvents()
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing came: {panel.ui.messageLabel.text}")


def saveAndLoad() -> None:
    """The scene through a file."""
    file = os.path.join(slicer.app.temporaryPath, "ContrastDiagnosisTest.mrb")
    if not slicer.util.saveScene(file):
        raise AssertionError(f"{file} was not saved")
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(file)
    os.remove(file)
