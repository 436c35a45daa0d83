"""Volumes and points of the scene as requests, and masks and maps back: the only axis flips here.

Arrays are (k, j, i). Points and affines are RAS millimetres of the volume itself, without its
transforms: what comes back is put under the same transform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import slicer
import vtk
from contrastdiagnosis.protocol.request import pack_request
from slicer.i18n import tr as _
from vtk.util import numpy_support

HALF_PATCH_MM = (22.4, 22.4, 20.0)
"""Half the sides of the patch that the engine looks at, along R, A and S."""

MARGIN_VOXELS = 3
"""Around the patch, for interpolation."""

AIR_HU = (-1100, -500)
"""Air and lung lie between these."""

MIN_SLICES = 3
"""The engine takes fewer for no CT."""

OVERVIEW_VOXELS = 256
"""Longest side of the slab that the report's overview is made of."""


class InputError(ValueError):
    """What was selected cannot be diagnosed; the message says what was wanted and what came."""


@dataclass(frozen=True)
class Crop:
    """The part of a volume around a point.

    Attributes:
        hu: (d, h, w) int16 or float32, a copy.
        ijkToRas: (4, 4) affine of the crop.
        pointRas: (3,) the point in the volume's own RAS.
        startKji: Voxel of the volume where the crop begins.
        partOfCt: It holds no air, but the volume does: a CT all the same.
    """

    hu: np.ndarray
    ijkToRas: np.ndarray
    pointRas: tuple[float, float, float]
    startKji: tuple[int, int, int]
    partOfCt: bool


def checkVolume(volumeNode: Any) -> None:
    """Refuses what is no CT volume.

    Raises:
        InputError: Nothing selected, a subclass such as a label map, no voxels, or colours.
    """
    if volumeNode is None:
        raise InputError(_("Select a CT volume."))
    name = volumeNode.GetName()
    # Label maps and multi-volumes are subclasses of scalar volumes.
    if volumeNode.GetClassName() != "vtkMRMLScalarVolumeNode":
        raise InputError(
            _("Wanted a CT volume, got {name}, which is a {kind}.").format(
                name=name, kind=volumeNode.GetNodeTagName()
            )
        )
    if volumeNode.GetAttribute("ContrastDiagnosis.role"):
        raise InputError(_("{name} is a map or a case's picture, not a CT.").format(name=name))
    image = volumeNode.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise InputError(_("The volume {name} has no voxels.").format(name=name))
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            _("Wanted one value per voxel, {name} has {count}.").format(
                name=name, count=image.GetNumberOfScalarComponents()
            )
        )


def ijkToRasOf(volumeNode: Any) -> np.ndarray:
    """(4, 4) affine from voxel indices (i, j, k) to the volume's own RAS."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def pointInVolume(volumeNode: Any, pointWorld: Sequence[float]) -> np.ndarray:
    """(3,) a world point in the volume's own RAS, whatever transforms the volume is under."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        None, volumeNode.GetParentTransformNode(), transform
    )
    return np.array(transform.TransformPoint(list(pointWorld)))


def pointInWorld(volumeNode: Any, pointRas: Sequence[float]) -> np.ndarray:
    """(3,) the inverse of `pointInVolume`."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        volumeNode.GetParentTransformNode(), None, transform
    )
    return np.array(transform.TransformPoint(list(pointRas)))


def cropAround(volumeNode: Any, pointWorld: Sequence[float]) -> Crop:
    """The voxels that a diagnosis at a point needs.

    Raises:
        InputError: The volume is no CT, or the point lies outside it.
    """
    checkVolume(volumeNode)
    point = pointInVolume(volumeNode, pointWorld)
    affine = ijkToRasOf(volumeNode)
    toIjk = np.linalg.inv(affine)
    voxels = slicer.util.arrayFromVolume(volumeNode)
    size = np.array(voxels.shape[::-1])
    ijk = (toIjk @ [*point, 1])[:3]
    if (ijk < -0.5).any() or (ijk > size - 0.5).any():
        raise InputError(
            _("The point lies outside the volume {name}.").format(name=volumeNode.GetName())
        )
    corners = [point + np.multiply(HALF_PATCH_MM, signs) for signs in product((-1, 1), repeat=3)]
    reached = np.array([(toIjk @ [*corner, 1])[:3] for corner in corners])
    first = np.floor(reached.min(axis=0)).astype(int) - MARGIN_VOXELS
    last = np.ceil(reached.max(axis=0)).astype(int) + MARGIN_VOXELS + 1
    low, high = np.clip(first, 0, size), np.clip(last, 0, size)
    hu = _voxelsToSend(voxels[low[2] : high[2], low[1] : high[1], low[0] : high[0]])
    return Crop(
        hu,
        _shifted(affine, low, (1, 1, 1)),
        (float(point[0]), float(point[1]), float(point[2])),
        (int(low[2]), int(low[1]), int(low[0])),
        not _holdsAir(hu) and len(voxels) >= MIN_SLICES and holdsAir(volumeNode),
    )


def voxelsIn(volumeNode: Any, startKji: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """The voxels of a box of a volume, as a `Crop` of it holds them; less if it reaches beyond."""
    box = tuple(slice(start, start + n) for start, n in zip(startKji, shape, strict=True))
    return _voxelsToSend(slicer.util.arrayFromVolume(volumeNode)[box])


def holdsAir(volumeNode: Any) -> bool:
    """Whether a volume has voxels of air or lung, as a CT of a chest has."""
    return _holdsAir(slicer.util.arrayFromVolume(volumeNode)[::2, ::4, ::4])


def requestBody(
    volumeNode: Any,
    crop: Crop,
    caseIds: Sequence[str] = (),
    overview: bool = False,
    revision: dict[str, Any] | None = None,
    mapOptions: dict[str, Any] | None = None,
    *,
    tellSeries: bool,
) -> bytes:
    """A question about a nodule as the server wants it; no name, no identifier.

    Args:
        volumeNode: The CT.
        crop: Of it.
        caseIds: Cases that maps are wanted for.
        overview: Send a thin slab of the CT for the report's overview.
        revision: What the user corrected of the concepts.
        mapOptions: How maps are made, where not as usual.
        tellSeries: Add the hash of the DICOM series' UID, by which a bundle knows its own scans.
            Whoever has lists of UIDs could look it up: for an engine on this computer alone.
    """
    seriesUid = _seriesUid(volumeNode) if tellSeries else ""
    return pack_request(
        crop.hu,
        crop.ijkToRas,
        crop.pointRas,
        crop.partOfCt,
        overview=_slabAt(volumeNode, crop.pointRas) if overview else None,
        series_sha256=hashlib.sha256(seriesUid.encode()).hexdigest() if seriesUid else "",
        case_ids=caseIds,
        revision=revision,
        map_options=mapOptions,
    )


def sequenceRemark(volumeNode: Any) -> str:
    """Which frame of a sequence the volume shows at present; empty if it is of none."""
    module = getattr(slicer.modules, "sequences", None)
    if module is None:
        return ""
    browser = module.logic().GetFirstBrowserNodeForProxyNode(volumeNode)
    if browser is None:
        return ""
    return _("frame {number} of {count} of a sequence").format(
        number=browser.GetSelectedItemNumber() + 1, count=browser.GetNumberOfItems()
    )


def labelmapOf(mask: np.ndarray, ijkToRas: np.ndarray, startKji: Sequence[int] = (0, 0, 0)) -> Any:
    """An oriented image of a (d, h, w) mask that begins at a voxel of a grid."""
    (depth, height, width), (k, j, i) = mask.shape, startKji
    image = slicer.vtkOrientedImageData()
    image.SetExtent(i, i + width - 1, j, j + height - 1, k, k + depth - 1)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    scalars[:] = mask.ravel()
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    return image


def maskOf(image: Any) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The inverse of `labelmapOf`: (d, h, w) mask and where it begins."""
    extent = image.GetExtent()
    scalars = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    mask = scalars.reshape(image.GetDimensions()[::-1]).astype(np.uint8)
    return mask, (extent[4], extent[2], extent[0])


def _holdsAir(hu: np.ndarray) -> bool:
    return bool(((hu >= AIR_HU[0]) & (hu <= AIR_HU[1])).any())


def _voxelsToSend(voxels: np.ndarray) -> np.ndarray:
    """A copy as int16 where nothing is lost by it, as float32 elsewhere."""
    if voxels.dtype.kind in "iu":
        low, high = np.iinfo(np.int16).min, np.iinfo(np.int16).max
        if voxels.size and low <= voxels.min() and voxels.max() <= high:
            return voxels.astype(np.int16)
    return voxels.astype(np.float32)


def _shifted(affine: np.ndarray, startIjk: Sequence[int], step: Sequence[int]) -> np.ndarray:
    """The affine of a part of a grid that begins elsewhere and leaves voxels out."""
    shift = np.diag([*map(float, step), 1.0])
    shift[:3, 3] = startIjk
    return affine @ shift


def _slabAt(volumeNode: Any, pointRas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Three slices about the point across the volume's most axial axis, thinned within."""
    voxels = slicer.util.arrayFromVolume(volumeNode)
    affine = ijkToRasOf(volumeNode)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    across = int(np.abs(directions[2]).argmax())
    at = round((np.linalg.inv(affine) @ [*pointRas, 1])[across])
    start, step, stop = [0, 0, 0], [1, 1, 1], list(voxels.shape[::-1])
    for axis in range(3):
        if axis == across:
            start[axis], stop[axis] = max(at - 1, 0), min(at + 2, stop[axis])
        else:
            step[axis] = -(-stop[axis] // OVERVIEW_VOXELS)
    i, j, k = (slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))
    return _voxelsToSend(voxels[k, j, i]), _shifted(affine, start, step)


def _seriesUid(volumeNode: Any) -> str:
    """DICOM series of the volume, if the database knows it."""
    instances = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not instances or database is None or not database.isOpen:
        return ""
    return database.instanceValue(instances[0], "0020,000E") or ""
