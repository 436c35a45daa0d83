"""Where a concept can be seen: what image or readers' marks tell (docs/methods.md 6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from contrastdiagnosis.concepts.head import Concept
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from torch import Tensor
from torch.nn import functional

CALCIFIED_HU, SUB_SOLID_HU = 200.0, -300.0

IMAGE_TRUTH = ("calcified", "sub-solid", "ill-defined margin")
"""Findings, of whatever source, whose place the image or the readers' marks tell."""

MARKED = 0.5
"""Share of the readers from which on a cell is the nodule's: their majority."""

DISPUTED = (0.15, 0.85)
"""Shares of the readers, interpolated, between which their marks disagree."""


def image_region(concept: Concept, hu: Any, mask: Any, disputed: Any) -> Any:
    """Voxels where a concept of `IMAGE_TRUTH` is: arrays or tensors of one shape.

    Calcified: above 200 HU within the mask; sub-solid: below -300 HU within it; ill-defined margin:
    where some readers marked and others did not.

    Args:
        concept: Its name is one of `IMAGE_TRUTH`.
        hu: Hounsfield units.
        mask: bool, the readers' consensus.
        disputed: bool, marked by some readers and not by others.
    """
    if concept.name == "calcified":
        return mask & (hu > CALCIFIED_HU)
    if concept.name == "sub-solid":
        return mask & (hu < SUB_SOLID_HU)
    return disputed


def concept_places(
    concepts: Sequence[Concept],
    intensity: Tensor,
    share: Tensor,
    marked: Tensor,
    size: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Cells in which each concept is seen if it is present, and cells in which it cannot be.

    Concepts without an image truth, and nodules of whose truth no voxel is left, may be seen in any
    cell of the nodule.

    Args:
        concepts: K of them.
        intensity: (B, 1, D, H, W) in [0, 1].
        share: (B, 1, D, H, W) share of the readers who marked the voxel.
        marked: (B, d, h, w) highest share in each cell.
        size: Voxels of a cell along (k, j, i).

    Returns:
        (B, K, d, h, w) weights, 0 where no such cell is, and (B, K, d, h, w) bool.
    """
    low, high = DEFAULT_GEOMETRY.window_hu
    hu = intensity * (high - low) + low
    disputed = (share > DISPUTED[0]) & (share < DISPUTED[1])
    seen, elsewhere = [], []
    for concept in concepts:
        inside, outside = nodule_places(marked)
        if concept.name in IMAGE_TRUTH:
            region = image_region(concept, hu, share >= MARKED, disputed).float()
            part = functional.avg_pool3d(region, size)[:, 0]
            there = part.amax(dim=(1, 2, 3), keepdim=True) > 0
            inside, outside = (
                torch.where(there, part, inside),
                torch.where(there, part == 0, outside),
            )
        seen.append(inside)
        elsewhere.append(outside)
    return torch.stack(seen, dim=1), torch.stack(elsewhere, dim=1)


def nodule_places(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a concept of which only the readers' marks tell where it may be.

    Args:
        marked: (B, d, h, w) highest share of the readers who marked a voxel of each cell.
    """
    return (marked >= MARKED).float(), marked == 0
