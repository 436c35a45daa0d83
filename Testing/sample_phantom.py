"""Draws the phantom CT that the extension ships as sample data, and its thumbnail.

Run by hand when the phantom changes: `.venv/bin/python Testing/sample_phantom.py`. Slicer cannot
draw it itself: its side of the extension does not import the engine.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tyro
from contrastdiagnosis.imaging.phantom import AIR, DEMO_NODULES, make_phantom
from contrastdiagnosis.imaging.volume import Volume, sitk_from_array
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

RESOURCES = Path(__file__).parents[1] / "ContrastDiagnosisSlicer" / "Resources"
NAME = "ContrastDiagnosisPhantom"
KINDS = ("spiculated", "calcified", "ground-glass", "smooth")
"""Of `DEMO_NODULES`, as the tutorial calls them."""

SHAPE, SPACING_MM = (112, 228, 328), (1.5, 1.0, 1.0)
"""The whole trunk."""
STEP_HU = 4
"""The noise is 18 HU: coarser values are not seen, and a third of the file is saved."""
WINDOW_HU = (-1350.0, 150.0)
"""The lung window."""
THUMBNAIL = (260, 280)
"""Pixels that Slicer's Sample Data module asks for, width and height."""


@dataclass(frozen=True)
class SamplePhantom:
    """Write the sample CT, its nodules and its thumbnail."""

    resources: Path = RESOURCES
    """The module's Resources folder."""

    def run(self) -> None:
        """Draws, writes, says how large it became."""
        phantom = make_phantom(DEMO_NODULES, shape=SHAPE, spacing_mm=SPACING_MM)
        volume = Volume(compressible(phantom.volume.hu), phantom.volume.ijk_to_ras)
        file = self.resources / "Phantom" / f"{NAME}.nrrd"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = sitk_from_array(volume.hu, volume.ijk_to_ras)
        sitk.WriteImage(image, str(file), useCompression=True, compressionLevel=9)
        facts = {
            "about": "Phantom CT drawn by Testing/sample_phantom.py; no patient stands behind it.",
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "nodules": [
                {"kind": kind, "centerRas": nodule.center_ras_mm, "diameterMm": nodule.diameter_mm}
                for kind, nodule in zip(KINDS, DEMO_NODULES, strict=True)
            ],
        }
        file.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
        icon = self.resources / "Icons" / f"{NAME}.png"
        icon.parent.mkdir(parents=True, exist_ok=True)
        thumbnail(volume, DEMO_NODULES[0].center_ras_mm).save(icon, optimize=True)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB; {icon}")


def compressible(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """The CT in coarser steps, the air around the body without noise."""
    in_plane = ndimage.generate_binary_structure(2, 1)[None]
    label, _ = ndimage.label(hu < -500, structure=np.pad(in_plane, ((1, 1), (0, 0), (0, 0))))
    outside = np.isin(label, np.unique(label[:, :: SHAPE[1] - 1, :: SHAPE[2] - 1]))
    coarse = STEP_HU * np.round(hu / STEP_HU)
    return np.where(outside, AIR, coarse).astype(np.int16)


def thumbnail(volume: Volume, center_ras_mm: tuple[float, float, float]) -> Image.Image:
    """The axial slice through a point above the coronal one, as a radiologist sees them."""
    _, j, k = np.round(volume.ijk_from_ras(center_ras_mm)).astype(int)
    slices = _grey(volume.hu[k]), _grey(volume.hu[::-1, j])
    heights_mm = SHAPE[1] * SPACING_MM[1], SHAPE[0] * SPACING_MM[0]
    scale = min(THUMBNAIL[0] / (SHAPE[2] * SPACING_MM[2]), THUMBNAIL[1] / sum(heights_mm))
    picture, top = Image.new("L", THUMBNAIL, int(_grey(AIR))), 0
    width = round(SHAPE[2] * SPACING_MM[2] * scale)
    for pixels, height_mm in zip(slices, heights_mm, strict=True):
        size = width, round(height_mm * scale)
        picture.paste(
            Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS),
            ((THUMBNAIL[0] - width) // 2, top),
        )
        top += size[1]
    return picture


def _grey(hu: ArrayLike) -> NDArray[np.uint8]:
    low, high = WINDOW_HU
    return np.clip(255 * (np.asarray(hu) - low) / (high - low), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    tyro.cli(SamplePhantom).run()
