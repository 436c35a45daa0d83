"""`AxialSlices`: a scan's own voxels as the slices it was taken in, for measuring its quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contrastdiagnosis.imaging.volume import padding_of

AIR_BELOW_HU = -950.0
"""Darker places are the air of airways and bullae, or outside the body."""

LUNG_BELOW_HU = -500.0

LUNG_OVER_MM = 3.5
"""Whether a place is lung is told by the mean over so much of its slice: noise would mislead."""

MOST_VOXELS = 50_000
"""What is measured within slices is measured in as many middle slices as hold about so many."""

LEAST_SLICES = 8
"""Measured whatever their size."""


@dataclass(frozen=True, eq=False)
class AxialSlices:
    """Voxels, not resampled.

    Attributes:
        hu: (D, H, W) float32, an axial slice along D; air where the scan measured nothing.
        spacing_mm: Distance between voxels along (D, H, W).
        padding: (D, H, W) bool where the scan measured nothing; None if nowhere.
    """

    hu: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    padding: NDArray[np.bool_] | None

    @property
    def pixel_mm(self) -> float:
        """Mean spacing within a slice."""
        return (self.spacing_mm[1] + self.spacing_mm[2]) / 2

    def pixels(self, size_mm: float) -> int:
        """The odd number of pixels that comes next to a size, at least 3."""
        return max(3, 2 * round((size_mm / self.pixel_mm - 1) / 2) + 1)

    def mean(self, values: NDArray[np.float32], size_mm: float) -> NDArray[np.float32]:
        """(D, H, W) means over squares within the slices."""
        side = self.pixels(size_mm)
        return np.asarray(ndimage.uniform_filter(values, (1, side, side), mode="nearest"))

    def block_sums(self, values: NDArray, size_mm: float) -> NDArray[np.float32]:
        """(D, h, w) sums over squares that lie side by side; what is left at the ends is not told.

        Args:
            values: (D, H, W) as the slices, or of fewer slices.
            size_mm: Of the squares; a whole slice where it is smaller.
        """
        height, width = values.shape[1:]
        down, across = (min(self.pixels(size_mm), n) for n in (height, width))
        rows, columns = height // down, width // across
        whole = values[:, : rows * down, : columns * across]
        blocks = whole.reshape(len(values), rows, down, columns, across)
        return np.asarray(blocks.sum(axis=(2, 4), dtype=np.float32))

    def measured_around(self, size_mm: float) -> NDArray[np.bool_] | None:
        """(D, H, W) where a square holds no padding; None if everywhere."""
        if self.padding is None:
            return None
        side = self.pixels(size_mm)
        return ~np.asarray(ndimage.maximum_filter(self.padding, (1, side, side)))

    def lung(self) -> NDArray[np.bool_]:
        """(D, H, W) whether the tissue is as light as lung, but not as light as air."""
        mean = self.mean(self.hu, LUNG_OVER_MM)
        lung = (mean > AIR_BELOW_HU) & (mean < LUNG_BELOW_HU)
        measured = self.measured_around(LUNG_OVER_MM)
        return lung if measured is None else lung & measured

    def middle(self) -> AxialSlices:
        """The middle slices, at most about `MOST_VOXELS` voxels."""
        count = len(self.hu)
        kept = max(LEAST_SLICES, MOST_VOXELS // max(self.hu[:1].size, 1))
        if count <= kept:
            return self
        first = (count - kept) // 2
        chosen = slice(first, first + kept)
        padding = None if self.padding is None else self.padding[chosen]
        return AxialSlices(self.hu[chosen], self.spacing_mm, padding)


def axial_slices(hu: NDArray, ijk_to_ras: NDArray[np.float64]) -> AxialSlices:
    """The slices of (D, H, W) voxels in (k, j, i) order.

    Args:
        hu: Hounsfield units, any real dtype.
        ijk_to_ras: (4, 4) affine; slices lie across the axis that is nearest to superior.
    """
    steps = np.asarray(ijk_to_ras)[:3, :3]
    spacing_mm = np.linalg.norm(steps, axis=0)
    along = 2 - int(np.abs(steps[2] / spacing_mm).argmax())
    order = [along, *(axis for axis in range(3) if axis != along)]
    padding = padding_of(hu)
    values = hu if padding is None else np.where(padding, -1000, hu)
    k, j, i = (float(spacing_mm[2 - axis]) for axis in order)
    return AxialSlices(
        np.ascontiguousarray(values.transpose(order), dtype=np.float32), (k, j, i),
        None if padding is None else padding.transpose(order),
    )  # fmt: skip
