"""Pictures of a nodule, of cases and of maps: PNG and SVG paths that a report embeds."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from contrastdiagnosis.diagnosis.diagnoser import Diagnosis
from contrastdiagnosis.imaging.measure import contours
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY, PatchGeometry, resample, window
from contrastdiagnosis.imaging.volume import Volume
from contrastdiagnosis.maps.explanation import EvidenceMap

OVERVIEW_PIXELS = 512
"""Longer side of the overview."""

MAP_COLOURS = {
    "similar": ((0, 60, 90), (0, 150, 170), (120, 255, 220)),
    "different": ((90, 0, 70), (220, 40, 90), (255, 170, 120)),
    "concept": ((70, 40, 160), (130, 90, 250), (215, 200, 255)),
}
"""Colour of weak, middling and strong evidence; none looks like the yellow contour."""


OUTLINE = (255, 214, 0)


class Picture(NamedTuple):
    """A grey picture with outlines drawn over it."""

    title: str
    source: str
    """PNG as a data URI."""
    width: float
    height: float
    """Pixels of the PNG; the outline's coordinates."""
    aspect: float
    """Height of a pixel over its width."""
    outline: str
    """SVG path."""
    pixel_mm: float
    """Width of a pixel."""
    sides: str
    """Where the left, right, upper and lower edge lie in the patient: letters of R L A P S I."""
    overlay: str = ""
    """PNG of a map as a data URI, to be laid over the grey picture."""
    contour: str = ""
    """SVG path around the top of the map."""
    looked: str = ""
    """SVG path of boxes that say where to look."""
    ignored: str = ""
    """SVG path of boxes that say what to ignore."""


class CellSlice(NamedTuple):
    """The axial slice of a patch through one of its cells."""

    intensity: NDArray
    """(H, W) in [0, 1]."""
    mask: NDArray
    """(H, W), outlined at one half."""
    frame: tuple[int, int, int, int] | None
    """The cell's first column and row, and its width and height in voxels; None for no cell."""
    strength: NDArray | None = None
    """(H, W) in [0, 1] of the map laid over it."""
    looked: NDArray | None = None
    """(H, W) bool: voxels in boxes that say where to look."""
    ignored: NDArray | None = None
    """(H, W) bool: voxels in boxes that say what to ignore."""


def plane_pictures(
    intensity: NDArray, probability: NDArray, geometry: PatchGeometry, axial_k: int | None
) -> list[Picture]:
    """Axial, coronal and sagittal picture through the nodule.

    Args:
        intensity: (D, H, W) in [0, 1].
        probability: (D, H, W), outlined at one half.
        geometry: Of both.
        axial_k: Which axial slice; None takes the middle one.
    """
    inside = probability >= 0.5
    middle = [n // 2 for n in intensity.shape]
    center = np.argwhere(inside).mean(axis=0).round().astype(int) if inside.any() else middle
    k = center[0] if axial_k is None else axial_k
    sk, sj, si = geometry.spacing_mm
    # Coronal and sagittal pictures have the head on top: their rows run against k.
    return [
        _picture("axial", intensity[k], probability[k], (sj, si), "RLAP"),
        _picture(
            "coronal", intensity[::-1, center[1]], probability[::-1, center[1]], (sk, si), "RLSI"
        ),
        _picture(
            "sagittal", intensity[::-1, :, center[2]], probability[::-1, :, center[2]], (sk, sj),
            "APSI",
        ),
    ]  # fmt: skip


def overview_picture(diagnosis: Diagnosis, volume: Volume) -> Picture:
    """The axial plane through the point, whatever the volume's own axes, with a cross hair."""
    ends = ([0, n - 1] for n in volume.hu.shape[::-1])
    corners = volume.ras_from_ijk(list(product(*ends)))
    low, high = corners.min(axis=0), corners.max(axis=0)
    pixel_mm = max(float((high - low)[:2].max()) / OVERVIEW_PIXELS, min(volume.spacing_mm))
    width, height = (int(n) for n in np.ceil((high - low)[:2] / pixel_mm) + 1)
    # The patient's right is on the left and the front on top.
    plane: NDArray[np.float64] = np.diag([-pixel_mm, -pixel_mm, 1.0, 1.0])
    plane[:3, 3] = high[0], high[1], diagnosis.point_ras_mm[2]
    air = DEFAULT_GEOMETRY.window_hu[0]
    to_volume = np.asarray(np.linalg.inv(volume.ijk_to_ras) @ plane, dtype=np.float64)
    hu, _ = resample(volume.hu, to_volume, (1, height, width), fill=air)
    i, j = (high[:2] - np.array(diagnosis.point_ras_mm[:2])) / pixel_mm
    arm, gap = 24 / pixel_mm, 12 / pixel_mm
    cross = "".join(
        f"M{i + 0.5 + dx * gap:.1f} {j + 0.5 + dy * gap:.1f}l{dx * arm:.1f} {dy * arm:.1f}"
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    return Picture("overview", _png(window(hu[0])), width, height, 1.0, cross, pixel_mm, "RLAP")


def evidence_picture(
    title: str,
    intensity: NDArray,
    mask: NDArray,
    evidence: EvidenceMap,
    sign: str,
    highest: float,
    geometry: PatchGeometry = DEFAULT_GEOMETRY,
) -> Picture:
    """The axial slice that holds most of a map, with the map in colour.

    Args:
        title: Whose side it is.
        intensity: (D, H, W) in [0, 1].
        mask: (D, H, W), outlined at one half.
        evidence: The map.
        sign: "similar" or "different".
        highest: Raw value that gets the full colour: both sides of a pair share one scale.
        geometry: Of all three.
    """
    k = middle_slice(mask) if evidence.empty else evidence.slice_index
    plain = _picture(title, intensity[k], mask[k], geometry.spacing_mm[1:], "RLAP")
    if evidence.empty:
        return plain
    level = evidence.contour_level
    strength = evidence.values[k] * (evidence.highest / highest)
    return plain._replace(
        overlay=_map_png(strength, sign), contour=_svg_path(contours(evidence.values[k], level))
    )


def cell_picture(
    title: str, shown: CellSlice, geometry: PatchGeometry = DEFAULT_GEOMETRY
) -> Picture:
    """The slice with its map, the cell framed, and the boxes."""
    spacing = geometry.spacing_mm[1:]
    plain = _picture(title, shown.intensity, shown.mask, spacing, "RLAP")
    looked, ignored = (
        "" if boxes is None else _svg_path(contours(boxes.astype(np.float32)))
        for boxes in (shown.looked, shown.ignored)
    )
    contour = ""
    if shown.frame is not None:
        i, j, width, height = shown.frame
        contour = f"M{i} {j}h{width}v{height}h{-width}Z"
    overlay = "" if shown.strength is None else _map_png(shown.strength, "concept")
    return plain._replace(overlay=overlay, contour=contour, looked=looked, ignored=ignored)


def cell_thumbnail(shown: CellSlice) -> Image.Image:
    """(4 H, 4 W) picture of the same without boxes; only the frame is yellow."""
    picture = thumbnail(shown.intensity, shown.mask, shown.strength, "concept", (255, 255, 255))
    if shown.frame is not None:
        i, j, width, height = (4 * n for n in shown.frame)
        ImageDraw.Draw(picture).rectangle((i, j, i + width, j + height), outline=OUTLINE, width=5)
    return picture


def bar_image(share: float, colour: str = "#5b6675", start: float = 0.0) -> Image.Image:
    """(12, 120) bar from a start to a share of its length, both in [0, 1]."""
    picture = Image.new("RGB", (120, 12), "#e6eaf0")
    low, high = sorted((119 * start, 119 * share))
    ImageDraw.Draw(picture).rectangle((round(low), 0, round(high), 11), fill=colour)
    return picture


def thumbnail(
    intensity: NDArray,
    mask: NDArray,
    strength: NDArray | None = None,
    sign: str = "similar",
    outline: tuple[int, int, int] = OUTLINE,
) -> Image.Image:
    """(4 H, 4 W) picture of an (H, W) slice, its mask's outline, and a map laid over it."""
    height, width = intensity.shape
    size = 4 * width, 4 * height
    grey = Image.fromarray(np.round(np.clip(intensity, 0, 1) * 255).astype(np.uint8))
    picture = grey.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    if strength is not None:
        overlay = _map_image(strength, sign).resize(size, Image.Resampling.BILINEAR)
        picture = Image.alpha_composite(picture, overlay)
    picture = picture.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for line in contours(mask.astype(np.float32)):
        pen.line([(4 * x + 2, 4 * y + 2) for x, y in [*line, line[0]]], fill=outline, width=2)
    return picture


def middle_slice(mask: NDArray) -> int:
    """The slice (k) with the largest cross-section of a mask, the middle one if it is empty."""
    area = (mask >= 0.5).sum(axis=(1, 2))
    return int(area.argmax()) if area.any() else len(mask) // 2


def _map_png(strength: NDArray, sign: str) -> str:
    return data_uri(_map_image(strength, sign))


def _map_image(strength: NDArray, sign: str) -> Image.Image:
    """(H, W) values in [0, 1] as colours that grow more opaque with strength.

    Concepts' similarities are rarely 0 anywhere; the weak ones must not veil the picture.
    """
    stops = np.array(MAP_COLOURS[sign], dtype=np.float64)
    places = np.linspace(0, 1, len(stops))
    channels = [np.interp(strength, places, stops[:, c]) for c in range(3)]
    opacity = 0.8 * (strength**2 if sign == "concept" else np.sqrt(strength))
    rgba = np.stack([*channels, 255 * opacity], axis=-1)
    return Image.fromarray(np.round(rgba).astype(np.uint8), mode="RGBA")


def _picture(
    title: str,
    image: NDArray,
    probability: NDArray,
    spacing_mm: tuple[float, float],
    sides: str,
) -> Picture:
    height, width = image.shape
    row_mm, column_mm = spacing_mm
    outline = _svg_path(contours(probability))
    return Picture(title, _png(image), width, height, row_mm / column_mm, outline, column_mm, sides)


def _svg_path(lines: Sequence[NDArray]) -> str:
    """Closed paths; voxel centres lie half a pixel inside the picture."""
    return "".join(
        "M" + "L".join(f"{x + 0.5:.2f} {y + 0.5:.2f}" for x, y in line) + "Z" for line in lines
    )


def _png(image: NDArray) -> str:
    grey = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return data_uri(Image.fromarray(grey))


def data_uri(image: Image.Image) -> str:
    """A PNG that stands in the page itself."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
