"""Typed access to a vtkMRMLScriptedModuleNode, and its tie to the widgets of a panel."""

from __future__ import annotations

import typing
import weakref

import qt
import slicer
import vtk

from .annotations import Default, Validator, WithinRange, findFirstAnnotation
from .connectors import makeConnector
from .stores import ObservedDict, ObservedList, makeStore

__all__ = [
    "Default",
    "ObservedDict",
    "ObservedList",
    "SlicerParameterNamePropertyName",
    "Validator",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]

SlicerParameterNamePropertyName = "SlicerParameterName"


class _Parameter:
    def __init__(self, owner, name, kind):
        self.name, self.kind = name, kind
        try:
            self.store, annotations = makeStore(kind)
        except Exception as error:
            raise Exception(f"Unable to create serializer for {owner} member {name}") from error
        default = findFirstAnnotation(annotations, Default) or Default(self.store.default())
        self.default = Default(getattr(owner, name)) if hasattr(owner, name) else default

    def read(self, node):
        if not self.store.isIn(node, self.name):
            self.store.write(node, self.name, self.default.value)
        return self.store.read(node, self.name)

    def __get__(self, wrapper, _owner=None):
        return self if wrapper is None else wrapper._cache[self.name]

    def __set__(self, wrapper, value):
        node = wrapper.parameterNode
        wrapper._writing.append(self.name)
        try:
            with slicer.util.NodeModify(node):
                self.store.write(node, self.name, value)
                wrapper._cache[self.name] = self.store.read(node, self.name)
        finally:
            wrapper._writing.remove(self.name)


def _initialize(self, parameterNode, prefix=None):
    if prefix:
        raise NotImplementedError("the stand-in knows no prefix")
    self.parameterNode = parameterNode
    self._guis = {}
    self._nextTag = 0
    self._updating = False
    self._cache, self._writing = {}, []
    reference = weakref.ref(self)
    self._observer = parameterNode.AddObserver(
        vtk.vtkCommand.ModifiedEvent, lambda *_: _readAgain(reference())
    )
    for name, parameter in self.allParameters.items():
        self._cache[name] = parameter.read(parameterNode)


def _readAgain(self):
    """Slicer's wrapper caches: a change that comes without ModifiedEvent is not seen.

    Such a change is a node reference that is resolved at the end of loading a scene.
    """
    for name, parameter in self.allParameters.items():
        if name not in self._writing:
            self._cache[name] = parameter.read(self.parameterNode)


def _checked(self, name):
    if name not in self.allParameters:
        raise ValueError(f"Cannot find a param with the given name: {name}")
    return self.allParameters[name]


def _updateGuis(self, *_):
    if self._updating:
        return
    self._updating = True
    try:
        with slicer.util.NodeModify(self):
            for connectors, _tag in list(self._guis.values()):
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
    finally:
        self._updating = False


def _connectParametersToGui(self, mapping):
    for name in mapping:
        _checked(self, name)
    connectors = {n: makeConnector(w, self.dataType(n)) for n, w in mapping.items()}

    def follow(name, connector):
        def onWidgetChanged():
            with slicer.util.NodeModify(self):
                if not self._updating:
                    self.setValue(name, connector.read())

        return onWidgetChanged

    for name, connector in connectors.items():
        connector.write(self.getValue(name))
        connector.onChanged(follow(name, connector))
    observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: _updateGuis(self))
    tag = self._nextTag
    self._nextTag += 1
    self._guis[tag] = connectors, observer
    return tag


def _connectGui(self, gui):
    widgets = gui.findChildren(qt.QWidget) if isinstance(gui, qt.QWidget) else gui.__dict__.values()
    named = [(w.property(SlicerParameterNamePropertyName), w) for w in widgets]
    return self.connectParametersToGui({name: widget for name, widget in named if name})


def _disconnectGui(self, tag):
    connectors, observer = self._guis.pop(tag, ({}, None))
    for connector in connectors.values():
        connector.onChanged(None)
    if observer is not None:
        self.RemoveObserver(observer)


_METHODS = {
    "default": lambda self, name: _checked(self, name).default,
    "dataType": classmethod(lambda cls, name: _checked(cls, name).kind),
    "getValue": lambda self, name: _checked(self, name).__get__(self),
    "setValue": lambda self, name, value: _checked(self, name).__set__(self, value),
    "connectGui": _connectGui,
    "connectParametersToGui": _connectParametersToGui,
    "disconnectGui": _disconnectGui,
    "StartModify": lambda self: self.parameterNode.StartModify(),
    "EndModify": lambda self, was: self.parameterNode.EndModify(was),
    "AddObserver": lambda self, event, call, priority=0.0: self.parameterNode.AddObserver(
        event, call, priority
    ),
    "RemoveObserver": lambda self, tag: self.parameterNode.RemoveObserver(tag),
    "Modified": lambda self: self.parameterNode.Modified(),
    "__del__": lambda self: self.parameterNode.RemoveObserver(self._observer),
    "_is_parameter_node_wrapper": True,
}


def _wrap(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(cls, name, kind) for name, kind in hints.items()}
    for name, parameter in parameters.items():
        setattr(cls, name, parameter)
    cls.__init__ = _initialize
    for name, value in {"allParameters": parameters, **_METHODS}.items():
        if hasattr(cls, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        setattr(cls, name, value)
    return cls


def parameterNodeWrapper(classtype=None):
    """Class decorator: annotated members become parameters of a parameter node."""
    return _wrap if classtype is None else _wrap(classtype)


def isParameterNodeWrapper(classOrObject) -> bool:
    return getattr(classOrObject, "_is_parameter_node_wrapper", False)
