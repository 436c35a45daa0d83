"""How sharp a scan is: the width of its steepest edges within slices and from slice to slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contrastdiagnosis.imaging.axial import AxialSlices

EDGE_HU = 400.0
"""Least contrast of an edge: of vessels, walls and nodules against lung."""

SHOWN_HU = (-1000.0, 200.0)
"""Contrast medium and bone would make edges of their own."""

REACH_MM = 7.0
"""An edge's contrast is that within a square of this size."""

REACH_ALONG_MM = 15.0
"""An edge's contrast from slice to slice is that within so much."""

SLOPE_HU_PER_MM = 60.0
"""Flatter places are beside an edge."""

MOST_OF_COLUMNS = 25_000
"""What is measured from slice to slice is measured in about so many voxels."""

LEAST_EDGES = 100
"""Fewer voxels of edges tell no width."""

STEEPEST = 10
"""Percentile of the edges' widths that tells the resolution: the others are not sharp themselves,
or are met at an angle."""

STEEPEST_ALONG = 5

MEAN_OVER_MM = 6.0
"""The mean width of edges is taken over squares of this size."""

SQUARE_SHARE = 0.3
"""Squares with a smaller share of contrasts tell no mean width."""

LEAST_SQUARES = 5

CHANGE_MM = 2.5
"""Distance over which change from slice to slice is compared with change within slices."""


@dataclass(frozen=True)
class Sharpness:
    """NaN where nothing has an edge, or the slices are too few.

    Attributes:
        in_plane_mm: Full width at half maximum of the point spread within slices.
        mean_edge_mm: The same of edges on the average, noise left in.
        thickness_mm: Of slices: the shortest way from slice to slice from lung to tissue.
        change: Of change over `CHANGE_MM` from slice to slice, as a share of that within slices.
    """

    in_plane_mm: float
    mean_edge_mm: float
    thickness_mm: float
    change: float


def sharpness(slices: AxialSlices) -> Sharpness:
    """The widths of edges in some slices."""
    if min(slices.hu.shape) < 3:
        in_plane_mm = mean_edge_mm = float("nan")
    else:
        in_plane_mm, mean_edge_mm = _within(slices.middle())
    return Sharpness(in_plane_mm, mean_edge_mm, _along(slices), _change(slices))


def _within(slices: AxialSlices) -> tuple[float, float]:
    """Widths of the steepest edges and of edges on the average, mm."""
    shown = np.clip(slices.hu, *SHOWN_HU)
    slope = np.hypot(
        *(
            ndimage.correlate1d(shown, [-0.5, 0, 0.5], axis, mode="nearest")
            / np.float32(slices.spacing_mm[axis])
            for axis in (1, 2)
        )
    )
    # Of every other pixel: their extremes are nearly those of all.
    coarse = _range(shown[:, ::2, ::2], slices.pixels(REACH_MM) // 4 * 2 + 1, (1, 2))
    contrast = coarse.repeat(2, 1).repeat(2, 2)[:, : shown.shape[1], : shown.shape[2]]
    measured = slices.measured_around(REACH_MM + 2 * slices.pixel_mm)
    if measured is not None:
        contrast = np.where(measured, contrast, np.float32(0))
    return _steepest(slices, contrast, slope), _average(slices, contrast, slope)


def _steepest(
    slices: AxialSlices, contrast: NDArray[np.float32], slope: NDArray[np.float32]
) -> float:
    """Full width of the point spread, by the steepest edges.

    A step blurred by a Gaussian rises at most by its height over 2.51 standard deviations, and 2.35
    of these are the full width at half maximum. The percentile is of places beside the steepest
    too, which makes up for the difference. Central differences add the blur of two pixels.
    """
    edges = (contrast > EDGE_HU) & (slope > SLOPE_HU_PER_MM)
    if np.count_nonzero(edges) < LEAST_EDGES:
        return float("nan")
    width = contrast[edges] / slope[edges]
    at = len(width) * STEEPEST // 100
    steep = float(np.partition(width, at)[at])
    differences_mm = 2.355 * slices.pixel_mm / np.sqrt(3)
    return float(np.sqrt(max(steep**2 - differences_mm**2, slices.pixel_mm**2)))


def _average(
    slices: AxialSlices, contrast: NDArray[np.float32], slope: NDArray[np.float32]
) -> float:
    """Median over squares of the full width by all edges within them.

    Over a blurred step of height h the square of the slope adds up to h^2 over 3.54 standard
    deviations, its slope to h.
    """
    edge = contrast > EDGE_HU
    slope = np.where(edge, slope, np.float32(0))
    rise, square, count = (
        slices.block_sums(values, MEAN_OVER_MM)
        for values in (contrast * slope, slope * slope, edge)
    )
    size = slices.pixels(MEAN_OVER_MM) ** 2
    told = (count > SQUARE_SHARE * size) & (square > 0.2 * SLOPE_HU_PER_MM**2 * size)
    if np.count_nonzero(told) < LEAST_SQUARES:
        return float("nan")
    return float(2.355 * np.median(rise[told] / square[told]) / (2 * np.sqrt(np.pi)))


def _along(slices: AxialSlices) -> float:
    """Height of edges from slice to slice over their steepest rise, mm."""
    shown, _, measured = _columns(slices)
    if len(shown) < 3:
        return float("nan")
    step_mm = slices.spacing_mm[0]
    rise = np.abs(shown[1:] - shown[:-1])
    contrast = _range(shown, max(3, 2 * round(REACH_ALONG_MM / step_mm / 2) + 1), (0,))
    contrast = np.maximum(contrast[1:], contrast[:-1])
    edges = (contrast > EDGE_HU) & measured.all(axis=0)
    if np.count_nonzero(edges) < LEAST_EDGES:
        return float("nan")
    width = contrast[edges] / np.maximum(rise[edges], 1) * step_mm
    at = len(width) * STEEPEST_ALONG // 100
    return float(np.partition(width, at)[at])


def _change(slices: AxialSlices) -> float:
    """Mean change from slice to slice over that within slices, over the same distance."""
    shown, step, measured = _columns(slices)
    if len(shown) < 3:
        return float("nan")
    step_mm = slices.spacing_mm[0]
    off = min(max(1, round(CHANGE_MM / step_mm)), len(shown) - 1)
    within = measured.all(axis=0)
    along = np.abs(shown[off:] - shown[:-off])[:, within]
    across = [
        _change_within(shown, measured, axis, off * step_mm / (step * slices.spacing_mm[axis]))
        for axis in (1, 2)
    ]
    if not along.size or not np.mean(across) > 0:
        return float("nan")
    return float(along.mean() / np.mean(across))


def _change_within(
    shown: NDArray[np.float32], measured: NDArray[np.bool_], axis: int, distance: float
) -> float:
    """Mean change along an axis over a distance in voxels, between those of whole voxels."""

    def over(off: int) -> float:
        if not 0 < off < shown.shape[axis]:
            return 0.0 if off == 0 else float("nan")
        one, other = (
            (slice(None),) * axis + (part,) for part in (slice(off, None), slice(None, -off))
        )
        told = measured[one] & measured[other]
        return float(np.abs(shown[one] - shown[other])[told].mean()) if told.any() else float("nan")

    below = int(distance)
    return over(below) * (1 - (distance - below)) + over(below + 1) * (distance - below)


def _columns(slices: AxialSlices) -> tuple[NDArray[np.float32], int, NDArray[np.bool_]]:
    """All slices, of some of their rows and columns, and where these are measured."""
    step = max(2, int(np.ceil(np.sqrt(slices.hu.size / MOST_OF_COLUMNS))))
    shown = slices.hu[:, ::step, ::step].clip(*SHOWN_HU)
    if slices.padding is None:
        return shown, step, np.ones(shown.shape, bool)
    return shown, step, ~slices.padding[:, ::step, ::step]


def _range(values: NDArray[np.float32], size: int, axes: tuple[int, ...]) -> NDArray[np.float32]:
    """Largest less smallest within boxes."""
    high = low = values
    for axis in axes:
        high = ndimage.maximum_filter1d(high, size, axis, mode="nearest")
        low = ndimage.minimum_filter1d(low, size, axis, mode="nearest")
    return np.asarray(high - low)
