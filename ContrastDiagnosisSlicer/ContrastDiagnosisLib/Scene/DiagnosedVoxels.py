"""What a diagnosis was made of, to tell whether the CT is still the same."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import slicer

from ContrastDiagnosisLib.Scene.VolumeBridge import Crop, ijkToRasOf, voxelsIn

VOXELS_ATTRIBUTE = "ContrastDiagnosis.voxels"
"""On the text node of a diagnosis."""

SAME_MM = 1e-3
"""Grids that differ less are the same: a saved volume keeps fewer digits."""


def recordOf(volume: Any, crop: Crop) -> str:
    """Place and checksum of the voxels that were sent, the CT's grid and the exact point; JSON."""
    return json.dumps(
        {
            "start_kji": crop.startKji,
            "shape": crop.hu.shape,
            "crc32": zlib.crc32(np.ascontiguousarray(crop.hu).data),
            "ijk_to_ras": ijkToRasOf(volume).tolist(),
            "point_ras_mm": crop.pointRas,
        }
    )


def pointOf(record: str) -> tuple[float, float, float]:
    """Where the point was, the CT's own RAS."""
    r, a, s = json.loads(record)["point_ras_mm"]
    return r, a, s


def isSameCt(volume: Any, record: str) -> bool:
    """Whether a CT has the grid and the voxels that were diagnosed; its transform is no part."""
    image = volume.GetImageData()
    if image is None:
        return False
    affine = tuple(ijkToRasOf(volume).ravel())
    return _isSame(volume.GetID(), image.GetMTime(), affine, record)


@lru_cache(maxsize=256)
def _isSame(volumeId: str, _voxelsTime: int, affine: tuple[float, ...], record: str) -> bool:
    """The panel asks at every event, so the answer is kept until voxels or grid change."""
    document = json.loads(record)
    if not np.allclose(np.reshape(affine, (4, 4)), document["ijk_to_ras"], rtol=0, atol=SAME_MM):
        return False
    volume = slicer.mrmlScene.GetNodeByID(volumeId)
    voxels = voxelsIn(volume, document["start_kji"], document["shape"])
    if list(voxels.shape) != document["shape"]:
        return False
    return zlib.crc32(np.ascontiguousarray(voxels).data) == document["crc32"]
