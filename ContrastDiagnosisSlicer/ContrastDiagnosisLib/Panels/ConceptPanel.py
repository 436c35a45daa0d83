"""The panel "Concepts": what a nodule shows, what follows from it, and how to correct it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Panels.ResultPanel import (
    SPACING_PIXELS,
    fitRows,
    makeLabel,
    makeTable,
    selectedRow,
)

PICTURE_PIXELS = 96
BAR_PIXELS = (48, 10)
BAR_COLOURS = ("#1b7a8c", "#c9d3d6")
"""Of the share, and of the rest."""
MOST_CONCEPTS = 12
"""Rows before the table scrolls."""

COLUMNS = (_("concept"), _("share"), _("logits"), _("kappa"), _("reject"))
NAME, PROBABILITY, LOGITS, KAPPA, REJECT = range(5)

TIPS = (
    _("Select one to see where it is seen."),
    _("Calibrated share of readers who would call the concept present."),
    _("What the concept adds to the log odds of malignancy."),
    _("How well the readers of the cases agree on the concept, beyond chance."),
    _("Tick a concept that is not there: it shall not count."),
)

NO_CONCEPTS = _("This diagnosis has no concepts: the bundle was made without a concept head.")
NOT_JUDGED = _("There is no verdict on this, so no concepts are read.")
KEPT = _(
    "What was corrected is kept until there is one. Boxes: {boxes}; rejected concepts: {rejected}."
)
NOT_DIAGNOSED = _("Diagnose a nodule to see its concepts.")


class Actions(Protocol):
    """What the user can do."""

    def onConcept(self, name: str) -> None:
        """A concept was chosen; empty for none."""

    def onReject(self, name: str, rejected: bool) -> None:
        """A concept was rejected, or no longer is."""

    def onBox(self, look: bool, forAll: bool) -> None:
        """A box is wanted, about the chosen concept or about all."""

    def onReset(self) -> None:
        """All corrections shall go."""


@dataclass(frozen=True)
class Shown:
    """What the panel shows of a nodule.

    Attributes:
        document: The diagnosis.
        prediction: What the engine said of the concepts.
        rejected: Concepts that are rejected in the scene; the prediction may be older.
        boxes: How many there are in the scene.
        concept: The one that is chosen; empty if none.
    """

    document: dict[str, Any]
    prediction: dict[str, Any]
    rejected: tuple[str, ...]
    boxes: int
    concept: str


class ConceptPanel:
    """Widgets alone: knows neither nodes nor requests."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._names: list[str] = []
        # PythonQt does not keep the items alive for us.
        self._cells: list[dict[int, Any]] = []
        self._bars: dict[int, Any] = {}
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING_PIXELS)
        self.headline = makeLabel(bold=True)
        self.disagreement = makeLabel(bold=True)
        self.table = makeTable(COLUMNS, TIPS, stretched=NAME)
        self.table.setIconSize(qt.QSize(*BAR_PIXELS))
        self.remarks, self.message = makeLabel(), makeLabel()
        self.example, self.picture = makeLabel(), qt.QLabel()
        self.buttons = qt.QWidget()
        for widget in (
            self.headline, self.disagreement, self.table, self.buttons, self.remarks,
            self.message, self._exampleRow(),
        ):  # fmt: skip
            layout.addWidget(widget)
        self._addButtons()
        self.table.itemSelectionChanged.connect(self._onSelected)
        self.table.itemChanged.connect(lambda item: self._onItemChanged(item))
        self.showNothing(NOT_DIAGNOSED)

    def showNothing(self, why: str) -> None:
        """There are no concepts to show."""
        self.headline.setText(why)
        self.headline.setToolTip("")
        for widget in (self.disagreement, self.table, self.buttons, self.remarks):
            widget.setVisible(False)
        self.showMessage("")
        self.showExample("", None)

    def show(self, shown: Shown) -> None:
        """Brings all widgets up to date."""
        prediction, vote = shown.prediction, shown.document
        self.headline.setText(_headlineText(prediction, vote))
        disagreement = prediction.get("disagreement", vote.get("disagreement", ""))
        self.disagreement.setText(disagreement)
        # The table says the same; words of their own would push it off the screen.
        self.headline.setToolTip(prediction["sentence"])
        corrected = bool(shown.boxes or shown.rejected)
        remarks = [*([_correctedText(shown)] if corrected else []), *prediction["remarks"]]
        self.remarks.setText("\n".join(remarks))
        # Every cell that is set would call back.
        self.table.blockSignals(True)
        self._fill(shown)
        self.table.blockSignals(False)
        for widget in (self.table, self.buttons):
            widget.setVisible(True)
        self.remarks.setVisible(bool(remarks))
        self.disagreement.setVisible(bool(disagreement))
        self.resetButton.setEnabled(corrected)
        told = _("Removes the boxes and rejections of this nodule.")
        self.resetButton.setToolTip(told if corrected else _("Nothing is corrected."))

    def showMessage(self, message: str) -> None:
        """What went wrong with the last correction."""
        self.message.setText(message)
        self.message.setVisible(bool(message))

    def showExample(self, told: str, png: bytes | None) -> None:
        """The prototype that is evidence, with its picture if there is one."""
        self.example.setText(told)
        pixmap = qt.QPixmap()
        if png:
            pixmap.loadFromData(qt.QByteArray(png))
            pixmap = pixmap.scaled(
                PICTURE_PIXELS, PICTURE_PIXELS, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation
            )
        self.picture.setPixmap(pixmap)
        self.picture.setVisible(bool(png))

    def _exampleRow(self) -> Any:
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.picture)
        layout.addWidget(self.example, 1)
        return row

    def _addButtons(self) -> None:
        layout = qt.QHBoxLayout(self.buttons)
        layout.setContentsMargins(0, 0, 0, 0)
        self.about = qt.QComboBox()
        for text in (_("all concepts"), _("selected concept")):
            self.about.addItem(text)
        self.about.setToolTip(_("What a new box is about."))
        # It gives way where the panel is narrow.
        self.about.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.lookButton = qt.QPushButton(_("Look here"))
        self.lookButton.setToolTip(_("Adds a green box: what lies outside counts less."))
        self.ignoreButton = qt.QPushButton(_("Ignore here"))
        self.ignoreButton.setToolTip(_("Adds a red box: what lies in it does not count."))
        self.resetButton = qt.QPushButton(_("Reset"))
        for widget in (self.about, self.lookButton, self.ignoreButton, self.resetButton):
            layout.addWidget(widget)
        self.lookButton.clicked.connect(lambda: self._onBox(True))
        self.ignoreButton.clicked.connect(lambda: self._onBox(False))
        self.resetButton.clicked.connect(lambda: self._actions.onReset())

    def _fill(self, shown: Shown) -> None:
        """Values change in place: making rows anew would flicker while a box is dragged."""
        rows = shown.prediction["concepts"]
        names = [row["name"] for row in rows]
        if names != self._names:
            self._makeRows(names)
        for cells, row in zip(self._cells, rows, strict=True):
            presence = row["presence"]
            cells[PROBABILITY].setText(_("rejected") if presence is None else f"{presence:.2f}")
            cells[PROBABILITY].setData(qt.Qt.DecorationRole, self._barOf(presence or 0.0))
            cells[LOGITS].setText(f"{row['contribution']:+.2f}")
            cells[KAPPA].setText(_numberText(row["reader_kappa"]))
            isRejected = row["name"] in shown.rejected
            cells[REJECT].setCheckState(qt.Qt.Checked if isRejected else qt.Qt.Unchecked)
            told = _("{name}. Present: {criterion}. AUROC on unseen patients: {value}")
            auroc = _numberText(row["auroc"])
            cells[NAME].setToolTip(
                told.format(name=row["name"], criterion=row["criterion"], value=auroc)
            )
        if shown.concept in names:
            self.table.selectRow(names.index(shown.concept))
        else:
            self.table.clearSelection()

    def _barOf(self, share: float) -> Any:
        percent = round(100 * share)
        if percent not in self._bars:
            self._bars[percent] = _draw(percent)
        return self._bars[percent]

    def _makeRows(self, names: list[str]) -> None:
        self.table.setRowCount(0)
        self.table.setRowCount(len(names))
        self._names, self._cells = names, []
        shown = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        for r, name in enumerate(names):
            cells = {c: qt.QTableWidgetItem() for c in range(len(COLUMNS))}
            cells[NAME].setText(_(name))
            cells[REJECT].setToolTip(TIPS[REJECT])
            for column, item in cells.items():
                item.setFlags(shown | qt.Qt.ItemIsUserCheckable if column == REJECT else shown)
                self.table.setItem(r, column, item)
            self._cells.append(cells)
        fitRows(self.table, MOST_CONCEPTS)

    def _onSelected(self) -> None:
        row = selectedRow(self.table)
        self._actions.onConcept(self._names[row] if row >= 0 else "")

    def _onItemChanged(self, item: Any) -> None:
        if item.column() == REJECT:
            isRejected = item.checkState() == qt.Qt.Checked
            self._actions.onReject(self._names[item.row()], isRejected)

    def _onBox(self, look: bool) -> None:
        self._actions.onBox(look, self.about.currentIndex == 0)


def _headlineText(prediction: dict[str, Any], vote: dict[str, Any]) -> str:
    told = _(
        "Concepts: {concepts}, probability {p:.2f}. Vote of the cases: {cases}, probability"
        " {q:.2f}."
    )
    p, q = prediction["probability"], vote["probability"]
    return told.format(concepts=_(prediction["verdict"]), p=p, cases=_(vote["verdict"]), q=q)


def _draw(percent: int) -> Any:
    """A bar; a widget in every cell would repaint at each value it is given."""
    width, height = BAR_PIXELS
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(BAR_COLOURS[1]))
    if percent:
        painter = qt.QPainter(pixmap)
        share = qt.QRect(0, 0, max(1, round(width * percent / 100)), height)
        painter.fillRect(share, qt.QColor(BAR_COLOURS[0]))
        painter.end()
    return pixmap


def _correctedText(shown: Shown) -> str:
    told = _("Corrected. Boxes: {boxes}; rejected concepts: {rejected}.")
    return told.format(boxes=shown.boxes, rejected=len(shown.rejected))


def _numberText(value: float | None) -> str:
    """A dash where nothing was measured."""
    return "-" if value is None or value != value else f"{value:.2f}"
