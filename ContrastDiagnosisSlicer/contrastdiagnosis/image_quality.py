"""`ImageQuality`: is this a scan like those the cases come from?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from contrastdiagnosis.patch import (
    DEFAULT_GEOMETRY,
    Patch,
    PatchGeometry,
    voxels_under_patch,
)
from contrastdiagnosis.volume import Volume

LUNG_BELOW_HU = -500.0
AIR_BELOW_HU = -950.0
"""Darker voxels are the air of airways and bullae, or no tissue at all."""

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
    """Share of the scanned voxels that are lighter than soft tissue."""
    noise_hu: float | None
    """Standard deviation of the noise in lung; None where there is no lung."""
    slice_mm: float
    """Largest distance between neighbouring voxels of the scan."""


@dataclass(frozen=True)
class QualityLimits:
    """How far the cases' own scans go; None where that is not known."""

    min_lung_share: float = 0.0
    max_noise_hu: float | None = None
    max_slice_mm: float | None = None

    def doubts(self, quality: ImageQuality) -> list[str]:
        """A sentence for each limit that a scan exceeds."""
        doubts = []
        if quality.lung_share < self.min_lung_share:
            doubts.append(
                f"the point does not seem to lie in lung: {quality.lung_share:.0%} of the tissue"
                f" around it is as light as lung, at least {self.min_lung_share:.0%} was expected"
            )
        noise, limit = quality.noise_hu, self.max_noise_hu
        if noise is not None and limit is not None and noise > limit:
            doubts.append(
                f"the scan is noisier than those of the cases: {noise:.0f} HU in the lung around"
                f" the point, at most {limit:.0f} HU was expected"
            )
        if self.max_slice_mm is not None and quality.slice_mm > self.max_slice_mm:
            doubts.append(
                f"the slices are too far apart: {quality.slice_mm:.1f} mm, those of the cases are"
                f" at most {self.max_slice_mm:.1f} mm"
            )
        return doubts


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
    """Share of the patch's valid voxels that are lighter than soft tissue."""
    lung = _hu(patch.intensity, geometry) < LUNG_BELOW_HU
    valid = np.count_nonzero(patch.valid)
    return np.count_nonzero(lung & patch.valid) / valid if valid else 0.0


def noise_hu(hu: NDArray) -> float | None:
    """Standard deviation of the noise in the lung of (D, H, W) voxels, None where there is little.

    The median over lung voxels of what the stencil leaves in each slice: vessels and edges hardly
    count. Measured on the scan's own grid, because resampling smoothes noise.
    """
    if min(hu.shape) == 0:
        return None
    hu = hu.astype(np.float32)
    edged = np.pad(hu, ((0, 0), (1, 1), (1, 1)), mode="edge")
    left = np.diff(np.diff(edged, 2, axis=1), 2, axis=2)
    mean = ndimage.uniform_filter(hu, (1, 5, 5), mode="nearest")
    lung = (mean > AIR_BELOW_HU) & (mean < LUNG_BELOW_HU)
    if lung.sum() < LEAST_VOXELS:
        return None
    return float(1.4826 * np.median(np.abs(left[lung])) / STENCIL_GAIN)


def _hu(intensity: NDArray[np.float32], geometry: PatchGeometry) -> NDArray[np.float32]:
    low, high = geometry.window_hu
    return intensity * np.float32(high - low) + np.float32(low)
