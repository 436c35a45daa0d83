"""From a mask to what a radiologist would write down: the nodule at the point, its diameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

REACH_MM = 8.0
"""A click beside the nodule still means it, up to this distance."""


class AxialDiameters(NamedTuple):
    """Largest axial extent and the extent across it, in the same slice."""

    long_mm: float
    short_mm: float
    slice_index: int
    """Slice (k) of the measurement."""


NO_DIAMETERS = AxialDiameters(0.0, 0.0, 0)


def nodule_at(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """The connected part of a mask nearest to the patch's centre, empty beyond `REACH_MM`.

    Args:
        mask: (D, H, W) on a patch grid whose centre is the click.
        spacing_mm: Distance between voxels along (k, j, i).
    """
    nodule = np.zeros_like(mask)
    if not mask.any():
        return nodule
    box = bounding_box(mask)
    where = np.argwhere(mask[box])
    middle = (np.array(mask.shape) - 1) / 2 - [s.start for s in box]
    distance_mm = np.linalg.norm((where - middle) * spacing_mm, axis=1)
    nearest = int(distance_mm.argmin())
    if distance_mm[nearest] <= REACH_MM:
        labels, _ = ndimage.label(mask[box])
        nodule[box] = labels == labels[tuple(where[nearest])]
    return nodule


def bounding_box(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """Index of the smallest box around a mask.

    Args:
        mask: (D, H, W), not empty.
        margin: Voxels that the box is wider on every side, as far as there are any.

    Example:
        >>> mask = np.zeros((4, 6, 6), bool)
        >>> mask[1, 2:4, 3:5] = True
        >>> bounding_box(mask)
        (slice(1, 2, None), slice(2, 4, None), slice(3, 5, None))
        >>> bounding_box(mask, margin=2)  # Not below 0; slices may end beyond the mask's grid.
        (slice(0, 4, None), slice(0, 6, None), slice(1, 7, None))
    """
    rest = ((1, 2), (0, 2), (0, 1))
    reached = [np.flatnonzero(mask.any(axis=axes)) for axes in rest]
    k, j, i = (slice(max(int(n[0]) - margin, 0), int(n[-1]) + 1 + margin) for n in reached)
    return k, j, i


def axial_diameters(
    probability: NDArray[np.float32], spacing_mm: tuple[float, float, float]
) -> AxialDiameters:
    """Longest axial diameter and the longest one perpendicular to it (RECIST, Fleischner).

    Args:
        probability: (D, H, W) of the nodule; its 0.5 contour is measured between voxels.
        spacing_mm: Distance between voxels along (k, j, i).

    Example:
        >>> probability = np.zeros((3, 9, 9), np.float32)
        >>> probability[1, 4, 2:7] = 1  # 5 voxels in a row: the contour runs half a voxel beyond.
        >>> axial_diameters(probability, spacing_mm=(2.5, 0.5, 1.0))
        AxialDiameters(long_mm=5.0, short_mm=0.5, slice_index=1)
    """
    best = AxialDiameters(0.0, 0.0, probability.shape[0] // 2)
    # Where nothing exceeds 0.5 there is no outline, even if the mask reaches it.
    mask = probability > 0.5
    if not mask.any():
        return best
    _, j, i = bounding_box(mask, margin=1)
    probability = probability[:, j, i]
    limit = _longest_possible(mask[:, j, i], spacing_mm)
    # Most slices need no outline: those that can be longest come first.
    for k in np.argsort(-limit, kind="stable"):
        if limit[k] == 0 or limit[k] < best.long_mm:
            break
        outline = np.concatenate(contours(probability[k])) * spacing_mm[:0:-1]
        length = cdist(outline, outline)
        a, b = np.unravel_index(length.argmax(), length.shape)
        if (length[a, b], -k) > (best.long_mm, -best.slice_index):
            along = (outline[a] - outline[b]) / length[a, b]
            across = outline @ np.array([-along[1], along[0]])
            best = AxialDiameters(float(length[a, b]), float(np.ptp(across)), int(k))
    return best


WAYS = np.pi * np.arange(8) / 8
"""Angles in a slice along which masks are measured; any other is within half a step of one."""


def _longest_possible(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float64]:
    """(D,) bound in mm of the longest diameter of each slice's outline; 0 for empty slices."""
    way = np.stack([np.sin(WAYS), np.cos(WAYS)]) * np.array(spacing_mm[1:])[:, None]
    place = np.argwhere(mask)
    slices, first = np.unique(place[:, 0], return_index=True)
    along = place[:, 1:] @ way
    width = np.maximum.reduceat(along, first) - np.minimum.reduceat(along, first)
    # The outline runs less than a voxel beyond the mask along a row or a column, on either side.
    width += 2 * np.abs(way).max(axis=0)
    limit = np.zeros(len(mask))
    limit[slices] = width.max(axis=1) / np.cos(WAYS[1] / 2)
    return limit


def contours(image: NDArray[np.floating], level: float = 0.5) -> list[NDArray[np.float64]]:
    """Closed outlines of an image at a level, each (N, 2) in voxels as (i, j)."""
    padded = np.pad(image.astype(np.float64), 1)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(level)
    return [np.asarray(line) - 1 for line in lines]
