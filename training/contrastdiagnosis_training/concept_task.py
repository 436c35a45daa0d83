"""`ConceptTask`: concepts as a further task of the network's own training."""

from __future__ import annotations

import torch
from contrastdiagnosis.concepts import cell_channels, cell_features, nodule_weight
from contrastdiagnosis.network import NoduleFeatures, NoduleNetConfig
from torch import Tensor, nn


class ConceptTask(nn.Module):
    """Concept maps on the cells of the pyramid, pooled where the network sees the nodule.

    Stage 1 of CSR (arXiv:2503.06873) with the pyramid tuned along. The maps are thrown away: the
    head is trained anew on the network that they leave behind.
    """

    def __init__(self, network: NoduleNetConfig, concepts: int) -> None:
        super().__init__()
        channels = cell_channels(network)
        self.standard = nn.BatchNorm3d(channels, affine=False)
        self.maps = nn.Conv3d(channels, concepts, kernel_size=1)

    def forward(self, features: NoduleFeatures) -> Tensor:
        """(B, K) logits."""
        with torch.autocast(features.mask_logits.device.type, enabled=False):
            # The mask learns from the readers' marks alone.
            detached = features._replace(mask_logits=features.mask_logits.detach())
            cells = cell_features(detached)
            weight = nodule_weight(detached.mask_logits, tuple(cells.shape[2:]))
            return (self.maps(self.standard(cells)) * weight[:, None]).sum(dim=(2, 3, 4))
