"""`Volume`: a CT in Hounsfield units with its geometry, and how one is read from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.reading.door import read_scan_image
from contrastdiagnosis.imaging.reading.scan_image import (
    HU_RANGE,
    LOWEST_HU,
    MIN_SLICES,
    MOST_PADDINGS,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Flips between the LPS millimetres of ITK and DICOM and the RAS millimetres used here."""

AIR_HU = (-1100, -500)
"""Air and lung lie between these; images that hold no such voxels are not in Hounsfield units.
The padding outside the field of view, often -2000, lies below."""

MEASURED_HU = (LOWEST_HU, 32767)
"""No scanner measures less or more: what lies beyond is padding, such as -2000, -3024, -32768, or
62512, which is -2000 without its sign. Air with its noise and the ringing of sharp kernels lies
above, metal on an extended scale (30710) below."""

COMMON_HU = (LOWEST_HU, 3071)
"""What 12 bits hold; all but padding and a little metal lies between these."""

MOST_STRAY = 0.5
"""Share of voxels, padding left out, that may lie outside `COMMON_HU`. It was at most 0.001 in 189
volumes of LIDC and TCIA, 0.44 in a crop of 20 slices with interpolated padding on all sides, and at
least 0.85 in the same volumes with their bytes swapped or shifted."""

TISSUE_HU = -300
"""Vessels, muscle and fat lie above, air and lung below."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT on its own grid.

    Attributes:
        hu: (D, H, W) Hounsfield units in (k, j, i) order, any real dtype.
        ijk_to_ras: (4, 4) affine from voxel indices (i, j, k, 1) to RAS millimetres.
        name: File or folder that it was read from, without the path; for reports.
        series_uid: DICOM series that it was read from, empty if not known.
        part_of_ct: It was cut from a larger volume that is known to be a CT, so that soft tissue
            alone is no reason to doubt it.
        notices: What was set aside or mended when it was read.
    """

    hu: NDArray
    ijk_to_ras: NDArray[np.float64]
    name: str = ""
    series_uid: str = ""
    part_of_ct: bool = False
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hu.ndim != 3:
            raise InputError(
                f"a CT volume must have 3 dimensions (k, j, i), got shape {self.hu.shape}"
            )
        affine = np.asarray(self.ijk_to_ras, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InputError(f"ijk_to_ras must be a finite 4x4 matrix, got {self.ijk_to_ras!r}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InputError(f"ijk_to_ras must be invertible, got {affine.tolist()}")
        object.__setattr__(self, "ijk_to_ras", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (k, j, i)."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(k), float(j), float(i)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, also where the axes are not orthogonal."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3])))

    def ras_from_ijk(self, ijk: ArrayLike) -> NDArray[np.float64]:
        """RAS millimetres of voxel indices (..., 3) in (i, j, k) order.

        Example:
            >>> hu = np.zeros((2, 5, 5), np.int16)
            >>> volume = Volume(hu, np.diag([-0.75, -0.75, 1.25, 1.0]))  # i to the left.
            >>> volume.ras_from_ijk((4, 0, 1)).tolist()
            [-3.0, 0.0, 1.25]
            >>> volume.spacing_mm  # Along (k, j, i).
            (1.25, 0.75, 0.75)
        """
        return apply_affine(self.ijk_to_ras, ijk)

    def ijk_from_ras(self, ras_mm: ArrayLike) -> NDArray[np.float64]:
        """Continuous voxel indices (..., 3) in (i, j, k) order of RAS millimetres."""
        return apply_affine(np.linalg.inv(self.ijk_to_ras), ras_mm)

    def contains(self, ras_mm: ArrayLike) -> bool:
        """Whether the point lies inside the outer faces of the volume's voxels.

        Example:
            >>> volume = Volume(np.zeros((2, 5, 5), np.int16), np.eye(4))
            >>> volume.contains((4.4, 0, 0)), volume.contains((4.6, 0, 0))
            (True, False)
        """
        ijk = self.ijk_from_ras(ras_mm)
        size = np.array(self.hu.shape[::-1])
        return bool(((ijk >= -0.5) & (ijk <= size - 0.5)).all())


def apply_affine(affine: NDArray, points: ArrayLike) -> NDArray[np.float64]:
    """Points (..., 3) mapped by a 4x4 affine."""
    return np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def read_volume(path: Path, series_uid: str | None = None, hu_offset: float = 0) -> Volume:
    """The CT in a NRRD, NIfTI, MetaImage or DICOM file, or in a folder or zip of DICOM slices.

    Args:
        path: The file or folder.
        series_uid: Which series to take where a DICOM folder holds several.
        hu_offset: Added to every voxel; -1024 mends CTs stored without their rescale intercept.

    Raises:
        InputError: The path holds no readable CT; the message says what is wrong with it.
    """
    path = Path(path)
    scan = read_scan_image(path, series_uid)
    volume = volume_from_sitk(scan.image)
    hu = volume.hu
    if hu_offset:
        # Padding stays within what the server takes.
        hu = np.clip(hu.astype(np.float32) + np.float32(hu_offset), *HU_RANGE)
    check_ct(hu)
    check_tissue(hu)
    return Volume(hu, volume.ijk_to_ras, path.resolve().name, scan.series_uid, notices=scan.notices)


def volume_from_sitk(image: sitk.Image) -> Volume:
    """The image's voxels, (k, j, i), and its LPS geometry turned into RAS."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            "wanted a 3-D image with one value per voxel, got"
            f" {image.GetDimension()} dimensions of size {image.GetSize()} with"
            f" {image.GetNumberOfComponentsPerPixel()} values per voxel"
        )
    return Volume(sitk.GetArrayFromImage(image), ijk_to_ras_from_sitk(image))


def ijk_to_ras_from_sitk(image: sitk.Image) -> NDArray[np.float64]:
    """4x4 voxel index to RAS millimetres of a 3-D SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def sitk_from_array(array: NDArray, ijk_to_ras: NDArray) -> sitk.Image:
    """A SimpleITK image of (k, j, i) voxels with the given geometry."""
    affine = LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def check_ct(hu: NDArray) -> None:
    """Refuses voxels that cannot be a chest CT in Hounsfield units; padding is left out.

    Raises:
        InputError: Too few slices, not finite, all over the place, nothing but padding, constant,
            8-bit, or without air.
    """
    if hu.shape[0] < MIN_SLICES:
        raise InputError(f"wanted a CT of at least {MIN_SLICES} slices, got {hu.shape[0]}")
    check_finite(hu)
    check_spread(hu)
    low, high = measured_range(hu)
    if low > high:
        raise InputError(
            f"the image holds nothing but padding: every voxel lies outside {MEASURED_HU} HU"
        )
    if low == high:
        raise InputError(f"the image is constant: every voxel is {low:g}, so this is no CT")
    if low >= 0 and high <= 255:
        raise InputError(
            f"wanted Hounsfield units, got values from {low:g} to {high:g}: an 8-bit picture"
            " does not hold CT densities"
        )
    if low >= 0 and high > 255:
        raise InputError(
            f"wanted Hounsfield units (air near -1000), got values from {low:g} to {high:g}. If"
            " this is a CT stored without its rescale intercept, add -1024 to its voxels; if it is"
            " an MR or another modality it cannot be used",
            setting="hu_offset",
        )
    if not holds_air(hu):
        raise InputError(
            f"wanted a chest CT in Hounsfield units, got values from {low:g} to {high:g} with no"
            f" voxel from {AIR_HU[0]} to {AIR_HU[1]} (air or lung): not a CT, not of the chest, or"
            " stored without its rescale intercept (then add -1024 to its voxels)",
            setting="hu_offset",
        )


def check_spread(hu: NDArray) -> None:
    """Refuses voxels that lie all over the place, as those do whose bytes are swapped or shifted.

    Raises:
        InputError: Too many lie where neither a CT nor its padding does.
    """
    if hu.min() >= COMMON_HU[0] and hu.max() <= COMMON_HU[1]:
        return
    thinned = hu[tuple(slice(None, None, max(1, n // 64)) for n in hu.shape)]
    values, counts = np.unique(thinned, return_counts=True)
    is_stray = (values < COMMON_HU[0]) | (values > COMMON_HU[1])
    # Swapped, the air that many scans fill up with is one number within.
    stray = np.sort(counts[is_stray])[:-MOST_PADDINGS].sum()
    usual = np.sort(counts[~is_stray])[:-1].sum()
    stray_share = stray / max(stray + usual, 1)
    if stray_share > MOST_STRAY:
        raise InputError(
            f"{stray_share:.0%} of the voxels lie outside {COMMON_HU} HU, where a CT has hardly"
            " any, and hold too many different numbers for padding: the image is damaged, its byte"
            " order is told wrongly, or it is not in Hounsfield units"
        )


def check_tissue(hu: NDArray) -> None:
    """Refuses a whole scan without soft tissue; a crop may hold nothing but lung.

    Raises:
        InputError: No voxel is as dense.
    """
    if not ((hu > TISSUE_HU) & (hu <= MEASURED_HU[1])).any():
        low, high = measured_range(hu)
        raise InputError(
            f"wanted a chest CT in Hounsfield units, got values from {low:g} to {high:g} with no"
            f" voxel above {TISSUE_HU} (soft tissue): not in Hounsfield units, or nothing but air"
        )


def holds_air(hu: NDArray) -> bool:
    """Whether some voxel is as light as lung or air."""
    return bool(((hu >= AIR_HU[0]) & (hu <= AIR_HU[1])).any())


def padding_of(hu: NDArray) -> NDArray[np.bool_] | None:
    """Where voxels hold no measurement but padding; None if nowhere."""
    if not hu.size or (hu.min() >= MEASURED_HU[0] and hu.max() <= MEASURED_HU[1]):
        return None
    return np.asarray((hu < MEASURED_HU[0]) | (hu > MEASURED_HU[1]))


def measured_range(hu: NDArray) -> tuple[float, float]:
    """Lowest and highest voxel that is no padding; infinite and crossed where there is none."""
    padding = padding_of(hu)
    measured = hu if padding is None else hu[~padding]
    if not measured.size:
        return float("inf"), float("-inf")
    return float(measured.min()), float(measured.max())


def check_finite(hu: NDArray) -> None:
    """Refuses voxels that are not numbers.

    Raises:
        InputError: Some voxel is NaN or infinite.
    """
    if not np.issubdtype(hu.dtype, np.integer) and not np.isfinite(hu).all():
        bad = int(np.count_nonzero(~np.isfinite(hu)))
        raise InputError(f"wanted finite Hounsfield units, got {bad} NaN or infinite voxels")
