"""Tokens of remote servers: in the system's keyring where there is one, else until Slicer ends.

Slicer's settings are a plain file, which backups and other programs read: no token goes there.
"""

from __future__ import annotations

import logging
from typing import Any

SERVICE = "ContrastDiagnosis for 3D Slicer"

LEAST_PRIORITY = 1
"""Of a keyring; those below keep secrets in plain files, or nowhere (keyring's documentation)."""

_known: dict[str, str] = {}
"""By address, as long as Slicer runs."""


def tokenOf(url: str) -> str:
    """The token that was kept for a server; empty if there is none."""
    if url not in _known:
        ring = _keyring() if url else None
        try:
            _known[url] = (ring.get_password(SERVICE, url) or "") if ring else ""
        except Exception as error:
            _failed(error)
            _known[url] = ""
    return _known.get(url, "")


def keepToken(url: str, token: str) -> None:
    """Keeps a server's token; an empty one is forgotten."""
    if tokenOf(url) == token:
        return
    _known[url] = token
    ring = _keyring() if url else None
    if ring is None:
        return
    try:
        if token:
            ring.set_password(SERVICE, url, token)
        else:
            ring.delete_password(SERVICE, url)
    except Exception as error:
        _failed(error)


def inKeyring() -> bool:
    """Whether tokens outlast Slicer."""
    return _keyring() is not None


def _keyring() -> Any:
    """The system's keyring; None where the package `keyring` or a safe store is missing."""
    try:
        import keyring

        ring = keyring.get_keyring()
        return ring if ring.priority >= LEAST_PRIORITY else None
    except Exception as error:
        # Without the package, or with a broken one, tokens are asked for: no reason to fail.
        logging.debug("no keyring: %s", type(error).__name__)
        return None


def _failed(error: Exception) -> None:
    """A locked or refused keyring; its message may quote what it was asked to keep."""
    logging.warning("the keyring did not answer: %s", type(error).__name__)
