"""Noise in lung: how much, and what of the texture there is noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.imaging.axial import AxialSlices

STENCIL_GAIN = 6
"""Root of the squares of the stencil [1, -2, 1] along rows and columns, which is blind to anything
that varies linearly along either (Immerkaer, Computer Vision and Image Understanding
1996;64:300)."""

LEAST_VOXELS = 500
"""Fewer lung voxels tell no noise."""

WINDOW_MM = 8.0
"""Texture is what differs from the mean over so much of the lung in a slice."""

LUNG_SHARE = 0.7
"""Windows with less lung tell the lung's border."""

LEAST_WINDOWS = 10
"""Fewer tell no noise."""

QUIETEST = 10
"""Percentile of the windows that is taken for noise: hardly any vessel passes through these."""

QUIETEST_GAIN = 0.92
"""What this percentile is of the noise's standard deviation: that of a window varies."""

MOST_ALIKE = 0.9
"""Slices more alike tell no noise by their difference."""

OUTLIER = 3.0
"""Standard deviations beyond which texture is cut off: vessels."""


@dataclass(frozen=True, eq=False)
class Texture:
    """What is left of lung without its mean density.

    Attributes:
        slices: Whose texture.
        lung: (D, H, W) bool.
        hu: (D, H, W) float32, 0 outside the lung, cut off at `OUTLIER`.
        spread_hu: Its robust standard deviation: noise, and vessels.
        noise_hu: Standard deviation of the noise.
        fine_noise_hu: Of the part of it that differs from pixel to pixel.
    """

    slices: AxialSlices
    lung: NDArray[np.bool_]
    hu: NDArray[np.float32]
    spread_hu: float
    noise_hu: float
    fine_noise_hu: float


def lung_texture(slices: AxialSlices) -> Texture | None:
    """The texture of the lung in some slices; None where there is too little lung to tell.

    Noise is measured in two ways, and the smaller is right, because vessels add to either: by the
    texture within slices, and by the difference of neighbouring slices, whose noise is independent.
    Where they are alike (slices overlap, or were interpolated) their difference tells less than
    what noise there is, by as much as they are alike in detail.
    """
    if min(slices.hu.shape) < 2 * (len(slices.hu) > 1) or not slices.hu.size:
        return None
    lung = slices.lung()
    if np.count_nonzero(lung) < LEAST_VOXELS:
        return None
    texture = _difference_from_mean(slices, lung)
    spread_hu = _robust_sd(texture[lung])
    texture = np.clip(texture, -OUTLIER * spread_hu, OUTLIER * spread_hu)
    noise_hu = _quietest(slices, slices.hu, lung)
    if len(slices.hu) > 1:
        both = lung[1:] & lung[:-1]
        change_hu = _quietest(slices, slices.hu[1:] - slices.hu[:-1], both)
        alike = min(max(_alike_in_detail(texture, lung), 0.0), MOST_ALIKE)
        noise_hu = float(np.fmin(noise_hu, change_hu / np.sqrt(2 * (1 - alike))))
    fine_noise_hu = _fine_noise_hu(slices.hu, lung)
    return Texture(
        slices, lung, texture, spread_hu, float(np.fmax(noise_hu, fine_noise_hu)), fine_noise_hu
    )


def _quietest(slices: AxialSlices, values: NDArray[np.float32], lung: NDArray[np.bool_]) -> float:
    """Standard deviation of some values in lung where they are quiet, NaN where there is little.

    Args:
        slices: Of which the values are.
        values: (D, H, W), or of fewer slices.
        lung: (D, H, W) bool.
    """
    inside = np.where(lung, values, np.float32(0))
    count = slices.block_sums(lung, WINDOW_MM)
    sums, squares = (slices.block_sums(v, WINDOW_MM) for v in (inside, inside * inside))
    told = count > LUNG_SHARE * slices.pixels(WINDOW_MM) ** 2
    if np.count_nonzero(told) < LEAST_WINDOWS:
        return float("nan")
    count = count[told]
    # The mean is the window's own, which takes one of its degrees of freedom.
    variance = (squares[told] - sums[told] ** 2 / count) / (count - 1)
    return float(np.sqrt(max(float(np.percentile(variance, QUIETEST)), 0.0))) / QUIETEST_GAIN


def _difference_from_mean(slices: AxialSlices, lung: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What differs from the mean of the lung around it, 0 outside the lung."""
    share = slices.mean(lung.astype(np.float32), WINDOW_MM)
    inside = np.where(lung, slices.hu, np.float32(0))
    mean = slices.mean(inside, WINDOW_MM) / np.maximum(share, np.float32(1e-3))
    return np.where(lung, slices.hu - mean, np.float32(0))


def _robust_sd(values: NDArray[np.float32]) -> float:
    """Standard deviation of normal values, which outliers do not change; NaN of none."""
    if not len(values):
        return float("nan")
    size = np.abs(values)
    middle = len(size) // 2
    return float(1.4826 * np.partition(size, middle)[middle])


def _alike_in_detail(texture: NDArray[np.float32], lung: NDArray[np.bool_]) -> float:
    """Correlation of neighbouring slices in what differs from pixel to pixel."""
    detail = texture[:, 1:, 1:] - texture[:, 1:, :-1] - texture[:, :-1, 1:] + texture[:, :-1, :-1]
    detail = np.where(lung[:, 1:, 1:] & lung[:, :-1, :-1], detail, np.float32(0))
    power = np.einsum("kji,kji->k", detail, detail)
    common = np.einsum("kji,kji->k", detail[1:], detail[:-1])
    return float(2 * common.sum() / max(float(power[1:].sum() + power[:-1].sum()), 1e-6))


def _fine_noise_hu(hu: NDArray[np.float32], lung: NDArray[np.bool_]) -> float:
    """The median over lung of what the stencil leaves in each slice."""
    edged = np.pad(hu, ((0, 0), (1, 1), (1, 1)), mode="edge")
    left = np.diff(np.diff(edged, 2, axis=1), 2, axis=2)
    return _robust_sd(left[lung]) / STENCIL_GAIN
