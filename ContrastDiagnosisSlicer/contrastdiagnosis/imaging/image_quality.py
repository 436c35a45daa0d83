"""`ImageQuality`: is this a scan like those the cases come from?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from contrastdiagnosis.imaging.patch import (
    DEFAULT_GEOMETRY,
    Patch,
    PatchGeometry,
    hu_of,
    voxels_under_patch,
)
from contrastdiagnosis.imaging.volume import Volume, padding_of

LUNG_BELOW_HU = -500.0
AIR_BELOW_HU = -950.0
"""Darker places are the air of airways and bullae, or outside the body."""

STENCIL_GAIN = 6
"""Root of the squares of the stencil [1, -2, 1] along rows and columns, which is blind to anything
that varies linearly along either (Immerkaer, Computer Vision and Image Understanding
1996;64:300)."""

LEAST_VOXELS = 500
"""Fewer lung voxels tell no noise."""


@dataclass(frozen=True)
class ImageQuality:
    """What is measured of a scan around a point."""

    lung_share: float
    """Share of the scanned voxels that are as light as lung."""
    noise_hu: float | None
    """Standard deviation of the noise in lung; None where there is no lung."""
    slice_mm: float
    """Largest distance between neighbouring voxels of the scan."""


def image_quality(
    patch: Patch,
    volume: Volume,
    center_ras_mm: ArrayLike,
    geometry: PatchGeometry = DEFAULT_GEOMETRY,
) -> ImageQuality:
    """The quality of a scan around the point that a patch was cut at."""
    near = voxels_under_patch(volume, center_ras_mm, geometry)
    return ImageQuality(lung_share(patch, geometry), noise_hu(near), max(volume.spacing_mm))


def lung_share(patch: Patch, geometry: PatchGeometry = DEFAULT_GEOMETRY) -> float:
    """Share of the patch's valid voxels that are as light as lung, but not as light as air.

    Means over 3x3x3 voxels are looked at: noise would make half of the air outside the body lung.
    """
    hu = ndimage.uniform_filter(hu_of(patch.intensity, geometry), 3, mode="nearest")
    lung = (hu > AIR_BELOW_HU) & (hu < LUNG_BELOW_HU)
    valid = np.count_nonzero(patch.valid)
    return float(np.count_nonzero(lung & patch.valid) / valid) if valid else 0.0


def noise_hu(hu: NDArray) -> float | None:
    """Standard deviation of the noise in the lung of (D, H, W) voxels, None where there is little.

    The median over lung voxels of what the stencil leaves in each slice: vessels and edges hardly
    count. Measured on the scan's own grid, because resampling smoothes noise.
    """
    if min(hu.shape) == 0:
        return None
    padding = padding_of(hu)
    hu = hu.astype(np.float32)
    edged = np.pad(hu, ((0, 0), (1, 1), (1, 1)), mode="edge")
    left = np.diff(np.diff(edged, 2, axis=1), 2, axis=2)
    mean = ndimage.uniform_filter(hu, (1, 5, 5), mode="nearest")
    lung = (mean > AIR_BELOW_HU) & (mean < LUNG_BELOW_HU)
    if padding is not None:
        lung &= ~ndimage.binary_dilation(padding, np.ones((1, 5, 5)))
    if lung.sum() < LEAST_VOXELS:
        return None
    # A whole sort is a third of the time of `np.median`, whose partition at two places is slow.
    size = np.sort(np.abs(left[lung]))
    middle = (size[(len(size) - 1) // 2] + size[len(size) // 2]) / 2
    return float(1.4826 * middle / STENCIL_GAIN)
