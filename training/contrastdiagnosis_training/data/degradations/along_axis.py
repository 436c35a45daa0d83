"""Blurring, thickening and shifting as matrices along an axis; edge voxels repeat beyond the grid.

A matrix holds any border rule and differs from item to item at no cost, which convolutions do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def apply_along(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """(B, D, H, W) with an axis replaced by its weighted sums.

    Args:
        x: (B, D, H, W).
        weights: (B, n, n): row o says what the output voxel o is made of.
        axis: 1, 2 or 3.
    """
    lines = x.movedim(axis, -1)
    summed = lines.flatten(1, 2) @ weights.transpose(1, 2)
    return summed.unflatten(1, lines.shape[1:3]).movedim(-1, axis)


def gaussian(
    x: Tensor,
    sigma_mm: Sequence[float],
    spacing_mm: tuple[float, float, float],
    axes: Sequence[int] = (1, 2, 3),
) -> Tensor:
    """(B, D, H, W) smoothed, each item by its own standard deviation."""
    for axis in axes:
        size, step_mm = x.shape[axis], spacing_mm[axis - 1]
        made = {s: gaussian_weights(size, s / step_mm) for s in set(sigma_mm)}
        weights = torch.from_numpy(np.stack([made[s] for s in sigma_mm]))
        x = apply_along(x, weights.to(x.device, x.dtype), axis)
    return x


def gaussian_weights(size: int, sigma: float) -> NDArray[np.float64]:
    """(size, size) matrix of a Gaussian with a standard deviation in voxels."""
    reach = int(np.ceil(5 * sigma))
    offset = np.arange(-reach, reach + 1)
    share = np.exp(-0.5 * (offset / sigma) ** 2)
    voxel = np.arange(size)
    weights = np.zeros((size, size))
    source = np.clip(voxel[:, None] + offset, 0, size - 1)
    np.add.at(weights, (voxel[:, None], source), share / share.sum())
    return weights


def shift_weights(size: int, shift: Tensor) -> Tensor:
    """(B, size, size) matrices: linear interpolation `shift` (B,) voxels further along the axis."""
    index = torch.arange(size, device=shift.device)
    place = (index + shift[:, None]).clamp(0, size - 1)
    return (1 - (place[..., None] - index).abs()).clamp(min=0)


def slab_weights(size: int, thickness: float, phase: float) -> NDArray[np.float64]:
    """(size, size) matrix: means over slabs, interpolated linearly between the slabs' middles.

    Args:
        size: Voxels along the axis.
        thickness: Of a slab, and from one slab to the next, in voxels.
        phase: Where the middle of a slab lies, in voxels from the middle of the first.
    """
    first = phase - thickness * np.ceil(phase / thickness)
    middles = first + thickness * np.arange(int(np.ceil((size - 1 - first) / thickness)) + 1)
    voxel = np.arange(size)
    slabs = _below(middles + thickness / 2, size) - _below(middles - thickness / 2, size)
    place = (voxel - first) / thickness
    between = np.maximum(1 - np.abs(place[:, None] - np.arange(len(middles))), 0)
    return between @ slabs / thickness


def _below(place: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(M, size) how much of each voxel lies below M places, in voxels.

    Voxel n reaches from n - 0.5 to n + 0.5, but the first begins and the last ends nowhere. What
    is missing of the first is negative; between two places all comes right.
    """
    voxel = np.arange(size)
    length = np.clip(place[:, None] - (voxel - 0.5), 0, 1)
    length[:, 0] += np.minimum(place + 0.5, 0)
    length[:, -1] += np.maximum(place - (size - 0.5), 0)
    return length
