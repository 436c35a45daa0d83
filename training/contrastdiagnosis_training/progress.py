"""Progress bars that nobody finds in a log."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class Bar(tqdm):
    """tqdm on a terminal, nothing in a file or pipe; a bar redrawn there is a line of megabytes."""

    def __init__(self, *arguments: Any, disable: bool | None = None, **options: Any) -> None:
        super().__init__(*arguments, disable=disable, **options)


class StageBars:
    """A bar a stage, which appears with the first thing done: nothing to do shows none."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._bar: Bar | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Moves the bar of a stage."""
        if self._bar is None or done == 1:
            self._bar = Bar(total=total, desc=stage, **self._options)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
