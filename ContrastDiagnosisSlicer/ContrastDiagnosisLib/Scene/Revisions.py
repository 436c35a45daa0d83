"""Corrections of a nodule's concepts, as nodes of the scene and as JSON for the engine.

A box is a ROI of the Markups module with attributes; rejected concepts are named on the text node
of the diagnosis. So both are saved with the scene.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene.CommonFrame import FRAME_ATTRIBUTE, boxInFrame
from ContrastDiagnosisLib.Scene.OwnNodes import (
    BOX,
    CONCEPTS,
    DIAGNOSIS,
    newNode,
    nodeOf,
    nodesOf,
    removeNodes,
)
from ContrastDiagnosisLib.Scene.VolumeBridge import InputError, ijkToRasOf, pointInVolume

SIDE_MM = 15.0
"""Of a new box."""

LOOK_ATTRIBUTE = "ContrastDiagnosis.look"
CONCEPT_ATTRIBUTE = "ContrastDiagnosis.concept"
REJECTED_ATTRIBUTE = "ContrastDiagnosis.rejected"

COLOURS = {True: (0.2, 0.75, 0.3), False: (0.85, 0.2, 0.2)}
"""Of "look here" and "ignore here"."""

SIGNS = {True: "+", False: "\N{MINUS SIGN}"}
"""Begin the names that the views show: colours alone are not told apart by everybody."""

FILLS = {True: 0.0, False: 0.25}
"""Opacity: what is ignored is veiled."""

HANDLE_PERCENT, GLYPH_PERCENT, TEXT_PERCENT = 1.0, 1.0, 2.0
"""Of the view's size; Slicer's own 3 % hides a small nodule."""

SAME_MM = 0.01
"""Boxes that differ less are the same: a saved scene keeps fewer digits."""

RIGHT_ANGLE = 1e-3
"""Largest cosine between sides that the engine takes for a right angle."""


@dataclass(frozen=True)
class BoxState:
    """A box that can be made anew."""

    look: bool
    concept: str
    size: tuple[float, ...]
    objectToVolume: np.ndarray


@dataclass(frozen=True)
class RevisionState:
    """What was corrected of a nodule at some time, for undo."""

    boxes: tuple[BoxState, ...] = ()
    rejected: tuple[str, ...] = ()


def boxesOf(parameterNode: Any, pointId: str) -> list[Any]:
    """The ROI nodes of a nodule."""
    return nodesOf(BOX, parameterNode.inputVolume, pointId) if pointId else []


def addBox(
    parameterNode: Any, pointId: str, look: bool, concept: str, centerWorld: Any, number: int
) -> Any:
    """A new box around a point.

    Args:
        parameterNode: With the CT.
        pointId: The nodule's control point.
        look: Look here, or ignore what is in it.
        concept: What it is about; empty for all concepts.
        centerWorld: World RAS.
        number: Of the nodule, for the name.
    """
    volume = parameterNode.inputVolume
    node = _newBox(volume, pointId, look, concept, number)
    node.SetSize(SIDE_MM, SIDE_MM, SIDE_MM)
    node.SetCenter(*pointInVolume(volume, centerWorld))
    return node


def rejectedOf(parameterNode: Any, pointId: str) -> list[str]:
    """Names of the concepts that the user rejected for a nodule."""
    text = nodeOf(DIAGNOSIS, parameterNode.inputVolume, pointId) if pointId else None
    names = None if text is None else text.GetAttribute(REJECTED_ATTRIBUTE)
    return json.loads(names or "[]")


def setRejected(parameterNode: Any, pointId: str, names: Any) -> None:
    """Keeps which concepts the user rejected; nothing where there is no diagnosis."""
    text = nodeOf(DIAGNOSIS, parameterNode.inputVolume, pointId)
    if text is not None:
        text.SetAttribute(REJECTED_ATTRIBUTE, json.dumps(sorted(names)))


def revisionOf(parameterNode: Any, pointId: str) -> dict[str, Any]:
    """The revision of a nodule as the engine wants it.

    Raises:
        InputError: A ROI has no extent, or is no box in the CT's own frame.
    """
    volume = parameterNode.inputVolume
    return {
        "boxes": [boxInVolume(volume, node) for node in boxesOf(parameterNode, pointId)],
        "rejected": rejectedOf(parameterNode, pointId),
    }


def boxInVolume(volume: Any, roi: Any) -> dict[str, Any]:
    """A ROI in the volume's own RAS, whatever transforms ROI and volume are under.

    Raises:
        InputError: A side is not positive, it lies outside the volume, or transforms make it
            something other than a box.
    """
    name = roi.GetName()
    size = np.array(roi.GetSize())
    if not (np.isfinite(size).all() and (size > 0).all()):
        told = _("The box {name} must have positive sides, it has {sides} mm.")
        raise InputError(told.format(name=name, sides=" x ".join(f"{s:.1f}" for s in size)))
    parent = volume.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        told = _("The box {name} cannot be used: {volume} is under a non-linear transform.")
        raise InputError(told.format(name=name, volume=volume.GetName()))
    toWorld = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    center = pointInVolume(volume, toWorld[:3, 3])
    # Under a transform the sides of the ROI keep no length of 1.
    half = (toWorld[:3, :3] * size / 2).T
    sides = np.array([pointInVolume(volume, toWorld[:3, 3] + h) - center for h in half])
    length = np.linalg.norm(sides, axis=1)
    axes = sides / length[:, None]
    if np.abs(axes @ axes.T - np.eye(3)).max() > RIGHT_ANGLE:
        told = _(
            "The box {name} cannot be used: the transform of {volume} shears, so that the box has"
            " no right angles in it."
        )
        raise InputError(told.format(name=name, volume=volume.GetName()))
    if _isOutside(volume, center, sides):
        told = _("The box {name} lies outside the volume {volume}; was it drawn for another one?")
        raise InputError(told.format(name=name, volume=volume.GetName()))
    return {
        "center_ras_mm": center.tolist(),
        "size_mm": (2 * length).tolist(),
        "look": isLook(roi),
        "concept": roi.GetAttribute(CONCEPT_ATTRIBUTE) or None,
        "axes": axes.tolist(),
    }


def _isOutside(volume: Any, center: np.ndarray, sides: np.ndarray) -> bool:
    """Whether a box, given by its centre and half sides in RAS, shares no voxel with a volume."""
    corners = [center + np.array(signs) @ sides for signs in product((-1, 1), repeat=3)]
    toIjk = np.linalg.inv(ijkToRasOf(volume))
    ijk = np.array([(toIjk @ [*corner, 1])[:3] for corner in corners])
    size = np.array(volume.GetImageData().GetDimensions())
    return bool((ijk.max(axis=0) < -0.5).any() or (ijk.min(axis=0) > size - 0.5).any())


def isLook(roi: Any) -> bool:
    """Whether a box says "look here"; "ignore here" otherwise."""
    return roi.GetAttribute(LOOK_ATTRIBUTE) == "1"


def isEmpty(revision: dict[str, Any]) -> bool:
    """Whether nothing is corrected."""
    return not (revision["boxes"] or revision["rejected"])


def isSame(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two revisions correct the same, but for rounding."""
    if sorted(one["rejected"]) != sorted(other["rejected"]):
        return False
    if len(one["boxes"]) != len(other["boxes"]):
        return False
    for a, b in zip(one["boxes"], other["boxes"], strict=True):
        if (a["look"], a["concept"]) != (b["look"], b["concept"]):
            return False
        for key, atol in (("center_ras_mm", SAME_MM), ("size_mm", SAME_MM), ("axes", 1e-4)):
            if not np.allclose(a[key], b[key], rtol=0, atol=atol):
                return False
    return True


def stateOf(parameterNode: Any, pointId: str) -> RevisionState:
    """The corrections of a nodule as they stand in the scene."""
    boxes = (
        BoxState(
            isLook(node),
            node.GetAttribute(CONCEPT_ATTRIBUTE) or "",
            tuple(node.GetSize()),
            boxInFrame(parameterNode.inputVolume, node),
        )
        for node in boxesOf(parameterNode, pointId)
    )
    return RevisionState(tuple(boxes), tuple(rejectedOf(parameterNode, pointId)))


def restore(parameterNode: Any, pointId: str, state: RevisionState, number: int) -> None:
    """Puts the corrections of a nodule back as they were."""
    removeRevision(parameterNode.inputVolume, pointId)
    for box in state.boxes:
        node = _newBox(parameterNode.inputVolume, pointId, box.look, box.concept, number)
        node.SetSize(*box.size)
        node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(box.objectToVolume))
    setRejected(parameterNode, pointId, state.rejected)


def removeRevision(volume: Any, pointId: str) -> None:
    """Takes a nodule's boxes, its rejections and what the engine said of them out of the scene."""
    for kind in (BOX, CONCEPTS):
        removeNodes(kind, volume, pointId)
    text = nodeOf(DIAGNOSIS, volume, pointId)
    if text is not None:
        text.RemoveAttribute(REJECTED_ATTRIBUTE)


def storePrediction(parameterNode: Any, pointId: str, document: dict[str, Any]) -> None:
    """Keeps what the engine said of a nodule's concepts under its revision."""
    volume = parameterNode.inputVolume
    text = nodeOf(CONCEPTS, volume, pointId)
    if text is None:
        text = newNode(CONCEPTS, volume, pointId)
    text.SetText(json.dumps(document))


def predictionOf(parameterNode: Any, pointId: str) -> dict[str, Any] | None:
    """What the engine said of a nodule's concepts when they were last asked for; else None."""
    node = nodeOf(CONCEPTS, parameterNode.inputVolume, pointId) if pointId else None
    return None if node is None else json.loads(node.GetText())


def _newBox(volume: Any, pointId: str, look: bool, concept: str, number: int) -> Any:
    # Short: the views show it.
    told = _("look, nodule {number}: {what}") if look else _("ignore, nodule {number}: {what}")
    name = told.format(what=concept or _("all concepts"), number=number)
    node = newNode(BOX, volume, pointId, f"{SIGNS[look]} {name}")
    node.SetAttribute(LOOK_ATTRIBUTE, "1" if look else "0")
    node.SetAttribute(CONCEPT_ATTRIBUTE, concept)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.SetAttribute(FRAME_ATTRIBUTE, "volume")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*COLOURS[look])
    display.SetSelectedColor(*COLOURS[look])
    display.SetFillOpacity(FILLS[look])
    display.SetInteractionHandleScale(HANDLE_PERCENT)
    display.SetGlyphScale(GLYPH_PERCENT)
    display.SetTextScale(TEXT_PERCENT)
    display.SetPointLabelsVisibility(False)
    display.SetPropertiesLabelVisibility(True)
    return node
