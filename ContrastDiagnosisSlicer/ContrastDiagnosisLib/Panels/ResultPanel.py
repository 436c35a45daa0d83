"""The panel "Result": the nodules, the diagnosis of one, and the gallery of its cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from ContrastDiagnosisLib.Scene.NoduleScene import PointState
from ContrastDiagnosisLib.Scene.Tables import findingOf, isJudged, isNothing

PICTURE_PIXELS = 72
SPACING_PIXELS = 4
ROW_MARGIN_PIXELS = 4
LEAST_COLUMN_PIXELS = 24
MOST_NODULES = 6
"""Rows of the list of nodules before it scrolls."""

NODULE_COLUMNS = (
    _("no."), _("finding"), _("prob."), _("sure"), _("axes (mm)"), _("mm\N{SUPERSCRIPT THREE}"),
)  # fmt: skip
NODULE_TIPS = (
    _("Number of the nodule in the views."),
    _("What readers would suspect."),
    _("Calibrated probability that readers would suspect malignancy."),
    _("Whether the vote can be trusted."),
    _("Longest axial diameter and the one across it."),
    _("Volume of the segment."),
)
CASE_COLUMNS = (_("picture"), _("case"), _("label"), _("mm"), _("dist."), _("sim."))
CASE_TIPS = (
    _("The case's middle slice."),
    _("Name in its archive."),
    _("What readers suspected."),
    _("Diameter."),
    _("Distance from the nodule; the nearest case comes first."),
    _("Share of correctly matched pairs that are at least as far apart."),
)

WHY_STALE = {
    PointState.NEW: _("not diagnosed"),
    PointState.MOVED: _("point moved: diagnose anew"),
    PointState.CT_CHANGED: _("CT changed: diagnose anew"),
}


FOR_WHAT_IT_IS_WORTH = _("The nearest cases are shown for what they are worth: they do not vote.")


class ResultPanel:
    """Shows documents of the engine; knows neither nodes nor requests."""

    def __init__(self, onNodule: Callable[[int], None], onCase: Callable[[int], None]) -> None:
        """Makes the widgets.

        Args:
            onNodule: Called with the row of the nodule that the user selects.
            onCase: Called with the place of the case that the user selects.
        """
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(SPACING_PIXELS)
        self.nodules = makeTable(NODULE_COLUMNS, NODULE_TIPS, stretched=1)
        self.headline = makeLabel(bold=True)
        self.notices = makeLabel()
        self.confidence = makeLabel()
        self.cases = makeTable(CASE_COLUMNS, CASE_TIPS, stretched=1)
        self.cases.setIconSize(qt.QSize(PICTURE_PIXELS, PICTURE_PIXELS))
        for widget in (
            self.nodules, self.headline, self.confidence, self.notices, self.cases,
        ):  # fmt: skip
            layout.addWidget(widget)
        self._items: dict[str, list[Any]] = {}
        self._rows: dict[str, Sequence[Sequence[str]]] = {}
        self._shown: Sequence[dict[str, Any]] = ()
        self._filling = False
        self._onNodule, self._onCase = onNodule, onCase
        self.nodules.itemSelectionChanged.connect(self._onNoduleSelected)
        self.cases.itemSelectionChanged.connect(self._onCaseSelected)
        self.showDiagnosis(None)

    def showNodules(
        self, rows: Sequence[tuple[int, dict[str, Any] | None, PointState]], selected: int
    ) -> None:
        """Fills the list of nodules.

        Args:
            rows: Number and document of each, and how the point stands to it.
            selected: Row that is shown; -1 for none.
        """
        table = [[str(n), *_noduleTexts(document, state)] for n, document, state in rows]
        self._fill(self.nodules, "nodules", table, selected)
        self.nodules.clearSpans()
        for row, texts in enumerate(table):
            if not any(texts[2:]):
                self.nodules.setSpan(row, 1, 1, len(NODULE_COLUMNS) - 1)
        fitRows(self.nodules, MOST_NODULES)

    def showDiagnosis(
        self, document: dict[str, Any] | None, case: int = -1, hasPoints: bool = False
    ) -> None:
        """Shows one diagnosis and its cases, or that there is none.

        Args:
            document: What the engine said.
            case: Place of the case that is compared; -1 for none.
            hasPoints: Whether there are points that could be diagnosed.
        """
        self._shown = document["cases"] if document else ()
        headline = _headlineOf(document, hasPoints)
        self.headline.setText(headline)
        self.confidence.setText(_confidenceOf(document, headline) if document else "")
        self.notices.setText("\n".join(document["notices"] if document else ()))
        for label in (self.confidence, self.notices):
            label.setVisible(bool(label.text))
        table = [
            [
                "",
                c["case_id"],
                _(c["label"]),
                f"{c['diameter_mm']:.1f}",
                f"{c['distance']:.3f}",
                f"{c['similarity']:.2f}",
            ]
            for c in self._shown
        ]
        if self._fill(self.cases, "cases", table, case):
            for row, shown in enumerate(self._shown):
                ratings = _ratingsOf(shown)
                for column in range(len(CASE_COLUMNS)):
                    self.cases.item(row, column).setToolTip(ratings)
        self.cases.setColumnHidden(0, not any(c["has_pixels"] for c in self._shown))
        self.cases.setVisible(bool(self._shown))
        fitRows(self.cases)

    def showPicture(self, caseId: str, png: bytes) -> None:
        """Puts a picture beside a case of the gallery."""
        for row, case in enumerate(self._shown):
            if case["case_id"] == caseId:
                pixmap = qt.QPixmap()
                pixmap.loadFromData(qt.QByteArray(png))
                self.cases.item(row, 0).setIcon(qt.QIcon(pixmap))
                self.cases.setRowHeight(row, PICTURE_PIXELS + 4)
                fitRows(self.cases)

    def _fill(self, table: Any, name: str, rows: Sequence[Sequence[str]], selected: int) -> bool:
        """Fills a table and selects a row; tells whether the texts are others than before."""
        self._filling = True
        isNew = self._rows.get(name) != rows
        if isNew:
            self._rows[name] = rows
            table.setRowCount(len(rows))
            # PythonQt does not keep the items alive for us.
            self._items[name] = []
            for r, row in enumerate(rows):
                for c, text in enumerate(row):
                    item = qt.QTableWidgetItem(text)
                    item.setToolTip(text)
                    table.setItem(r, c, item)
                    self._items[name].append(item)
        if 0 <= selected < len(rows):
            table.selectRow(selected)
        else:
            table.clearSelection()
        self._filling = False
        return isNew

    def _onNoduleSelected(self) -> None:
        row = selectedRow(self.nodules)
        if not self._filling and row >= 0:
            self._onNodule(row)

    def _onCaseSelected(self) -> None:
        row = selectedRow(self.cases)
        if not self._filling and row >= 0:
            self._onCase(row)


def selectedRow(table: Any) -> int:
    """-1 if none; `currentRow` may still be the row before."""
    items = table.selectedItems()
    return items[0].row() if items else -1


def _ratingsOf(case: dict[str, Any]) -> str:
    """What the readers said of a case."""
    text = ", ".join(f"{name} {value:.1f}" for name, value in case["ratings"].items())
    return _("Readers' ratings of {case}: {ratings}").format(case=case["case_id"], ratings=text)


def _noduleTexts(document: dict[str, Any] | None, state: PointState) -> list[str]:
    """The row of a nodule after its number."""
    if document is None or state is not PointState.CURRENT:
        return [WHY_STALE[state], "", "", "", ""]
    nodule, trust, size = document["nodule"], ["-", "-"], ["-", "-"]
    if isJudged(document):
        sure = _("yes") if document["confident"] else _("no")
        trust = [f"{document['probability']:.2f}", sure]
    if nodule["found"]:
        axes = f"{nodule['long_axis_mm']:.1f} x {nodule['short_axis_mm']:.1f}"
        size = [axes, f"{nodule['volume_mm3']:.0f}"]
    return [findingOf(document), *trust, *size]


def _headlineOf(document: dict[str, Any] | None, hasPoints: bool) -> str:
    if document is None:
        if hasPoints:
            return _("Select a nodule above, or press Diagnose.")
        return _("Place a point on a nodule.")
    if isNothing(document):
        return _("No verdict: no nodule was found at the point.")
    if not isJudged(document):
        return _("No verdict: this cannot be judged.")
    told = _(
        "{verdict}: probability {probability:.2f}; {malignant} of {cases} nearest cases are"
        " malignant"
    )
    verdict, probability = _(document["verdict"]), document["probability"]
    return told.format(verdict=verdict, probability=probability, **document["vote"])


def _confidenceOf(document: dict[str, Any], headline: str) -> str:
    """Why the verdict is not sure, or why there is none, but for what the headline says."""
    reasons = "; ".join(reason for reason in document["reasons"] if reason not in headline)
    if not isJudged(document):
        return "\n".join([*([reasons] if reasons else []), FOR_WHAT_IT_IS_WORTH])
    if document["confident"]:
        return _("confident")
    return _("NOT CONFIDENT: {reasons}").format(reasons=reasons)


def makeLabel(bold: bool = False) -> Any:
    """Text that wraps and can be copied."""
    label = qt.QLabel()
    label.setWordWrap(True)
    if bold:
        font = label.font
        font.setBold(True)
        label.setFont(font)
    label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    return label


def makeTable(columns: Sequence[str], tips: Sequence[str] = (), stretched: int = -1) -> Any:
    """A table of which one row at a time can be selected.

    Args:
        columns: Titles.
        tips: What each column tells; may be empty.
        stretched: The column that takes what the others leave, and gives where it is narrow; all
            columns then fit the width. -1 for the last one, with a scroll bar where it is narrow.
    """
    table = qt.QTableWidget()
    table.setColumnCount(len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    for column, tip in enumerate(tips):
        table.horizontalHeaderItem(column).setToolTip(tip)
    table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
    table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
    table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
    rows, header = table.verticalHeader(), table.horizontalHeader()
    rows.setVisible(False)
    rows.setMinimumSectionSize(1)
    rows.setDefaultSectionSize(table.fontMetrics().height() + ROW_MARGIN_PIXELS)
    if stretched < 0:
        header.setStretchLastSection(True)
        return table
    header.setMinimumSectionSize(LEAST_COLUMN_PIXELS)
    for column in range(len(columns)):
        isStretched = column == stretched
        header.setSectionResizeMode(
            column,
            qt.QHeaderView.Stretch if isStretched else qt.QHeaderView.ResizeToContents,
        )
    table.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
    return table


def fitRows(table: Any, most: int = 0) -> None:
    """Makes a table as high as its rows; with `most` it scrolls beyond that many."""
    count = min(table.rowCount, most) if most else table.rowCount
    height = table.horizontalHeader().sizeHint.height() + 2 * table.frameWidth
    table.setFixedHeight(height + sum(table.rowHeight(row) for row in range(count)))
