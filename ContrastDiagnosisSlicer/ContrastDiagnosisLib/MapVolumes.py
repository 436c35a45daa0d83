"""Maps as coloured scalar volumes under the CT's transform, kept by the role they play."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from ContrastDiagnosisLib.OwnNodes import keepRole, roleOf

MAP_COLOURS = "vtkMRMLColorTableNodeFileColdToHotRainbow.txt"
WEAKEST_SHOWN = 0.02
"""Weaker evidence is left transparent."""


def putVolume(
    parameterNode: Any, role: str, name: str, values: np.ndarray, affine: np.ndarray
) -> Any:
    """A float volume on a grid of its own, under the CT's transform; made if there is none."""
    node = roleOf(parameterNode, role)
    if not node:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        keepRole(parameterNode, role, node)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(node, values.astype(np.float32))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(parameterNode.inputVolume.GetTransformNodeID())
    return node


def colourAsMap(node: Any) -> None:
    """Values from 0 to 1 in colours with a legend; the weakest are transparent."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(MAP_COLOURS)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.SetThreshold(WEAKEST_SHOWN, 1.0)
    display.ApplyThresholdOn()
    display.SetInterpolate(True)
    colours = getattr(slicer.modules, "colors", None)
    if colours:
        colours.logic().AddDefaultColorLegendDisplayNode(node)
