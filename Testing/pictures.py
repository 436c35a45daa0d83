"""The pictures of `Resources` made anew: `make pictures`.

The report's need Chromium on the path; the panels' are drawn offscreen by the headless stand-ins.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
RESOURCES = ROOT / "Resources"
sys.path[:0] = [str(ROOT / "Testing" / "headless"), str(ROOT / "ContrastDiagnosisSlicer")]

REPORT = {
    "demo_report.png": ("header, section.columns", 1180, None),
    "report_concepts.png": ("section.concepts", 1120, None),
    "report_maps.png": ("section:has(.cards):not(.concepts)", 1100, 655),
    "report_trust.png": ("section:has(.charts)", 1100, None),
}
"""What of the report each picture shows, its width, and its height if not all is shown."""

TALL = 4000
PANEL_SIZE = (600, 1480)
LIMIT_S = 120


def main() -> None:
    """Draws all of them."""
    draw_panels()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no Chromium on the path: the pictures of the report stay as they are")
    with tempfile.TemporaryDirectory() as folder:
        draw_report(chromium, Path(folder))


def draw_report(chromium: str, folder: Path) -> None:
    """Pictures of parts of the demo's report."""
    from contrastdiagnosis.cli import main as contrastdiagnosis

    contrastdiagnosis(["demo", "--out", str(folder)])
    html = (folder / "report.html").read_text(encoding="utf-8")
    for name, (shown, width, height) in REPORT.items():
        rule = f"main > *:not({shown}) {{ display:none }} main {{ padding-top:4px }}" + (
            "" if name.startswith("demo") else " body > *:not(main) { display:none }"
        )
        page, shot = folder / "part.html", folder / "part.png"
        page.write_text(html.replace("</head>", f"<style>{rule}</style></head>"), "utf-8")
        options = (
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--window-size={width},{height or TALL}", f"--screenshot={shot}", page.as_uri(),
        )  # fmt: skip
        subprocess.run([chromium, *options], check=True, capture_output=True, timeout=LIMIT_S)
        without_rest(Image.open(shot).convert("RGB")).save(RESOURCES / name, optimize=True)
        print(f"wrote {RESOURCES / name}")


def without_rest(image: Image.Image, margin: int = 12) -> Image.Image:
    """The image without the empty rows at its end."""
    rows = np.asarray(image)
    drawn = np.flatnonzero((rows != rows[-1, 0]).any(axis=(1, 2)))
    return image.crop((0, 0, image.width, min(int(drawn[-1]) + margin, image.height)))


def draw_panels() -> None:
    """The panel with the phantom's nodules; of the first a concept is rejected and a box drawn."""
    import headless

    headless.start()
    headless.reset()
    from ContrastDiagnosisLib import SamplePhantom
    from ContrastDiagnosisLib.Settings import Settings, writeSettings

    writeSettings(Settings(python=sys.executable, device="cpu"))
    folder = ROOT / "ContrastDiagnosisSlicer"
    module = headless.load_module(folder / "ContrastDiagnosis.py")
    widget = module.widget
    widget.parent.enter()
    node = widget.logic.getParameterNode()
    node.inputVolume = SamplePhantom.loadPhantom()

    def settled() -> bool:
        return not widget.panel.session.isRunning and not widget.panel.concepts.isRunning

    for point in SamplePhantom.NODULE_CENTERS_RAS:
        widget.logic.addNodule(point)
        headless.wait_until(settled, LIMIT_S)
    widget.panel.onNoduleSelected(0)
    widget.panel.onCaseSelected(0)
    headless.wait_until(settled, LIMIT_S)
    widget.panel.concepts.onReject("non-spherical", True)
    widget.panel.concepts.onBox(True, True)
    widget.panel.concepts.onConcept("spiculated")
    headless.wait_until(settled, LIMIT_S)
    widget.parent.resize(*PANEL_SIZE)
    file = RESOURCES / "panel.png"
    widget.parent.grab().save(str(file))
    without_rest(Image.open(file).convert("RGB")).save(file, optimize=True)
    print(f"wrote {file}")
    module.unload()


if __name__ == "__main__":
    main()
