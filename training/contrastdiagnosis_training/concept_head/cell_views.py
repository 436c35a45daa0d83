"""`CellViews`: the cells of many views of each nodule, encoded once by a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from contrastdiagnosis.concepts.cells import (
    CELL_VOXELS,
    cell_channels,
    cell_features,
    nodule_weight,
)
from contrastdiagnosis.concepts.head import Concept
from contrastdiagnosis.model.network import NoduleNet
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from contrastdiagnosis_training.concept_head.place import concept_places
from contrastdiagnosis_training.data.augment import Augmentation
from contrastdiagnosis_training.data.patch_store import PatchStore
from contrastdiagnosis_training.data.views import nodule_views
from contrastdiagnosis_training.progress import Bar

BATCH = 16


@dataclass(frozen=True, eq=False)
class CellViews:
    """V views of N nodules.

    Attributes:
        cells: (V, N, C, d, h, w) float16 features, not standardised.
        weight: (V, N, d, h, w) float16 share of the predicted nodule in each cell.
        marked: (V, N, d, h, w) float16, highest share of the readers who marked a voxel of it.
        seen: (V, N, K, d, h, w) float16, weight of the cells that show each concept if it is
            present.
        elsewhere: (V, N, K, d, h, w) bool, cells that cannot show it.
        own: How many of the C features, the first ones, are the cell's own and not of the whole
            nodule; None if all are.
    """

    cells: Tensor
    weight: Tensor
    marked: Tensor
    seen: Tensor
    elsewhere: Tensor
    own: int | None = None

    def mean_and_scale(self, channels: int) -> tuple[Tensor, Tensor]:
        """(channels,) mean and deviation of the first features over views, nodules and cells."""
        by_channel = self.cells[:, :, :channels, ::2, ::2, ::2].float().transpose(0, 2).flatten(1)
        return by_channel.mean(dim=1), by_channel.std(dim=1).clamp(min=1e-3)


def encode_views(
    network: NoduleNet,
    store: PatchStore,
    positions: NDArray[np.int64],
    concepts: Sequence[Concept],
    options: Augmentation,
    views: int,
    seed: int,
    device: torch.device,
) -> CellViews:
    """Augmented views of nodules as cells.

    Args:
        network: In eval mode, on the device.
        store: Holds the nodules.
        positions: (N,) which of them.
        concepts: K of them.
        options: How views are drawn.
        views: V.
        seed: Fixes the draws.
        device: Where the network is.
    """
    generator = torch.Generator(device).manual_seed(seed)
    made: list[list[tuple[Tensor, ...]]] = []
    for _ in Bar(range(views), unit="view", leave=False):
        made.append([])
        for part in torch.from_numpy(positions).split(BATCH):
            seen = nodule_views(store, part, options, generator)
            with torch.inference_mode():
                features = network(seen.intensity)
                cells = cell_features(features)
                grid = tuple(cells.shape[2:])
                weight = nodule_weight(features.mask_logits, grid)
                marked = functional.max_pool3d(seen.share, CELL_VOXELS)[:, 0]
                shows, not_there = concept_places(
                    concepts, seen.intensity, seen.share, marked, CELL_VOXELS
                )
            kept = cells.half(), weight.half(), marked.half(), shows.half(), not_there
            made[-1].append(tuple(x.cpu() for x in kept))
    joined = [[torch.cat(column) for column in zip(*view, strict=True)] for view in made]
    cells, weight, marked, seen_at, elsewhere = map(torch.stack, zip(*joined, strict=True))
    own = cell_channels(network.config, whole=False)
    return CellViews(cells, weight, marked, seen_at, elsewhere, own)
