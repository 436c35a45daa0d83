"""The qMRML and qSlicer widgets that the panels use, on PySide6 and real MRML."""

from __future__ import annotations

import weakref

import qt
import slicer
import vtk
from ctk import stored
from PySide6.QtCore import Property, Signal

Scene = slicer.vtkMRMLScene


def observe(widget, node, events, method: str) -> None:
    """Calls `widget.method(caller, calldata)` for as long as the widget lives."""
    reference = weakref.ref(widget)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNode(caller, _event, data):
        _call(caller, data)

    def onOther(caller, _event):
        _call(caller, None)

    def _call(caller, data):
        found = reference()
        if found is not None and qt.shiboken6.isValid(found):
            getattr(found, method)(caller, data)

    nodeEvents = (Scene.NodeAddedEvent, Scene.NodeAboutToBeRemovedEvent, Scene.NodeRemovedEvent)
    tags = [node.AddObserver(e, onNode if e in nodeEvents else onOther) for e in events]
    widget.__dict__.setdefault("_observed", {}).setdefault(method, []).append((node, tags))
    widget.destroyed.connect(lambda: [node.RemoveObserver(tag) for tag in tags])


def unobserve(widget, method: str) -> None:
    for node, tags in widget.__dict__.get("_observed", {}).pop(method, []):
        for tag in tags:
            node.RemoveObserver(tag)


class _SceneWidget(qt.QWidget):
    def mrmlScene(self):
        return self.__dict__.get("_scene")

    def setMRMLScene(self, scene):
        if scene is self.mrmlScene():
            return
        self.__dict__["_scene"] = scene
        if hasattr(self, "mrmlSceneChanged"):
            self.mrmlSceneChanged.emit(scene)


class qMRMLWidget(_SceneWidget):
    mrmlSceneChanged = Signal(object)


class qSlicerWidget(_SceneWidget):
    mrmlSceneChanged = Signal(object)


class qMRMLNodeComboBox(_SceneWidget):
    """Lists the scene's nodes of some types, "None" first and an action last if it has any."""

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    baseName = stored(str, "baseName", "")
    noneDisplay = stored(str, "noneDisplay", "None")
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    interactionNodeSingletonTag = stored(str, "interactionNodeSingletonTag", "")

    def __init__(self, parent=None):
        super().__init__(parent)
        self.__dict__.update(_ids=[], _options={"showChildNodeTypes": True}, _requested="")
        self.__dict__["_box"] = qt.QComboBox(self)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.currentIndexChanged.connect(self._onIndexChanged)
        self.enabled = False  # as in Slicer, until it has a scene

    def _option(kind, name, default):
        def write(self, value):
            if self._options.get(name, default) != value:
                self._options[name] = value
                self._rebuild()

        return Property(kind, lambda self: self._options.get(name, default), write)

    noneEnabled = _option(bool, "noneEnabled", False)
    addEnabled = _option(bool, "addEnabled", True)
    removeEnabled = _option(bool, "removeEnabled", True)
    editEnabled = _option(bool, "editEnabled", False)
    renameEnabled = _option(bool, "renameEnabled", False)
    showHidden = _option(bool, "showHidden", False)
    showChildNodeTypes = _option(bool, "showChildNodeTypes", True)
    nodeTypes = _option("QStringList", "nodeTypes", [])
    hideChildNodeTypes = _option("QStringList", "hideChildNodeTypes", [])

    def addAttribute(self, nodeType, name, value=None):
        self._options.setdefault("attributes", []).append((nodeType, name, value))
        self._rebuild()

    def _accepts(self, node):
        types = [t for t in self.nodeTypes if node.IsA(t)]
        if not self.showChildNodeTypes:
            types = [t for t in types if t == node.GetClassName()]
        elif any(node.IsA(t) for t in self.hideChildNodeTypes):
            return False
        for kind, name, value in self._options.get("attributes", []):
            has = node.GetAttribute(name)
            if kind in types and (has is None or value not in (None, has)):
                types.remove(kind)
        return bool(types or not self.nodeTypes) and (
            self.showHidden or not node.GetHideFromEditors()
        )

    def _actions(self):
        return any((self.addEnabled, self.removeEnabled, self.editEnabled, self.renameEnabled))

    def _rebuild(self):
        """Fills the list anew and keeps the node that was selected."""
        scene, current = self.mrmlScene(), self.currentNodeID
        nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())] if scene else []
        nodes = [node for node in nodes if self._accepts(node)]
        blocked = self._box.blockSignals(True)
        self._box.clear()
        self.__dict__["_ids"] = [node.GetID() for node in nodes]
        self._box.addItems([self.noneDisplay] * self.noneEnabled + [n.GetName() for n in nodes])
        if self._actions():
            self._box.addItem("Create new")
        if not self.noneEnabled and (self._actions() or not nodes):
            self._box.setCurrentIndex(-1)
        if current in self._ids:
            self._box.setCurrentIndex(self._ids.index(current) + self.noneEnabled)
        self._box.blockSignals(blocked)
        if current != self.currentNodeID:
            self._announce()

    def setMRMLScene(self, scene):
        if scene is self.mrmlScene():
            return
        unobserve(self, "_onScene")
        unobserve(self, "_onBatchEnd")
        super().setMRMLScene(scene)
        if scene:
            events = (Scene.NodeAddedEvent, Scene.NodeAboutToBeRemovedEvent)
            observe(self, scene, events[:1], "_onScene")
            observe(self, scene, events[1:], "_onRemoved")
            observe(self, scene, (Scene.EndBatchProcessEvent,), "_onBatchEnd")
        self._rebuild()
        self.enabled = scene is not None
        requested, self.__dict__["_requested"] = self._requested, ""
        if requested:
            self.setCurrentNodeID(requested)

    def _onScene(self, scene, node):
        if scene.IsBatchProcessing() or not self._accepts(node) or node.GetID() in self._ids:
            return
        self._ids.append(node.GetID())
        self._box.insertItem(len(self._ids) - 1 + self.noneEnabled, node.GetName())
        self.nodeAdded.emit(node)

    def _onRemoved(self, scene, node):
        if scene.IsBatchProcessing() or node.GetID() not in self._ids:
            return
        self.nodeAboutToBeRemoved.emit(node)
        row = self._ids.index(node.GetID())
        self._ids.remove(node.GetID())
        self._box.removeItem(row + self.noneEnabled)

    def _onBatchEnd(self, _scene, _data):
        self._rebuild()

    def _onIndexChanged(self, index):
        if index >= len(self._ids) + self.noneEnabled:  # the action after the nodes
            self._box.setCurrentIndex(index - 1)
        else:
            self._announce()

    def _announce(self):
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(self.currentNodeID)

    def _currentID(self):
        row = self._box.currentIndex - self.noneEnabled
        return self._ids[row] if 0 <= row < len(self._ids) else ""

    def setCurrentNodeID(self, nodeID):
        if not self.mrmlScene():
            self.__dict__["_requested"] = nodeID
        if nodeID in self._ids:
            self._box.setCurrentIndex(self._ids.index(nodeID) + self.noneEnabled)
        else:
            self._box.setCurrentIndex(0 if self.noneEnabled else -1)

    currentNodeID = Property(str, _currentID, setCurrentNodeID)

    def currentNode(self):
        scene = self.mrmlScene()
        return scene.GetNodeByID(self.currentNodeID) if scene and self.currentNodeID else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID((node.GetID() or "") if node is not None else "")

    def setCurrentNodeIndex(self, index):
        self._box.setCurrentIndex((index if index < len(self._ids) else -1) + self.noneEnabled)

    def nodeCount(self):
        return len(self._ids) if self.mrmlScene() else 0

    def nodeFromIndex(self, index):
        known = 0 <= index < len(self._ids)
        return self.mrmlScene().GetNodeByID(self._ids[index]) if known else None

    def addNode(self, nodeType=None):
        nodeType = nodeType or (self.nodeTypes[0] if self.nodeTypes else None)
        if nodeType not in self.nodeTypes:
            return None
        node = self.mrmlScene().AddNewNodeByClass(nodeType, self.baseName)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        self.mrmlScene().RemoveNode(self.currentNode())
