"""Slicer for the tests of the Slicer side: a real one where they run in it, else Testing/headless.

This folder cannot be named `slicer`: pytest puts its parent on the path, where it would
shadow the real package.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

MODULES = Path(__file__).parents[3] / "ContrastDiagnosisSlicer"
MODULE = MODULES / "ContrastDiagnosis.py"
LIMIT_S = 90
POINTS = [(60.0, -10.0, 8.0), (-60.0, -10.0, 8.0)]
"""Nodules of the phantom that the panel is tried on."""

TESTING = Path(__file__).parents[2]
IN_SLICER = hasattr(sys.modules.get("slicer"), "app") and "headless" not in sys.modules
"""These tests run in the application (Testing/slicer_side_tests.py), without stand-ins."""

ENGINE_PYTHON = os.environ.get("CONTRASTDIAGNOSIS_ENGINE", sys.executable)
"""The Python that engines are started with."""

of_stand_ins = pytest.mark.skipif(IN_SLICER, reason="sets what only the stand-ins let a test set")
offscreen = pytest.mark.skipif(IN_SLICER, reason="of how fast and in which style it is drawn")
own_packages = pytest.mark.skipif(IN_SLICER, reason="Slicer's Python may lack the packages")

if IN_SLICER:
    import real_slicer as host

    collect_ignore = ["test_headless.py"]  # Of the stand-ins themselves.
else:
    sys.path.insert(0, str(TESTING / "headless"))
    import headless as host

try:
    slicer = host.start()
except ImportError:
    # Qt's system libraries or slicer-core are absent: test_there.py says so.
    collect_ignore_glob = ["test_[!t]*.py", "test_t[!h]*.py"]


def users_shell() -> dict[str, str]:
    """The environment of the user's shell: that of Slicer is for its own Python."""
    environment = slicer.util.startupEnvironment()
    environment.pop("PYTHONHOME", None)
    return environment


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """For the engines that a test starts."""
    from engine.users import USERS_PATH

    monkeypatch.setenv("PYTHONPATH", USERS_PATH)


@pytest.fixture(autouse=True)
def keyring_in_memory(monkeypatch):
    """Never the user's own; tokens of one test are unknown to the next."""
    import keyring
    from ContrastDiagnosisLib.Engine import Tokens
    from keyring.backend import KeyringBackend

    class Memory(KeyringBackend):
        priority = 5

        def __init__(self):
            super().__init__()
            self.kept = {}

        def get_password(self, service, username):
            return self.kept.get((service, username))

        def set_password(self, service, username, password):
            self.kept[service, username] = password

        def delete_password(self, service, username):
            del self.kept[service, username]

    ring = Memory()
    monkeypatch.setattr(keyring, "get_keyring", lambda: ring)
    Tokens._known.clear()
    yield ring
    Tokens._known.clear()


class KeptEngine:
    """One engine for many panels; none of them ends it."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def stop(self):
        pass

    retire = stop


@pytest.fixture(scope="session")
def concept_bundle(tmp_path_factory):
    """A bundle of three concepts with pictures of half of its cases."""
    from contrastdiagnosis.bundle.bundle import load_bundle
    from contrastdiagnosis.cases.pixels import CasePixels
    from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
    from engine.conftest import write_tiny_bundle

    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    store, shape = load_bundle(folder).pixels, DEFAULT_GEOMETRY.shape
    for n in range(0, 40, 2):
        intensity = np.random.default_rng(n).random(shape).astype(np.float32)
        pixels = CasePixels(intensity, np.ones(shape, bool), np.ones(shape, bool))
        store.write(f"P{n // 2}_{n % 2}", pixels)
    return folder


@pytest.fixture(scope="session")
def concept_engine(concept_bundle):
    """A server with that bundle, for all tests of concepts."""
    from ContrastDiagnosisLib.Engine.EngineProcess import EngineOptions, LocalEngine

    options = EngineOptions(ENGINE_PYTHON, str(concept_bundle), "cpu")
    made = LocalEngine(options, str(MODULES))
    yield made
    made.stop()


@pytest.fixture
def load_with_concepts(load_module, concept_engine, monkeypatch):
    """`load_with_concepts(name)`: a module that uses that server."""
    import ContrastDiagnosisLib.Panels.Panel as panel

    made = (lambda *_: KeptEngine(concept_engine),)
    monkeypatch.setattr(panel.Panel.__init__, "__defaults__", made)
    return lambda name: load_module(MODULES / f"{name}.py")


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
    host.reset()
    yield slicer.mrmlScene
    host.reset()


@pytest.fixture
def wait_until():
    """`wait_until(condition, timeout_s)`: runs the event loop until the condition holds."""

    def wait(condition, timeout_s=5.0):
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"the condition did not hold within {timeout_s} s")
            slicer.app.processEvents()
            time.sleep(0.002)

    return wait


@pytest.fixture
def load_module(scene):
    """`load_module(path)`: a scripted module as Slicer loads it; unloaded afterwards."""
    loaded = []

    def load(path):
        loaded.append(host.load_module(path))
        return loaded[-1]

    yield load
    for module in reversed(loaded):
        module.unload()


@pytest.fixture(scope="session")
def phantom():
    """A CT with two nodules."""
    from contrastdiagnosis.imaging.phantom import PhantomNodule, make_phantom

    nodules = [PhantomNodule(POINTS[0], 14.0), PhantomNodule(POINTS[1], 10.0)]
    return make_phantom(nodules, shape=(60, 150, 180), spacing_mm=(2.5, 1.9, 1.9)).volume


@pytest.fixture(scope="session")
def engine():
    """With the bundle that comes along, as users have it."""
    from ContrastDiagnosisLib.Engine.EngineProcess import EngineOptions, LocalEngine

    made = LocalEngine(EngineOptions(ENGINE_PYTHON, "", "cpu"), str(MODULES))
    yield made
    made.stop()


@pytest.fixture
def widget(load_module, engine, monkeypatch):
    """The module's widget with the shared engine."""
    import ContrastDiagnosisLib.Panels.Panel as panel

    monkeypatch.setattr(panel.Panel.__init__, "__defaults__", (lambda *_: KeptEngine(engine),))
    made = load_module(MODULE).widget
    made.parent.enter()
    return made


def add_ct(volume, name="CT", hu=None):
    """A CT in the scene."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.ijk_to_ras))
    slicer.util.updateVolumeFromArray(node, volume.hu if hu is None else hu)
    node.CreateDefaultDisplayNodes()
    return node


@pytest.fixture
def click(phantom, wait_until):
    """Selects the phantom, places points, waits for the answers; gives the IDs."""

    def run(widget, points=(POINTS[0],), wait=True, volume=None):
        node = widget.logic.getParameterNode()
        node.inputVolume = volume or node.inputVolume or add_ct(phantom)
        ids = [widget.logic.addNodule(p) for p in points]
        if wait:
            wait_until(lambda: not widget.panel.session.isRunning, LIMIT_S)
        return ids

    return run
