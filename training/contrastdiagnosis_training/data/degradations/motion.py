"""Motion: a patient who breathes while the slices are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastdiagnosis_training.data.degradations.along_axis import apply_along, shift_weights
from contrastdiagnosis_training.data.degradations.items import Items

PATH_MM = (1.0, 2.0, 3.0, 4.5, 6.0)
"""Length of the path by severity."""

MOST_COPIES = 4
LARGEST_TURN = torch.pi / 2
"""How far the heading turns along the path, at most."""

DOUBLE_EDGE = (0.6, 0.4)
"""Weights of the two copies of a scan that stood still, jumped, and stood still again."""


def motion(items: Items) -> Tensor:
    """(B, D, H, W) mean of two to four copies along a path, or of the two of `DOUBLE_EDGE`."""
    double = items.uniform(1) < 0.5
    copies = torch.where(double, 2, 2 + (items.uniform(1) * (MOST_COPIES - 1)).floor())
    weights = _weights(items, copies, double)
    path_mm = arcs(items, copies, double)
    # The mean place stays where it was, and with it the nodule under its mask.
    path_mm = path_mm - (weights[..., None] * path_mm).sum(dim=1, keepdim=True)
    return mean_of_copies(items.hu, path_mm, weights, items.spacing_mm)


def mean_of_copies(
    hu: Tensor, path_mm: Tensor, weights: Tensor, spacing_mm: tuple[float, float, float]
) -> Tensor:
    """(B, D, H, W) weighted mean of the scan at several places, interpolated linearly.

    Args:
        hu: (B, D, H, W).
        path_mm: (B, N, 3) how far each copy is moved along (k, j, i).
        weights: (B, N), adding up to 1.
        spacing_mm: Along (k, j, i).
    """
    total = torch.zeros_like(hu)
    for n in range(path_mm.shape[1]):
        copy = hu
        for axis in (1, 2, 3):
            back = -path_mm[:, n, axis - 1] / spacing_mm[axis - 1]
            copy = apply_along(copy, shift_weights(hu.shape[axis], back), axis)
        total += weights[:, n, None, None, None] * copy
    return total


def arcs(items: Items, copies: Tensor, straight: Tensor) -> Tensor:
    """(B, N, 3) places in mm along (k, j, i), evenly on arcs as long as `PATH_MM` says.

    Args:
        items: Whose severity and seeds.
        copies: (B, 1) how many places are used; the others lie beyond the end.
        straight: (B, 1) bool, whether the path does not turn.
    """
    ahead, aside = items.directions(3), items.directions(3)
    aside = aside - (aside * ahead).sum(dim=1, keepdim=True) * ahead
    aside = torch.nn.functional.normalize(aside, dim=1)
    turn = items.uniform(1, 0.1, LARGEST_TURN)
    step = torch.arange(MOST_COPIES, device=items.hu.device) / (copies - 1)
    angle = step * turn
    along = torch.where(straight, step, angle.sin() / turn)
    across = torch.where(straight, 0.0, (1 - angle.cos()) / turn)
    length = items.strength(PATH_MM)[:, None, None]
    return length * (along[..., None] * ahead[:, None] + across[..., None] * aside[:, None])


def _weights(items: Items, copies: Tensor, double: Tensor) -> Tensor:
    """(B, N) shares of the time, 0 for the places that are not used."""
    index = torch.arange(MOST_COPIES, device=items.hu.device)
    drawn = items.uniform(MOST_COPIES, 0.5, 1) * (index < copies)
    two = items.tensor([*DOUBLE_EDGE, *[0.0] * (MOST_COPIES - 2)])
    return torch.where(double, two, drawn / drawn.sum(dim=1, keepdim=True))
