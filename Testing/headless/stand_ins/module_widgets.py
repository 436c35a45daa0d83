"""The widgets of Slicer's Markups and Segmentations modules, on PySide6 and real MRML."""

from __future__ import annotations

import ctk
import qt
import slicer
from PySide6.QtCore import Property, Signal

from stand_ins.mrml_widgets import observe, qSlicerWidget, unobserve

Markups = slicer.vtkMRMLMarkupsNode
Interaction = slicer.vtkMRMLInteractionNode
SURFACE = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()


class qSlicerMarkupsPlaceWidget(qSlicerWidget):
    """A place button and a delete button for one markups node."""

    activeMarkupsPlaceModeChanged = Signal(bool)
    activeMarkupsFiducialPlaceModeChanged = Signal(bool)
    ShowPlaceMultipleMarkupsOption, HidePlaceMultipleMarkupsOption = 0, 1
    ForcePlaceSingleMarkup, ForcePlaceMultipleMarkups = 2, 3
    placeMultipleMarkups = ctk.stored(int, "placeMultipleMarkups", 0)
    buttonsVisible = ctk.stored(bool, "buttonsVisible", True)
    deleteAllControlPointsOptionVisible = ctk.stored(
        bool, "deleteAllControlPointsOptionVisible", True
    )

    def __init__(self, parent=None):
        super().__init__(parent)
        place, delete = qt.QToolButton(self), qt.QToolButton(self)
        place.text, delete.text = "Place", "Delete"
        place.checkable = True
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(place)
        layout.addWidget(delete)
        place.toggled.connect(self.setPlaceModeEnabled)
        delete.clicked.connect(lambda: self.deleteLastPoint())
        self.__dict__.update(_node=None, _place=place, _delete=delete, _told=False)
        self._update()

    def setMRMLScene(self, scene):
        super().setMRMLScene(scene)
        unobserve(self, "_update")
        if scene:
            observe(self, self.interactionNode(), ("ModifiedEvent",), "_update")
            observe(self, self.selectionNode(), ("ModifiedEvent",), "_update")
        self._update()

    def interactionNode(self):
        return slicer.app.applicationLogic().GetInteractionNode() if self.mrmlScene() else None

    def selectionNode(self):
        return slicer.app.applicationLogic().GetSelectionNode() if self.mrmlScene() else None

    def currentNode(self):
        return self._node

    currentMarkupsNode = currentNode

    def setCurrentNode(self, node):
        node = Markups.SafeDownCast(node)
        if node is self._node:
            return
        unobserve(self, "_onPoints")
        self.__dict__["_node"] = node
        if node:
            events = ("ModifiedEvent", Markups.PointAddedEvent, Markups.PointRemovedEvent)
            observe(self, node, events, "_onPoints")
        self._update()

    def _onPoints(self, _node, _data):
        self._update()

    def placeButton(self):
        return self._place

    def deleteButton(self):
        return self._delete

    def _isActive(self):
        logic, node = slicer.modules.markups.logic(), self._node
        if not self.mrmlScene() or node is None:
            return False
        sameClass = self.selectionNode().GetActivePlaceNodeClassName() == node.GetClassName()
        return sameClass and logic.GetActiveListID() == node.GetID()

    def setCurrentNodeActive(self, active):
        if self.mrmlScene() and self._isActive() != active:
            slicer.modules.markups.logic().SetActiveList(self._node if active else None)
            if not active:
                self.interactionNode().SetCurrentInteractionMode(Interaction.ViewTransform)

    currentNodeActive = Property(bool, _isActive, setCurrentNodeActive)

    def _isPlacing(self):
        place = Interaction.Place
        return self._isActive() and self.interactionNode().GetCurrentInteractionMode() == place

    def setPlaceModeEnabled(self, enable):
        if not self.mrmlScene() or self._node is None:
            return
        if enable:
            if not self._isActive():
                slicer.modules.markups.logic().SetActiveList(self._node)
            if self.placeMultipleMarkups in (2, 3):
                self.setPlaceModePersistency(self.placeMultipleMarkups == 3)
        mode = Interaction.Place if enable else Interaction.ViewTransform
        self.interactionNode().SetCurrentInteractionMode(mode)

    placeModeEnabled = Property(bool, _isPlacing, setPlaceModeEnabled)

    def setPlaceModePersistency(self, persistent):
        self.interactionNode().SetPlaceModePersistence(persistent)

    placeModePersistency = Property(
        bool, lambda self: bool(self.interactionNode().GetPlaceModePersistence())
    )

    def setPlaceMultipleMarkups(self, option):
        self.placeMultipleMarkups = option

    def deleteLastPoint(self):
        if self._node and self._node.GetNumberOfControlPoints():
            self._node.RemoveNthControlPoint(self._node.GetNumberOfControlPoints() - 1)

    def deleteAllPoints(self):
        if self._node:
            self._node.RemoveAllControlPoints()

    def _update(self, *_):
        usable = self.mrmlScene() is not None and self._node is not None
        placing = usable and self._isPlacing()
        self._place.enabled = usable and not self._node.GetControlPointPlacementComplete()
        self._delete.enabled = usable and self._node.GetNumberOfControlPoints() > 0
        blocked = self._place.blockSignals(True)
        self._place.checked = placing
        self._place.blockSignals(blocked)
        if placing != self._told:
            self.__dict__["_told"] = placing
            self.activeMarkupsFiducialPlaceModeChanged.emit(placing)
            self.activeMarkupsPlaceModeChanged.emit(placing)


class qMRMLSegmentationShow3DButton(qt.QPushButton):
    """Makes and removes the closed surface of a segmentation."""

    locked = ctk.stored(bool, "locked", False)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.__dict__["_node"] = None
        self.text = "Show 3D"
        self.checkable = True
        self.enabled = False
        self.toggled.connect(lambda on: self._toggle(on))

    def segmentationNode(self):
        return self._node

    def setSegmentationNode(self, node):
        if node is self._node:
            return
        unobserve(self, "_update")
        self.__dict__["_node"] = node
        if node:
            segmentation = slicer.vtkSegmentation
            events = ("ModifiedEvent", segmentation.SegmentAdded, segmentation.SegmentRemoved)
            events += (segmentation.ContainedRepresentationNamesModified,)
            observe(self, node, events, "_update")
        self._update()

    def _update(self, *_):
        segmentation = self._node.GetSegmentation() if self._node else None
        self.enabled = bool(
            segmentation
            and not self.locked
            and segmentation.GetNumberOfSegments() > 0
            and segmentation.GetSourceRepresentationName() != SURFACE
        )
        blocked = self.blockSignals(True)
        self.checked = bool(segmentation and segmentation.ContainsRepresentation(SURFACE))
        self.blockSignals(blocked)

    def _toggle(self, on):
        if self._node is None:
            return
        if on:
            self._node.CreateClosedSurfaceRepresentation()
        else:
            self._node.GetSegmentation().RemoveRepresentation(SURFACE)
