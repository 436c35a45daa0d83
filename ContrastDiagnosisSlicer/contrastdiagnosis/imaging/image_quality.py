"""`ImageQuality`: what is measured of a scan around a point, on the scan's own voxels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from contrastdiagnosis.imaging.axial import AIR_BELOW_HU, LUNG_BELOW_HU, axial_slices
from contrastdiagnosis.imaging.noise import lung_texture
from contrastdiagnosis.imaging.patch import (
    DEFAULT_GEOMETRY,
    Patch,
    PatchGeometry,
    hu_of,
    voxels_under_patch,
)
from contrastdiagnosis.imaging.sharpness import sharpness
from contrastdiagnosis.imaging.spectrum import SpectralMeasures, spectral_measures
from contrastdiagnosis.imaging.volume import Volume

NAN = float("nan")

USUAL_MM = 2.5
"""Slices nearer than this are no reason to hold them for thick."""


@dataclass(frozen=True)
class ImageQuality:
    """What is measured of a scan around a point; NaN where it cannot be.

    Attributes:
        lung_share: Share of the scanned voxels that are as light as lung.
        slice_mm: Largest distance between neighbouring voxels of the scan.
        apart_mm: The same, but at least `USUAL_MM`: nearer ones are told from each other by more.
        noise_hu: Standard deviation of the noise in lung, coarse-grained noise too.
        fine_noise_hu: Of the part of it that differs from pixel to pixel.
        in_plane_mm: Full width at half maximum of the point spread within slices.
        mean_edge_mm: The same of edges on the average, which noise makes look sharp.
        thickness_mm: Of the slices, whatever their distance: the shortest way from lung to tissue.
        change: From slice to slice, as a share of that within slices over the same distance.
        fall_coarse_db, fall_db, fall_fine_db: How much less power there is in finer detail of lung.
        alike, alike_fine, alike_far, alike_far_fine: Correlation of slices.
        anisotropy: How much more detail there is in one direction than across it.
        ghost: How like the lung is to itself somewhere else.
    """

    lung_share: float = NAN
    slice_mm: float = NAN
    apart_mm: float = NAN
    noise_hu: float = NAN
    fine_noise_hu: float = NAN
    in_plane_mm: float = NAN
    mean_edge_mm: float = NAN
    thickness_mm: float = NAN
    change: float = NAN
    fall_coarse_db: float = NAN
    fall_db: float = NAN
    fall_fine_db: float = NAN
    alike: float = NAN
    alike_fine: float = NAN
    alike_far: float = NAN
    alike_far_fine: float = NAN
    anisotropy: float = NAN
    ghost: float = NAN


MEASURES = tuple(field.name for field in fields(ImageQuality))


def image_quality(
    patch: Patch,
    volume: Volume,
    center_ras_mm: ArrayLike,
    geometry: PatchGeometry = DEFAULT_GEOMETRY,
) -> ImageQuality:
    """The quality of a scan around the point that a patch was cut at."""
    near = voxels_under_patch(volume, center_ras_mm, geometry)
    return quality_of(near, volume.ijk_to_ras, lung_share(patch, geometry))


def quality_of(
    hu: NDArray, ijk_to_ras: NDArray[np.float64], lung_share: float = NAN
) -> ImageQuality:
    """The quality of (D, H, W) voxels in (k, j, i) order, not resampled: that smoothes noise.

    Args:
        hu: Hounsfield units, any real dtype; may be empty.
        ijk_to_ras: (4, 4) affine of their axes; where they lie does not matter.
        lung_share: As it was measured elsewhere.
    """
    slice_mm = float(np.linalg.norm(np.asarray(ijk_to_ras)[:3, :3], axis=0).max())
    if not hu.size:
        return ImageQuality(lung_share, slice_mm, max(slice_mm, USUAL_MM))
    slices = axial_slices(hu, ijk_to_ras)
    edges = sharpness(slices)
    told = {field.name: getattr(edges, field.name) for field in fields(edges)}
    told["apart_mm"] = max(slice_mm, USUAL_MM)
    texture = lung_texture(slices.middle())
    if texture is not None:
        waves = spectral_measures(texture)
        told |= {field.name: getattr(waves, field.name) for field in fields(SpectralMeasures)}
        told |= {"noise_hu": texture.noise_hu, "fine_noise_hu": texture.fine_noise_hu}
    return ImageQuality(lung_share=lung_share, slice_mm=slice_mm, **told)


def lung_share(patch: Patch, geometry: PatchGeometry = DEFAULT_GEOMETRY) -> float:
    """Share of the patch's valid voxels that are as light as lung, but not as light as air.

    Means over 3x3x3 voxels are looked at: noise would make half of the air outside the body lung.
    """
    hu = ndimage.uniform_filter(hu_of(patch.intensity, geometry), 3, mode="nearest")
    lung = (hu > AIR_BELOW_HU) & (hu < LUNG_BELOW_HU)
    valid = np.count_nonzero(patch.valid)
    return float(np.count_nonzero(lung & patch.valid) / valid) if valid else 0.0
