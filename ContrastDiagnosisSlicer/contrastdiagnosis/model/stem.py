"""In-plane blocks of pixels to channels and back: the way into the network and out of it."""

from __future__ import annotations

import torch
from torch import Tensor

STEM_STRIDE = (1, 2, 2)
"""Pixels of a 2x2 in-plane block become channels: voxels of 1.25x0.7x0.7 mm turn into nearly cubic
ones of 1.25x1.4x1.4 mm at no loss, and the costly first level shrinks fourfold."""


def space_to_channels(x: Tensor) -> Tensor:
    """(B, 1, D, H, W) to (B, 4, D, H/2, W/2): each in-plane 2x2 block becomes 4 channels."""
    batch, _, depth, height, width = x.shape
    x = x.reshape(batch, depth, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    x = x.reshape(batch, 4, depth, height // 2, width // 2)
    return x.contiguous(memory_format=torch.channels_last_3d)


def channels_to_space(x: Tensor) -> Tensor:
    """Inverse of `space_to_channels`."""
    batch, _, depth, height, width = x.shape
    x = x.reshape(batch, 2, 2, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(batch, 1, depth, 2 * height, 2 * width)
