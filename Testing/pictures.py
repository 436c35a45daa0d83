"""The pictures of `Resources` and `docs` made anew: `make pictures`.

The report's need Chromium on the path; those of Slicer come from `make slicer-story`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
RESOURCES = ROOT / "Resources"
sys.path[:0] = [str(ROOT / "ContrastDiagnosisSlicer"), str(ROOT / "training")]

REPORT = {
    "demo_report.png": ("header, section.columns", 1180, None),
    "report_concepts.png": ("section.concepts", 1120, None),
    "report_maps.png": ("section:has(.cards):not(.concepts)", 1100, 655),
    "report_trust.png": ("section:has(.charts)", 1100, None),
}
"""What of the report each picture shows, its width, and its height if not all is shown."""

STORY = {"panel.png": "08_boxes", "compare.png": "06_compare"}
"""Chapter of the story that each picture of Slicer shows."""

TALL = 4000
LIMIT_S = 120


def main() -> None:
    """Draws all of them."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no Chromium on the path: the pictures of the report stay as they are")
    with tempfile.TemporaryDirectory() as folder:
        draw_report(chromium, Path(folder))
    draw_robustness(chromium)
    take_story()


def draw_report(chromium: str, folder: Path) -> None:
    """Pictures of parts of the demo's report."""
    from contrastdiagnosis.commands.main import main as contrastdiagnosis

    contrastdiagnosis(["demo", "--out", str(folder)])
    html = (folder / "report.html").read_text(encoding="utf-8")
    for name, (shown, width, height) in REPORT.items():
        rule = f"main > *:not({shown}) {{ display:none }} main {{ padding-top:4px }}" + (
            "" if name.startswith("demo") else " body > *:not(main) { display:none }"
        )
        draw(chromium, html, rule, (width, height or TALL), RESOURCES / name)


def draw_robustness(chromium: str) -> None:
    """The curves of `robust-eval`, of what it wrote into the shipped bundle."""
    from contrastdiagnosis_training.evaluation.robustness.report import render_robust_report

    told = json.loads((RESOURCES / "Bundles" / "lidc" / "bundle.json").read_text("utf-8"))
    metrics = told["bundle"]["metrics"]["robustness"]
    html = render_robust_report(metrics, {}, "Research use only")
    rule = "main > *:not(section:has(.charts)), body > *:not(main) { display:none }"
    draw(chromium, html, rule, (1120, TALL), ROOT / "docs" / "robustness.png")


def draw(chromium: str, html: str, rule: str, size: tuple[int, int], out: Path) -> None:
    """A picture of what a style sheet leaves of a page."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "part.html", Path(folder) / "part.png"
        page.write_text(html.replace("</head>", f"<style>{rule}</style></head>"), "utf-8")
        options = (
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}", page.as_uri(),
        )  # fmt: skip
        subprocess.run([chromium, *options], check=True, capture_output=True, timeout=LIMIT_S)
        without_rest(Image.open(shot).convert("RGB")).save(out, optimize=True)
    print(f"wrote {out}")


def without_rest(image: Image.Image, margin: int = 12) -> Image.Image:
    """The image without the empty rows at its end."""
    rows = np.asarray(image)
    drawn = np.flatnonzero((rows != rows[-1, 0]).any(axis=(1, 2)))
    return image.crop((0, 0, image.width, min(int(drawn[-1]) + margin, image.height)))


def take_story() -> None:
    """What the story in the real application left in `out/story`."""
    for name, chapter in STORY.items():
        shot = ROOT / "out" / "story" / f"{chapter}.png"
        if not shot.is_file():
            sys.exit(f"no {shot}: run make slicer-story SLICER=/path/to/Slicer first")
        Image.open(shot).convert("RGB").save(RESOURCES / name, optimize=True)
        print(f"wrote {RESOURCES / name}")


if __name__ == "__main__":
    main()
