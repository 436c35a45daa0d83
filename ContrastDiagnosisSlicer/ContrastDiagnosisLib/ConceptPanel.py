"""The panel "Concepts": what a nodule shows, what follows from it, and how to correct it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.ResultPanel import makeLabel, makeTable, selectedRow

PICTURE_PIXELS = 96
BAR_STEPS = 1000
MOST_PIXELS = 300
"""Height of a table that scrolls."""

COLUMNS = (
    _("concept"), _("probability"), _("logits"), _("readers' kappa"), _("reject"),
)  # fmt: skip
NAME, PROBABILITY, LOGITS, KAPPA, REJECT = range(5)

HEADER_TIPS = {
    PROBABILITY: _("Calibrated share of readers who would call the concept present."),
    LOGITS: _("What the concept adds to the log odds of malignancy."),
    KAPPA: _("How well readers of LIDC-IDRI agree on the concept, beyond chance."),
}

NO_CONCEPTS = _("This diagnosis has no concepts: the bundle was made without a concept head.")
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
        reading: What the engine said of the concepts.
        rejected: Concepts that are rejected in the scene; the reading may be older.
        boxes: How many there are in the scene.
        concept: The one that is chosen; empty if none.
    """

    document: dict[str, Any]
    reading: dict[str, Any]
    rejected: tuple[str, ...]
    boxes: int
    concept: str


class ConceptPanel:
    """Widgets alone: knows neither nodes nor requests."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._names: list[str] = []
        # PythonQt does not keep the widgets of cells alive for us.
        self._cells: list[dict[int, Any]] = []
        self._filling = False
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.headline = makeLabel(bold=True)
        self.disagreement = makeLabel(bold=True)
        self.table = makeTable(COLUMNS)
        for column, told in HEADER_TIPS.items():
            self.table.horizontalHeaderItem(column).setToolTip(told)
        self.sentence, self.remarks, self.message = makeLabel(), makeLabel(), makeLabel()
        self.example, self.picture = makeLabel(), qt.QLabel()
        self.buttons = qt.QWidget()
        for widget in (
            self.headline, self.disagreement, self.table, self.sentence, self.buttons,
            self.remarks, self.message, self._exampleRow(),
        ):  # fmt: skip
            layout.addWidget(widget)
        self._addButtons()
        self.table.itemSelectionChanged.connect(self._onSelected)
        self.showNothing(NOT_DIAGNOSED)

    def showNothing(self, why: str) -> None:
        """There are no concepts to show."""
        self.headline.setText(why)
        for widget in (self.disagreement, self.table, self.sentence, self.buttons, self.remarks):
            widget.setVisible(False)
        self.showMessage("")
        self.showExample("", None)

    def show(self, shown: Shown) -> None:
        """Brings all widgets up to date."""
        reading, vote = shown.reading, shown.document
        self.headline.setText(_headlineText(reading, vote))
        disagreement = reading.get("disagreement", vote.get("disagreement", ""))
        self.disagreement.setText(disagreement)
        self.sentence.setText(reading["sentence"])
        self.remarks.setText("\n".join([_correctedText(shown), *reading["remarks"]]))
        self._filling = True
        self._fill(shown)
        self._filling = False
        for widget in (self.table, self.sentence, self.buttons, self.remarks):
            widget.setVisible(True)
        self.disagreement.setVisible(bool(disagreement))
        corrected = bool(shown.boxes or shown.rejected)
        self.resetButton.setEnabled(corrected)
        told = _("Removes the boxes and rejections of this nodule.")
        self.resetButton.setToolTip(told if corrected else _("Nothing is corrected."))

    def showMessage(self, message: str) -> None:
        """What went wrong with the last correction."""
        self.message.setText(message)
        self.message.setVisible(bool(message))

    def showExample(self, told: str, png: bytes | None) -> None:
        """The prototype that fired, with its picture if there is one."""
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
        rows = shown.reading["concepts"]
        names = [row["name"] for row in rows]
        isNew = names != self._names
        if isNew:
            self._makeRows(names)
        for cells, row in zip(self._cells, rows, strict=True):
            rejected, presence = row["name"] in shown.rejected, row["presence"]
            bar = cells[PROBABILITY]
            bar.setValue(round(BAR_STEPS * (presence or 0)))
            bar.setFormat(_("rejected") if presence is None else f"{presence:.2f}")
            cells[LOGITS].setText(f"{row['contribution']:+.2f}")
            cells[KAPPA].setText(_numberText(row["reader_kappa"]))
            cells[REJECT].setChecked(rejected)
            told = _("Present: {criterion}. AUROC on unseen patients: {value}").format(
                criterion=row["criterion"], value=_numberText(row["auroc"])
            )
            cells[NAME].setToolTip(told)
        if isNew:
            self.table.resizeColumnsToContents()
        if shown.concept in names:
            self.table.selectRow(names.index(shown.concept))
        else:
            self.table.clearSelection()

    def _makeRows(self, names: list[str]) -> None:
        self.table.setRowCount(0)
        self.table.setRowCount(len(names))
        self._names, self._cells = names, []
        for r, name in enumerate(names):
            bar, reject = qt.QProgressBar(), qt.QCheckBox()
            bar.setRange(0, BAR_STEPS)
            reject.setToolTip(_("The concept is not there: it shall not count."))
            reject.toggled.connect(lambda on, name=name: self._onReject(name, on))
            cells = {c: qt.QTableWidgetItem() for c in (NAME, LOGITS, KAPPA)}
            cells[NAME].setText(_(name))
            for column, item in cells.items():
                self.table.setItem(r, column, item)
            self.table.setCellWidget(r, PROBABILITY, bar)
            self.table.setCellWidget(r, REJECT, reject)
            self._cells.append({**cells, PROBABILITY: bar, REJECT: reject})
        height = self.table.horizontalHeader().sizeHint.height() + 4
        height += sum(self.table.rowHeight(r) for r in range(len(names)))
        self.table.setFixedHeight(min(height, MOST_PIXELS))

    def _onSelected(self) -> None:
        if not self._filling:
            row = selectedRow(self.table)
            self._actions.onConcept(self._names[row] if row >= 0 else "")

    def _onReject(self, name: str, rejected: bool) -> None:
        if not self._filling:
            self._actions.onReject(name, rejected)

    def _onBox(self, look: bool) -> None:
        self._actions.onBox(look, self.about.currentIndex == 0)


def _headlineText(reading: dict[str, Any], vote: dict[str, Any]) -> str:
    told = _(
        "Concepts: {concepts}, probability {p:.2f}. Vote of the cases: {cases}, probability"
        " {q:.2f}."
    )
    p, q = reading["probability"], vote["probability"]
    return told.format(concepts=_(reading["verdict"]), p=p, cases=_(vote["verdict"]), q=q)


def _correctedText(shown: Shown) -> str:
    if not (shown.boxes or shown.rejected):
        return _("Not corrected.")
    told = _("Corrected. Boxes: {boxes}; rejected concepts: {rejected}.")
    return told.format(boxes=shown.boxes, rejected=len(shown.rejected))


def _numberText(value: float | None) -> str:
    """A dash where nothing was measured."""
    return "-" if value is None or value != value else f"{value:.2f}"
