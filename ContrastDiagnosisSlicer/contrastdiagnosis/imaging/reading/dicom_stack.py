"""`Stack`: slices in order, on a grid that their own positions give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.dicom_frames import Frame
from contrastdiagnosis.imaging.reading.image_header import check_axes, check_origin
from contrastdiagnosis.imaging.reading.scan_image import MIN_SLICES

SAME_PLACE_MM = 0.01
"""Slices that lie closer are at one position."""

_UNIT_TOLERANCE = 2e-3
"""Directions are often written with three decimals."""

_TURN_TOLERANCE = 1e-3
_ASIDE_MM = 0.5
_ZOOM_MM = 0.1
"""Pixel spacings may differ by rounding, but not by this over the width of a slice."""

_ROUNDING_MM = 0.1 + 1e-6
"""Positions are told to 0.01 or 0.1 mm; the difference of two has a rounding of its own."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their positions along the normal.

    Attributes:
        frames: The slices, none twice.
        n_duplicates: How many identical ones were left out.
        origin_mm: Position of the first one's first voxel, LPS.
        spacing_mm: Along (i, j, k).
        direction: 3x3, its columns the LPS directions of i, j and k.
    """

    frames: tuple[Frame, ...]
    n_duplicates: int
    origin_mm: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    direction: NDArray[np.float64]


def stack_frames(
    frames: Sequence[Frame], identical: Callable[[Frame, Frame], bool], left_out: str
) -> Stack:
    """The slices in order, with their grid.

    Args:
        frames: Slices that passed `check_frames`, in any order.
        identical: Whether two slices at one position hold the same voxels.
        left_out: Names of files that slices may be missing for, empty where there are none.

    Raises:
        InputError: They differ in size, spacing or orientation, are shifted against each other,
            lie at one position or at unequal distances, or closer or further than any CT.
    """
    _check_sizes(frames)
    _check_spacings(frames)
    direction = _direction(frames)
    normal = direction[:, 2]
    along = np.array([frame.position_mm for frame in frames]) @ normal
    # Files in order of names: of duplicates the first is kept.
    order = np.argsort(along, kind="stable")
    kept = _without_duplicates([frames[n] for n in order], along[order], identical)
    positions = np.array([frame.position_mm for frame in kept])
    if len(kept) < MIN_SLICES:
        raise InputError(
            f"wanted a CT of at least {MIN_SLICES} slices, got {len(frames)} of which"
            f" {len(frames) - len(kept)} only repeat another"
        )
    _check_tilt(kept, positions, normal)
    step = _step(kept, positions @ normal, left_out)
    rows, columns = kept[0].spacing_mm or (0.0, 0.0)
    spacing_mm = (columns, rows, step)
    check_axes(direction * spacing_mm)
    check_origin(positions[0])
    n_duplicates = len(frames) - len(kept)
    return Stack(tuple(kept), n_duplicates, positions[0], spacing_mm, direction)


def _check_sizes(frames: Sequence[Frame]) -> None:
    first = frames[0].pixels
    for frame in frames:
        own = frame.pixels
        if (own.rows, own.columns) != (first.rows, first.columns):
            raise InputError(
                f"the slices differ in size: {frames[0].name} has {first.rows} x {first.columns}"
                f" voxels, {frame.name} has {own.rows} x {own.columns}"
            )


def _check_spacings(frames: Sequence[Frame]) -> None:
    first = np.array(frames[0].spacing_mm)
    size = (frames[0].pixels.rows, frames[0].pixels.columns)
    for frame in frames:
        spacing = np.array(frame.spacing_mm)
        if not (spacing > 0).all():
            raise InputError(
                f"wanted a positive Pixel Spacing, got {_spacing_text(spacing)} in {frame.name}"
            )
        if (np.abs(spacing - first) * size).max() > _ZOOM_MM:
            raise InputError(
                f"the slices differ in Pixel Spacing: {frames[0].name} has {_spacing_text(first)},"
                f" {frame.name} has {_spacing_text(spacing)}"
            )


def _spacing_text(spacing: NDArray) -> str:
    return " x ".join(f"{value:g}" for value in spacing) + " mm"


def _direction(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Directions of i, j and k as columns, exactly orthonormal."""
    first = np.reshape(frames[0].orientation or (), (2, 3))
    for frame in frames:
        row, column = np.reshape(frame.orientation or (), (2, 3))
        _check_orthonormal(row, column, frame)
        if np.abs(np.cross(row, column) - np.cross(*first)).max() > _TURN_TOLERANCE:
            raise InputError(
                f"the slices are not parallel: {frame.name} is turned against {frames[0].name}"
            )
        if np.abs(np.array((row, column)) - first).max() > _TURN_TOLERANCE:
            raise InputError(
                f"the slices differ in orientation: {frame.name} is turned in its plane against"
                f" {frames[0].name}"
            )
    row = first[0] / np.linalg.norm(first[0])
    normal = np.cross(row, first[1])
    normal /= np.linalg.norm(normal)
    return np.stack([row, np.cross(normal, row), normal], axis=1)


def _check_orthonormal(row: NDArray, column: NDArray, frame: Frame) -> None:
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > _UNIT_TOLERANCE or abs(row @ column) > _UNIT_TOLERANCE:
        came = "\\".join(f"{value:g}" for value in (*row, *column))
        raise InputError(
            "wanted two perpendicular directions of length 1 as Image Orientation (Patient), got"
            f" {came} in {frame.name}"
        )


def _without_duplicates(
    frames: Sequence[Frame], along: NDArray, identical: Callable[[Frame, Frame], bool]
) -> list[Frame]:
    kept = [frames[0]]
    at = along[0]
    for frame, place in zip(frames[1:], along[1:], strict=True):
        if place - at >= SAME_PLACE_MM:
            kept.append(frame)
            at = place
            continue
        aside = np.subtract(frame.position_mm or (), kept[-1].position_mm or ())
        if np.linalg.norm(aside) > SAME_PLACE_MM or not identical(kept[-1], frame):
            if np.ptp(along) < SAME_PLACE_MM:
                raise InputError(
                    f"all {len(frames)} slices tell the same place as Image Position (Patient), so"
                    " their order and distance are not known"
                )
            raise InputError(
                f"two slices lie at the same position ({place:.2f} mm along the scan): the folder"
                " mixes several reconstructions or time points of one series"
            )
    return kept


def _check_tilt(frames: Sequence[Frame], positions: NDArray, normal: NDArray) -> None:
    """Refuses slices that are shifted against each other: readers would stack them upright."""
    along = positions @ normal
    aside = positions - along[:, None] * normal
    shear = np.median(np.diff(aside, axis=0) / np.diff(along)[:, None], axis=0)
    upright = aside - along[:, None] * shear
    off = np.linalg.norm(upright - np.median(upright, axis=0), axis=1)
    strays = np.flatnonzero(off > _ASIDE_MM)
    if len(strays):
        raise InputError(
            f"{len(strays)} of {len(frames)} slices lie beside the others: the first is"
            f" {frames[strays[0]].name}, {off[strays[0]]:.1f} mm aside"
        )
    drift_mm = float(np.linalg.norm(aside - aside[0], axis=1).max())
    if drift_mm > _ASIDE_MM:
        degrees = np.degrees(np.arctan2(drift_mm, np.ptp(along)))
        raise InputError(
            f"the scan was taken with a tilted gantry: its slices are shifted against each other by"
            f" up to {drift_mm:.1f} mm ({degrees:.0f} degrees). Resample it to an upright grid"
            " first; 3D Slicer offers that when it loads the series"
        )


def _step(frames: Sequence[Frame], along: NDArray, left_out: str) -> float:
    """Mean distance between slices.

    Raises:
        InputError: Some distance is another.
    """
    steps = np.diff(along)
    step = float(np.median(steps))
    # A missing slice doubles a step.
    allowed = min(max(_ROUNDING_MM, 0.1 * step), 0.5 * step)
    uneven = np.flatnonzero(np.abs(steps - step) > allowed)
    if len(uneven):
        first = int(uneven[0])
        raise InputError(
            f"the slices are not equally spaced: {len(uneven)} of {len(steps)} gaps differ from"
            f" the usual {step:.2f} mm; the first is {steps[first]:.2f} mm after"
            f" {along[first]:.2f} mm along the scan. Slices are missing or unordered"
            f"{f'; left out: {left_out}' if left_out else ''}"
        )
    mean = float(np.mean(steps))
    off = along - along[0] - mean * np.arange(len(along))
    worst = int(np.abs(off).argmax())
    # Distances that drift pass one by one, and yet carry a slice to another's place.
    if abs(off[worst]) > max(0.25, 0.5 * mean):
        raise InputError(
            f"the slices are not equally spaced: {frames[worst].name} lies {abs(off[worst]):.2f} mm"
            f" off its place at the mean distance of {mean:.2f} mm"
        )
    return mean
