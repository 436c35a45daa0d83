"""What is outlined at a point: on the patch's grid, and on the volume's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from contrastdiagnosis.concepts.encoding import Encoding
from contrastdiagnosis.imaging.measure import bounding_box, nodule_at
from contrastdiagnosis.imaging.patch import PatchGeometry, Region, values_to_volume
from contrastdiagnosis.imaging.volume import Volume


def outline_at(
    encoding: Encoding, volume: Volume, geometry: PatchGeometry
) -> tuple[NDArray[np.bool_], Region]:
    """What is outlined at the patch's middle, on the patch's grid and on the volume's own.

    Both are empty where nothing is, or where it falls between the volume's voxels.
    """
    nodule = nodule_at(encoding.probability >= 0.5, geometry.spacing_mm)
    mask = mask_on_volume(encoding, nodule, volume)
    return (nodule if mask.values.any() else np.zeros_like(nodule)), mask


def mask_on_volume(encoding: Encoding, nodule: NDArray[np.bool_], volume: Volume) -> Region:
    """The nodule on the volume's own grid; only its bounding box is resampled."""
    if not nodule.any():
        return no_region(volume)
    box = bounding_box(nodule, margin=2)
    shift = np.eye(4)
    shift[:3, 3] = [s.start for s in box[::-1]]
    # Other components within the box are pushed below the threshold, the nodule's own edge stays.
    near = encoding.probability[box]
    probability = np.where(nodule[box], near, np.minimum(near, 0.499))
    region = values_to_volume(probability, encoding.patch.ijk_to_ras @ shift, volume)
    return Region(region.values >= 0.5, region.start, region.volume_shape)


def no_region(volume: Volume) -> Region:
    """A mask without a voxel."""
    return Region(np.zeros((0, 0, 0), bool), (0, 0, 0), volume.hu.shape)
