"""How long the panel's event loop stands still; in Slicer and headless alike."""

from __future__ import annotations

import time

import qt

TIMER_MS = 5


class LoopWatch:
    """The longest pause between two ticks of a timer."""

    def __init__(self) -> None:
        """Begins to watch."""
        self.longest_s = 0.0
        self._last = time.perf_counter()
        self._timer = qt.QTimer()
        self._timer.setInterval(TIMER_MS)
        self._timer.connect("timeout()", self._tick)
        self._timer.start()

    def restart(self) -> None:
        """Forgets what was between two diagnoses."""
        self._last = time.perf_counter()

    def stop(self) -> float:
        """Ends the watch; gives the longest pause, s."""
        self._tick()
        self._timer.stop()
        return self.longest_s

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
