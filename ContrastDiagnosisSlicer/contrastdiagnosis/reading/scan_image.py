"""`ScanImage`: what a file or folder held, as it was stored."""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK as sitk

MIN_SLICES = 3
"""A nodule is a 3-D finding: fewer slices cannot show one."""

NO_VOXEL_HU = -32768
"""Stands where the scanner measured nothing, such as outside a round field of view."""

HU_RANGE = (NO_VOXEL_HU, 65535)
"""What 16 bits hold, with a sign or without: padding may lie at either end."""


@dataclass(frozen=True, eq=False)
class ScanImage:
    """A CT read from disk, its geometry checked.

    Attributes:
        image: 3-D, Hounsfield units; origin, spacing and direction in LPS millimetres.
        series_uid: DICOM series that it was read from, empty if not known.
        notices: Sentences about what was set aside or mended on the way; the user should know.
    """

    image: sitk.Image
    series_uid: str = ""
    notices: tuple[str, ...] = ()
