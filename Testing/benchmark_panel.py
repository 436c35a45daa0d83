"""Times of the panel for `make bench`, as JSON lines: it needs a Qt application of its own.

A click is followed from the point to the result in the scene, and compared with the time that the
engine itself took for it, which the server tells with the answer (`Server-Timing`).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / p) for p in ("Testing", "Testing/headless", "ContrastDiagnosisSlicer")]

import headless

headless.start()
headless.reset()
import qt
from ContrastDiagnosisLib import SamplePhantom
from ContrastDiagnosisLib.Engine.Settings import Settings, writeSettings
from ContrastDiagnosisLib.Scene import NoduleScene
from loop_watch import LoopWatch


def main() -> None:
    """Prints `{"name": ..., "value": ...}` for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3)
    effort = parser.parse_args()
    writeSettings(Settings(python=sys.executable, device="cpu"))
    module = headless.load_module(ROOT / "ContrastDiagnosisSlicer" / "ContrastDiagnosis.py")
    widget = module.widget
    widget.parent.enter()
    node = widget.logic.getParameterNode()
    node.inputVolume = SamplePhantom.loadPhantom()
    own: list[float] = []
    widget.panel.client._direct.finished.connect(lambda reply: own.append(engine_s(reply)))
    r, a, s = SamplePhantom.NODULE_CENTERS_RAS[0]
    watch, clicks = LoopWatch(), []
    for n in range(effort.warm_up + effort.clicks):
        point = (r + 0.3 * (n + 1), a, s)
        watch.restart()
        clicks.append(click(widget, point))
        assert NoduleScene.documentOf(node, node.nodule) is not None
        widget.panel.session.undo()
        node.points.RemoveNthControlPoint(0)
        if n + 1 == effort.warm_up:
            clicks.clear()
            own.clear()
            watch.longest_s = 0.0
    for name, value in {
        "click_s": statistics.median(clicks),
        "engine_s": statistics.median(own),
        "ratio": statistics.median(c / e for c, e in zip(clicks, own, strict=True)),
        "longest_block_s": watch.longest_s,
    }.items():
        print(json.dumps({"name": name, "value": value}))
    module.unload()


def engine_s(reply) -> float:
    """Seconds that the engine took for an answer."""
    told = bytes(reply.rawHeader("Server-Timing").data()).decode()
    return float(re.fullmatch(r"engine;dur=([\d.]+)", told)[1]) / 1000


def click(widget, point) -> float:
    """Seconds from placing a point until segment, score and cases are in scene and panel."""
    # An event loop that sleeps, as Slicer's does: polling would take a core from the engine.
    loop, session, ended = qt.QEventLoop(), widget.panel.session, []
    follow = session._onChanged

    def on_changed() -> None:
        follow()
        if not session.isRunning:
            ended.append(time.perf_counter())
            loop.quit()

    session._onChanged = on_changed
    begun = time.perf_counter()
    widget.logic.addNodule(point)
    loop.exec()
    session._onChanged = follow
    # The surface for the 3-D view follows in the next turn of the loop.
    qt.QApplication.processEvents()
    return ended[0] - begun


if __name__ == "__main__":
    main()
