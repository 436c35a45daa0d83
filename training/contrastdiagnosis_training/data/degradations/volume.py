"""A whole volume as a poorer scan shows it."""

from __future__ import annotations

import numpy as np
import torch
from contrastdiagnosis.imaging.patch import DEFAULT_GEOMETRY
from contrastdiagnosis.imaging.reading.scan_image import NO_VOXEL_HU
from contrastdiagnosis.imaging.volume import MEASURED_HU, Volume, padding_of
from numpy.typing import NDArray

from contrastdiagnosis_training.data.degradations.degrade import degrade, faults_of


def degraded_hu(volume: Volume, operation: str, severity: int, seed: int) -> NDArray[np.int16]:
    """(D, H, W) Hounsfield units of a volume made poorer on its own grid.

    Padding is air while it is degraded, so that it does not leak into the tissue beside it, and
    padding again afterwards; what was measured stays where no reader takes it for padding.

    Args:
        volume: A CT, or a part of one.
        operation: Of `DEGRADATIONS`, or several of them, such as "blur+low_dose".
        severity: 1 to 5.
        seed: Of what is drawn.
    """
    padding = padding_of(volume.hu)
    hu = volume.hu.astype(np.float32)
    if padding is not None:
        hu[padding] = DEFAULT_GEOMETRY.window_hu[0]
    degraded = torch.from_numpy(hu)[None]
    for fault in faults_of(operation):
        steps = torch.tensor([severity])
        degraded = degrade(degraded, [fault], steps, volume.spacing_mm, [seed])
    measured = np.clip(np.round(degraded[0].numpy()), *MEASURED_HU).astype(np.int16)
    return measured if padding is None else np.where(padding, np.int16(NO_VOXEL_HU), measured)
