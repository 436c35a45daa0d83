"""The layout "Contrast comparison": the nodule beside a case, each with its map and contour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene.MapVolumes import addLegend, colourAsMap, putVolume
from ContrastDiagnosisLib.Scene.NoduleScene import LABELMAP
from ContrastDiagnosisLib.Scene.OwnNodes import (
    BOX,
    CLASSES,
    keepRole,
    nodesOfVolume,
    removeRole,
    roleOf,
)
from ContrastDiagnosisLib.Scene.SliceViews import (
    CASE_VIEW,
    QUERY_VIEW,
    aim,
    compositeOf,
    deliverQueued,
    setWidth,
    sliceNodeOf,
)
from ContrastDiagnosisLib.Scene.VolumeBridge import labelmapOf, pointInWorld

LAYOUT_ID = 20403
WINDOW_HU = (-1000.0, 400.0)
CONTOUR_COLOUR = (1.0, 0.84, 0.0)
FIELD_MM = 48.0
SAME_SLICE_MM = 1e-3
WEAKEST_SHOWN = 0.05
"""Weaker evidence is left transparent."""
UPPER_LEFT = 2
"""Corner of a vtkCornerAnnotation."""
NOTE_POINTS = 13
AIM_AGAIN_MS = (0, 100, 400, 1500)
"""After a comparison: its views may be new, and Slicer still busy with where they look."""

_VIEW = """
<item><view class="vtkMRMLSliceNode" singletontag="{tag}">
 <property name="orientation" action="default">Axial</property>
 <property name="viewlabel" action="default">{label}</property>
 <property name="viewcolor" action="default">{colour}</property>
</view></item>"""

LAYOUT = (
    '<layout type="vertical" split="true"><item><layout type="horizontal" split="true">'
    + _VIEW.format(tag=QUERY_VIEW, label="N", colour="#1B7A8C")
    + _VIEW.format(tag=CASE_VIEW, label="C", colour="#8A6D1B")
    + '</layout></item><item><layout type="horizontal" split="true">'
    + _VIEW.format(tag="Red", label="R", colour="#F34A33")
    + '<item><view class="vtkMRMLViewNode" singletontag="1">'
    + '<property name="viewlabel" action="default">1</property></view></item>'
    + "</layout></item></layout>"
)


def registerLayout() -> Any:
    """Tells Slicer of the layout; gives the layout node, None where there is no window."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return None
    node = manager.layoutLogic().GetLayoutNode()
    if not node.IsLayoutDescription(LAYOUT_ID):
        node.AddLayoutDescription(LAYOUT_ID, LAYOUT)
    return node


class CompareView:
    """Makes and fills the two views; the nodes it makes are kept by reference and saved."""

    def __init__(self) -> None:
        self._note: Any = None
        self._renderer: Any = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._aimAgain)
        self._targets: dict[str, tuple[float, ...]] = {}
        self._offsetsBefore: dict[str, float] = {}
        self._waits: list[int] = []

    @property
    def isShown(self) -> bool:
        """Whether the window has the layout at present."""
        manager = slicer.app.layoutManager()
        return manager is not None and manager.layout == LAYOUT_ID

    def showLayout(self) -> bool:
        """Switches to the layout; False where there is no window to switch."""
        node = registerLayout()
        if node is None:
            return False
        slicer.app.layoutManager().setLayout(LAYOUT_ID)
        # After loading a scene the number may be there already, without what it stands for.
        node.SetViewArrangement(LAYOUT_ID)
        return slicer.app.layoutManager().sliceWidget(QUERY_VIEW) is not None

    def cleanup(self) -> None:
        """Takes the note out of its view; the nodes stay with the scene."""
        self._timer.stop()
        if self._renderer is not None:
            self._renderer.RemoveViewProp(self._note)
        self._note = self._renderer = None

    def note(self, text: str) -> None:
        """Writes into the corner of the case's view; nothing where there is no such view."""
        manager = slicer.app.layoutManager()
        widget = None if manager is None else manager.sliceWidget(CASE_VIEW)
        if widget is None or not (text or self._note is not None):
            return
        view = widget.sliceView()
        # Slicer's own annotation is written anew by its module DataProbe.
        renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
        if self._note is None:
            self._note = vtk.vtkCornerAnnotation()
            self._note.SetMaximumFontSize(NOTE_POINTS)
            self._note.GetTextProperty().SetShadow(True)
        if not renderer.HasViewProp(self._note):
            renderer.AddViewProp(self._note)
            self._renderer = renderer
        self._note.SetText(UPPER_LEFT, text)
        view.scheduleRender()

    def showPair(
        self, parameterNode: Any, pair: dict[str, Any], tensors: dict[str, np.ndarray]
    ) -> None:
        """Shows the maps of one pair, as `/maps` answered.

        Args:
            parameterNode: With the volume, the sign and the opacity.
            pair: An entry of `pairs`, with its `patch_ijk_to_ras` and number `n` added.
            tensors: All of the answer.
        """
        sign = parameterNode.sign.value
        affine = np.array(pair["patch_ijk_to_ras"])
        n = pair["n"]
        facts = pair["query"][sign]
        highest = max(
            side[sign]["highest"] for side in (pair["query"], pair["case"]) if side is not None
        )
        volume = parameterNode.inputVolume
        query = tensors[f"{n}.query.{sign}"]
        self._showMap(parameterNode, "queryMap", _("nodule map"), query, affine, facts, highest)
        self._showContour(parameterNode, "queryContour", query, affine, facts, QUERY_VIEW)
        self._show(QUERY_VIEW, volume, self.node(parameterNode, "queryMap"), parameterNode)
        if pair["case"] is None:
            for role in ("casePicture", "caseMap", "caseContour"):
                removeRole(parameterNode, role)
            self._show(CASE_VIEW, None, None, parameterNode)
        else:
            facts = pair["case"][sign]
            values = tensors[f"{n}.case.{sign}"]
            low, high = WINDOW_HU
            hu = tensors[f"{n}.case.intensity"].astype(np.float32) * (high - low) + low
            picture = putVolume(parameterNode, "casePicture", _("case picture"), hu, affine)
            _setWindow(picture, *WINDOW_HU)
            self._showMap(parameterNode, "caseMap", _("case map"), values, affine, facts, highest)
            self._showContour(parameterNode, "caseContour", values, affine, facts, CASE_VIEW)
            self._show(CASE_VIEW, picture, self.node(parameterNode, "caseMap"), parameterNode)
        self._targets = _targetsOf(volume, affine, pair, sign, query.shape)
        self._aimAll()
        self._waits = list(AIM_AGAIN_MS)
        self._timer.start(self._waits[0])
        self.followLayout(parameterNode)

    def node(self, parameterNode: Any, role: str) -> Any:
        """The node that plays a role, None if there is none."""
        return roleOf(parameterNode, role)

    def setOpacity(self, opacity: float) -> None:
        """Of both maps."""
        for name in (QUERY_VIEW, CASE_VIEW):
            composite = compositeOf(name)
            if composite is not None:
                composite.SetForegroundOpacity(opacity)

    def release(self, parameterNode: Any) -> None:
        """The scene is about to close: contours and segments no longer tell of their views' going.

        A display node that loses its view while the scene closes is modified, and Slicer's subject
        hierarchy, empty by then, complains that it does not know the segmentation.
        """
        contours = (roleOf(parameterNode, role) for role in ("queryContour", "caseContour"))
        for node in (parameterNode.segmentation, *contours):
            if node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().SetDisableModifiedEvent(True)

    def clear(self, parameterNode: Any) -> None:
        """Removes all nodes of the comparison; the nodule's view shows the CT alone."""
        self._timer.stop()
        self.note("")
        for role in (
            "queryMap", "queryContour", "casePicture", "caseMap", "caseContour",
        ):  # fmt: skip
            removeRole(parameterNode, role)
        self._show(QUERY_VIEW, parameterNode.inputVolume, None, parameterNode)
        self._show(CASE_VIEW, None, None, parameterNode)

    def _showMap(
        self,
        parameterNode: Any,
        role: str,
        name: str,
        values: np.ndarray,
        affine: np.ndarray,
        facts: dict[str, Any],
        highest: float,
    ) -> None:
        """The map in colour; both sides of a pair share one scale."""
        scaled = values.astype(np.float32) * (facts["highest"] / highest if highest else 0.0)
        colourAsMap(putVolume(parameterNode, role, name, scaled, affine), WEAKEST_SHOWN)

    def _showContour(
        self,
        parameterNode: Any,
        role: str,
        values: np.ndarray,
        affine: np.ndarray,
        facts: dict[str, Any],
        view: str,
    ) -> None:
        """The outline of the strongest tenth of a map, in its own view alone."""
        removeRole(parameterNode, role)
        # float16 may round a voxel at the level to just below it.
        inside = values.astype(np.float32) >= facts["contour_level"] * (1 - 1e-3)
        if facts["highest"] == 0:
            return
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", _("strongest evidence")
        )
        keepRole(parameterNode, role, node)
        _addSegment(node, inside.astype(np.uint8), affine)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetVisibility2DFill(False)
        display.SetVisibility3D(False)
        display.SetAllSegmentsOpacity(1.0)
        node.SetAndObserveTransformNodeID(parameterNode.inputVolume.GetTransformNodeID())
        sliceNode = sliceNodeOf(view)
        if sliceNode is not None:
            display.AddViewNodeID(sliceNode.GetID())

    def _show(self, view: str, background: Any, foreground: Any, parameterNode: Any) -> None:
        """One view alone; `setSliceViewerLayers` would change them all."""
        composite = compositeOf(view)
        if composite is None:
            return
        composite.SetBackgroundVolumeID(None if background is None else background.GetID())
        composite.SetForegroundVolumeID(None if foreground is None else foreground.GetID())
        composite.SetLabelVolumeID(None)
        composite.SetForegroundOpacity(parameterNode.mapOpacity)
        if foreground is not None:
            addLegend(foreground)

    def _aimAll(self) -> None:
        """Each view at the slice that holds most of its map, zoomed to the patch."""
        self._offsetsBefore = {}
        for view, point in self._targets.items():
            node = sliceNodeOf(view)
            if node is not None:
                deliverQueued(view)
                before = node.GetSliceOffset()
                aim(node, point, FIELD_MM)
                if abs(node.GetSliceOffset() - before) > SAME_SLICE_MM:
                    self._offsetsBefore[view] = before

    def _aimAgain(self) -> None:
        """What Slicer undid: a view is back where it was, or got another width as it was laid out.

        A view that looks anywhere else was moved by the user, and stays.
        """
        for view, point in self._targets.items():
            node = sliceNodeOf(view)
            if node is None:
                continue
            offset, before = node.GetSliceOffset(), self._offsetsBefore.get(view)
            if before is not None and abs(offset - before) < SAME_SLICE_MM:
                deliverQueued(view)
                aim(node, point, FIELD_MM)
            elif len(self._waits) == len(AIM_AGAIN_MS):
                setWidth(node, FIELD_MM)
        del self._waits[:1]
        if self._waits:
            self._timer.start(self._waits[0])

    def followLayout(self, parameterNode: Any) -> None:
        """Nothing of the nodule shows over the case; in other layouts it shows in every view.

        Slicer keeps a list of the views that show a node: one that is made later is not in it.
        """
        nodes = [parameterNode.points, parameterNode.segmentation]
        nodes += nodesOfVolume(CLASSES[BOX], parameterNode.inputVolume)
        for node in nodes:
            if self.isShown:
                hideFromCaseView(node)
            elif node is not None and node.GetDisplayNode() is not None:
                node.GetDisplayNode().RemoveAllViewNodeIDs()


def _targetsOf(
    volume: Any, affine: np.ndarray, pair: dict[str, Any], sign: str, shape: Sequence[int]
) -> dict[str, tuple[float, ...]]:
    """World point that each view is aimed at: the middle of the slice with most of its map."""
    middle = [(n - 1) / 2 for n in shape[::-1]]
    targets = {}
    for view, side in ((QUERY_VIEW, pair["query"]), (CASE_VIEW, pair["case"])):
        if side is not None:
            ijk = [middle[0], middle[1], side[sign]["slice_index"], 1]
            targets[view] = tuple(pointInWorld(volume, (affine @ ijk)[:3]))
    return targets


def _addSegment(node: Any, mask: np.ndarray, affine: np.ndarray) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(_("strongest tenth"))
    segment.SetColor(*CONTOUR_COLOUR)
    segment.AddRepresentation(LABELMAP, labelmapOf(mask, affine))
    node.GetSegmentation().AddSegment(segment, "strongest")


def _setWindow(volume: Any, low: float, high: float) -> None:
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)


def hideFromCaseView(node: Any) -> None:
    """The case lies where the nodule does: the nodule's outline must not show over it."""
    display = None if node is None else node.GetDisplayNode()
    caseNode = sliceNodeOf(CASE_VIEW)
    if display is None or caseNode is None:
        return
    views = [
        view.GetID()
        for className in ("vtkMRMLSliceNode", "vtkMRMLViewNode")
        for view in slicer.util.getNodesByClass(className)
        if view is not caseNode
    ]
    if list(display.GetViewNodeIDs() or ()) == views:
        return
    wasModifying = display.StartModify()
    display.RemoveAllViewNodeIDs()
    for view in views:
        display.AddViewNodeID(view)
    display.EndModify(wasModifying)
