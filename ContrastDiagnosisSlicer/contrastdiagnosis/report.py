"""The HTML report: one self-contained file that a radiologist reads and files away."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import date
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from contrastdiagnosis.bundle import Bundle, BundleInfo
from contrastdiagnosis.cases import RATINGS, Case
from contrastdiagnosis.diagnoser import Diagnosis, SimilarCase
from contrastdiagnosis.measure import contours
from contrastdiagnosis.patch import DEFAULT_GEOMETRY, PatchGeometry, resample, window
from contrastdiagnosis.pixels import CasePixels
from contrastdiagnosis.summary import summarise
from contrastdiagnosis.volume import Volume

RATING_SCALES: dict[str, tuple[str, int, str, str]] = {
    "subtlety": ("Subtlety", 5, "extremely subtle", "obvious"),
    "internalStructure": ("Internal structure", 4, "soft tissue", "air"),
    "calcification": ("Calcification", 6, "popcorn", "absent"),
    "sphericity": ("Sphericity", 5, "linear", "round"),
    "margin": ("Margin", 5, "poorly defined", "sharp"),
    "lobulation": ("Lobulation", 5, "none", "marked"),
    "spiculation": ("Spiculation", 5, "none", "marked"),
    "texture": ("Texture", 5, "non-solid", "solid"),
    "malignancy": ("Malignancy", 5, "highly unlikely", "highly suspicious"),
}
"""Name, highest value and the words for both ends of each LIDC rating."""


OVERVIEW_PIXELS = 512
"""Longer side of the overview."""


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


class MapPoint(NamedTuple):
    """A case on the map of cases."""

    x: float
    y: float
    malignant: bool
    nearest: bool
    label: str


def render_report(diagnosis: Diagnosis, volume: Volume, bundle: Bundle) -> str:
    """HTML text of the report; no script, no link to anything outside the file.

    Args:
        diagnosis: What is reported.
        volume: The CT, for the overview slice.
        bundle: The bundle that gave the diagnosis.
    """
    geometry = bundle.info.geometry
    environment = Environment(
        loader=PackageLoader("contrastdiagnosis"), autoescape=True, undefined=StrictUndefined
    )
    points, query = case_map(bundle, diagnosis)
    return environment.get_template("report.html.j2").render(
        summary=summarise(diagnosis, volume, bundle.info),
        diagnosis=diagnosis,
        info=bundle.info,
        created=date.today().isoformat(),
        overview=overview_picture(diagnosis, volume),
        planes=plane_pictures(
            diagnosis.encoding.patch.intensity,
            diagnosis.encoding.probability * diagnosis.nodule,
            geometry,
            diagnosis.diameters.slice_index if diagnosis.nodule.any() else None,
        ),
        cards=[_card(similar, bundle) for similar in diagnosis.cases],
        threshold=bundle.indicator.threshold,
        map_points=points,
        map_query=query,
        total_cases=len(bundle.library),
        headline=headline_metrics(bundle.info),
    )


def headline_metrics(info: BundleInfo) -> dict[str, Any] | None:
    """The figures of the rule `exclude3` if the bundle was measured."""
    return info.metrics.get("exclude3")


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


def case_map(bundle: Bundle, diagnosis: Diagnosis) -> tuple[list[MapPoint], tuple[float, float]]:
    """All cases and the query in the plane of the embeddings' first two principal axes."""
    embedding = bundle.library.embedding.astype(np.float64)
    mean = embedding.mean(axis=0)
    _, _, axes = np.linalg.svd(embedding - mean, full_matrices=False)
    placed = (np.vstack([embedding, diagnosis.encoding.embedding]) - mean) @ axes[:2].T
    low, high = placed.min(axis=0), placed.max(axis=0)
    placed = (placed - low) / np.maximum(high - low, 1e-9)
    nearest = {similar.case.case_id for similar in diagnosis.cases}
    points = [
        MapPoint(float(x), float(y), c.malignant, c.case_id in nearest, _case_label(c))
        for (x, y), c in zip(placed[:-1], bundle.library.cases, strict=True)
    ]
    points.sort(key=lambda point: point.nearest)
    return points, (float(placed[-1, 0]), float(placed[-1, 1]))


def _case_label(case: Case) -> str:
    kind = "malignant" if case.malignant else "benign"
    return f"{case.case_id}: {kind}, {case.diameter_mm:.1f} mm"


def _card(similar: SimilarCase, bundle: Bundle) -> dict[str, Any]:
    case = similar.case
    picture = None
    if bundle.pixels.has(case.case_id):
        picture = case_picture(bundle.pixels.read(case.case_id), bundle.info.geometry)
    ratings = []
    for name in RATINGS:
        if name in case.ratings:
            title, highest, low_word, high_word = RATING_SCALES[name]
            value = case.ratings[name]
            ratings.append(
                {
                    "title": title,
                    "value": value,
                    "share": (value - 1) / (highest - 1),
                    "low": low_word,
                    "high": high_word,
                    "highest": highest,
                }
            )
    return {"similar": similar, "case": case, "picture": picture, "ratings": ratings}


def case_picture(pixels: CasePixels, geometry: PatchGeometry) -> Picture:
    """The case's axial slice with the largest cross-section of the readers' mask."""
    k = int(pixels.mask.sum(axis=(1, 2)).argmax())
    return plane_pictures(pixels.intensity, pixels.mask.astype(np.float32), geometry, k)[0]


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
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
