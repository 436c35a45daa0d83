"""What the module remembers in the scene."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class Sign(Enum):
    """Which evidence the maps show."""

    SIMILAR = "similar"
    DIFFERENT = "different"


class MapWindow(Enum):
    """Over what the weights of a map are averaged."""

    CELL = "cell"
    THREE = "3 cells"
    FIVE = "5 cells"
    SEVEN = "7 cells"
    LEVEL = "level"


@parameterNodeWrapper
class ContrastDiagnosisParameterNode:
    """Choices of the user that are saved with the scene.

    inputVolume - The CT.
    points - One control point a nodule.
    segmentation - One segment a nodule.
    live - Diagnose as soon as a point is placed or moved.
    nodule - ID of the control point whose diagnosis is shown, empty if none.
    caseId - The case that is compared with it, empty if none.
    concept - The concept whose map is shown, empty if none.
    sign - Which maps are shown.
    mapOpacity - Of the maps over the pictures.
    mapLevel1 to mapLevel4 - Levels of the network's pyramid that the maps are made of.
    mapWindow - Over what their weights are averaged.
    mapRectified - Whether negative weights are dropped.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    points: vtkMRMLMarkupsFiducialNode
    segmentation: vtkMRMLSegmentationNode
    live: bool = True
    nodule: str = ""
    caseId: str = ""
    concept: str = ""
    sign: Sign = Sign.SIMILAR
    mapOpacity: Annotated[float, WithinRange(0, 1)] = 0.5
    mapLevel1: bool = False
    mapLevel2: bool = True
    mapLevel3: bool = True
    mapLevel4: bool = False
    mapWindow: MapWindow = MapWindow.THREE
    mapRectified: bool = True
