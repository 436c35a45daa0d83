"""Where a box changes a score: the weights of a patch's cells under the boxes that somebody drew.

Interactions of CSR (arXiv:2503.06873, 3.4) without a new pass through the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.errors import InputError
from contrastdiagnosis.imaging.patch import Patch
from contrastdiagnosis.imaging.volume import Volume, apply_affine
from contrastdiagnosis.protocol.revision import ELSEWHERE, Box


@dataclass(frozen=True)
class CellGrid:
    """The cells of a patch.

    Attributes:
        patch: The patch.
        shape: (d, h, w) number of cells.
    """

    patch: Patch
    shape: tuple[int, int, int]

    @property
    def to_ras(self) -> NDArray[np.float64]:
        """(4, 4) affine from cell indices (i, j, k), whole at the cells' centres, to RAS mm."""
        size = np.array(self.patch.intensity.shape[::-1]) / np.array(self.shape[::-1])
        step = np.diag([*size, 1.0])
        step[:3, 3] = (size - 1) / 2
        return self.patch.ijk_to_ras @ step

    @property
    def centers_ras_mm(self) -> NDArray[np.float64]:
        """(d, h, w, 3)."""
        k, j, i = np.indices(self.shape)
        return apply_affine(self.to_ras, np.stack([i, j, k], axis=-1))

    def covered(self, box: Box) -> NDArray[np.bool_]:
        """(d, h, w): cells that lie in the box as a whole."""
        axes = np.array(box.axes, float)
        away = np.abs((self.centers_ras_mm - box.center_ras_mm) @ axes.T)
        reach = np.abs(axes @ self.to_ras[:3, :3]).sum(axis=1) / 2
        return (away + reach <= np.array(box.size_mm) / 2 + 1e-6).all(axis=-1)

    def touched(self, box: Box) -> NDArray[np.bool_]:
        """(d, h, w): cells that share some space with the box, by separating axes."""
        edges = self.to_ras[:3, :3].T / 2
        sides = np.array(box.axes, float) * (np.array(box.size_mm) / 2)[:, None]
        crosses = np.cross(edges[:, None], sides[None]).reshape(9, 3)
        faces = [np.cross(edges[a], edges[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        axes = np.array([*faces, *np.array(box.axes, float), *crosses])
        length = np.linalg.norm(axes, axis=1)
        axes = axes[length > 1e-9] / length[length > 1e-9, None]
        away = np.abs((self.centers_ras_mm - box.center_ras_mm) @ axes.T)
        reach = np.abs(axes @ edges.T).sum(axis=1) + np.abs(axes @ sides.T).sum(axis=1)
        return (away < reach - 1e-6).all(axis=-1)


def importance(
    boxes: Sequence[Box], grid: CellGrid, elsewhere: float = ELSEWHERE
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """(d, h, w) weights of the cells, and remarks for the user.

    1 in positive boxes, 0 in negative ones, which win, `elsewhere` outside all where there is a
    positive box and 1 where there is none. A positive box takes every cell that it touches, a
    negative one only those that it covers as a whole.
    """
    weight = np.ones(grid.shape, np.float32)
    looked = [grid.touched(box) for box in boxes if box.look]
    remarks = [_beside(True) for cells in looked if not cells.any()]
    if np.any(looked):
        weight[~np.any(looked, axis=0)] = elsewhere
    for box in boxes:
        if not box.look:
            covered = grid.covered(box)
            weight[covered] = 0
            if not covered.any():
                touched = grid.touched(box).any()
                remarks.append(_too_small(grid) if touched else _beside(False))
    return weight, tuple(dict.fromkeys(remarks))


def check_boxes(boxes: Sequence[Box], volume: Volume) -> None:
    """Refuses boxes that share no space with the volume.

    Raises:
        InputError: A box lies elsewhere, such as in another volume's frame.
    """
    size = np.array(volume.hu.shape[::-1])
    for box in boxes:
        corners = volume.ijk_from_ras(box.corners_ras_mm)
        if (corners.max(axis=0) < -0.5).any() or (corners.min(axis=0) > size - 0.5).any():
            low, high = box.corners_ras_mm.min(axis=0), box.corners_ras_mm.max(axis=0)
            raise InputError(
                f"the box from {low.round(1).tolist()} to {high.round(1).tolist()} mm RAS lies"
                " outside the volume; it may have been drawn for another one"
            )


def _beside(look: bool) -> str:
    kind = "look here" if look else "ignore here"
    return f'a "{kind}" box lies beside the patch around the nodule and changes nothing'


def _too_small(grid: CellGrid) -> str:
    sides = " x ".join(f"{s:.1f}" for s in np.linalg.norm(grid.to_ras[:3, :3], axis=0))
    return (
        'an "ignore here" box covers no whole cell and changes nothing: cells are'
        f" {sides} mm, draw it larger"
    )
