"""Runs that a command is given by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contrastdiagnosis.errors import InputError


def named_runs(texts: Sequence[str]) -> dict[str, Path]:
    """Run folders by name, in their order.

    Args:
        texts: Of the form NAME=FOLDER.

    Raises:
        InputError: One is not, or a name comes twice.
    """
    runs: dict[str, Path] = {}
    for text in texts:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder or name in runs:
            raise InputError(f"wanted runs as NAME=FOLDER, each name once, got {text!r}")
        runs[name] = Path(folder)
    return runs
