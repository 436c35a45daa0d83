"""`NoduleNet`: the U-Net that segments a nodule and turns it into an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from monai.networks.blocks import Convolution, ResidualUnit, UpSample
from torch import Tensor, nn
from torch.nn import functional

from contrastdiagnosis.model.mask_statistics import STATISTICS, mask_statistics
from contrastdiagnosis.model.stem import channels_to_space, space_to_channels

NORM = ("batch", {"affine": True})
"""BatchNorm is a plain affine map at inference, so density survives and gradient maps sum up to
the distance; Instance-, Group- and LayerNorm erase both (docs/methods.md 3.2)."""

MASK_PRIOR_LOGIT = -4.0
"""Few voxels are nodule; starting there spares the first epochs (arXiv:1708.02002, 4.1)."""

HAZE = 0.1
"""Mask probabilities up to this count as outside when features are pooled."""

EPSILON = 1e-6


@dataclass(frozen=True)
class NoduleNetConfig:
    """What fixes the network's tensors."""

    channels: tuple[int, ...] = (16, 32, 96, 192)
    """Features of the pyramid levels a1...a4."""
    embedding: int = 64
    """Length of z."""
    mask_pooling: bool = True
    """Pool the code also under the predicted mask; False is the published global pooling."""
    statistics: bool = True
    """Add density and shape statistics of the predicted mask to the code."""
    code_norm: bool = True
    """BatchNorm of the code, so that A meets components of one scale."""
    ratings: int = 0
    """Number of reader ratings that a linear head on z predicts; 0 for none."""


class NoduleFeatures(NamedTuple):
    """What one forward pass gives.

    Attributes:
        pyramid: a0...a4; a0 is the patch itself, a_l has in-plane stride 2**l.
        mask_logits: (B, 1, D, H, W), positive where at least half of the readers would mark.
        code: (B, n) pooled features c.
        embedding: (B, p) z = A c + b, the space of distances.
        ratings: (B, R) predicted reader ratings, standardised.
    """

    pyramid: tuple[Tensor, ...]
    mask_logits: Tensor
    code: Tensor
    embedding: Tensor
    ratings: Tensor


class NoduleNet(nn.Module):
    """Siamese U-Net of ContrastDiagnosis (arXiv:2403.05280); the two branches are two batch items.

    Input is (B, 1, D, H, W) windowed intensity with D divisible by 8 and H, W by 16.
    """

    def __init__(self, config: NoduleNetConfig = NoduleNetConfig()) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.stem = Convolution(3, 4, channels[0], norm=NORM, act="RELU")
        self.encoder = nn.ModuleList(
            ResidualUnit(3, c, d, strides=2, subunits=2, norm=NORM, act="RELU")
            for c, d in pairwise(channels)
        )
        self.up = nn.ModuleList(
            UpSample(3, d, c, scale_factor=2, mode="deconv") for c, d in pairwise(channels)
        )
        self.decoder = nn.ModuleList(
            Convolution(3, c, c, norm=NORM, act="RELU") for c in channels[:-1]
        )
        self.mask_head = nn.Conv3d(channels[0], 4, kernel_size=1)
        self.mask_head.bias.data.fill_(MASK_PRIOR_LOGIT)  # type: ignore[union-attr]
        self.code_norm = (
            nn.BatchNorm1d(self.code_length, affine=False) if config.code_norm else nn.Identity()
        )
        self.align = nn.Linear(self.code_length, config.embedding)
        self.rating_head = nn.Linear(config.embedding, config.ratings) if config.ratings else None

    @property
    def code_length(self) -> int:
        """Length n of the code c."""
        channels = self.config.channels
        pooled = sum(channels[1:]) if self.config.mask_pooling else 0
        return channels[-1] + pooled + (STATISTICS if self.config.statistics else 0)

    def forward(self, intensity: Tensor, pyramid: bool = True) -> NoduleFeatures:
        """Pyramid, mask, code, embedding and ratings of (B, 1, D, H, W) intensities.

        Args:
            intensity: Patches.
            pyramid: False leaves the pyramid empty, for training: Lightning Fabric converts all
                that is returned to float32, and its gradient back.
        """
        encoded = self.encode([self.stem(space_to_channels(intensity))])
        mask_logits = self.decode(encoded)
        code = self.code_of(intensity, encoded, mask_logits)
        embedding = self.align(code)
        ratings = self.rating_head(embedding) if self.rating_head else embedding[:, :0]
        levels = (intensity, *encoded) if pyramid else ()
        return NoduleFeatures(levels, mask_logits, code, embedding, ratings)

    def encode(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """All of a1...a4, from the first of them on."""
        encoded = list(levels)
        for block in list(self.encoder)[len(encoded) - 1 :]:
            encoded.append(block(encoded[-1]))
        return encoded

    def decode(self, encoded: Sequence[Tensor]) -> Tensor:
        """(B, 1, D, H, W) mask logits of a1...a4."""
        decoded = encoded[-1]
        for level in reversed(range(len(self.decoder))):
            decoded = self.decoder[level](self.up[level](decoded) + encoded[level])
        return channels_to_space(self.mask_head(decoded))

    def code_of(self, intensity: Tensor, encoded: Sequence[Tensor], mask_logits: Tensor) -> Tensor:
        """(B, n) code c of intensities, a1...a4 and the mask's logits."""
        # Pooling runs in float32: half precision loses the small nodules' volume.
        with torch.autocast(mask_logits.device.type, enabled=False):
            pooled = [encoded[-1].float().mean(dim=(2, 3, 4))]
            inside = inside_of(mask_logits.float())
            if self.training:
                inside = inside.detach()  # The mask learns from the readers' marks alone.
            if self.config.mask_pooling:
                pooled += [pool_under_mask(features.float(), inside) for features in encoded[1:]]
            if self.config.statistics:
                pooled.append(mask_statistics(intensity.float(), inside))
            return self.code_norm(torch.cat(pooled, dim=1))


def inside_of(mask_logits: Tensor) -> Tensor:
    """Weights in [0, 1] that features are pooled with, of mask logits.

    Exactly 0 away from the nodule: a faint haze over 131,072 voxels outweighs a nodule.
    """
    return functional.relu(torch.sigmoid(mask_logits) - HAZE) / (1 - HAZE)


def pool_under_mask(features: Tensor, inside: Tensor) -> Tensor:
    """(B, C) mean of (B, C, d, h, w) features weighted by a (B, 1, D, H, W) mask probability."""
    weight = functional.adaptive_avg_pool3d(inside, tuple(features.shape[2:])).flatten(2)  # type: ignore[arg-type]
    # As a product of matrices the gradient keeps the features' own channels-last layout.
    total = weight @ features.permute(0, 2, 3, 4, 1).flatten(1, 3)
    return total[:, 0] / (weight.sum(dim=2) + EPSILON)
