"""How the maps of a comparison are made: the advanced choices, and as the engine takes them."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene.Parameter import MapWindow

LEVELS = (4, 3, 2, 1)
"""Of the network's pyramid, the coarsest first."""

USUAL_LEVELS = (3, 2)

LEVEL_TIPS = {
    4: _("Cells of 10 x 11 x 11 mm: coarse, blurs what the others show."),
    3: _("Cells of 5 x 6 x 6 mm."),
    2: _("Cells of 2.5 x 3 x 3 mm."),
    1: _("Cells of 1.25 x 1.4 x 1.4 mm: fine, and the least of what the network has understood."),
}
ONE_LEVEL = _("A map needs at least one level.")

WINDOWS = {
    MapWindow.CELL: _("none: cell by cell"),
    MapWindow.THREE: _("3 cells a side (as usual)"),
    MapWindow.FIVE: _("5 cells a side"),
    MapWindow.SEVEN: _("7 cells a side"),
    MapWindow.LEVEL: _("the whole level"),
}
CELLS = {
    MapWindow.CELL: 1,
    MapWindow.THREE: 3,
    MapWindow.FIVE: 5,
    MapWindow.SEVEN: 7,
    MapWindow.LEVEL: None,
}


def levelName(level: int) -> str:
    """The parameter that says whether a level is used."""
    return f"mapLevel{level}"


def mapOptionsOf(parameterNode: Any) -> dict[str, Any]:
    """The choices as the field `map` of a request; empty if all is as usual."""
    levels = [level for level in LEVELS if getattr(parameterNode, levelName(level))]
    options: dict[str, Any] = {}
    if levels != list(USUAL_LEVELS):
        options["levels"] = levels
    if parameterNode.mapWindow is not MapWindow.THREE:
        options["window_cells"] = CELLS[parameterNode.mapWindow]
    if not parameterNode.mapRectified:
        options["rectified"] = False
    return options


class MapOptions:
    """Widgets for the choices; whoever observes the parameter node asks for the maps anew."""

    def __init__(self) -> None:
        """Makes the widgets."""
        self.widget = qt.QWidget()
        form = qt.QFormLayout(self.widget)
        form.setContentsMargins(0, 0, 0, 0)
        boxes, row = qt.QWidget(), qt.QHBoxLayout()
        boxes.setLayout(row)
        row.setContentsMargins(0, 0, 0, 0)
        self.levels = {level: qt.QCheckBox(f"a{level}") for level in LEVELS}
        for box in self.levels.values():
            row.addWidget(box)
        self.window = qt.QComboBox()
        self.window.addItems(list(WINDOWS.values()))
        self.window.setToolTip(
            _(
                "Over how many neighbours the weights of a cell are averaged. Few follow the"
                " network's architecture, many blur the map."
            )
        )
        self.rectified = qt.QCheckBox(_("Drop negative weights"))
        self.rectified.setToolTip(
            _("Off: weights keep their sign, and features that speak against it take away from it.")
        )
        self.usualButton = qt.QPushButton(_("As usual"))
        self.usualButton.setToolTip(
            _("How faithful maps are was measured on the usual ones: levels a3 and a2, 3 cells.")
        )
        form.addRow(_("Levels:"), boxes)
        form.addRow(_("Averaged over:"), self.window)
        form.addRow(self.rectified)
        form.addRow(self.usualButton)
        self._node: Any = None
        self._updating = False
        for box in self.levels.values():
            box.toggled.connect(self._onEdited)
        self.window.currentIndexChanged.connect(self._onEdited)
        self.rectified.toggled.connect(self._onEdited)
        self.usualButton.clicked.connect(self.onUsual)

    def follow(self, parameterNode: Any) -> None:
        """Shows the choices as they stand in the scene."""
        self._node, self._updating = parameterNode, True
        chosen = [level for level in LEVELS if getattr(parameterNode, levelName(level))]
        for level, box in self.levels.items():
            box.setChecked(level in chosen)
            isLast = chosen == [level]
            box.enabled = not isLast
            box.setToolTip(ONE_LEVEL if isLast else LEVEL_TIPS[level])
        self.window.setCurrentIndex(list(WINDOWS).index(parameterNode.mapWindow))
        self.rectified.setChecked(parameterNode.mapRectified)
        self.usualButton.enabled = bool(mapOptionsOf(parameterNode))
        self._updating = False

    def onUsual(self, _checked: bool = False) -> None:
        """Takes all choices back."""
        self._store(USUAL_LEVELS, MapWindow.THREE, True)

    def _onEdited(self, *_value: Any) -> None:
        if self._updating or self._node is None:
            return
        levels = [level for level, box in self.levels.items() if box.checked]
        window = list(WINDOWS)[self.window.currentIndex]
        self._store(levels, window, self.rectified.checked)

    def _store(self, levels: Any, window: MapWindow, rectified: bool) -> None:
        # One event, so that the maps are asked for once.
        with slicer.util.NodeModify(self._node.parameterNode):
            for level in LEVELS:
                setattr(self._node, levelName(level), level in levels)
            self._node.mapWindow, self._node.mapRectified = window, rectified
