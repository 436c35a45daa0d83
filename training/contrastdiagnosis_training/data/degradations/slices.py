"""Thick slices: what few of them keep of many."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from contrastdiagnosis_training.data.degradations.along_axis import apply_along, slab_weights
from contrastdiagnosis_training.data.degradations.items import Items

THICKNESS_MM = (2.0, 2.5, 3.75, 5.0, 7.5)
"""By severity; also the distance from slice to slice."""


def thick_slices(items: Items) -> Tensor:
    """(B, D, H, W) averaged over thick slices, and interpolated back to the grid.

    Where the first slice lies is drawn. A scan whose slices are as thick already is not changed.
    """
    size, step_mm = items.hu.shape[1], items.spacing_mm[0]
    thickness = [THICKNESS_MM[s - 1] / step_mm for s in items.severity]
    phases = items.uniform(1)[:, 0].tolist()
    made = [slab_weights(size, t, phase * t) for t, phase in zip(thickness, phases, strict=True)]
    weights = items.tensor(torch.from_numpy(np.stack(made)))
    thickens = torch.tensor([t > 1 for t in thickness], device=items.hu.device)
    averaged = apply_along(items.hu, weights, axis=1)
    return torch.where(thickens[:, None, None, None], averaged, items.hu)
