"""The cells of a patch: what each of them, and the nodule that it is a part of, looks like."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from contrastdiagnosis.model.mask_statistics import DENSITY_BINS
from contrastdiagnosis.model.network import NoduleFeatures, NoduleNetConfig, inside_of

CELL_LEVELS = (2, 3)
"""Levels of the pyramid that a cell's features are made of; the grid is that of the last one."""

CELL_VOXELS = (4, 8, 8)
"""Voxels of a patch that make a cell, along (k, j, i): the strides of level 3."""

INSIDE_FLOOR = 0.02
"""Share of a cell that the nodule fills at which its densities count half."""

CELL_REACH = (3, 5, 7)
"""Edges of the cubes of cells, in which it is counted how much nodule there is around a cell."""

CELL_STATISTICS = 6 + DENSITY_BINS + len(CELL_REACH)
"""Number of statistics that `cell_statistics` gives of a cell."""

HIGHEST_INSIDE = 5
"""Which of them is the highest probability of being nodule."""


def cell_channels(network: NoduleNetConfig, whole: bool = True) -> int:
    """Number C of features of a cell of this network, with or without those of the whole nodule."""
    levels = sum(network.channels[level - 1] for level in CELL_LEVELS)
    return levels + CELL_STATISTICS + (network.embedding if whole else 0)


def cell_features(features: NoduleFeatures) -> Tensor:
    """(B, C, d, h, w): levels `CELL_LEVELS`, densities under the mask, and the nodule's embedding.

    The densities are what `mask_statistics` gives for the whole nodule: without them calcified and
    sub-solid nodules are hardly told. The embedding tells cells of what they are a part: shape and
    surface are the nodule's, not a cell's (training/LOG.md). It fades with the cell's highest
    probability of being nodule, so that cells outside know nothing of it. It comes last: a head
    that is to see nothing of the whole leaves it out (`ConceptConfig.whole`).
    """
    levels = [features.pyramid[n].float() for n in CELL_LEVELS]
    grid = tuple(levels[-1].shape[2:])
    finer = [functional.adaptive_avg_pool3d(x, grid) for x in levels[:-1]]  # type: ignore[arg-type]
    statistics = cell_statistics(features.pyramid[0].float(), features.mask_logits.float(), grid)
    touched = statistics[:, HIGHEST_INSIDE, None]
    whole = features.embedding.float()[:, :, None, None, None] * touched
    return torch.cat([*finer, levels[-1], statistics, whole], dim=1)


def cell_statistics(intensity: Tensor, mask_logits: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, CELL_STATISTICS, d, h, w): densities of each cell, and how far the nodule fills it.

    Mean, deviation, highest and lowest intensity; log of the share that is nodule, and its highest
    probability; share of the nodule's part in each of ten density bins; log of the share that is
    nodule within 15, 25 and 35 mm around.

    Args:
        intensity: (B, 1, D, H, W) in [0, 1].
        mask_logits: (B, 1, D, H, W).
        grid: (d, h, w), divides (D, H, W).
    """
    size = [n // m for n, m in zip(intensity.shape[2:], grid, strict=True)]

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool3d(x, size)

    def highest(x: Tensor) -> Tensor:
        return functional.max_pool3d(x, size)

    inside = inside_of(mask_logits)
    average, share = mean(intensity), mean(inside)
    deviation = (mean(intensity**2) - average**2).clamp(min=1e-6).sqrt()
    bins = share.new_zeros(len(share), DENSITY_BINS, *grid)
    # Where no patch shows any nodule there is nothing to count: mostly nearly everywhere.
    place = torch.nonzero(share.amax(dim=(0, 1)))
    if len(place):
        low, high = place.amin(dim=0).tolist(), (place.amax(dim=0) + 1).tolist()
        k, j, i = (slice(a, b) for a, b in zip(low, high, strict=True))
        z, y, x = (slice(a * n, b * n) for a, b, n in zip(low, high, size, strict=True))
        density, weight = intensity[:, :, z, y, x], inside[:, :, z, y, x]
        for n, c in enumerate(torch.linspace(0.05, 0.95, DENSITY_BINS).tolist()):
            near = weight * (1 - (density - c).abs() * DENSITY_BINS).clamp(min=0)
            bins[:, n, k, j, i] = mean(near)[:, 0]
    around = [
        functional.avg_pool3d(functional.pad(share, [n // 2] * 6), n, stride=1) for n in CELL_REACH
    ]
    return torch.cat(
        [
            average,
            deviation,
            highest(intensity),
            -highest(-intensity),
            (100 * share + 1).log(),
            highest(inside),
            bins / (share + INSIDE_FLOOR),
            *((100 * x + 1).log() for x in around),
        ],
        dim=1,
    )


def nodule_weight(mask_logits: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, d, h, w) share of the nodule that lies in each cell; nearly even where none is found."""
    inside = inside_of(mask_logits.float())
    weight = functional.adaptive_avg_pool3d(inside, grid)[:, 0] + 1e-5  # type: ignore[arg-type]
    return weight / weight.sum(dim=(1, 2, 3), keepdim=True)
