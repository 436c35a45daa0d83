"""Says so where the Slicer side cannot be tested."""

from __future__ import annotations

import pytest


def test_qt_and_slicer_core_are_there():
    try:
        import slicer  # noqa: F401
        from PySide6 import QtWidgets  # noqa: F401
    except ImportError as error:
        pytest.skip(
            f"the Slicer side is NOT tested: {error}; on Debian: apt install libegl1 libgl1"
            " libxkbcommon0 libfontconfig1 libdbus-1-3"
        )
