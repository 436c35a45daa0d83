"""Times of the panel for `make bench`, as JSON lines: it needs a Qt application of its own.

A click is followed from the point to the result in the scene, and compared with the engine's own
time for the same nodule in this process; the two take turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "Testing" / "headless"), str(ROOT / "ContrastDiagnosisSlicer")]

import headless

headless.start()
headless.reset()
import qt
import slicer
from contrastdiagnosis.bundle import default_bundle_folder, load_bundle
from contrastdiagnosis.diagnoser import Diagnoser
from contrastdiagnosis.volume import Volume
from ContrastDiagnosisLib import NoduleScene, SamplePhantom
from ContrastDiagnosisLib.Settings import Settings, writeSettings
from ContrastDiagnosisLib.VolumeBridge import ijkToRasOf

CLICKS = 15
TIMER_MS = 5


class LoopWatch:
    """The longest pause between two ticks of a timer."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._last = time.perf_counter()
        self._timer = qt.QTimer()
        self._timer.setInterval(TIMER_MS)
        self._timer.connect("timeout()", self._tick)
        self._timer.start()

    def restart(self) -> None:
        """Forgets what was between two diagnoses."""
        self._last = time.perf_counter()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest_s = max(self.longest_s, now - self._last)
        self._last = now


def main() -> None:
    """Prints `{"name": ..., "value": ...}` for each figure."""
    writeSettings(Settings(python=sys.executable, device="cpu"))
    module = headless.load_module(ROOT / "ContrastDiagnosisSlicer" / "ContrastDiagnosis.py")
    widget = module.widget
    widget.parent.enter()
    node = widget.logic.getParameterNode()
    node.inputVolume = SamplePhantom.loadPhantom()
    volume = Volume(
        slicer.util.arrayFromVolume(node.inputVolume).copy(),
        ijkToRasOf(node.inputVolume),
    )
    diagnoser = Diagnoser(load_bundle(default_bundle_folder()), "cpu")
    r, a, s = SamplePhantom.NODULE_CENTERS_RAS[0]
    click(widget, (r, a, s))
    diagnoser.diagnose(volume, (r, a, s))
    watch, clicks, own = LoopWatch(), [], []
    watch.longest_s = 0.0
    for n in range(CLICKS):
        point = (r + 0.3 * (n + 1), a, s)
        begun = time.perf_counter()
        diagnoser.diagnose(volume, point)
        own.append(time.perf_counter() - begun)
        watch.restart()
        clicks.append(click(widget, point))
        assert NoduleScene.documentOf(node, node.nodule) is not None
        widget.panel.session.undo()
        node.points.RemoveNthControlPoint(1)
    for name, value in {
        "click_s": statistics.median(clicks),
        "engine_s": statistics.median(own),
        "longest_block_s": watch.longest_s,
    }.items():
        print(json.dumps({"name": name, "value": value}))
    module.unload()


def click(widget, point) -> float:
    """Seconds from placing a point to its result."""
    # An event loop that sleeps, as Slicer's does: polling would take a core from the engine.
    loop, look = qt.QEventLoop(), qt.QTimer()
    look.setInterval(TIMER_MS)
    look.connect("timeout()", lambda: None if widget.panel.session.isRunning else loop.quit())
    begun = time.perf_counter()
    widget.logic.addNodule(point)
    look.start()
    loop.exec()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
