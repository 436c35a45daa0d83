"""From a mask to what a radiologist would write down: the nodule at the point, its diameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage

REACH_MM = 8.0
"""A click beside the nodule still means it, up to this distance."""


class AxialDiameters(NamedTuple):
    """Largest axial extent and the extent across it, in the same slice."""

    long_mm: float
    short_mm: float
    slice_index: int
    """Slice (k) of the measurement."""


def nodule_at(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """The connected part of a mask nearest to the patch's centre, empty beyond `REACH_MM`.

    Args:
        mask: (D, H, W) on a patch grid whose centre is the click.
        spacing_mm: Distance between voxels along (k, j, i).
    """
    labels, count = ndimage.label(mask)
    if not count:
        return np.zeros_like(mask)
    where = np.argwhere(mask)
    middle = (np.array(mask.shape) - 1) / 2
    distance_mm = np.linalg.norm((where - middle) * spacing_mm, axis=1)
    nearest = int(distance_mm.argmin())
    if distance_mm[nearest] > REACH_MM:
        return np.zeros_like(mask)
    return labels == labels[tuple(where[nearest])]


def axial_diameters(
    probability: NDArray[np.float32], spacing_mm: tuple[float, float, float]
) -> AxialDiameters:
    """Longest axial diameter and the longest one perpendicular to it (RECIST, Fleischner).

    Args:
        probability: (D, H, W) of the nodule; its 0.5 contour is measured between voxels.
        spacing_mm: Distance between voxels along (k, j, i).
    """
    best = AxialDiameters(0.0, 0.0, probability.shape[0] // 2)
    limit = _longest_possible(probability >= 0.5, spacing_mm)
    # Most slices need no outline: those that can be longest come first.
    for k in np.argsort(-limit, kind="stable"):
        if limit[k] == 0 or limit[k] < best.long_mm:
            break
        outline = np.concatenate(contours(probability[k])) * spacing_mm[:0:-1]
        gap = outline[:, None] - outline[None]
        length = np.hypot(gap[..., 0], gap[..., 1])
        a, b = np.unravel_index(length.argmax(), length.shape)
        if (length[a, b], -k) > (best.long_mm, -best.slice_index):
            along = gap[a, b] / length[a, b]
            across = outline @ np.array([-along[1], along[0]])
            best = AxialDiameters(float(length[a, b]), float(np.ptp(across)), int(k))
    return best


def _longest_possible(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    """(D,) diagonal in mm of the box around each slice's outline; 0 for empty slices."""
    sides = []
    for axis, spacing in ((2, spacing_mm[1]), (1, spacing_mm[2])):
        line = np.asarray(mask.any(axis=axis))
        first = line.argmax(axis=1)
        last = line.shape[1] - 1 - line[:, ::-1].argmax(axis=1)
        # The outline runs less than a voxel beyond the mask, on either side.
        sides.append(np.where(line.any(axis=1), (last - first + 2) * spacing, 0.0))
    return np.asarray(np.hypot(*sides))


def contours(image: NDArray[np.floating], level: float = 0.5) -> list[NDArray[np.float64]]:
    """Closed outlines of an image at a level, each (N, 2) in voxels as (i, j)."""
    padded = np.pad(image.astype(np.float64), 1)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(level)
    return [np.asarray(line) - 1 for line in lines]
