"""The phantom CT in Slicer's Sample Data module; it comes along, nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

CATEGORY = "ContrastDiagnosis"
NAME = "ContrastDiagnosisPhantom"

PHANTOM_FILE = Path(__file__).resolve().parents[1] / "Resources" / "Phantom" / f"{NAME}.nrrd"
"""Drawn by Testing/sample_phantom.py."""

FACTS = json.loads(PHANTOM_FILE.with_suffix(".json").read_text(encoding="utf-8"))
"""Written with the phantom: its nodules and the checksum of the file."""

NODULE_CENTERS_RAS: tuple[tuple[float, float, float], ...] = tuple(
    tuple(nodule["centerRas"]) for nodule in FACTS["nodules"]
)
"""Where the phantom's nodules are: spiculated, calcified, ground-glass, smooth."""

LUNG_WINDOW, LUNG_LEVEL = 1500, -600


def registerSampleData(modulePath: str) -> None:
    """Offers the phantom in the Sample Data module, once.

    Args:
        modulePath: The module's file, as `__file__` or `slicer.util.modulePath` gives it.
    """
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory(CATEGORY, title=_("ContrastDiagnosis"))
    thumbnail = Path(modulePath).resolve().parent / "Resources" / "Icons" / f"{NAME}.png"
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        thumbnailFileName=str(thumbnail),
        # The panel's button calls customDownloader; SampleData.downloadSample(NAME) never does and
        # reads the URI.
        uris=PHANTOM_FILE.as_uri(),
        fileNames=PHANTOM_FILE.name,
        nodeNames=NAME,
        checksums=f"SHA256:{FACTS['sha256']}",
        customDownloader=loadPhantom,
    )


def loadPhantom(source: Any = None) -> Any:
    """The phantom as a new volume of the scene, in the lung window.

    Args:
        source: The sample data source, which Slicer hands over; there is only one.
    """
    with slicer.util.tryWithErrorDisplay(_("The phantom CT could not be loaded."), waitCursor=True):
        node = slicer.util.loadVolume(str(PHANTOM_FILE), {"name": NAME})
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(LUNG_WINDOW, LUNG_LEVEL)
    return node
