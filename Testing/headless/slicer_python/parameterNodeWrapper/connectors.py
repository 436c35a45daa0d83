"""Which widget can show which type of parameter, and how: a part of what Slicer knows."""

from __future__ import annotations

import enum

import ctk
import qt
import slicer

from .annotations import WithinRange, findFirstAnnotation, splitAnnotations


class Connector:
    """Reads and writes one property of one widget and hears its changes."""

    def __init__(self, widget, signal, read, write):
        self.widget, self._signal, self.read, self.write = widget, signal, read, write
        self._slot = None

    def onChanged(self, callback):
        if self._slot is not None:
            self._signal.disconnect(self._slot)
        self._slot = callback and (lambda: callback())
        if callback:
            self._signal.connect(self._slot)


def _property(widget, name, signal):
    def write(value):
        if getattr(widget, name) != value:
            setattr(widget, name, value)

    return Connector(widget, signal, lambda: getattr(widget, name), write)


def _number(widget, kind, annotations):
    if kind is int and hasattr(widget, "decimals"):
        widget.decimals = 0
    within = findFirstAnnotation(annotations, WithinRange)
    if type(widget) in (qt.QSlider, ctk.ctkSliderWidget) and not within:
        raise RuntimeError(f"Cannot have a connection to {type(widget).__name__} unbounded.")
    far = 2**31 - 1 if type(widget) is qt.QSpinBox else float("inf")
    widget.setMinimum(within.minimum if within else -far)
    widget.setMaximum(within.maximum if within else far)
    connector = _property(widget, "value", widget.valueChanged)
    if kind is int:
        connector.read = lambda: int(widget.value)
    return connector


def _choice(widget, kind):
    values, before = list(kind), widget.currentIndex
    label = getattr(kind, "label", lambda value: value.name)
    widget.clear()
    widget.addItems([label(value) for value in values])
    widget.currentIndex = before

    def write(value):
        widget.currentIndex = values.index(value)

    return Connector(widget, widget.currentIndexChanged, lambda: values[widget.currentIndex], write)


def _node(widget, kind):
    widget.nodeTypes = [kind().GetClassName()]
    return Connector(widget, widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode)


def makeConnector(widget, datatype) -> Connector:
    """The connector of a widget and a type; RuntimeError if there is none."""
    kind, annotations = splitAnnotations(datatype)
    numbers = (qt.QDoubleSpinBox, ctk.ctkSliderWidget)
    numbers += (qt.QSlider, qt.QSpinBox) if kind is int else ()
    is_class = isinstance(kind, type)
    if kind is bool and type(widget) is qt.QCheckBox:
        return _property(widget, "checked", widget.stateChanged)
    if kind in (int, float) and type(widget) in numbers:
        return _number(widget, kind, annotations)
    if kind is str and type(widget) is qt.QLineEdit:
        return _property(widget, "text", widget.textChanged)
    if is_class and issubclass(kind, enum.Enum) and type(widget) is qt.QComboBox:
        return _choice(widget, kind)
    is_node = is_class and issubclass(kind, slicer.vtkMRMLNode)
    if is_node and type(widget) is slicer.qMRMLNodeComboBox:
        return _node(widget, kind)
    raise RuntimeError(f"Unable to create GUI connector from {datatype} to {type(widget)}.")
