"""What the user set up once for this computer; kept in Slicer's settings, not in scenes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import qt

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
    remoteAllowed: str = ""
    """The address to which the user agreed to send voxels."""


def readSettings() -> Settings:
    """As stored; defaults where nothing is."""
    stored = qt.QSettings()
    values = {f.name: stored.value(GROUP + f.name) for f in fields(Settings)}
    return replace(Settings(), **{name: str(v) for name, v in values.items() if v is not None})


def writeSettings(settings: Settings) -> None:
    """Keeps them for the next start."""
    stored = qt.QSettings()
    for field in fields(Settings):
        stored.setValue(GROUP + field.name, getattr(settings, field.name))
