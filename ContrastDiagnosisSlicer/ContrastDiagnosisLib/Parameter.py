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
