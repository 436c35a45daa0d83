"""Slicer's `qt` module: PySide6 with the manners of PythonQt.

All Qt names lie in one namespace. A Qt property is an attribute (`label.text`, not
`label.text()`), a misspelled attribute is an error, and `button.connect("clicked()", f)` works.
"""

from __future__ import annotations

import atexit
import inspect
import os
import re
import shutil
import tempfile
from html import escape
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtPrintSupport, QtUiTools, QtWidgets

_NOT_IN_PYTHONQT = {"QtMsgType"}
LOADING: list = []
"""Not empty while a .ui file is loaded."""
_METHODS = {"singleShot"}
"""Slicer puts the static method back in place of this property of QTimer."""


def _names() -> dict[str, object]:
    modules = (QtCore, QtGui, QtNetwork, QtPrintSupport, QtUiTools, QtWidgets)
    names = {n: getattr(m, n) for m in modules for n in dir(m) if n.startswith("Q")}
    return {name: value for name, value in names.items() if name not in _NOT_IN_PYTHONQT}


def _reader(name: str, native):
    def read(self):
        if native is None:
            value = QtCore.QObject.property(self, name)
        else:
            value = native.__get__(self, type(self))()
        if name == "toolTip" and value and not QtGui.Qt.mightBeRichText(value):
            # ctkToolTipTrapper of qSlicerApplication wraps what is plain text.
            return f"<p>{escape(value, quote=False)}</p>"
        return tuple(value) if isinstance(value, list) else value

    return read


def _writer(cls: type, meta):
    setter = f"set{meta.name()[0].upper()}{meta.name()[1:]}"

    def write(self, value):
        if hasattr(cls, setter):
            getattr(self, setter)(value)
        elif not QtCore.QObject.setProperty(self, meta.name(), value):
            raise ValueError(f"{cls.__name__}.{meta.name()} does not take {value!r}")

    return write if meta.isWritable() else None


def _install_properties(cls: type) -> None:
    """Qt properties of a class, its own and those whose getter it overrides, as attributes."""
    meta_object = cls.staticMetaObject
    for index in range(meta_object.propertyCount()):
        meta = meta_object.property(index)
        name = meta.name()
        native = cls.__dict__.get(name)
        own = index >= meta_object.propertyOffset()
        if name in _METHODS or not (own or callable(native)):
            continue
        getter = inspect.getattr_static(cls, name, None)
        getter = getter if callable(getattr(cls, name, None)) else None
        setattr(cls, name, property(_reader(name, getter), _writer(cls, meta)))


def _install_truth(cls: type) -> None:
    """PythonQt's truth of an object: its content, so that an empty layout is false.

    As in its generator, abstractmetalang.cpp: the first of these methods that the class has.
    """
    for name, isTrue in (("isEmpty", False), ("isValid", True), ("isNull", False)):
        told = getattr(cls, name, None)
        if inspect.isroutine(told):
            cls.__bool__ = lambda self, told=told, isTrue=isTrue: bool(told(self)) == isTrue
            return


def _take(function, count: int):
    """A slot that gets as many arguments as the signature named and the function takes."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None and not code.co_flags & inspect.CO_VARARGS:
        count = min(count, code.co_argcount - inspect.ismethod(function))
    # PySide6 looks at the number of parameters: *values would get none of a default argument.
    slots = [
        lambda: function(),
        lambda a: function(a),
        lambda a, b: function(a, b),
        lambda a, b, c: function(a, b, c),
    ]
    return slots[count]


def _signal(sender, signature: str):
    """The signal of a C++ signature and its number of arguments; ValueError if there is none."""
    normal = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    meta_object = sender.metaObject()
    methods = [meta_object.method(i) for i in range(meta_object.methodCount())]
    kind = QtCore.QMetaMethod.MethodType.Signal
    methods = [m.methodSignature().data().decode() for m in methods if m.methodType() == kind]
    asQt = normal.replace("qSlicerIO::IOProperties", "QVariantMap")
    if re.sub(r"vtk\w+\*", "PyObject", asQt) not in methods:
        raise ValueError(f"{meta_object.className()} has no signal {normal}, only {methods}")
    name, types = normal.rstrip(")").split("(")
    signal = getattr(sender, name)
    if types == "bool" and f"{name}(PyObject)" in methods:  # of qMRMLNodeComboBox
        signal = signal[bool]
    return signal, len(types.split(",")) if types else 0


def _connect(self, signature: str, receiver, slot: str | None = None) -> bool:
    """PythonQt's `sender.connect("signal(type)", function)`."""
    if not isinstance(signature, str):  # QTimer.singleShot of PySide6 comes this way
        return _native_get(self, "connect")(signature, receiver, slot)
    signal, count = _signal(self, signature)
    function = getattr(receiver, slot.split("(")[0]) if slot else receiver
    if not callable(function):
        raise TypeError(f"{function!r} is not callable")
    wrapped = _take(function, count)
    signal.connect(wrapped)
    self.__dict__.setdefault("_connections", []).append((signature, function, wrapped))
    return True


def _disconnect(self, signature: str, function=None) -> bool:
    connections = self.__dict__.get("_connections", [])
    found = [c for c in connections if c[0] == signature and function in (None, c[1])]
    for connection in found:
        connections.remove(connection)
        _signal(self, signature)[0].disconnect(connection[2])
    return bool(found)


_PYTHONQT_METHODS = {
    "connect": _connect,
    "disconnect": _disconnect,
    "className": lambda self: self.metaObject().className(),
    "delete": lambda self: shiboken6.delete(self),
}
_native_get = QtCore.QObject.__getattribute__


def _getter(native_get):
    """Attribute access of one class.

    `native_get` is its own: it binds methods such as QFile.exists that are also static.
    """

    def get(self, name: str):
        if name in _PYTHONQT_METHODS:
            return _PYTHONQT_METHODS[name].__get__(self)
        try:
            return native_get(self, name)
        except AttributeError:
            if name not in _dynamic(self):
                raise
            return QtCore.QObject.property(self, name)

    return get


def _dynamic(self) -> list[str]:
    names = QtCore.QObject.dynamicPropertyNames(self)
    return [name.data().decode() for name in names]


def _is_load(self, name: str, value) -> bool:
    """PySide6's QUiLoader sets the named children as attributes; PythonQt has none of them."""
    return isinstance(value, QtCore.QObject) and value.objectName == name and LOADING


def _set(self, name: str, value) -> None:
    """As PythonQt: what is neither a property nor of a Python class cannot be set."""
    found = next((c.__dict__[name] for c in type(self).__mro__ if name in c.__dict__), None)
    own = type(self).__module__.split(".")[0] not in ("PySide6", "ctk", "stand_ins")
    if isinstance(found, QtCore.Property):
        if not QtCore.QObject.setProperty(self, name, value):
            raise ValueError(f"{type(self).__name__}.{name} does not take {value!r}")
    elif hasattr(found, "__set__"):
        found.__set__(self, value)
    elif name in _dynamic(self) or name in _METHODS:
        QtCore.QObject.setProperty(self, name, value)
    elif own or name.startswith("_") or isinstance(value, QtCore.SignalInstance):
        self.__dict__[name] = value
    elif not _is_load(self, name, value):
        raise AttributeError(
            f"'{name}' does not exist on {type(self).__name__}"
            " and creating new attributes on C++ objects is not allowed"
        )


_OPEN_FILE_NAME = QtWidgets.QFileDialog.getOpenFileName

globals().update(_names())
_classes = {c for c in _names().values() if isinstance(c, type) and issubclass(c, QtCore.QObject)}
_native = {cls: cls.__getattribute__ for cls in _classes}
for _cls in sorted(_classes, key=lambda c: len(c.__mro__)):
    _install_properties(_cls)
    _cls.__getattribute__ = _getter(_native[_cls])
    _cls.__setattr__ = _set
for _cls in filter(inspect.isclass, _names().values()):
    _install_truth(_cls)
QtCore.QObject.name = QtCore.QObject.objectName
QtGui.QTextDocument.print = QtGui.QTextDocument.print_  # as Qt and PythonQt call it
QtWidgets.QFileDialog.getOpenFileName = staticmethod(
    lambda *told: _OPEN_FILE_NAME(*told)[0]  # PythonQt gives the name alone
)
Qt = QtCore.Qt

SETTINGS_FOLDER = Path(tempfile.mkdtemp(prefix="headless-settings-"))
"""Where `QSettings()` writes: never the user's home."""
atexit.register(shutil.rmtree, SETTINGS_FOLDER, ignore_errors=True)
QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
for _format in (QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Format.NativeFormat):
    for _scope in (QtCore.QSettings.Scope.UserScope, QtCore.QSettings.Scope.SystemScope):
        QtCore.QSettings.setPath(_format, _scope, str(SETTINGS_FOLDER))
