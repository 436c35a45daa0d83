"""Progress bars that nobody finds in a log."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class Bar(tqdm):
    """tqdm on a terminal, nothing in a file or pipe; a bar redrawn there is a line of megabytes."""

    def __init__(self, *arguments: Any, disable: bool | None = None, **options: Any) -> None:
        super().__init__(*arguments, disable=disable, **options)
