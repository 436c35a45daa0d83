"""Slicer's `ctk` module: the few widgets that the panels use, on PySide6."""

from __future__ import annotations

import qt
from PySide6.QtCore import Property, Signal


def stored(kind, name: str, default):
    """A Qt property that only keeps its value."""
    key = f"_{name}"

    def write(self, value):
        self.__dict__[key] = value

    return Property(kind, lambda self: self.__dict__.get(key, default), write)


class ctkCollapsibleButton(qt.QAbstractButton):
    """A titled box; its children are hidden while it is collapsed."""

    contentsCollapsed = Signal(bool)

    def __init__(self, text="", parent=None):
        if isinstance(text, qt.QWidget):
            text, parent = "", text
        super().__init__(parent)
        self.__dict__["_collapsed"] = False
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(lambda checked: self._collapse(not checked))

    def _collapse(self, collapsed):
        if self._collapsed == collapsed:
            return
        self.__dict__["_collapsed"] = collapsed
        for child in self.children():
            if isinstance(child, qt.QWidget):
                child.setVisible(not collapsed)
        self.contentsCollapsed.emit(collapsed)

    def childEvent(self, event):
        child = event.child()
        if event.added() and isinstance(child, qt.QWidget) and self._isCollapsed():
            child.setVisible(False)
        super().childEvent(event)

    def setCollapsed(self, collapsed):
        self.setChecked(not collapsed)

    def _isCollapsed(self):
        return self.__dict__.get("_collapsed", False)

    collapsed = Property(bool, _isCollapsed, setCollapsed)
    collapsedHeight = stored(int, "collapsedHeight", 10)

    def sizeHint(self):
        layout = self.layout()
        inner = layout.sizeHint() if layout and not self._isCollapsed() else qt.QSize(0, 0)
        title = self.fontMetrics().size(0, self.text)
        return qt.QSize(max(inner.width(), title.width() + 24), inner.height() + title.height() + 6)

    def minimumSizeHint(self):
        return self.sizeHint()

    def resizeEvent(self, event):
        self._marginForTitle()
        super().resizeEvent(event)

    def _marginForTitle(self):
        title = self.fontMetrics().height() + 6
        margins = self.contentsMargins()
        if margins.top() != title:
            self.setContentsMargins(0, title, 0, 0)

    def paintEvent(self, _event):
        painter = qt.QPainter(self)
        height = self.fontMetrics().height() + 4
        painter.fillRect(0, 0, self.width, height, self.palette.button())
        arrow = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}" if self._isCollapsed() else ""
        arrow = arrow or "\N{BLACK DOWN-POINTING SMALL TRIANGLE}"
        painter.drawText(6, height - 5, f"{arrow} {self.text}".replace("&&", "&"))
        painter.end()

    def hitButton(self, position):
        return position.y() <= self.fontMetrics().height() + 4


class ctkSliderWidget(qt.QWidget):
    """A slider and a spin box."""

    valueChanged = Signal(float)
    pageStep = stored(float, "pageStep", 10.0)
    tracking = stored(bool, "tracking", True)

    def __init__(self, parent=None):
        super().__init__(parent)
        slider, spinBox = qt.QSlider(qt.Qt.Horizontal, self), qt.QDoubleSpinBox(self)
        self.__dict__.update(_slider=slider, _spinBox=spinBox)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(slider, 1)
        layout.addWidget(spinBox)
        slider.setRange(0, 1000)
        slider.sliderMoved.connect(lambda at: self.setValue(self._valueAt(at)))
        spinBox.valueChanged.connect(lambda _: self._moveSlider())
        spinBox.valueChanged.connect(self.valueChanged)

    def _valueAt(self, position):
        return self.minimum + position / 1000 * (self.maximum - self.minimum)

    def _moveSlider(self):
        span = self.maximum - self.minimum
        if span > 0:
            self._slider.setValue(round(1000 * (self.value - self.minimum) / span))

    def _spinBoxProperty(kind, name):
        setter = f"set{name[0].upper()}{name[1:]}"

        def write(self, value):
            getattr(self._spinBox, setter)(value)

        return write, Property(kind, lambda self: getattr(self._spinBox, name), write)

    setValue, value = _spinBoxProperty(float, "value")
    setDecimals, decimals = _spinBoxProperty(int, "decimals")
    setMinimum, minimum = _spinBoxProperty(float, "minimum")
    setMaximum, maximum = _spinBoxProperty(float, "maximum")
    setSingleStep, singleStep = _spinBoxProperty(float, "singleStep")
    setPrefix, prefix = _spinBoxProperty(str, "prefix")
    setSuffix, suffix = _spinBoxProperty(str, "suffix")


class ctkPathLineEdit(qt.QWidget):
    """A line for a path; the browse button opens nothing here.

    As in CTK an empty line is no valid input: it is told by `validInputChanged` alone. The names of
    its filters are missing with Qt 6.
    """

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    label = stored(str, "label", "")
    filters = stored(int, "filters", 7)
    nameFilters = stored("QStringList", "nameFilters", [])
    settingKey = stored(str, "settingKey", "")
    showBrowseButton = stored(bool, "showBrowseButton", True)
    showHistoryButton = stored(bool, "showHistoryButton", True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.__dict__.update(_line=qt.QLineEdit(self), _valid=False)
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        self._line.textChanged.connect(self._onText)

    def _onText(self, text):
        wasValid, self.__dict__["_valid"] = self._valid, bool(text)
        if text:
            self.currentPathChanged.emit(text)
        if self._valid != wasValid:
            self.validInputChanged.emit(self._valid)

    def setCurrentPath(self, path):
        self._line.setText(path)

    def addCurrentPathToHistory(self):
        pass

    currentPath = Property(str, lambda self: self._line.text, setCurrentPath)


class ctkMessageBox(qt.QMessageBox):
    """A message box that nobody sees: it is noted in `shown` and answered by `answer`."""

    shown: list[str] = []  # noqa: RUF012
    answer = qt.QMessageBox.Ok
    dontShowAgain = stored(bool, "dontShowAgain", False)
    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")
    dontShowAgainVisible = stored(bool, "dontShowAgainVisible", False)

    def exec_(self):
        self.shown.append(self.text)
        return self.answer
