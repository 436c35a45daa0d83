"""`ScanImage`: what a file or folder held, as it was stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError

MIN_SLICES = 3
"""A nodule is a 3-D finding: fewer slices cannot show one."""

NO_VOXEL_HU = -32768
"""Stands where the scanner measured nothing, such as outside a round field of view."""

HU_RANGE = (NO_VOXEL_HU, 65535)
"""What 16 bits hold, with a sign or without: padding may lie at either end."""

LOWEST_HU = -1500
"""No voxel of a patient or of air lies below, noise included."""

MOST_PADDINGS = 2
"""Padding is one number, or one below and one above."""

SPACING_RANGE_MM = (0.05, 50.0)
"""Between voxels of a CT; whatever lies outside is in another unit than its header says."""


def has_wide_padding(hu: NDArray) -> bool:
    """Whether voxels lie beyond what 16 bits hold, as padding of wide numbers does.

    Infinite ones are left to who looks for numbers that are none.

    Raises:
        InputError: Too many different ones do: that is damage, no padding.
    """
    if hu.dtype.itemsize < 4:
        return False
    outside = hu[(hu < HU_RANGE[0]) | (hu > HU_RANGE[1])]
    if not outside.size or np.isinf(outside).any():
        return False
    different = np.unique(outside)
    if len(different) > MOST_PADDINGS:
        raise InputError(
            f"{outside.size} voxels hold {len(different)} different numbers from"
            f" {different[0]:g} to {different[-1]:g}, beyond the {HU_RANGE[0]} to {HU_RANGE[1]}"
            " of a CT: the image is damaged, or not in Hounsfield units"
        )
    return True


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
