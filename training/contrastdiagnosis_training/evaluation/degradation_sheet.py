"""A picture of a nodule in every degradation and severity, to be looked at."""

from __future__ import annotations

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import NoduleScan
from contrastdiagnosis.imaging.volume import padding_of
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from contrastdiagnosis_training.data.degradations.degrade import DEGRADATIONS, WORST, degrade

LUNG_WINDOW_HU = (-1350.0, 150.0)
AIR_HU = -1000.0

SHOWN_MM = 46.0
"""Side of what a tile shows, where the scan reaches as far."""

READ_MM = 70.0
"""Side of what is degraded for it: its edges repeat, which should not be seen."""

TILE_PX = 150
HEAD_PX, SIDE_PX, GAP_PX = 20, 96, 2


def degradation_sheet(scan: NoduleScan, seed: int) -> Image.Image:
    """One row an operation, one column a severity from 0 on, each in the lung window.

    Axial slices through the nodule's centre; coronal ones of thick slices, which cannot be seen
    otherwise. The seed is that of all tiles of a row.

    Args:
        scan: A nodule with its surroundings.
        seed: Of what is drawn.
    """
    hu, centre = _around(scan)
    spacing_mm = scan.volume.spacing_mm
    width = SIDE_PX + (WORST + 1) * (TILE_PX + GAP_PX)
    height = HEAD_PX + len(DEGRADATIONS) * (TILE_PX + GAP_PX)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    for severity in range(WORST + 1):
        left = SIDE_PX + severity * (TILE_PX + GAP_PX)
        pen.text((left + 4, 4), f"severity {severity}", fill="black")
    steps = torch.arange(WORST + 1)
    for row, operation in enumerate(DEGRADATIONS):
        top = HEAD_PX + row * (TILE_PX + GAP_PX)
        pen.text((4, top + TILE_PX // 2), operation, fill="black")
        copies = torch.from_numpy(hu).expand(len(steps), *hu.shape)
        names, seeds = [operation] * len(steps), [seed] * len(steps)
        degraded = degrade(copies, names, steps, spacing_mm, seeds).numpy()
        for severity, voxels in enumerate(degraded):
            tile = _tile(voxels, centre, spacing_mm, coronal=operation == "thick_slices")
            sheet.paste(tile, (SIDE_PX + severity * (TILE_PX + GAP_PX), top))
    return sheet


def _around(scan: NoduleScan) -> tuple[NDArray[np.float32], list[int]]:
    """The voxels around the nodule, padding made air, and the centre's index (k, j, i) in them."""
    centre = scan.volume.ijk_from_ras(scan.center_ras_mm)[::-1]
    box, within = [], []
    for n, c, step_mm in zip(scan.volume.hu.shape, centre, scan.volume.spacing_mm, strict=True):
        middle, reach = int(np.clip(round(float(c)), 0, n - 1)), round(READ_MM / 2 / step_mm)
        start = max(0, middle - reach)
        box.append(slice(start, middle + reach + 1))
        within.append(middle - start)
    hu = scan.volume.hu[tuple(box)].astype(np.float32)
    padding = padding_of(hu)
    return (hu if padding is None else np.where(padding, np.float32(AIR_HU), hu)), within


def _tile(
    hu: NDArray[np.float32],
    centre: list[int],
    spacing_mm: tuple[float, float, float],
    coronal: bool,
) -> Image.Image:
    """(TILE_PX, TILE_PX) of the plane through the centre, the head on top where it is coronal."""
    k, j, i = centre
    plane = hu[::-1, j] if coronal else hu[k]
    row = len(hu) - 1 - k if coronal else j
    down_mm, across_mm = (spacing_mm[0] if coronal else spacing_mm[1]), spacing_mm[2]
    low, high = LUNG_WINDOW_HU
    grey = np.round(np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    # PIL asks where in the picture each pixel of the tile comes from.
    scale_mm = SHOWN_MM / TILE_PX
    a, e = scale_mm / across_mm, scale_mm / down_mm
    from_tile = (a, 0, i + 0.5 - a * TILE_PX / 2, 0, e, row + 0.5 - e * TILE_PX / 2)
    tile = Image.fromarray(grey).transform(
        (TILE_PX, TILE_PX), Image.Transform.AFFINE, from_tile, Image.Resampling.BILINEAR
    )
    return tile.convert("RGB")
