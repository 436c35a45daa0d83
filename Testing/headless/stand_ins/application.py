"""`slicer.app`, its module manager and its files, as far as scripted modules use them."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import types

import ctk
import qt
import slicer
import vtk
from PySide6.QtCore import Property, Signal

from stand_ins.mrml_widgets import qSlicerWidget

LOGICS = {
    "cameras": "CamerasModule",
    "colors": "Color",
    "cropvolume": "CropVolume",
    "data": "DataModule",
    "markups": "Markups",
    "models": "Models",
    "plots": "Plots",
    "reformat": "Reformat",
    "sceneviews": "SceneViewsModule",
    "segmentations": "SegmentationsModule",
    "sequences": "Sequences",
    "subjecthierarchy": "SubjectHierarchyModule",
    "tables": "Tables",
    "terminologies": "TerminologiesModule",
    "texts": "Texts",
    "transforms": "Transform",
    "units": "Units",
    "viewcontrollers": "ViewControllers",
    "volumerendering": "VolumeRendering",
    "volumes": "Volumes",
}
"""Name in `slicer.modules` → middle of the name of its C++ logic."""


class qSlicerLoadableModule:
    """A C++ module: its logic and its name."""

    def __init__(self, name, logic):
        self.name, self._logic = name, logic

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        return None


class qSlicerScriptedLoadableModule(qt.QObject):
    """What a scripted module gets as its `parent`."""

    title = ctk.stored(str, "title", "")
    categories = ctk.stored("QStringList", "categories", [])
    dependencies = ctk.stored("QStringList", "dependencies", [])
    contributors = ctk.stored("QStringList", "contributors", [])
    associatedNodeTypes = ctk.stored("QStringList", "associatedNodeTypes", [])
    helpText = ctk.stored(str, "helpText", "")
    acknowledgementText = ctk.stored(str, "acknowledgementText", "")
    icon = ctk.stored(qt.QIcon, "icon", None)
    hidden = ctk.stored(bool, "hidden", False)
    index = ctk.stored(int, "index", -1)
    path = Property(str, lambda self: self.__dict__["_path"])

    def __init__(self, path):
        super().__init__()
        self.objectName = os.path.splitext(os.path.basename(path))[0]
        self.__dict__.update(_path=str(path), _widget=None, _logic=None)

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        if self._widget is None:
            self.__dict__["_widget"] = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self):
        widget = qSlicerScriptedLoadableModuleWidget(self)
        widget.setMRMLScene(slicer.mrmlScene)
        widget.reload()
        return widget


class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """What a module's Widget class gets as its `parent`."""

    isEntered = Property(bool, lambda self: self.__dict__.get("_entered", False))

    def __init__(self, module):
        super().__init__()
        qt.QVBoxLayout(self)
        self.__dict__.update(_module=module, _self=None, _entered=False)

    def self(self):
        return self._self

    def reload(self):
        name = self._module.name
        self.__dict__["_self"] = getattr(__import__(name), f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", self._self)
        self.objectName = f"{name}ModuleWidget"
        self.windowTitle = self._module.title
        self._self.setup()

    def enter(self):
        assert not self._entered
        self.__dict__["_entered"] = True
        if hasattr(self._self, "enter"):
            self._self.enter()

    def exit(self):
        assert self._entered
        self.__dict__["_entered"] = False
        if hasattr(self._self, "exit"):
            self._self.exit()


class qSlicerModuleManager(qt.QObject):
    """Tells when a module goes."""

    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)

    def module(self, name):
        return getattr(slicer.modules, name.lower(), None)


class qSlicerCoreIOManager(qt.QObject):
    """Loads and saves scenes, scalar volumes and what has a storage node.

    As in Slicer the event loop runs while a volume is loaded, its window is set at the end, and
    all slice views show it.
    """

    newFileLoaded = Signal("QVariantMap")
    CLASSES = types.MappingProxyType(
        {"VolumeFile": "vtkMRMLScalarVolumeNode", "SegmentationFile": "vtkMRMLSegmentationNode"}
    )

    def fileType(self, path):
        if str(path).endswith((".mrml", ".mrb")):
            return "SceneFile"
        return "SegmentationFile" if ".seg." in str(path) else "VolumeFile"

    def fileWriterFileType(self, node):
        return node.GetClassName()

    def loadNodes(self, filetype, properties, nodes, messages):
        path, scene = properties["fileName"], slicer.mrmlScene
        if not os.path.isfile(path):
            return False
        if filetype == "SceneFile":
            clear = bool(properties.get("clear"))
            if path.endswith(".mrb"):
                return bool(scene.ReadFromMRB(path, clear, messages))
            scene.SetURL(path)
            return bool(scene.Connect() if clear else scene.Import())
        node = scene.AddNewNodeByClass(self.CLASSES[filetype])
        node.SetName(properties.get("name") or os.path.basename(path).split(".")[0])
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(path)
        if not storage.ReadData(node):
            scene.RemoveNode(node)
            return False
        scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        qt.QCoreApplication.processEvents()
        node.CreateDefaultDisplayNodes()
        qt.QCoreApplication.processEvents()
        if filetype == "VolumeFile":
            node.GetDisplayNode().SetAutoWindowLevel(True)
            if properties.get("show", True):
                logic = slicer.app.applicationLogic()
                logic.GetSelectionNode().SetActiveVolumeID(node.GetID())
                logic.PropagateVolumeSelection()
        nodes.AddItem(node)
        self.newFileLoaded.emit({**properties, "fileType": filetype, "nodeIDs": [node.GetID()]})
        return True

    def saveNodes(self, filetype, properties, messages):
        path, scene = str(properties["fileName"]), slicer.mrmlScene
        if filetype == "SceneFile":
            if path.endswith(".mrb"):
                return bool(scene.WriteToMRB(path, None, None))
            scene.SetURL(path)
            return bool(scene.Commit())
        node = scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(path)
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node))


class qSlicerApplication(qt.QApplication):
    """The application without a main window, in testing mode until told otherwise."""

    startupCompleted = Signal()
    temporaryPath = Property(str, lambda self: self._temporary)
    cachePath = Property(str, lambda self: os.path.join(self._temporary, "cache"))
    slicerHome = Property(str, lambda self: self._temporary)
    mainApplicationName = Property(str, lambda self: "Slicer")
    majorVersion = Property(int, lambda self: 5)
    minorVersion = Property(int, lambda self: 12)
    documentationBaseUrl = Property(str, lambda self: "https://slicer.readthedocs.io/")
    isInstalled = Property(bool, lambda self: True)

    def __init__(self):
        super().__init__(["Slicer"])
        folder = tempfile.mkdtemp(prefix="headless-slicer-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.setOrganizationName("headless")
        self.applicationName = "Slicer"
        self.applicationVersion = "5.12.0"
        self.quitOnLastWindowClosed = False
        self.__dict__.update(
            _temporary=folder,
            _manager=qSlicerModuleManager(),
            _files=qSlicerCoreIOManager(),
            _testing=True,
            _layoutManager=None,
            _logic=None,
        )

    def setTestingEnabled(self, testing):
        """Not in Slicer, where it is a command-line option."""
        self.__dict__["_testing"] = testing

    def testingEnabled(self):
        return self._testing

    def mrmlScene(self):
        return slicer.mrmlScene

    def applicationLogic(self):
        return self._logic

    def moduleLogic(self, name):
        return self._manager.module(name).logic()

    def moduleManager(self):
        return self._manager

    def coreIOManager(self):
        return self._files

    ioManager = coreIOManager

    def layoutManager(self):
        return self._layoutManager

    def setLayoutManager(self, layoutManager):
        self.__dict__["_layoutManager"] = layoutManager

    def userSettings(self):
        return qt.QSettings()

    settings = revisionUserSettings = userSettings

    def startupEnvironment(self):
        return qt.QProcessEnvironment.systemEnvironment()

    def translate(self, _context, text):
        return text

    pauseRender = resumeRender = lambda self: None


def _writeRainbow(folder: str) -> None:
    """Our own table in place of the one that Slicer installs and slicer-core lacks."""
    os.makedirs(folder)
    with open(os.path.join(folder, "ColdToHotRainbow.txt"), "w") as file:
        for index in range(256):
            hue = qt.QColor.fromHsvF((1 - index / 255) * 2 / 3, 1, 1)
            file.write(f"{index} {index} {hue.red()} {hue.green()} {hue.blue()} 255\n")


def makeLogics(scene) -> dict[str, vtk.vtkObject]:
    """The application's logic under "", each module's under its name; all on one scene."""
    application = slicer.vtkSlicerApplicationLogic()
    application.SetHomeDirectory(slicer.app.slicerHome)
    application.SetShareDirectory("share")
    application.SetMRMLScene(scene)
    _writeRainbow(os.path.join(slicer.app.slicerHome, "share", "ColorFiles"))
    logics = {"": application}
    vtk.vtkObject.GlobalWarningDisplayOff()  # the files of the terminologies are not there
    for name, middle in LOGICS.items():
        logic = logics[name] = getattr(slicer, f"vtkSlicer{middle}Logic")()
        logic.SetMRMLApplicationLogic(application)
        if name == "colors":
            application.SetColorLogic(logic)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(middle.removesuffix("Module"), logic)
    vtk.vtkObject.GlobalWarningDisplayOn()
    return logics


def readBundles(scene, folder: str) -> list[vtk.vtkObject]:
    """Lets a scene read .mrb files; what comes back must live as long as the scene."""
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(folder)
    manager = slicer.vtkDataIOManagerLogic()
    manager.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    slicer.app.applicationLogic().SetMRMLSceneDataIO(scene, remote, manager)
    return [remote, manager]
