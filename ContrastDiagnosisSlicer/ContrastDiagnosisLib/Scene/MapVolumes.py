"""Maps as coloured scalar volumes under the CT's transform, kept by the role they play."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from ContrastDiagnosisLib.Scene.OwnNodes import keepRole, roleOf

MAP_COLOURS = "vtkMRMLColorTableNodeFileColdToHotRainbow.txt"

LEGEND_POSITION = (0.99, 0.5)
LEGEND_SIZE = (0.055, 0.3)
"""Shares of the view, (width, height): a narrow strip at the right edge. Slicer makes the numbers
as large as the width allows, whatever font size is set.
"""


def putVolume(
    parameterNode: Any, role: str, name: str, values: np.ndarray, affine: np.ndarray
) -> Any:
    """A float volume on a grid of its own, under the CT's transform; made if there is none."""
    node = roleOf(parameterNode, role)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        keepRole(parameterNode, role, node)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    slicer.util.updateVolumeFromArray(node, values.astype(np.float32))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(parameterNode.inputVolume.GetTransformNodeID())
    return node


def colourAsMap(node: Any, weakest: float) -> None:
    """Values from 0 to 1 in colours; those below the weakest are transparent."""
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(MAP_COLOURS)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.SetThreshold(weakest, 1.0)
    display.ApplyThresholdOn()
    display.SetInterpolate(True)


def addLegend(node: Any) -> None:
    """A narrow colour legend at the edge of the views that show a map.

    Only after the map is in a view: Slicer decides when the legend is made whether to draw it.
    """
    colours = getattr(slicer.modules, "colors", None)
    if colours is None:
        return
    legend = colours.logic().AddDefaultColorLegendDisplayNode(node)
    if legend is None:
        return
    wasModifying = legend.StartModify()
    legend.SetTitleText("")
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(3)
    legend.SetPosition(*LEGEND_POSITION)
    legend.SetSize(*LEGEND_SIZE)
    legend.EndModify(wasModifying)
    legend.Modified()
