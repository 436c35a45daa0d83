"""Lesions as a network finds them, in place of the readers' marks (arXiv:2404.04887, its boxes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from contrastdiagnosis.cases.case_folder import Nodule, NoduleScan, read_scan
from contrastdiagnosis.concepts.encoding import encode
from contrastdiagnosis.imaging.patch import crop_patch
from contrastdiagnosis.model.network import NoduleNet
from numpy.typing import NDArray
from scipy import ndimage


def detected_center(
    network: NoduleNet, scan: NoduleScan, confidence: float, device: torch.device
) -> NDArray[np.float64] | None:
    """(3,) RAS mm of what a network is surest of in the middle of a file; None if of nothing.

    The patch around it is the box of the lesion, expanded as the publication does.

    Args:
        network: In eval mode, on the device.
        scan: Its middle is looked at; the marks are not.
        confidence: Mask probability that a voxel must exceed, 0 to 1.
        device: Where the network is.
    """
    volume = scan.volume
    middle = volume.ras_from_ijk((np.array(volume.hu.shape[::-1]) - 1) / 2)
    encoding = encode(network, [crop_patch(volume, middle)], device)[0]
    labels, count = ndimage.label(encoding.probability > confidence)
    if not count:
        return None
    numbers = np.arange(1, count + 1)
    surest = 1 + int(np.argmax(ndimage.sum_labels(encoding.probability, labels, numbers)))
    k, j, i = ndimage.center_of_mass(encoding.probability, labels, surest)
    return np.asarray((encoding.patch.ijk_to_ras @ [i, j, k, 1.0])[:3])


def detected_centers(
    network: NoduleNet, nodules: Sequence[Nodule], confidence: float, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """The middles of the lesions that are found, by case; the others are left out."""
    found = {}
    for nodule in nodules:
        center = detected_center(network, read_scan(nodule), confidence, device)
        if center is not None:
            found[nodule.case_id] = center
    return found
