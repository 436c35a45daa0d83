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
            projection=nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, length)),
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
    """Moves one module's weights and running statistics towards another's, in place.

    Args:
        follower: k becomes momentum k + (1 - momentum) q (arXiv:1911.05722, Eq. 2).
        leader: Of the same shape.
        momentum: 0 to 1.
    """
    theirs = leader.state_dict()
    for name, own in follower.state_dict().items():
        if own.is_floating_point():
            own.lerp_(theirs[name], 1 - momentum)
        else:
            own.copy_(theirs[name])
