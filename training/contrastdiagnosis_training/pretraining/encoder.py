"""The network's encoder with the projection that pre-training compares."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from contrastdiagnosis.model.network import NoduleNet
from contrastdiagnosis.model.stem import space_to_channels
from torch import Tensor, nn
from torch.nn import functional

ENCODER = ("stem.", "encoder.")
"""How the names of the weights begin that pre-training hands on."""


def projected_encoder(network: NoduleNet, length: int) -> nn.Sequential:
    """Stem and encoder of a network, pooled, and two layers that are thrown away afterwards.

    Both layers see standardised numbers (arXiv:2006.10029): the pooled features of a new network
    are all positive and nearly alike, and so would be their projections, with cosines of 0.9 and
    more between any two patches.

    Args:
        network: Whose weights are trained; they are shared, not copied.
        length: q of the projections.
    """
    width = network.config.channels[-1]
    return nn.Sequential(
        OrderedDict(
            stem=network.stem,
            encoder=nn.Sequential(*network.encoder),
            pool=nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()),
            projection=nn.Sequential(
                nn.BatchNorm1d(width),
                nn.Linear(width, width),
                nn.BatchNorm1d(width),
                nn.ReLU(),
                nn.Linear(width, length),
            ),
        )
    )


def pooled_features(encoder: nn.Sequential, intensity: Tensor) -> Tensor:
    """(B, C) means of the deepest level over (B, 1, D, H, W) patches, of any size.

    Args:
        encoder: Of `projected_encoder`.
        intensity: Patches.
    """
    features: Tensor = encoder[:-1](space_to_channels(intensity))
    return features


def embedded(encoder: nn.Module, intensity: Tensor) -> Tensor:
    """(B, q) L2-normalised projections of (B, 1, D, H, W) patches.

    Args:
        encoder: Of `projected_encoder`, or Fabric's wrapper of it.
        intensity: Patches, of any size.
    """
    return functional.normalize(encoder(space_to_channels(intensity)).float(), dim=1)


def encoder_weights(network: NoduleNet) -> Mapping[str, Tensor]:
    """What pre-training hands on: the weights of stem and encoder, by their names."""
    return {n: w for n, w in network.state_dict().items() if n.startswith(ENCODER)}


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Moves one module's weights towards another's, in place.

    The running statistics are taken over as they are: an average that begins at the mean of 0 and
    the variance of 1 of a new network would scale all features down to nothing for many steps.

    Args:
        follower: k becomes momentum k + (1 - momentum) q (arXiv:1911.05722, Eq. 2).
        leader: Of the same shape.
        momentum: 0 to 1.
    """
    for own, theirs in zip(follower.parameters(), leader.parameters(), strict=True):
        own.lerp_(theirs, 1 - momentum)
    for kept, now in zip(follower.buffers(), leader.buffers(), strict=True):
        kept.copy_(now)
