"""What the user set up once for this computer; kept in Slicer's settings, not in scenes.

Tokens lie in the system's keyring instead (`Tokens`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import qt

from ContrastDiagnosisLib.Engine.Tokens import keepToken, tokenOf

GROUP = "ContrastDiagnosis/"


@dataclass(frozen=True)
class Settings:
    """Where the engine runs."""

    location: str = "local"
    """"local" or "remote"."""
    python: str = ""
    """Program of another Python environment, empty for Slicer's own."""
    bundle: str = ""
    """Bundle folder, empty for the one that comes along."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    remoteUrl: str = ""
    remoteToken: str = ""
    """Not in Slicer's settings."""
    remoteAllowed: str = ""
    """The address to which the user agreed to send voxels."""


TOKEN = "remoteToken"

STORED = tuple(field.name for field in fields(Settings) if field.name != TOKEN)


def readSettings() -> Settings:
    """As stored; defaults where nothing is."""
    stored = qt.QSettings()
    values = {name: stored.value(GROUP + name) for name in STORED}
    told = replace(Settings(), **{name: str(v) for name, v in values.items() if v is not None})
    if stored.contains(GROUP + TOKEN):  # Earlier versions kept it there.
        keepToken(told.remoteUrl, str(stored.value(GROUP + TOKEN) or ""))
        stored.remove(GROUP + TOKEN)
    return replace(told, remoteToken=tokenOf(told.remoteUrl))


def writeSettings(settings: Settings) -> None:
    """Keeps them for the next start."""
    stored = qt.QSettings()
    for name in STORED:
        stored.setValue(GROUP + name, getattr(settings, name))
    keepToken(settings.remoteUrl, settings.remoteToken)
