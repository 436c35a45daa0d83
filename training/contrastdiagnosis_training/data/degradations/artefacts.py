"""Artefacts of scanner and metal: rings, streaks, and a calibration that is off."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastdiagnosis_training.data.degradations.items import Items

RING_HU = (20.0, 40.0, 60.0, 90.0, 120.0)
"""Largest height of a ring by severity; the others have at least half of it."""

RINGS = 4
RING_HALF_WIDTH_MM = 0.7
ISOCENTRE_MM = 120.0
"""Farthest that the scanner's axis passes from the grid's middle: a nodule's patch, some 50 mm
wide, lies anywhere in a lung."""

STREAK_HU = (50.0, 100.0, 200.0, 300.0, 400.0)
"""Height of the streaks where they begin, by severity."""

STREAK_FROM = (1.0, 1.6)
"""Distance of the metal from the grid's middle, in parts of half its shorter side or of
`STREAK_REACH_MM`: beyond an edge of a patch or in a corner, as the metal itself is not drawn."""

STREAK_REACH_MM = 40.0
"""In a whole CT the metal lies in the body, not beyond the table."""

STREAK_PAIRS = (6, 18)
"""Bright and dark pairs around the metal."""

STREAK_FALL_MM = 30.0
"""Distance at which they have half of their height."""

OFFSET_HU = (10.0, 20.0, 40.0, 60.0, 80.0)
"""By severity, up or down."""


def ring(items: Items) -> Tensor:
    """(B, D, H, W) with rings around the scanner's axis, as uneven detectors leave them.

    A voxel takes the share of a ring that it holds. In half of the items the rings are alike in all
    slices, in the others they wax and wane.
    """
    centre_mm = items.directions(2) * items.uniform(1, 0, ISOCENTRE_MM)
    distance, _ = _polar(items, centre_mm)
    radius = _distance_of_points(items, centre_mm)[:, :, None, None]
    pixel_mm = (items.spacing_mm[1] * items.spacing_mm[2]) ** 0.5
    gap_mm = (distance[:, None] - radius).abs()
    shape = ((RING_HALF_WIDTH_MM - gap_mm) / pixel_mm + 0.5).clamp(0, 1)
    height = items.strength(RING_HU)[:, None] * items.uniform(RINGS, 0.5, 1) * items.signs(RINGS)
    return items.hu + torch.einsum("brhw,br,brd->bdhw", shape, height, _along_slices(items))


def streak(items: Items) -> Tensor:
    """(B, D, H, W) with bright and dark streaks from metal that runs through all slices.

    a w cos(phase) / (1 + r / r0): the phase winds a whole number of times around the metal, here
    faster and there slower, and the weight w is 1 along the metal's longer axis and 0.5 across.
    Streaks finer than the pixels are left out.
    """
    height, width = items.hu.shape[2:]
    side_mm = min(height * items.spacing_mm[1], width * items.spacing_mm[2])
    reach_mm = min(side_mm / 2, STREAK_REACH_MM)
    metal_mm = items.directions(2) * items.uniform(1, *STREAK_FROM) * reach_mm
    distance, angle = _polar(items, metal_mm)
    pairs, turn, waves, at, axis = items.uniform(5).T[..., None, None]
    low, high = STREAK_PAIRS
    pairs = low + (pairs * (high - low + 1)).floor()
    waves = 1 + (waves * 3).floor()
    uneven = 1.5 * torch.sin(waves * angle + 2 * torch.pi * at)
    phase = pairs * angle + 2 * torch.pi * turn + uneven
    band_px = torch.pi * distance / (pairs * max(items.spacing_mm[1:]))
    weight = 0.75 + 0.25 * (2 * angle + 2 * torch.pi * axis).cos()
    bands = weight * phase.cos() * (band_px - 1).clamp(0, 1) / (1 + distance / STREAK_FALL_MM)
    return items.hu + items.strength(STREAK_HU)[:, None, None, None] * bands[:, None]


def hu_offset(items: Items) -> Tensor:
    """(B, D, H, W) with all voxels too high, or all too low."""
    offset = items.strength(OFFSET_HU) * items.signs(1)[:, 0]
    return items.hu + offset[:, None, None, None]


def _polar(items: Items, centre_mm: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W) distance in mm and angle of every pixel from points (B, 2) along (j, i)."""
    places = [
        (torch.arange(n, device=items.hu.device) - (n - 1) / 2) * step_mm
        for n, step_mm in zip(items.hu.shape[2:], items.spacing_mm[1:], strict=True)
    ]
    down = (places[0] - centre_mm[:, :1])[:, :, None]
    across = (places[1] - centre_mm[:, 1:])[:, None, :]
    return torch.hypot(down, across), torch.atan2(down, across)


def _distance_of_points(items: Items, centre_mm: Tensor) -> Tensor:
    """(B, RINGS) distances of random points of the grid: rings through them can be seen."""
    height, width = items.hu.shape[2:]
    down = items.uniform(RINGS, -0.5, 0.5) * height * items.spacing_mm[1]
    across = items.uniform(RINGS, -0.5, 0.5) * width * items.spacing_mm[2]
    return torch.hypot(down - centre_mm[:, :1], across - centre_mm[:, 1:])


def _along_slices(items: Items) -> Tensor:
    """(B, RINGS, D) share of its height that a ring has in each slice, from 0.2 to 1."""
    varies = items.uniform(1) < 0.5
    wave_mm = items.uniform(RINGS, 40, 80)
    start = items.uniform(RINGS)
    place_mm = torch.arange(items.hu.shape[1], device=items.hu.device) * items.spacing_mm[0]
    turns = place_mm / wave_mm[..., None] + start[..., None]
    share = 0.6 + 0.4 * (2 * torch.pi * turns).cos()
    return torch.where(varies[..., None], share, 1.0)
