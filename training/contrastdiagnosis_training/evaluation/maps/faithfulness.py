"""Do maps tell the truth? Deletion and insertion, localisation, correlation; no network here."""

from __future__ import annotations

import numpy as np
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from numpy.typing import NDArray
from scipy import ndimage
from scipy.integrate import trapezoid
from scipy.stats import spearmanr

SHARES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1)
"""Parts of the patch that are taken away. A nodule of 25 mm fills a tenth of it: what is deleted
beyond that is not the evidence any more."""

FILL_SIGMA_MM = 5.0
CONTROL_SIGMA_MM = 6.0
CELL = (2, 4, 4)
"""Voxels (k, j, i) of a cell of a2, the finest level of the default maps."""

Array = NDArray[np.float32]


def local_lung_mean(intensity: Array, valid: NDArray[np.bool_]) -> Array:
    """(D, H, W) mean of the lung around each voxel: what stands for deleted tissue.

    Weights fall off as a Gaussian of `FILL_SIGMA_MM`; far from any lung the patch's mean takes
    over. A single grey for the whole patch would leave a sharp-edged hole that is no lung either.
    """
    low, high = DEFAULT_GEOMETRY.window_hu
    hu = intensity * (high - low) + low
    lung = (valid & (hu > -980) & (hu < -500)).astype(np.float32)
    if not lung.any():
        return np.full_like(intensity, (-850 - low) / (high - low))
    sigma = [FILL_SIGMA_MM / s for s in DEFAULT_GEOMETRY.spacing_mm]
    weight = ndimage.gaussian_filter(lung, sigma)
    mean = ndimage.gaussian_filter(intensity * lung, sigma)
    overall = float((intensity * lung).sum() / lung.sum())
    return ((mean + 1e-3 * overall) / (weight + 1e-3)).astype(np.float32)


def perturbed(
    intensity: Array, fill: Array, importance: NDArray, insert: bool, random: np.random.Generator
) -> Array:
    """(len(SHARES) - 1, D, H, W) patches with growing parts deleted, or kept alone.

    Args:
        intensity: (D, H, W).
        fill: What stands where something is missing.
        importance: (D, H, W); the highest goes, or comes, first.
        insert: Start from the fill and put voxels back, instead of taking them away.
        random: Breaks ties.
    """
    ties = random.random(importance.shape)
    order = np.lexsort((ties.ravel(), -importance.ravel()))
    start, other = (fill, intensity) if insert else (intensity, fill)
    patches = []
    for share in SHARES[1:]:
        changed = start.copy().ravel()
        chosen = order[: round(share * importance.size)]
        changed[chosen] = other.ravel()[chosen]
        patches.append(changed.reshape(intensity.shape))
    return np.stack(patches)


def closeness(distance: NDArray, whole: float, blank: float) -> NDArray[np.float64]:
    """How much of a pair's closeness is left: 1 at the whole patch's distance, 0 at the blank's.

    Beyond both ends it stays there: a patch cannot be less like the case than with nothing in it,
    and distances beyond the blank's tell of the hole and not of the evidence.
    """
    span = blank - whole
    if span <= 0:
        return np.full(np.shape(distance), np.nan)
    return 1 - np.clip((np.asarray(distance, dtype=np.float64) - whole) / span, 0, 1)


def curve_area(values: NDArray) -> NDArray[np.float64]:
    """(...) mean height of curves (..., len(SHARES)) over the deleted share."""
    return trapezoid(values, SHARES, axis=-1) / SHARES[-1]


def centre_gaussian(shape: tuple[int, ...] = DEFAULT_GEOMETRY.shape) -> NDArray[np.float64]:
    """(D, H, W) control that knows nothing but where the patch's middle is."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * s
        for n, s in zip(shape, DEFAULT_GEOMETRY.spacing_mm, strict=True)
    ]
    k, j, i = np.meshgrid(*axes, indexing="ij")
    return np.exp(-(k**2 + j**2 + i**2) / (2 * CONTROL_SIGMA_MM**2))


def widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(D, H, W) mask dilated by one cell on every side."""
    return ndimage.maximum_filter(mask, size=[2 * n + 1 for n in CELL])


def energy_inside(values: NDArray, mask: NDArray[np.bool_]) -> float:
    """Share of a map's sum that lies in a mask; 0 for an empty map."""
    total = float(values.sum())
    return float(values[mask].sum()) / total if total else 0.0


def points_inside(values: NDArray, mask: NDArray[np.bool_]) -> float:
    """1 if the map's maximum lies in the mask, the share of tied maxima that do, 0 if empty."""
    highest = values.max()
    return float(mask[values == highest].mean()) if highest > 0 else 0.0


def rank_correlation(a: NDArray, b: NDArray) -> float:
    """Spearman correlation of two maps over all voxels; 0 where one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a.ravel(), b.ravel()).statistic)
