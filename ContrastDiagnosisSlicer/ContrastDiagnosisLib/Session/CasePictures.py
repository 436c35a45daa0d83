"""Pictures of the cases that are shown, each asked for once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class CasePictures:
    """Keeps what the engine sent; an empty picture is one that is on its way, or that is none."""

    def __init__(self, session: Any, show: Callable[[str, bytes], None]) -> None:
        """Asks nothing yet.

        Args:
            session: The `DiagnosisSession` that asks the engine.
            show: Called with a case and its picture, PNG.
        """
        self._session = session
        self._show = show
        self._kept: dict[str, bytes] = {}

    def forget(self) -> None:
        """The engine changed: its pictures may be others."""
        self._kept.clear()

    def follow(self, cases: list[dict[str, Any]]) -> None:
        """Shows the pictures of the cases of a diagnosis, now or as they come."""
        for case in cases:
            caseId = case["case_id"]
            if caseId in self._kept:
                self._show(caseId, self._kept[caseId])
            elif case["has_pixels"] and not self._session.isRunning:
                self._kept[caseId] = b""
                self._session.requestPicture(
                    caseId, lambda png, caseId=caseId: self._onPicture(caseId, png)
                )

    def _onPicture(self, caseId: str, png: bytes) -> None:
        self._kept[caseId] = png
        self._show(caseId, png)
