"""Concepts as a further task of the network's own training.

Stage 1 of CSR (arXiv:2503.06873) with the pyramid tuned along. The maps are thrown away: the head
is trained anew on the network that they leave behind.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from contrastdiagnosis.concepts.cells import cell_channels, cell_features, nodule_weight
from contrastdiagnosis.model.network import NoduleFeatures, NoduleNetConfig
from torch import Tensor, nn


def concept_task(network: NoduleNetConfig, concepts: int) -> nn.Sequential:
    """(B, C, d, h, w) cells of a network to (B, K, d, h, w) concept maps."""
    channels = cell_channels(network)
    return nn.Sequential(
        OrderedDict(
            standard=nn.BatchNorm3d(channels, affine=False),
            maps=nn.Conv3d(channels, concepts, kernel_size=1),
        )
    )


def concept_logits(task: nn.Module, features: NoduleFeatures) -> Tensor:
    """(B, K) logits of concepts, pooled where the network sees the nodule.

    Args:
        task: Of `concept_task`.
        features: With the pyramid.
    """
    with torch.autocast(features.mask_logits.device.type, enabled=False):
        # The mask learns from the readers' marks alone, the distances from malignancy alone.
        detached = features._replace(
            mask_logits=features.mask_logits.detach(), embedding=features.embedding.detach()
        )
        cells = cell_features(detached)
        weight = nodule_weight(detached.mask_logits, tuple(cells.shape[2:]))
        maps: Tensor = task(cells)
        return (maps * weight[:, None]).sum(dim=(2, 3, 4))
