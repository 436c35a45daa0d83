"""`ImageHeader`: what an image file's header tells of its grid, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.scan_image import SPACING_RANGE_MM
from contrastdiagnosis.protocol.fields import FARTHEST_MM

MAX_AXES_COSINE = 1e-3
"""Of the angle between two voxel axes; rounded direction cosines stay far below."""

MAX_CORNER_GAP_MM = 0.1
"""Two statements of one place may differ by this at the volume's corners: float32 and rounding."""

MAX_GANTRY_TILT_DEG = 35.0
"""Scanners tilt by up to 30 degrees."""

MAX_FILES = 100_000
"""That the voxels of one image are spread over."""

MAX_NUMBER = 1e9
"""Of lengths in a header, in any unit; larger ones are damage."""

MM_PER_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m"), 0.001),
    **dict.fromkeys(("micron", "microns", "micrometer", "micrometers", "micrometre"), 0.001),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
}


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """The grid of an image file.

    Attributes:
        size_ijk: Voxels along each axis.
        ijk_to_lps: (4, 4) affine from voxel indices to LPS millimetres.
        itk_reader: Name of the module of ITK that reads the voxels; empty where ITK refuses or
            changes them.
    """

    size_ijk: tuple[int, int, int]
    ijk_to_lps: NDArray[np.float64]
    itk_reader: str


def header_of(
    size_ijk: Sequence[int], axes: NDArray, origin: NDArray, itk_reader: str
) -> ImageHeader:
    """The header of a grid that lies somewhere and is upright.

    Args:
        size_ijk: Voxels along each of the three axes.
        axes: (3, 3), column a is the step from one voxel to the next along axis a, LPS mm.
        origin: (3,) centre of the first voxel, LPS mm.
        itk_reader: As in `ImageHeader`.

    Raises:
        InputError: The numbers are not finite, a spacing is no CT's, or the axes are skewed.
    """
    check_axes(axes)
    check_origin(origin)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    i, j, k = size_ijk
    return ImageHeader((int(i), int(j), int(k)), affine, itk_reader)


def check_axes(axes: NDArray) -> None:
    """Refuses voxel axes, the columns of (3, 3) in mm, that span no upright CT grid.

    Raises:
        InputError: They are not finite, too short, too long, or not at right angles.
    """
    if not np.isfinite(axes).all():
        raise InputError(f"the directions of its axes are not finite: {_numbers(axes.T.ravel())}")
    spacing_mm = np.linalg.norm(axes, axis=0)
    low, high = SPACING_RANGE_MM
    if not ((spacing_mm >= low) & (spacing_mm <= high)).all():
        raise InputError(
            f"its voxels lie {_numbers(spacing_mm, ' x ')} mm apart, wanted {low:g} to {high:g} mm:"
            " the spacing is damaged or not in the unit that the header tells"
        )
    cosine = axes_cosine(axes)
    degrees = np.degrees(np.arcsin(min(cosine, 1.0)))
    if degrees > MAX_GANTRY_TILT_DEG:
        raise InputError(f"its axes are {degrees:.0f} degrees off right angles: no CT lies so")
    if cosine > MAX_AXES_COSINE:
        raise InputError(
            f"its axes are {degrees:.1f} degrees off right angles, as in a scan taken with a tilted"
            " gantry. Resample it to an upright grid first"
        )


def check_origin(origin: NDArray) -> None:
    """Refuses a position, (3,) in mm, that no scanner's coordinates reach.

    Raises:
        InputError: It is not finite or too far off.
    """
    if not np.isfinite(origin).all():
        raise InputError(f"the position of its first voxel is not finite: {_numbers(origin)}")
    if np.abs(origin).max() > FARTHEST_MM:
        raise InputError(
            f"the position of its first voxel is {_numbers(origin)} mm, wanted at most"
            f" {FARTHEST_MM:g} mm: it is damaged or not in the unit that the header tells"
        )


def axes_cosine(axes: NDArray) -> float:
    """The largest cosine between two columns of (3, 3), 0 where all are at right angles."""
    unit = axes / np.linalg.norm(axes, axis=0)
    return float(np.abs(np.triu(unit.T @ unit, 1)).max())


def check_size(sizes: Sequence[int], values: int = 1) -> None:
    """Refuses all but three dimensions with one value per voxel.

    Raises:
        InputError: There are other dimensions, none of some, or more values.
    """
    if len(sizes) != 3 or values != 1:
        with_values = f" with {values} values per voxel" if values != 1 else ""
        raise InputError(
            f"wanted a 3-D image with one value per voxel, got {len(sizes)} dimensions of size"
            f" {tuple(sizes)}{with_values}"
        )
    if min(sizes) < 1:
        raise InputError(f"its size {tuple(sizes)} leaves no voxel")


def corner_gap_mm(first: NDArray, second: NDArray, size_ijk: Sequence[int]) -> float:
    """How far two (4, 4) affines put the same corner of a volume apart."""
    corners = np.array(list(product(*((0, n - 1) for n in size_ijk), [1])), dtype=np.float64)
    gaps = corners @ (first - second)[:3].T
    return float(np.linalg.norm(gaps, axis=1).max())


def mm_per(unit: str) -> float:
    """Millimetres in a unit of length.

    Raises:
        InputError: It is none.
    """
    factor = MM_PER_UNIT.get(unit.strip().lower())
    if factor is None:
        raise InputError(f"its lengths are in {unit!r}, wanted mm, cm, m, um or inch")
    return factor


def numbers_of(text: str, count: int, name: str) -> NDArray[np.float64]:
    """The numbers in a header's value, (count,), finite.

    Raises:
        InputError: There are more or fewer, or some are none.
    """
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.array([])
    if len(values) != count or not (np.abs(values) < MAX_NUMBER).all():
        wanted = f"{count} finite numbers" if count > 1 else "a finite number"
        raise InputError(f"wanted {wanted} as {name}, got {text[:80]!r}")
    return values


def whole_numbers_of(text: str, name: str) -> list[int]:
    """The whole numbers in a header's value.

    Raises:
        InputError: Some are none, or there is none at all.
    """
    try:
        values = [int(word) for word in text.split()]
    except ValueError:
        values = []
    if not values:
        raise InputError(f"wanted whole numbers as {name}, got {text[:80]!r}")
    return values


def numbered_files(words: Sequence[str]) -> list[str]:
    """The file names of a pattern, its first number, its last and the step between.

    Raises:
        InputError: They make no such list.
    """
    pattern = words[0]
    first, last, step = whole_numbers_of(" ".join(words[1:]), f"numbers of {pattern}")
    if not re.fullmatch(r"[^%]*%\d*d[^%]*", pattern) or step == 0:
        raise InputError(f"its voxels are in no numbered files: {' '.join(words)}")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    if len(numbers) > MAX_FILES:
        raise InputError(f"its voxels are in too many files: {' '.join(words)}")
    return [pattern % number for number in numbers]


def _numbers(values: NDArray, between: str = " ") -> str:
    return between.join(f"{value:g}" for value in values)
