"""Plausible tissue above and below nodules whose files end with the nodule.

LIDC case folders hold little more than the slices that a nodule spans. A network trained on them
alone reads the nodule's extent from where the slices stop, and is lost in a whole CT. So training
also sees each stack continued by its own last slices with the nodule taken out.
"""

from __future__ import annotations

import numpy as np
from contrastdiagnosis.cases.case_folder import NoduleScan
from contrastdiagnosis.imaging.volume import Volume
from numpy.typing import NDArray
from scipy import ndimage

FILL_SIGMAS_PX = (1.5, 3.0, 6.0, 12.0, 40.0)
TEXTURE_SIGMA_PX = 1.2
DRIFT_MM_PER_MM = 0.25
"""Vessels and pleura are seldom parallel to the scan's axis: each added slice slides sideways."""


def extend_along_slices(
    scan: NoduleScan, reach_mm: float, random: np.random.Generator
) -> tuple[NoduleScan, slice]:
    """The scan continued on both sides until it covers `reach_mm` from the nodule's centre.

    Args:
        scan: The nodule as stored.
        reach_mm: Half the wanted extent along the slices.
        random: Source of the drift and the shuffled texture.

    Returns:
        The longer scan, and where the stored slices lie in it.
    """
    hu, share = scan.volume.hu, scan.share
    step_mm = scan.volume.spacing_mm[0]
    center_k = np.argwhere(scan.consensus).mean(axis=0)[0]
    below = max(0, int(np.ceil(reach_mm / step_mm - center_k)))
    above = max(0, int(np.ceil(reach_mm / step_mm - (len(hu) - 1 - center_k))))
    parts = [hu.astype(np.float32)]
    if below:
        parts.insert(0, _continue(hu[0], share[0] > 0, below, scan, random)[::-1])
    if above:
        parts.append(_continue(hu[-1], share[-1] > 0, above, scan, random))
    affine = scan.volume.ijk_to_ras.copy()
    affine[:3, 3] = scan.volume.ras_from_ijk([0, 0, -below])
    volume = Volume(np.concatenate(parts), affine)
    padded = np.pad(share, ((below, above), (0, 0), (0, 0)))
    return NoduleScan(volume, padded), slice(below, below + len(hu))


def _continue(
    last: NDArray,
    nodule: NDArray[np.bool_],
    count: int,
    scan: NoduleScan,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """(count, H, W) slices that go on from the last one, nearest first, without the nodule."""
    step_mm, row_mm, column_mm = scan.volume.spacing_mm
    cleared = remove_nodule(last.astype(np.float32), nodule)
    anatomy = ndimage.gaussian_filter(cleared, TEXTURE_SIGMA_PX)
    texture = cleared - anatomy
    # Edges of vessels and chest wall are anatomy, not texture: they must not be scattered about.
    limit = 3 * 1.4826 * np.median(np.abs(texture))
    texture = np.where(np.abs(texture) < limit, texture, 0)
    direction = random.normal(size=2)
    direction /= np.linalg.norm(direction)
    slices = []
    for n in range(1, count + 1):
        drift_mm = n * step_mm * DRIFT_MM_PER_MM * direction
        moved = ndimage.shift(anatomy, drift_mm / (row_mm, column_mm), order=1, mode="nearest")
        slices.append(moved + np.roll(texture, random.integers(0, 40, size=2), axis=(0, 1)))
    return np.array(slices, dtype=np.float32)


def remove_nodule(hu: NDArray[np.float32], nodule: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W) slice with the marked pixels replaced by what surrounds them."""
    hole = ndimage.binary_dilation(nodule, iterations=2)
    if not hole.any():
        return hu
    if hole.all():
        return np.full_like(hu, hu.min())
    filled = hu.copy()
    todo = hole.copy()
    known = (~hole).astype(np.float32)
    for sigma in FILL_SIGMAS_PX:
        weight = ndimage.gaussian_filter(known, sigma)
        mean = ndimage.gaussian_filter(hu * known, sigma) / np.maximum(weight, 1e-6)
        reached = todo & (weight > 0.05)
        filled[reached] = mean[reached]
        todo &= ~reached
    filled[todo] = np.median(hu[~hole])
    return filled
